"""The ingredients language: an ini file -> a nested object, with functions called by name.

>>> from core import parse, parse_and_resolve, registry
>>> config = parse("ingredients.ini")  # values and references; functions stay names
>>> config.training.scheme.epochs
>>> config = parse_and_resolve("ingredients.ini")  # ... and functions called
"""
# ruff: noqa: F401 - the names below are what the language offers

import os

from .errors import IngredientsError, Place, Problem, SettingError
from .ingredients import Ingredients, locate
from .parser import parse, parse_string
from .registry import registry, resolve


def parse_and_resolve(file: str | os.PathLike, overrides=()) -> Ingredients:
    """Read an ini file and call the functions that it names. Raises IngredientsError with all problems found."""
    return resolve(parse(file, overrides))
