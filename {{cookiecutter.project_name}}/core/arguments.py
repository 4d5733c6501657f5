"""Do settings fit the parameters of a function, or the fields of a dataclass?"""

import collections.abc
import inspect
import os
import typing
from contextlib import suppress
from functools import cache
from inspect import Parameter
from pathlib import Path
from types import MethodType, SimpleNamespace

from .errors import Problem, suggest
from .ingredients import Ingredients
from .values import BROKEN

# Name of an annotation -> (what a file has for it, in words).
_KINDS = {
    "str": (str, "text"),
    "int": (int, "an integer"),
    **dict.fromkeys(("float", "Number"), ((int, float), "a number")),
    "bool": (bool, "True or False"),
    "NoneType": (type(None), "None"),
    "Path": ((str, os.PathLike), "a path"),
    "Callable": (collections.abc.Callable, "a section that calls a function (@registry = name)"),
    **dict.fromkeys(("Any", "object"), (object, "anything")),
    **dict.fromkeys(("dict", "Mapping"), (dict, 'an object such as {"key": 1}')),
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "Sequence", "Iterable"), (list, "a list")),
}
_IN_A_FILE = str | int | float | list | dict | None
_TENSOR = "<class 'torch.Tensor'>"
_ALIASES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False, "null": None}


class Signature:
    """What a function or class takes. An annotation that is absent or cannot be evaluated counts as `object`."""

    def __init__(self, function):
        if isinstance(function, type) and "__signature__" not in vars(function):  # of __init__, whatever __new__ takes
            function = function if function.__init__ is object.__init__ else MethodType(function.__init__, function)
        try:
            parameters = inspect.signature(function).parameters.values()
        except (ValueError, TypeError):  # a builtin that has none: anything goes
            parameters = inspect.signature(lambda *args, **named: None).parameters.values()
        kinds = {p.kind for p in parameters}
        self.takes_more, self.takes_any_name = Parameter.VAR_POSITIONAL in kinds, Parameter.VAR_KEYWORD in kinds
        taken = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.slots = [p.name for p in taken if p.kind is not p.KEYWORD_ONLY]
        self.names = [p.name for p in taken if p.kind is not p.POSITIONAL_ONLY]
        self.defaults = {p.name: p.default for p in taken if p.default is not p.empty}
        self.hints = {p.name: _hint(p, function) for p in taken}
        self.intervals = {name: interval for name, hint in self.hints.items() if (interval := interval_of(hint))}

    def check(self, node: Ingredients, path: str, noun: str) -> list[Problem]:
        """The problems of a section's settings: missing, unknown (a `noun`), given twice, of the wrong kind."""
        wrong, star = {}, positional(node)  # wrong: key -> message
        if len(star) > len(self.slots) and not self.takes_more:
            wrong["*"] = f"{len(star)} positional arguments, but the function takes {len(self.slots)}"
        given = dict(zip(self.slots, star, strict=False))  # parameter -> (key, value)
        for key, value in node.items():
            if key in given:
                wrong[key] = f'"{key}" is given by * as well; remove one'
            elif key in self.names:
                given[key] = key, value
            elif key != "*" and key[0] != "@" and not self.takes_any_name:
                wrong[key] = f"no such {noun}. {suggest(key, self.names)}"
        for name, hint in self.hints.items():
            key, value = given.get(name, (name, BROKEN))
            default = self.defaults.get(name, ...)  # which may break its own annotation
            is_default = [value] == [list(default) if isinstance(default, tuple) else default]
            if name not in given and default is ...:
                wrong[key] = "missing" if hint is object else f"missing; expected {describe(hint)}"
            elif not fits(value, hint) and not (is_default and type(value) in (type(default), list)):
                wrong[key] = mend(value, node.written(key), hint)
            elif name in self.intervals and not _is_inside(value, self.intervals[name]):
                wrong[key] = f"must be in {self.intervals[name]}"
        return [Problem(None, f"{path}.{key}", "", message) for key, message in wrong.items()]


signature_of = cache(Signature)


def _hint(parameter: Parameter, function):
    """The annotation of a parameter, without the quotes around it."""
    hint = object if parameter.annotation is Parameter.empty else parameter.annotation
    if not isinstance(hint, str):
        return hint
    try:
        known = vars(inspect.getmodule(inspect.unwrap(function)))
        holder = SimpleNamespace(__annotations__={"hint": hint})
        return typing.get_type_hints(holder, known, vars(collections.abc), include_extras=True)["hint"]
    except Exception:  # whatever it raises: a name that a type checker alone imports, or no Python at all
        return object


def interval_of(hint) -> str:
    """Where a number, or each of a list, must lie: "[0, 1)" of `Annotated[float, "[0, 1)"]`, also in a union; or ""."""
    if typing.get_origin(hint) is typing.Annotated:
        return str(hint.__metadata__[0]) if str(hint.__metadata__[0])[:1] in ("[", "(") else ""
    return next(filter(None, map(interval_of, typing.get_args(hint))), "")


def _is_inside(value, interval: str) -> bool:
    """Whether a number, or each in a list, is in an interval. What is no number is."""
    if isinstance(value, list):
        return all(_is_inside(item, interval) for item in value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return True
    low, high = map(float, interval[1:-1].split(", "))
    return low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")


def positional(node: Ingredients) -> list[tuple]:
    """(key, value) of the positional arguments `*`: a list, or subsections in their order."""
    star = node.get("*", [])
    if isinstance(star, dict):
        return [(f"*.{key}", value) for key, value in star.items()]
    return [("*", value) for value in (star if isinstance(star, list) else [star])]


def adapt(value, hint):
    """A text given for a Path becomes one, ~ the home folder; all else stays as it is."""
    if type(value) is not str or hint is str:  # as almost all are
        return value
    kinds = {name for name, _ in _members(hint)}
    return Path(os.path.expanduser(value)) if "Path" in kinds and "str" not in kinds else value


def _members(hint) -> list[tuple]:
    """(name, what its brackets contain) of an annotation, or of each member of a union."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _members(inside[0])
    name = getattr(origin or hint, "__name__", str(hint))
    if "Union" in name:  # a file gives a number for float | Tensor
        return [member for arg in inside for member in _members(arg) if float not in inside or str(arg) != _TENSOR]
    return [("list", (float,))] if str(hint) == _TENSOR else [(name, inside)]


def fits(value, hint) -> bool:
    """True if the value fits, and if the annotation says nothing that can be checked."""
    if type(value) is hint or value is BROKEN or isinstance(value, Ingredients):
        return True
    found = {_is(value, *member) for member in _members(hint)}
    return True in found or found == {None} or (None in found and not isinstance(value, _IN_A_FILE))


def _is(value, name: str, inside: tuple) -> bool | None:
    """Whether a value is of a kind; None if that cannot be checked."""
    if name == "Literal":
        return any(value == choice and type(value) is type(choice) for choice in inside)
    kind, _ = _KINDS.get(name, (None, name))
    if kind is None or not isinstance(value, kind) or (isinstance(value, bool) and name in ("int", "float", "Number")):
        return None if kind is None else False
    if name == "tuple" and inside and inside[-1] is not ...:
        return len(value) == len(inside) and all(map(fits, value, inside))
    items = value.values() if kind is dict else value if kind is list else ()
    return not inside or all(fits(item, inside[kind is dict]) for item in items)


def describe(hint) -> str:
    """The annotation in words: `an integer`, `a list, each item a number`, `"a" or "b"`."""
    words = []
    for name, inside in _members(hint):
        kind, word = _KINDS.get(name, (None, name))
        each = f", each item {describe(inside[0])}" if kind is list and inside else ""
        choices = [f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in inside]
        words += choices if name == "Literal" else [word + each]
    return " or ".join(words)


def mend(value, raw: str, hint) -> str:
    """What is wrong with the value, and how to write the one that was probably meant."""
    if value is None or value == "":
        return f"is {'None' if value is None else 'empty'}; expected {describe(hint)}"
    raw = raw or repr(value)
    problem = f"expected {describe(hint)}, got {'an object' if isinstance(value, dict) else describe(type(value))}"
    if not isinstance(value, str):
        return problem + (f'; as text write "{raw}"' if fits("", hint) and not isinstance(value, list | dict) else "")
    meant = [_ALIASES.get(value.lower(), BROKEN)]
    with suppress(ValueError, OverflowError):
        number = float(value.replace(",", "."))
        meant = [int(number), number] if int(number) == number else [number]
    for other in meant:
        if other is not BROKEN and fits(other, hint):
            return f"`{raw}` is text; write {other}"
    choices = [str(choice) for name, inside in _members(hint) if name == "Literal" for choice in inside]
    return f"{problem}. {suggest(value, choices)}" if choices else problem
