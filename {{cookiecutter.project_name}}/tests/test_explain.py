"""recipes/explain.py: --print, --explain and the settings that nothing reads."""

import dataclasses
from pathlib import Path

import pytest

from core import IngredientsError, parse, parse_string, registry
from core.arguments import declared_paths
from recipes.explain import explain, resolved_text, unread
from recipes.settings import SECTIONS


@pytest.fixture
def kinds():
    """A registry `test_kind` with a function for the tests."""
    kind = registry.create("test_kind")
    if "join" not in kind:

        @kind.register("join")
        def join(first: str, count: int = 1, rate: float = 0.5, options: list[int] | None = None):
            return lambda: [first, count, rate, options]


def test_command_line():
    from recipes.command import _split_overrides

    argv = ["x.ini", "--a.b", "1", "--a.c=x=y", "--add", "p.q=2", "--add=p.r=3", "--traceback"]
    split = (
        [("a.b", "1", False), ("a.c", "x=y", False), ("p.q", "2", True), ("p.r", "3", True)],
        ["x.ini", "--traceback"],
    )
    assert _split_overrides(argv) == split
    for wrong, told in (
        (["--a.b"], "a value is missing"),
        (["--add"], "section.key=VALUE"),
        (["--add", "x"], "x=VALUE"),
    ):
        with pytest.raises(SystemExit, match=told):
            _split_overrides(wrong)


@dataclasses.dataclass
class Kitchen:
    """Declared settings for the tests."""

    oven: int = dataclasses.field(default=180, metadata={"doc": "degrees"})
    timer: float | None = None


PLAIN = "# a note\n[project]\nname = x  # of the dish\n\n[kitchen]\noven = 200\ntimer = 1.50\n# the end\n"


def test_print_keeps_the_text_and_its_comments():
    ingredients = parse_string(PLAIN)
    assert resolved_text(ingredients, PLAIN, {"kitchen": Kitchen}) == PLAIN
    text = "[project]\nroot = /x\n[kitchen]  # hot\nlist = [1,\n  ${oven}]  # two\noven = 1\n\n[b]\nk = ${kitchen}\n"
    ingredients = parse_string(text, overrides=[("kitchen.oven", "7"), ("new.y", "2", True)])
    printed = resolved_text(ingredients, text, {"kitchen": Kitchen, "other": Kitchen})
    assert printed == (
        "[project]\nroot = /x\n[kitchen]  # hot\nlist = [1, 7]\noven = 7\ntimer = null  # default\n\n"
        "[b]\nk = ${kitchen}\n\n[new]\ny = 2\n\n[other]\noven = 180  # default\ntimer = null  # default\n"
    )


def test_print_of_the_shipped_ingredients_reads_back(capsys):
    for file in Path(__file__).parent.parent.glob("ingredients*.ini"):
        ingredients = parse(file)
        printed = parse_string(resolved_text(ingredients, file.read_text(encoding="utf-8"), SECTIONS))
        for path in declared_paths(SECTIONS):
            section, _, key = path.rpartition(".")
            kind = SECTIONS[section]
            default = next(item.default for item in dataclasses.fields(kind) if item.name == key)
            assert printed.at(path) == ingredients.at(path, list(default) if default == () else default)
        assert printed.at("training.load_dataset") == ingredients.at("training.load_dataset")


def test_explain(kinds):
    text = "[project]\nn = 3\n[kitchen]\noven = ${project.n}\n[f]\n@test_kind = join\nfirst = ${oven}\noven = a\n"
    ingredients, declared = parse_string(text), {"kitchen": Kitchen}
    told = explain(ingredients, "kitchen.oven", declared)
    assert told.startswith(
        "kitchen.oven = 3\n    kind: an integer\n    from: <text>:4, written ${project.n}\n    meaning: degrees"
    )
    assert "used in: kitchen.oven (<text>:4)" in explain(ingredients, "project.n", declared)
    assert "used in: f.first (<text>:7)" in explain(ingredients, "f.oven", declared)
    assert "goes to: join (" in explain(ingredients, "f.first", declared)
    assert "from: its default" in explain(ingredients, "kitchen.timer", declared)
    with pytest.raises(IngredientsError, match="there is no such setting. Did you mean kitchen.oven"):
        explain(ingredients, "kitchen.ovn", declared)
    told = explain(parse(Path(__file__).parent.parent / "ingredients.ini"), "testing.debug", SECTIONS)
    assert "read by: recipes/train.py:" in told


def test_unread_facts(kinds):
    text = "[project]\nname = x\nn = 3\nfact = 1\n[project.f]\n@test_kind = join\nfirst = a\n[b]\nk = ${project.n}\n"
    assert unread(parse_string(text), {"project.name"}) == ["project.fact"]
