"""core/: which values fit a function, and which sections a recipe reads. Nothing here imports torch."""

import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from core import Ingredients, IngredientsError, parse, parse_string, registry, resolve
from core.arguments import (
    Signature,
    adapt,
    describe,
    fits,
)
from core.registry import check_functions
from recipes.settings import check_sections, declared_paths, kind_of, read_section, setting


@dataclass(frozen=True)
class Scheme:
    epochs: int = setting(10, "passes over the data")
    folder: Path = setting(Path("."), "where files go")


class Thing:
    """What no file can hold."""


SECTIONS = {
    "training.scheme": Scheme,
    "training.loss": "test_loss",
    "validation.metrics.*": "test_metric",
    "stages.*": Scheme,
}
METRICS = (
    "[validation.metrics.top]\n@test_metric = accuracy\nk = 1\n[validation.metrics.all]\n@test_metric = accuracy\n"
)


@pytest.fixture(autouse=True)
def functions():
    if "test_metric" not in registry:
        registry.create("test_metric").register("accuracy")(lambda k=5: lambda: k)
        registry.create("test_loss").register("squared")(lambda power=2: lambda: power)


def check_declared(ingredients):
    return check_sections(ingredients, SECTIONS)


def told(text, tmp_path=None):
    """The problems of a text, those of its sections and of its functions, as a recipe asks for them."""
    (tmp_path / "x.ini").write_text(text)
    with pytest.raises(IngredientsError) as caught:
        parse(tmp_path / "x.ini", (), declared_paths(SECTIONS), [check_declared, check_functions])
    return [(problem.place.line, problem.key, problem.message) for problem in caught.value.problems]


def test_a_star_stands_for_any_one_part(tmp_path):
    ingredients = parse_string(METRICS, checks=[check_declared])
    assert [metric() for metric in resolve(ingredients).validation.metrics.values()] == [1, 5]
    assert kind_of("validation.metrics.top", SECTIONS) == "test_metric" and kind_of("stages.a", SECTIONS) is Scheme
    assert kind_of("validation.metrics", SECTIONS) is None and kind_of("validation.metrics.a.b", SECTIONS) is None
    assert declared_paths(SECTIONS)[2:] == ["stages.*.epochs", "stages.*.folder"]
    stages = parse_string("[stages.a]\nepochs = 3\nfolder = x\n[stages.b]\n", checks=[check_declared])
    assert read_section(stages, "stages.a", Scheme) == Scheme(3, Path("x"))


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[validation.metrics.top]\nk = 1\n", [(1, "[validation.metrics.top]", "write @test_metric = name")]),
        ("[validation.metrics]\nk = 1\n", [(2, "validation.metrics.k", "[validation.metrics] has no settings of")]),
        (
            "[validation.metrcs.top]\n@test_metric = accuracy\n",
            [(2, "validation.metrcs.top.@test_metric", "Did you mean [validation.metrics.top]?")],
        ),
        ("[validation.metrcs.top]\nk = 1\n", [(1, "[validation.metrcs.top]", "mean [validation.metrics.top]?")]),
        ("[stages.a]\nepchs = 1\n", [(2, "stages.a.epchs", "no such setting. Did you mean epochs?")]),
        ("[stages.a.b]\nepochs = 1\n", [(1, "[stages.a.b]", "no recipe reads this section.")]),
        (
            "[validation.metrics.top]\n@test_metric = acuracy\n",
            [(2, "validation.metrics.top.@test_metric", "accuracy")],
        ),
    ],
)
def test_problems_at_a_star(tmp_path, text, problems):
    check_told(tmp_path, text, problems)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        # a registry that is misspelt, or another one, in a section that is declared
        ("[training.loss]\n@test_los = squared\n", [(2, "training.loss.@test_los", "write @test_loss = name")]),
        ("[training.loss]\n@test_metric = accuracy\nl = 1\n", [(2, "training.loss.@test_metric", "@test_loss = name")]),
        # misspelt sections, each once and at its own line
        ("\n[trainig.scheme]\nepochs = 1\n", [(2, "[trainig.scheme]", "Did you mean [training.scheme]?")]),
        ("[training.schem]\nepochs = 1\n", [(1, "[training.schem]", "Did you mean [training.scheme]?")]),
        (
            "[trainig]\n[trainig.scheme]\n",
            [(1, "[trainig]", "[training]"), (2, "[trainig.scheme]", "[training.scheme]")],
        ),
        (
            "[trainig.scheme]\nepochs = 1\n[trainig.loss]\n@test_loss = squared\n",
            [(1, "[trainig.scheme]", "[training.scheme]?"), (4, "trainig.loss.@test_loss", "[training.loss]?")],
        ),
    ],
)
def test_each_mistake_is_told_once(tmp_path, text, problems):
    check_told(tmp_path, text, problems)


def check_told(tmp_path, text, problems):
    found = told(text, tmp_path)
    assert [problem[:2] for problem in found] == [problem[:2] for problem in problems]
    for (_, _, message), (_, _, part) in zip(found, problems, strict=True):
        assert part in message


def test_needed_settings_of_an_absent_section():
    @dataclass
    class Needs:
        rate: float

    missing = check_sections(parse_string("[b]\n").b, {"a": Needs, "c.*": Needs})
    assert [(problem.key, problem.message) for problem in missing] == [("a.rate", "missing; expected a number")]


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        ("a", float | Thing, False),  # of a union with members that can be checked, those decide
        ([1], typing.Union[float, Thing], False),  # noqa: UP007
        (0.5, float | Thing, True),
        (None, float | Thing, False),
        (None, typing.Optional[Thing], True),  # noqa: UP045
        ("a", typing.Optional[Thing], False),  # noqa: UP045
        ("a", Thing, True),
        ("a", Thing | typing.Iterator[int], True),
        (Thing(), float | Thing, True),  # put there by a program, not by a file
        (Thing(), float, False),
        ([0.9, "x"], tuple[float | Thing, float | Thing], False),
        ([0.9, 1], tuple[float | Thing, float | Thing], True),
        ([1, 2, 3], tuple[int, ...], True),
        ("a", typing.Annotated[int, "of what"], False),
        ([1], typing.Annotated[list[int], "of what"], True),
        ("a", typing.Any, True),
        ("a", int | typing.Any, True),
        ("a", object, True),
        ("a", typing.TypeVar("T"), True),
        ({"k": 1}, typing.Mapping[str, int], True),
        ({"k": "x"}, typing.Mapping[str, int], False),
        ("f", Callable[[int], int], False),
        (len, Callable, True),
        (Ingredients(), int, True),  # a section, which may become anything
        ("/x", Path | None, True),
        (Path("/x"), Path, True),
        (True, float, False),
        ("x", [int], True),  # no annotation that Python knows
    ],
)
def test_what_fits(value, hint, right):
    assert fits(value, hint) is right
    assert describe(hint)


@pytest.mark.parametrize(
    "value, hint, right",
    [
        (0, typing.Annotated[float, "[0, 1)"], True),
        (1, typing.Annotated[float, "[0, 1)"], False),
        (0, typing.Annotated[float, "(0, inf)"] | None, False),
        (None, typing.Annotated[float, "(0, inf)"] | None, True),
        ("auto", typing.Annotated[int, "[1, inf)"] | typing.Literal["auto"], True),
        ([0.5, 1], typing.Annotated[list[float], "[0, 1]"], True),
        ([0.5, 2], typing.Annotated[list[float], "[0, 1]"], False),
        (True, typing.Annotated[float | bool, "[2, 3]"], True),
        (7, typing.Annotated[int, "of what"], True),
        (7, 'typing.Annotated[int, "[0, 1]"]', False),
    ],
)
def test_numbers_are_where_their_annotation_says(value, hint, right):
    def function(number=None): ...

    function.__annotations__["number"] = hint
    problems = Signature(function).check(Ingredients({"number": value}), "x", "argument")
    assert [(problem.key, problem.message[:10]) for problem in problems] == (
        [] if right else [("x.number", "must be in")]
    )


def test_a_path_is_made_where_one_is_wanted():
    for hint in (Path, Path | None, typing.Optional[Path]):  # noqa: UP045
        assert adapt("x", hint) == Path("x") and adapt(None, hint) is None
    assert adapt("~/x", Path) == Path.home() / "x" and adapt("~no one", Path) == Path("~no one")
    assert adapt("x", Path | str) == adapt("x", object) == "x" and adapt(["x"], list[Path]) == ["x"]


def problems_of(function, settings):
    kind = registry.create("test_argument")
    kind.clear()
    kind.register("f")(function)
    return [problem.message.partition(" (f is defined")[0] for problem in check_functions(parse_string(settings))]


def check(function, settings):
    return problems_of(function, f"[a]\n@test_argument = f\n{settings}")


def test_a_default_is_right_whatever_the_annotation_says():
    def function(count: int = None, size: int = (2, 3), name: str = 1.0):
        """Annotations as they are found in libraries."""

    assert check(function, "count = None\nsize = [2, 3]\nname = 1.0\n") == []
    assert check(function, "size = null\n") == ["is None; expected an integer"]
    assert check(function, "count = True\n") == ["expected an integer, got True or False"]

    def needs(count: int):
        """No default: None is no integer."""

    assert check(needs, "count = None\n") == ["is None; expected an integer"]


def test_names_in_quotes():
    """What can be looked up is checked; the rest, such as what only a type checker imports, is not."""

    def function(rate: "float | None", tensor: "torch.Tensor", text: "of any length", deep: "list[Nowhere]"):  # noqa: F722, F821
        """Annotations in quotes, of which one can be looked up."""

    assert Signature(function).hints == {"rate": float | None, "tensor": object, "text": object, "deep": object}
    assert check(function, "rate = x\ntensor = 1\ntext = 1\ndeep = 1\n") == ["expected a number or None, got text"]

    class Later:
        """A class takes what its __init__ takes."""

        def __new__(cls, *args, **named):
            return super().__new__(cls)

        def __init__(self, path: "Path", *, count: "int" = 1):
            self.path = path

    assert Signature(Later).hints == {"path": Path, "count": int} and Signature(Later).slots == ["path"]
    assert check(Later, "path = 1\ncuont = 2\n") == [
        "no such argument. Did you mean count?",
        'expected a path, got an integer; as text write "1"',
    ]


def test_a_refused_setting_names_place_and_function():
    def refuse(rate: float):
        raise ValueError(f"rate = {rate}: write 0 or more")

    def fail():
        raise TypeError("a mistake in the function")

    assert check(refuse, "rate = -1\n") == []
    with pytest.raises(
        IngredientsError, match=r"^<text>:2: a\n    rate = -1: write 0 or more \(f is defined at .*test_functions"
    ):
        resolve(parse_string("[a]\n@test_argument = f\nrate = -1\n"))
    check(fail, "")
    with pytest.raises(TypeError, match="^a mistake in the function$"):
        resolve(parse_string("[a]\n@test_argument = f\n"))


def test_a_module_that_is_not_installed():
    kind = registry.create("test_absent")
    kind.module("no_such_module_here", lambda found: found)
    with pytest.raises(
        IngredientsError, match="no_such_module_here, which cannot be imported: .*pip install no_such_module_here"
    ):
        kind.get("no_such_module_here.f")
