"""Do the settings of a section fit the parameters of a function, or the fields of a dataclass?"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import Place, Problem, suggest
from .ingredients import Ingredients
from .values import BROKEN

_PLAIN = {str: "text", int: "an integer", float: "a number", bool: "True or False", Path: "a path", type(None): "None"}
_LISTS = (list, tuple, set, frozenset, Sequence)
_UNIONS = (typing.Union, types.UnionType)
_ALIASES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False, "null": None}


def check_arguments(node: Ingredients, path: str, function, noun: str) -> list[Problem]:
    """The problems of a section whose settings go to `function`: missing, unknown (a `noun`), of the wrong kind."""
    parameters, hints = signature_of(function)
    if parameters is None:  # a builtin that does not tell
        return []
    problems = []

    def problem(key, message):
        place = node.where(key.partition(".")[0]) or node._place or Place(path)
        problems.append(Problem(place, f"{path}.{key}", node.written(key), message))

    slots = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    given = positional(node)
    taken = {parameter.name: argument for parameter, argument in zip(slots, given, strict=False)}
    if len(given) > len(slots) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        problem("*", f"{len(given)} positional arguments, but the function takes {len(slots)}")
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key, value in node.items():
        if key in taken:
            problem(key, f'"{key}" is given already by *; remove one')
        elif key in named:
            taken[key] = (key, value)
        elif key != "*" and key[0] != "@" and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            problem(key, f"no such {noun}. {suggest(key, named)}")
    for name, (key, value) in taken.items():
        hint = hints.get(name, typing.Any)
        if not isinstance(value, Ingredients) and not fits(value, hint):
            problem(key, mend(value, node.written(key), hint))
    for parameter in (*slots, *(p for p in parameters if p.kind is p.KEYWORD_ONLY)):
        if parameter.default is parameter.empty and parameter.name not in taken:
            needed = f": {describe(hints[parameter.name])} is needed" if parameter.name in hints else ""
            problem(parameter.name, f"missing{needed}")
    return problems


def signature_of(function) -> tuple:
    """(parameters, annotations by name) of a function or class; (None, {}) of a builtin that does not tell.

    Annotations that cannot be looked up (a package not imported yet) are left out.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None, {}
    hints = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    if any(isinstance(hint, str) for hint in hints.values()):
        target = function.__init__ if isinstance(function, type) else function
        try:
            hints = typing.get_type_hints(target)
        except (NameError, AttributeError, TypeError):
            hints = {name: hint for name, hint in hints.items() if not isinstance(hint, str)}
    return parameters, hints


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
    args = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return Path(value) if isinstance(value, str) and Path in args and str not in args else value


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
