"""Your ingredients and functions: each ingredients*.ini beside train.py is read, its functions made, and checked."""

from argparse import Namespace
from pathlib import Path

import pytest

from core import parse_string
from recipes import check
from recipes.parts.origins import resolved_text
from recipes.settings import SECTIONS, call_functions, check_sections, read_ingredients

HERE = Path(__file__).parent.parent
# A file that brings custom_functions.NAME.py needs those in place of custom_functions.py.
FILES = [
    file.name
    for file in sorted(HERE.glob("ingredients*.ini"))
    if not (HERE / file.name.replace("ingredients", "custom_functions").replace(".ini", ".py")).is_file()
    or file.name == "ingredients.ini"
]


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Paths in ingredients count from the project's folder."""
    monkeypatch.chdir(HERE)


@pytest.mark.parametrize("file", FILES)
def test_functions_are_made_and_printed_ingredients_are_the_same(file):
    ingredients = read_ingredients(file)
    call_functions(ingredients)
    again = parse_string(resolved_text(ingredients), checks=[check_sections])
    for section in SECTIONS:
        for key, value in (ingredients.at(section) or {}).items():
            assert "*" in section or f"{section}.{key}" in SECTIONS or again.at(section)[key] == value


@pytest.mark.parametrize("file", FILES)
def test_check_finds_nothing_wrong(file, capsys):
    code = check.answer("check", Namespace(ingredients=file))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert printed.out.splitlines()[-1].startswith("ok")
