"""Does a value of the file fit the annotation of a parameter or of a declared setting?"""

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .values import BROKEN

_PLAIN = {str: "text", int: "an integer", float: "a number", bool: "True or False", Path: "a path", type(None): "None"}
_LISTS = (list, tuple, set, frozenset, Sequence)
_DICTS = (dict, Mapping)


def hints_of(function) -> dict:
    """Annotations by parameter; those that cannot be looked up (a package not imported yet) are left out."""
    target = function.__init__ if isinstance(function, type) else function
    try:
        return typing.get_type_hints(target)
    except (NameError, AttributeError, TypeError):
        raw = getattr(target, "__annotations__", {})
        return {name: hint for name, hint in raw.items() if not isinstance(hint, str)}


def fits(value, hint) -> bool:
    """True where the value fits, and where the annotation says nothing that can be checked."""
    if value is BROKEN:
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Annotated:
        return fits(value, args[0])
    if origin is typing.Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    kind = origin or hint
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (str, bool):
        return isinstance(value, kind)
    if kind is Path:
        return isinstance(value, str | Path)
    if kind in _LISTS:
        return isinstance(value, list | tuple) and _items_fit(value, kind, args)
    if kind in _DICTS:
        return isinstance(value, dict) and (len(args) != 2 or all(fits(item, args[1]) for item in value.values()))
    if kind is Callable:
        return not isinstance(value, str | int | float | list | None)
    return True


def _items_fit(value, kind, args) -> bool:
    if kind is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(fits, value, args))
    return not args or all(fits(item, args[0]) for item in value)


def adapt(value, hint):
    """A text given for a Path becomes one; all else stays as it is."""
    args = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return Path(value) if isinstance(value, str) and Path in args and str not in args else value


def describe(hint) -> str:
    """The annotation in words: `an integer`, `a list of numbers`, `"training" or "testing"`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, args))
    if origin is typing.Literal:
        return " or ".join(f'"{arg}"' if isinstance(arg, str) else str(arg) for arg in args)
    if origin is typing.Annotated:
        return describe(args[0])
    kind = origin or hint
    if kind in _LISTS:
        return "a list" + (f" of items that are each {describe(args[0])}" if args else "")
    if kind in _DICTS:
        return 'an object such as {"key": 1}'
    if kind is Callable:
        return "a section that calls a function (@registry = name)"
    return _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))


def mend(value, raw: str, hint) -> str:
    """What is wrong with the value, and how to write the one that was probably meant."""
    shown = raw or repr(value)
    problem = f"`{shown}` is {_kind(value)}; {describe(hint)} is needed"
    if not isinstance(value, str):
        return problem + (f'; as text write "{shown}"' if fits("", hint) and not isinstance(value, list | dict) else "")
    for candidate in (_number_meant(value), {"yes": True, "on": True, "no": False, "off": False}.get(value.lower())):
        if candidate is not None and fits(candidate, hint):
            return f"`{shown}` is text; write {candidate}"
    choices = [arg for arg in typing.get_args(hint) if isinstance(arg, str)]
    if typing.get_origin(hint) is typing.Literal and choices:
        from .errors import suggest

        return f"{problem}. {suggest(value, choices)}"
    return problem


def _number_meant(text: str):
    for kind in (int, float):
        try:
            number = kind(text.replace(",", "."))
        except ValueError:
            continue
        return number if number - number == 0 else None
    return None


def _kind(value) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return _PLAIN.get(type(value), type(value).__name__)
