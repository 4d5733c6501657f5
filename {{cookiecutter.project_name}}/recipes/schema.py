"""Write core/__init__.pyi, so that `config.training.scheme.` completes in an editor: python -m recipes.schema

The stub knows the sections and settings of ingredients.ini, the settings that the recipes declare, and the arguments of
the functions that are called. Editors and language servers read it in place of core/__init__.py; Python never does.
Write it again after a change of the ini file.
"""

import inspect
import keyword
import os
from dataclasses import MISSING, fields
from pathlib import Path

import core
from core import Ingredients, registry
from core.arguments import Signature
from core.ingredients import call_key
from recipes.parts.command import Command
from recipes.settings import SECTIONS

HEAD = """# Written by `python -m recipes.schema` from {file}; Python does not read it.
from os import PathLike
from typing import Annotated, Literal

from core.errors import IngredientsError as IngredientsError, Place as Place, Problem as Problem
from core.errors import SettingError as SettingError
from core.ingredients import Ingredients as Section, locate as locate
from core.registry import registry as registry

def parse(file: str | PathLike, overrides=(), declared: dict | None = None, checks=()) -> Ingredients: ...
def parse_string(text: str, overrides=(), declared: dict | None = None) -> Ingredients: ...
def parse_and_resolve(file: str | PathLike, overrides=()) -> Ingredients: ...
def resolve(ingredients: Section) -> Ingredients: ...
"""


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        arguments, ingredients = command.read()
        file = Path(core.__file__).with_suffix(".pyi")
        file.write_text(stub(ingredients, arguments.ingredients), encoding="utf-8")
        print(f"written: {os.path.relpath(file)}")


def stub(ingredients: Ingredients, file: str) -> str:
    """The text of the stub: a class for each section, that of the whole last."""
    return HEAD.format(file=file) + "".join(_classes(ingredients, ""))


def _classes(node: Ingredients, path: str):
    """The classes of the sections below a section, then its own."""
    known = {name: (hint, doc) for name, hint, doc in _known(node, path)}
    for key, value in node.items():
        if isinstance(value, Ingredients):
            yield from _classes(value, f"{path}.{key}".lstrip("."))
            known[key] = (_name(f"{path}.{key}".lstrip(".")), "")
        elif key not in known:
            known[key] = (type(value).__name__ if value is not None else "None", "")
    lines = [f"\nclass {_name(path)}(Section):"]
    for key, (hint, doc) in known.items():
        if key.isidentifier() and not keyword.iskeyword(key) and not hasattr(Ingredients, key):
            lines += [f"    {key}: {hint}"] + ([f"    {doc!r}"] if doc else [])
    yield "\n".join([*lines, *(["    pass"] if len(lines) == 1 else []), ""])


def _known(node: Ingredients, path: str):
    """(name, annotation, meaning) of what a section can hold: declared settings, or arguments of its function."""
    kind, called = SECTIONS.get(path), call_key(node)
    if isinstance(kind, type):
        hints = Signature(kind).hints
        for item in fields(kind):
            default = "" if item.default is MISSING else f" (default {item.default!r})"
            yield item.name, inspect.formatannotation(hints[item.name]), item.metadata.get("doc", "") + default
    elif called:
        for name, parameter in inspect.signature(registry[called[1:]].get(node[called])).parameters.items():
            hint = parameter.annotation
            is_plain = hint is not parameter.empty and getattr(hint, "__module__", "builtins") in ("builtins", "types")
            default = "" if parameter.default is parameter.empty else f"default {parameter.default!r}"
            yield name, inspect.formatannotation(hint) if is_plain else "object", default


def _name(path: str) -> str:
    """`training.scheme` -> Training_Scheme; the whole is Ingredients. Different paths give different names."""
    letters = "".join(letter if letter.isalnum() or letter in "._" else f"u{ord(letter):x}" for letter in path)
    return "_".join(part[:1].upper() + part[1:].replace("_", "__") for part in letters.split(".")) or "Ingredients"


if __name__ == "__main__":
    main()
