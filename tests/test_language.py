"""core/: the language. Nothing here imports torch."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from core import Ingredients, IngredientsError, parse, parse_and_resolve, parse_string, registry, resolve
from core.arguments import fits, mend
from core.registry import Registries

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
CASES = json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
CASES["deep_json"] = {"text": f"[a]\nx = {'[' * 100_000}{']' * 100_000}\n", "reject": {"line": 2, "mentions": ["64"]}}
CASES["big_integer"] = {"text": f"[a]\nx = {'9' * 5000}\n", "reject": {"line": 2, "mentions": ["4300"]}}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    if "accept" in case:
        ingredients = parse_string(case["text"])
        assert ingredients == case["accept"]
        assert parse_string(str(ingredients)) == ingredients
        return
    with pytest.raises(IngredientsError) as caught:
        parse_string(case["text"])
    rule = case["reject"]
    assert rule["line"] is None or rule["line"] in [problem.place.line for problem in caught.value.problems]
    for word in rule["mentions"]:
        assert word in str(caught.value)


def problems_of(text, **kwargs):
    with pytest.raises(IngredientsError) as caught:
        resolve(parse_string(text, **kwargs))
    return str(caught.value)


def test_article_example(tmp_path):
    file = tmp_path / "config.ini"
    file.write_text(
        "[project]\nversion = 0.0.1\nname = mnist\nroot = /tmp/x/${project.name}\n"
        "[project.data]\nsource = https://s3.amazonaws.com/fast-ai-imageclas/mnist_png.tgz\nroot = ${root}/data/\n"
    )
    config = parse(file)
    assert config.project.data.root == "/tmp/x/mnist/data/"
    assert config.project.version == "0.0.1"
    assert {"version", "name", "root", "data"} <= set(dir(config.project))
    assert str(config.where("project.data.root")).endswith("config.ini:7")


def test_all_problems_at_once():
    text = problems_of("[a]\nx = ${b.c}\ny = [1,\nz = $5\n[a]\nnothing\n")
    for line in ("<text>:2: a.x = ${b.c}", "<text>:3: a.y = [1,", "<text>:4: a.z = $5", "<text>:5: [a]", "<text>:6:"):
        assert line in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\nx = ${b}\n[c]\nbb = 1\n", 'there is no "b"'),
        ("[project]\nroot = 1\n[x]\ny = ${project.rot}", '[project] has no "rot". Did you mean ${project.root}'),
        ("[a]\nx = ${x}\n", 'there is no "x". Available: ${a}.'),
        ("[a]\nx = 1\n[b]\ny = ${a.x.z}", "a.x is a setting, so nothing is below it."),
        ("[a]\nx = 1\n  2\n", "only plain text continues"),
        ("[a]\nx = [1]\n  2\n", "only plain text continues on an indented line, or an open list"),
        ("[a]\nx = one\n  [b]\n", "looks like a setting or a section"),
        ("[a]\n  x = 1\n", "no text value is above"),
        ("[a] b\n", "text after the section name"),
        ("[a]\na.b = 1\n", "a key contains no dots"),
        ("[a]\n@ = f\n", "name the registry"),
        ('[a]\nx = "b" c\n', 'this begins with " but does not parse'),
        ("[a]\nx = 1e999\n", "1e999 is not a finite number"),
        ("[a]\nx = ${env:NO_SUCH_VARIABLE_HERE}\n", "is not set"),
        ('[a]\nx = {"${a.y}": 1}\ny = 2\n', "the key of an object cannot contain"),
        ("[a.b]\nx = 1\n[a]\nb = 2\n", "b is a setting (<text>:4) and a section ([a.b], <text>:1)"),
        ("[META]\nbase = x.ini\n", "only a file can have a base file"),
    ],
)
def test_error_text(text, told):
    assert told in problems_of(text)


def test_environment(monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", "/here")
    config = parse_string("[a]\nx = ${env:SOME_FOLDER}/y\nz = ${env:NOT_THERE:../tmp}\n")
    assert config.a == {"x": "/here/y", "z": "../tmp"}


def test_text_of_a_reference_is_as_written():
    config = parse_string('[a]\nv = 1.10\nb = True\nq = "1.20"\nx = v${v}-${b}-${q}\nw = ${v}\ny = "${w}"\n')
    assert config.a.x == "v1.10-True-1.20"
    assert config.a.w == 1.1 and config.a.y == "1.10"


def test_long_chain_and_growth():
    chain = "[a]\nx0 = 1\n" + "".join(f"x{i} = ${{x{i - 1}}}\n" for i in range(1, 3000))
    assert parse_string(chain).a.x2999 == 1
    grow = "[a]\nx0 = [1]\n" + "".join(f"x{i} = [{', '.join(['${x' + str(i - 1) + '}'] * 10)}]\n" for i in range(1, 10))
    assert "grow to more than" in problems_of(grow)
    sections = "[s0]\nx = 1\n" + "".join(
        f"[s{i}]\n" + "".join(f"k{j} = ${{s{i - 1}}}\n" for j in range(10)) for i in range(1, 9)
    )
    assert "grow to more than" in problems_of(sections)


def test_base_files(tmp_path):
    (tmp_path / "base.ini").write_text("[a]\nx = 1\ny = ${x}\n[f]\n@kind = one\nk = 1\n")
    (tmp_path / "child.ini").write_text("[META]\nbase = base.ini\n[a]\nx = 2\n[f]\n@kind = two\n")
    config = parse(tmp_path / "child.ini")
    assert config == {"a": {"x": 2, "y": 2}, "f": {"@kind": "two"}}
    assert str(config.where("a.y")).endswith("base.ini:3")
    (tmp_path / "base.ini").write_text("[f]\n@kind = one\n[f.g]\nk = 1\n[f.h]\n")
    (tmp_path / "child.ini").write_text('[META]\nbase = ["base.ini"]\n[f.g]\nl = 2\n[f]\n@kind = two\n')
    assert parse(tmp_path / "child.ini") == {"f": {"@kind": "two", "g": {"l": 2}}}
    (tmp_path / "base.ini").write_text("[META]\nbase = child.ini\n")
    with pytest.raises(IngredientsError, match="circle: child.ini -> base.ini -> child.ini"):
        parse(tmp_path / "child.ini")
    (tmp_path / "child.ini").write_text("[META]\nbase = bass.ini\n")
    with pytest.raises(IngredientsError, match=r"child.ini:2: META.base = bass.ini\n.*Did you mean base.ini"):
        parse(tmp_path / "child.ini")


def test_unreadable_files(tmp_path):
    with pytest.raises(IngredientsError, match="no such file"):
        parse(tmp_path / "none.ini")
    with pytest.raises(IngredientsError, match="is a folder"):
        parse(tmp_path)
    (tmp_path / "latin.ini").write_bytes("[a]\nx = é\n".encode("latin-1"))
    with pytest.raises(IngredientsError, match=r"latin.ini:2:.*\n.*not UTF-8"):
        parse(tmp_path / "latin.ini")
    (tmp_path / "large.ini").write_bytes(b"#" * 10_000_001)
    with pytest.raises(IngredientsError, match="larger than 10 MB"):
        parse(tmp_path / "large.ini")


def test_overrides():
    text = "[a]\nx = 1\ny = ${x}\n"
    config = parse_string(text, overrides=[("a.x", "2.5"), ("a.b.new", "[1, 2]", True)])
    assert config == {"a": {"x": 2.5, "y": 2.5, "b": {"new": [1, 2]}}}
    assert str(config.where("a.x")) == "command line"
    told = problems_of(text, overrides=[("a.z", "1"), ("a", "1")])
    assert 'there is no "a.z". Did you mean --a.y or --a.x?' in told and "[a] is a section" in told


@pytest.fixture
def kinds():
    """A registry `test_kind` with functions for the tests."""
    kind = registry.create("test_kind")
    if "join" not in kind:

        @kind.register("join")
        def join(first: str, count: int = 1, rate: float = 0.5, options: list[int] | None = None):
            return lambda: [first, count, rate, options]

        @kind("pair")
        def pair(*items, **named):
            return [items, named]

    return kind


def test_functions_are_called(kinds):
    config = resolve(
        parse_string(
            "[f]\n@test_kind = join\nfirst = a\nrate = 2\n"
            "[g]\n@test_kind = pair\n*.one = 1\n[h]\nf = ${f}\n[p]\n@test_kind = pair\n* = [1, 2]\nk = ${f}\n".replace(
                "*.one = 1\n", ""
            )
            + "[g.*.one]\n@test_kind = pair\n"
        )
    )
    assert config.f() == ["a", 1, 2, None]
    assert config.h.f is config.f and config.p[1]["k"] is config.f
    assert config.p[0] == (1, 2) and config.g[0] == ([(), {}],)
    assert str(config.where("f")) == "<text>:1" and str(config.where("f.first")) == "<text>:3"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[f]\n@test_kynd = join\n", "there is no registry test_kynd. Did you mean @test_kind?"),
        ("[f]\n@test_kind = jion\n", 'the registry test_kind has no "jion". Did you mean join?'),
        ("[f]\n@test_kind = join\n", "f.first\n    missing; expected text"),
        (
            "[f]\n@test_kind = join\nfirst = a\ncuont = 1\n",
            "f.cuont = 1\n    no such argument. Did you mean count?",
        ),
        ("[f]\n@test_kind = join\nfirst = 1\n", "f.first = 1\n    expected text, got an integer; as text write"),
        ("[f]\n@test_kind = join\nfirst = a\nrate = .5\n", "`.5` is text; write 0.5"),
        ("[f]\n@test_kind = join\nfirst = a\ncount = True\n", "expected an integer, got True or False"),
        ("[f]\n@test_kind = join\nfirst = a\noptions = [1, 2.5]\n", "f.options = [1, 2.5]"),
        ("[f]\n@test_kind = join\n* = [a, 1]\n", "does not parse"),
        ('[f]\n@test_kind = join\n* = ["a", 1, 0.1, null, 5]\n', "5 positional arguments, but the function takes 4"),
        ('[f]\n@test_kind = join\n* = ["a"]\nfirst = b\n', '"first" is given by * as well'),
    ],
)
def test_function_problems(kinds, text, told):
    message = problems_of(text)
    assert told in message
    if "join" in text and "does not parse" not in told and "jion" not in text and "kynd" not in text:
        assert "join is defined at" in message and "test_language.py:" in message


def test_a_name_taken_twice_names_both_places():
    kind = Registries().create("twice")
    kind.register("x")(lambda: 1)
    with pytest.raises(IngredientsError, match=r'test_language.py:\d+: "x" is taken .* by .*test_language.py:\d+'):
        kind.register("x")(lambda: 2)


def test_names_of_a_module():
    """`module.name` is looked up where a registry opens that module; its arguments are checked like any other's."""
    kind = registry.create("test_module")
    kind.module("fractions", lambda found: found)
    assert resolve(parse_string("[f]\n@test_module = fractions.Fraction\nnumerator = 3\n")).f == 3
    assert list(kind) == ["fractions.Fraction"]
    for text, told in [
        ("@test_module = fractions.Fractoin\n", 'has no "fractions.Fractoin". Did you mean fractions.Fraction?'),
        ("@test_module = Fraction\n", "Did you mean fractions.NAME?"),
        ("@test_module = fractions.Fraction\nnumerater = 3\n", "no such argument. Did you mean numerator?"),
        ("@test_module = os.system\n", 'has no "os.system"'),
    ]:
        assert told in problems_of("[f]\n" + text)


def test_object():
    config = parse_string('[a]\nx = 1\nkeys = 2\n[a.b]\ny = two words\nz = [1, {"k": null}]\n')
    for other in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.copy()):
        assert other == config and isinstance(other, Ingredients) and str(other.where("a.b.y")) == "<text>:5"
    assert config["a"]["keys"] == 2 and callable(config.a.keys)
    with pytest.raises(AttributeError, match=r'\[a.b\] has no "yy". Did you mean y'):
        _ = config.a.b.yy
    config.a.b.y = "new"
    assert config["a"]["b"]["y"] == "new"


def test_annotations():
    from pathlib import Path
    from typing import Literal

    for value, hint, right in [
        (1, float, True), (True, int, False), (1.0, int, False), ("a", Path, True), (None, int | None, True),
        ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), ([1, 2], list[int], True),
        ([1, "x"], list[int], False), ({"k": 1}, dict[str, float], True), ({"k": "x"}, dict[str, float], False),
        ([1, "a"], tuple[int, str], True), ([1], tuple[int, str], False),
    ]:  # fmt: skip
        assert fits(value, hint) is right, (value, hint)
    assert "Did you mean training?" in mend("trainig", "", Literal["training", "testing"])
    assert mend("yes", "yes", bool) == "`yes` is text; write True"


def test_nothing_heavy_is_imported_before_the_file_is_checked():
    """--help, and every mistake in the file or in a function's arguments, are told without torch."""
    code = "import sys, train; sys.argv = ['train.py', '--training.scheme.epochs', 'x']\ntry: train.main()\n"
    code += "except SystemExit: print('torch' in sys.modules, 'PIL' in sys.modules, 'pantry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
    assert "command line: --training" not in done.stderr and "training.scheme.epochs = x" in done.stderr
    assert "expected a number, got text" in done.stderr


def test_parse_and_resolve(tmp_path, kinds):
    (tmp_path / "a.ini").write_text("[f]\n@test_kind = join\nfirst = z\n")
    assert parse_and_resolve(tmp_path / "a.ini").f()[0] == "z"
