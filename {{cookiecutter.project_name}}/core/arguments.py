"""Do the settings of a section fit the parameters of a function, or the fields of a dataclass?"""

import inspect
import os
import types
from collections.abc import Callable

from .errors import Problem, suggest
from .ingredients import Ingredients, problem_of
from .values import BROKEN

# Annotation -> (what stands for it in a file, in words). By name: pathlib and typing would take 10 ms to import.
_KINDS = {
    "str": (str, "text"),
    "int": (int, "an integer"),
    "float": ((int, float), "a number"),
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
        if isinstance(function, type) and function.__init__ is not object.__init__:  # whatever its __new__ takes
            function = types.MethodType(function.__init__, function)
        try:
            every = inspect.signature(function).parameters.values()
        except (ValueError, TypeError):  # a builtin that does not tell: anything goes
            every = inspect.signature(lambda *args, **named: None).parameters.values()
        self.takes_more = any(p.kind is p.VAR_POSITIONAL for p in every)
        self.takes_any_name = any(p.kind is p.VAR_KEYWORD for p in every)
        named = [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.slots = [p.name for p in named if p.kind is not p.KEYWORD_ONLY]
        self.names = [p.name for p in named if p.kind is not p.POSITIONAL_ONLY]
        self.hints = {p.name: _looked_up(p.annotation, function) for p in named}
        defaults = {p.name: p.default for p in named if p.default is not p.empty}
        self.defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}

    def check(self, node: Ingredients, path: str, noun: str) -> list[Problem]:
        """The problems of a section's settings: missing, unknown (a `noun`), given twice, of the wrong kind."""
        problems, star = [], positional(node) if "*" in node else ()

        def tell(key, message):
            problems.append(problem_of(node, key, message, path))

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
            key, value = given.get(name, (name, inspect))
            if name in given:
                default = self.defaults.get(name, ...)  # which may break its annotation: `count: int = None`
                same = type(value) is type(default) and value == default
                if type(value) is not hint and not same and not fits(value, hint):
                    tell(key, mend(value, node.written(key), hint))
            elif name not in self.defaults:
                tell(name, "missing" if hint is object else f"missing: {describe(hint)} is needed")
        return problems


def _looked_up(hint, function):
    """An annotation without the quotes around it."""
    if not isinstance(hint, str):
        return object if hint is inspect.Parameter.empty else hint
    import typing

    known = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__={"it": hint}), known)["it"]
    except Exception:  # whatever it raises: a name that a type checker alone imports, or no Python at all
        return object


def positional(node: Ingredients) -> list[tuple]:
    """(key, value) of the positional arguments `*`: a list, or subsections in their order."""
    star = node.get("*", [])
    if isinstance(star, dict):
        return [(f"*.{key}", value) for key, value in star.items()]
    return [("*", value) for value in (star if isinstance(star, list) else [star])]


def adapt(value, hint):
    """A text given for a Path becomes one; all else stays as it is."""
    kinds = getattr(hint, "__args__", (hint,))
    if hint is str or str in kinds or not isinstance(value, str):
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
    members = _members(hint)
    known = [member for member in members if member[0] in _KINDS or member[0] == "Literal"]
    if value is BROKEN or isinstance(value, Ingredients) or not known:
        return True
    objects = len(known) < len(members) and not isinstance(value, _IN_A_FILE)  # such as a Tensor for float | Tensor
    return objects or any(_is(value, name, inside) for name, inside in known)


def _is(value, name: str, inside: tuple) -> bool:
    if name == "Literal":
        return any(value == choice and type(value) is type(choice) for choice in inside)
    if not isinstance(value, _KINDS[name][0]) or (isinstance(value, bool) and name in ("int", "float")):
        return False
    if name == "tuple" and inside and inside[-1] is not ...:
        return len(value) == len(inside) and all(map(fits, value, inside))
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not inside or all(fits(item, inside[isinstance(value, dict)]) for item in items)


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
    meant = [_ALIASES[value.lower()]] if value.lower() in _ALIASES else []
    try:
        number = float(value.replace(",", "."))
        meant += [int(number), number] if number.is_integer() else [number] if number - number == 0 else []
    except ValueError:
        pass
    for other in meant:
        if fits(other, hint):
            return f"`{raw}` is text; write {other}"
    choices = [choice for name, inside in _members(hint) if name == "Literal" for choice in inside]
    advice = suggest(value, [choice for choice in choices if isinstance(choice, str)])
    return f"{problem}. {advice}" if choices else problem
