"""Do the settings of a section fit the parameters of a function, or the fields of a dataclass?"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import Problem, suggest
from .ingredients import Ingredients, problem_of
from .values import BROKEN

_PLAIN = {str: "text", int: "an integer", float: "a number", bool: "True or False", Path: "a path", type(None): "None"}
_LISTS = (list, tuple, set, frozenset, Sequence)
_UNIONS = (typing.Union, types.UnionType)
_MORE, _ANY_NAME = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD  # *args, **kwargs
_ALIASES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False, "null": None}


class Signature:
    """What a function or class takes, as the check below needs it."""

    def __init__(self, function):
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):  # a builtin that does not tell: anything goes
            parameters = [inspect.Parameter(f"_{kind}", kind) for kind in (_MORE, _ANY_NAME)]
        hints = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
        if any(isinstance(hint, str) for hint in hints.values()):
            try:
                hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
            except (NameError, AttributeError, TypeError):
                hints = {name: hint for name, hint in hints.items() if not isinstance(hint, str)}
        kinds = [p.kind for p in parameters]
        self.hints = hints  # by name, but for those that cannot be looked up (a package not imported yet)
        self.slots = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (_MORE, _ANY_NAME)]
        self.takes_more, self.takes_any_name = _MORE in kinds, _ANY_NAME in kinds


def check_arguments(node: Ingredients, path: str, signature: Signature, noun: str) -> list[Problem]:
    """The problems of settings as arguments: missing, unknown (a `noun`), given twice, of the wrong kind."""
    problems, hints = [], signature.hints

    def problem(key, message):
        problems.append(problem_of(node, key, message, path))

    given = positional(node) if "*" in node else ()
    if len(given) > len(signature.slots) and not signature.takes_more:
        problem("*", f"{len(given)} positional arguments, but the function takes {len(signature.slots)}")
    filled = [(name, key, value) for name, (key, value) in zip(signature.slots, given, strict=False)]
    taken = {name for name, _, _ in filled}
    for key, value in node.items():
        if key in taken:
            problem(key, f'"{key}" is given already by *; remove one')
        elif key in signature.names:
            filled.append((key, key, value))
        elif key != "*" and key[0] != "@" and not signature.takes_any_name:
            problem(key, f"no such {noun}. {suggest(key, signature.names)}")
    for name, key, value in filled:
        hint = hints.get(name, typing.Any)
        if type(value) is not hint and not isinstance(value, Ingredients) and not fits(value, hint):
            problem(key, mend(value, node.written(key), hint))
    taken.update(name for name, _, _ in filled)
    for name in signature.needed:
        if name not in taken:
            problem(name, "missing" + (f": {describe(hints[name])} is needed" if name in hints else ""))
    return problems


def positional(node: Ingredients) -> list[tuple]:
    """(key, value) of the positional arguments `*`: a list, or subsections in their order."""
    star = node.get("*", [])
    if isinstance(star, dict):
        return [(f"*.{key}", value) for key, value in star.items()]
    return [("*", value) for value in (star if isinstance(star, list) else [star])]


def fits(value, hint) -> bool:
    """True where the value fits, and where the annotation says nothing that can be checked."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if value is BROKEN or origin in (typing.Any, typing.Annotated):
        return value is BROKEN or not args or fits(value, args[0])
    if origin in _UNIONS:
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (int, float):
        return isinstance(value, int if origin is int else int | float) and not isinstance(value, bool)
    if origin in _PLAIN or origin is None:
        return isinstance(value, str | Path if origin is Path else origin or type(None))
    if origin in _LISTS:
        if origin is tuple and args and args[-1] is not Ellipsis:
            return isinstance(value, list) and len(value) == len(args) and all(map(fits, value, args))
        return isinstance(value, list) and (not args or all(fits(item, args[0]) for item in value))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and (len(args) != 2 or all(fits(item, args[1]) for item in value.values()))
    return origin is not Callable or not isinstance(value, str | int | float | list | None)


def adapt(value, hint):
    """A text given for a Path becomes one; all else stays as it is."""
    if hint is str or not isinstance(value, str):
        return value
    args = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return Path(value) if Path in args and str not in args else value


def describe(hint) -> str:
    """The annotation in words: `an integer`, `a list of items that are each a number`, `"a" or "b"`."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in _UNIONS:
        return " or ".join(map(describe, args))
    if origin is typing.Literal:
        return " or ".join(f'"{arg}"' if isinstance(arg, str) else str(arg) for arg in args)
    if origin is typing.Annotated:
        return describe(args[0])
    if origin in _LISTS:
        return f"a list of items that are each {describe(args[0])}" if args else "a list"
    if origin in (dict, Mapping):
        return 'an object such as {"key": 1}'
    if origin is Callable:
        return "a section that calls a function (@registry = name)"
    return _PLAIN.get(origin, getattr(origin, "__name__", str(origin)))


def mend(value, raw: str, hint) -> str:
    """What is wrong with the value, and how to write the one that was probably meant."""
    raw = raw or repr(value)
    kind = {list: "a list", dict: "an object"}.get(type(value), _PLAIN.get(type(value), type(value).__name__))
    problem = f"`{raw}` is {kind}; {describe(hint)} is needed"
    if not isinstance(value, str):
        return problem + (f'; as text write "{raw}"' if fits("", hint) and not isinstance(value, list | dict) else "")
    for meant in (*_number_meant(value), _ALIASES.get(value.lower(), value)):
        if meant is not value and fits(meant, hint):
            return f"`{raw}` is text; write {meant}"
    choices = [arg for arg in typing.get_args(hint) if isinstance(arg, str)]
    return f"{problem}. {suggest(value, choices)}" if choices else problem


def _number_meant(text: str) -> list:
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return []
    return [int(number), number] if number.is_integer() else [number] if number - number == 0 else []
