"""Do the settings of a section fit the parameters of a function, or the fields of a dataclass?"""

import os
from collections.abc import Callable
from types import FunctionType, MethodType, SimpleNamespace

from .errors import Problem, note, suggest
from .ingredients import Ingredients, problem_of
from .values import BROKEN

# Annotation -> (what stands for it in a file, in words). By name: pathlib and typing would take 10 ms to import.
_KINDS = {
    "str": (str, "text"),
    "int": (int, "an integer"),
    **dict.fromkeys(("float", "Number"), ((int, float), "a number")),
    "bool": (bool, "True or False"),
    "NoneType": (type(None), "None"),
    "Path": ((str, os.PathLike), "a path"),
    "Callable": (Callable, "a section that calls a function (@registry = name)"),
    **dict.fromkeys(("Any", "object"), (object, "anything")),
    **dict.fromkeys(("dict", "Mapping"), (dict, 'an object such as {"key": 1}')),
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "Sequence"), (list, "a list")),
}
_IN_A_FILE = str | int | float | list | dict | None
_ALIASES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False, "null": None}


class Signature:
    """What a function or class takes. An annotation that is absent or cannot be looked up counts as `object`."""

    def __init__(self, function):
        if isinstance(function, type) and not hasattr(function, "__signature__"):  # of __init__, whatever __new__ takes
            function = function if function.__init__ is object.__init__ else MethodType(function.__init__, function)
        read = _read_plain if type(function) is FunctionType and not vars(function) else _read_any
        self.slots, self.names, variadic, self.defaults, hints = read(function)
        self.takes_more, self.takes_any_name = variadic
        self.hints = {name: _looked_up(hints.get(name, object), function) for name in [*self.slots, *self.names]}

    def check(self, node: Ingredients, path: str, noun: str) -> list[Problem]:
        """The problems of a section's settings: missing, unknown (a `noun`), given twice, of the wrong kind."""
        problems, star = [], positional(node)

        def tell(key, message):
            note(problems, problem_of(node, key, message, path))

        if len(star) > len(self.slots) and not self.takes_more:
            tell("*", f"{len(star)} positional arguments, but the function takes {len(self.slots)}")
        given = dict(zip(self.slots, star, strict=False))  # parameter -> (key, value)
        for key, value in node.items():
            if key in given:
                tell(key, f'"{key}" is given already by *; remove one')
            elif key in self.names:
                given[key] = key, value
            elif key != "*" and key[0] != "@" and not self.takes_any_name:
                tell(key, f"no such {noun}. {suggest(key, self.names)}")
        for name, hint in self.hints.items():
            key, value = given.get(name, (name, BROKEN))
            if name not in given and name not in self.defaults:
                tell(name, "missing" if hint is object else f"missing: {describe(hint)} is needed")
            elif type(value) is not hint and not fits(value, hint):
                default = self.defaults.get(name, ...)
                default = list(default) if isinstance(default, tuple) else default
                if type(value) is not type(default) or value != default:  # which may break its own annotation
                    tell(key, mend(value, node.written(key), hint))
        return problems


def _read_plain(function) -> tuple:
    """What _read_any gives, of a function that nothing wraps; without inspect, which would take 15 ms to import."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    slots, last = names[: code.co_argcount], function.__defaults__ or ()
    defaults = dict(zip(slots[len(slots) - len(last) :], last, strict=True)) | (function.__kwdefaults__ or {})
    variadic = code.co_flags & 4 > 0, code.co_flags & 8 > 0  # CO_VARARGS, CO_VARKEYWORDS
    return slots, names[code.co_posonlyargcount :], variadic, defaults, function.__annotations__


def _read_any(function) -> tuple:
    """The positional parameters, those that have a name, whether *args and **named are taken, defaults, annotations."""
    import inspect

    try:
        every = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a builtin that does not tell: anything goes
        return (), (), (True, True), {}, {}
    slots = [p.name for p in every if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [p.name for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    kinds = [p.kind for p in every]
    variadic = inspect.Parameter.VAR_POSITIONAL in kinds, inspect.Parameter.VAR_KEYWORD in kinds
    defaults = {p.name: p.default for p in every if p.default is not p.empty}
    return slots, names, variadic, defaults, {p.name: p.annotation for p in every if p.annotation is not p.empty}


def _looked_up(hint, function):
    """An annotation without the quotes around it."""
    if not isinstance(hint, str):
        return hint
    import inspect
    import typing

    function = inspect.unwrap(function)
    known = getattr(function.__init__ if isinstance(function, type) else function, "__globals__", {})
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__={"it": hint}), known)["it"]
    except Exception:  # whatever it raises: a name that a type checker alone imports, or no Python at all
        return object


def positional(node: Ingredients) -> list[tuple]:
    """(key, value) of the positional arguments `*`: a list, or subsections in their order."""
    if "*" not in node:
        return []
    star = node["*"]
    if isinstance(star, dict):
        return [(f"*.{key}", value) for key, value in star.items()]
    return [("*", value) for value in (star if isinstance(star, list) else [star])]


def adapt(value, hint):
    """A text given for a Path becomes one; all else stays as it is."""
    if hint is str or not isinstance(value, str) or str in (kinds := getattr(hint, "__args__", (hint,))):
        return value
    return next((kind(value) for kind in kinds if getattr(kind, "__name__", "") == "Path"), value)


def _members(hint) -> list[tuple]:
    """(name, what stands in its brackets) of an annotation, or of each member of a union."""
    hint = hint.__origin__ if hasattr(hint, "__metadata__") else hint  # typing.Annotated
    inside = getattr(hint, "__args__", ())
    name = getattr(getattr(hint, "__origin__", hint), "__name__", "Union" if inside else str(hint))
    return [member for arg in inside for member in _members(arg)] if name == "Union" else [(name, inside)]


def fits(value, hint) -> bool:
    """True where the value fits, and where the annotation says nothing that can be checked."""
    if value is BROKEN or isinstance(value, Ingredients):
        return True
    found = {_is(value, *member) for member in _members(hint)}
    return True in found or found == {None} or (None in found and not isinstance(value, _IN_A_FILE))


def _is(value, name: str, inside: tuple) -> bool | None:
    """Whether a value is of a kind; None where that cannot be checked."""
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
    """The annotation in words: `an integer`, `a list of items that are each a number`, `"a" or "b"`."""
    words = []
    for name, inside in _members(hint):
        kind, word = _KINDS.get(name, (None, name))
        each = f" of items that are each {describe(inside[0])}" if kind is list and inside else ""
        choices = [f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in inside]
        words += choices if name == "Literal" else [word + each]
    return " or ".join(words)


def mend(value, raw: str, hint) -> str:
    """What is wrong with the value, and how to write the one that was probably meant."""
    raw = raw or repr(value)
    kind = "an object" if isinstance(value, dict) else describe(type(value))
    problem = f"`{raw}` is {kind}; {describe(hint)} is needed"
    if not isinstance(value, str):
        return problem + (f'; as text write "{raw}"' if fits("", hint) and not isinstance(value, list | dict) else "")
    for meant in _meant(value):
        if fits(meant, hint):
            return f"`{raw}` is text; write {meant}"
    choices = [choice for name, inside in _members(hint) if name == "Literal" for choice in inside]
    choices = [choice for choice in choices if isinstance(choice, str)]
    return f"{problem}. {suggest(value, choices)}" if choices else problem


def _meant(text: str) -> list:
    """The values that a text was probably meant to be."""
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return [_ALIASES[text.lower()]] if text.lower() in _ALIASES else []
    return [int(number), number] if number.is_integer() else [number] if number - number == 0 else []
