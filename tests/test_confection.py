"""The language of ingredients.ini beside confection's, from which it took its form: the same trees, but for the table.

The table stands in docs/language.md; each of its rows is shown here by what both make of it.
"""

import configparser
import json
import re
from pathlib import Path

import confection
import pytest
from core import IngredientsError, parse_string, registry, resolve
from hypothesis import given, settings
from hypothesis import strategies as st

DOCS = Path(__file__).resolve().parents[1] / "docs" / "language.md"
ARGUMENTS = ["a", "b", "c", *(f"s{number}" for number in range(6))]


def make(a=None, b=None, c=None, s0=None, s1=None, s2=None, s3=None, s4=None, s5=None):
    return {"made": [a, b, c, s0, s1, s2, s3, s4, s5]}


def pack(*items):
    return {"packed": list(items)}


def new():
    return object()


class Registry(confection.registry):
    compared = {"make": make, "pack": pack, "new": new}


@pytest.fixture(scope="module", autouse=True)
def functions():
    """The same functions in both registries."""
    kind = registry.create("compared")
    for name, function in Registry.compared.items():
        kind.register(name)(function)


def ours(text):
    return resolve(parse_string(text))


def theirs(text):
    return Registry.resolve(confection.Config().from_str(text))


def exactly(tree):
    """A text that is the same for the same tree: 1, 1.0 and True differ, the order of keys does not count."""
    return json.dumps(tree, sort_keys=True)


# A text with quotes or backslashes, put into another, is a row of the table.
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS |= st.text("abc 01.,:;=#%[]{}()'é日", max_size=8)
VALUES = SCALARS | st.recursive(
    # confection cannot read text with a reference to control characters
    SCALARS | st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=4).filter(lambda text: "$" not in text),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab c", max_size=3), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def files(draw):
    """A file in what both read: parents stand before their sections, settings refer to what stands above them."""
    lines, sections, closed, scalars = [], [], set(), {}  # scalars: path -> (value, length of its chain)
    for number in range(draw(st.integers(1, 6))):
        open_sections = [path for path in sections if path.split(".")[0] not in closed]
        path = f"{draw(st.sampled_from([''] + [above + '.' for above in open_sections]))}s{number}"
        called = draw(st.sampled_from(["", "make", "pack"]))
        lines += [f"[{path}]", *([f'@compared = "{called}"'] if called else [])]
        if called == "pack":
            items = draw(st.lists(VALUES, max_size=3))
            if draw(st.booleans()):
                lines.append(f"* = {json.dumps(items)}")
            else:
                lines += [f"[{path}.*.i{at}]\na = {json.dumps(item)}" for at, item in enumerate([0, *items])]
            continue
        for key in "abc"[: draw(st.integers(0, 3))]:
            others = [name for name in sections if "." not in name and not path.startswith(name)]
            line, value = draw(settings_to(scalars, others))
            lines.append(f"{key} = {line}")
            closed |= {line[2:-1]} & set(others)
            if value is not None:
                scalars[f"{path}.{key}"] = value
        sections.append(path)
    return "\n".join(lines)


@st.composite
def settings_to(draw, scalars, sections):
    """(the setting as written, (its value, length of its chain) where another may refer to it)."""
    kind = draw(st.sampled_from(["value", "whole", "text", "list", "section"]))
    if kind == "section" and sections:
        return f"${{{draw(st.sampled_from(sections))}}}", None
    near = sorted(name for name, (_, length) in scalars.items() if length < 9)  # theirs end at 10
    if kind in ("value", "section") or not near:
        value = draw(VALUES)
        return json.dumps(value), None if isinstance(value, list | dict) else (value, 1)
    name = draw(st.sampled_from(near))
    value, length = scalars[name]
    reference = "${" + draw(st.sampled_from([name, ":".join(name.rsplit(".", 1))])) + "}"
    if kind == "whole":
        return reference, (value, length + 1)
    if kind == "text":
        return f'"<{reference}>"', None
    return (
        f'["{reference}", {1 if isinstance(value, str) else reference}]',
        None,
    )  # text in a list is a row of the table


@settings(max_examples=500, deadline=None)
@given(files())
def test_what_both_read_is_the_same_tree(text):
    assert exactly(parse_string(text)) == exactly(confection.Config().from_str(text))
    assert exactly(ours(text)) == exactly(theirs(text))


def told(read, text):
    """What `read` makes of the text, as JSON without its outer braces; "an error" where it refuses it."""
    try:
        return re.sub(r"^\{|\}$", "", json.dumps(read(text), ensure_ascii=False, default=lambda value: "an object"))
    except (IngredientsError, confection.ConfigValidationError, ValueError, configparser.Error):
        return "an error"


CHAIN = "[a]\nx0 = 1\n" + "".join(f"x{i} = ${{a.x{i - 1}}}\n" for i in range(1, 13))
# The first cell of each row of the table: (a file, what we make of it, what confection does).
DIFFERENCES = {
    "parent sections": ("[a.b]\nx = 1\n", '"a": {"b": {"x": 1}}', "an error"),
    "` # note` after a value": ("[a]\nx = 1 # note\n", '"a": {"x": 1}', '"a": {"x": "1 # note"}'),
    "`'text'` in single quotes": ("[a]\nx = 'b'\n", '"a": {"x": "b"}', '"a": {"x": "\'b\'"}'),
    "a value that opens `[`, `{` or `\"` and does not parse": ("[a]\nx = [1, 2\n", "an error", '"a": {"x": "[1, 2"}'),
    "`NaN`, `Infinity`": ("[a]\nx = NaN\n", "an error", '"a": {"x": NaN}'),
    "the same key twice in an object": ('[a]\nx = {"k": 1, "k": 2}\n', "an error", '"a": {"x": {"k": 2}}'),
    "an indented line that looks like a setting": ("[a]\nx = 1\n  y = 2\n", "an error", '"a": {"x": "1\\ny = 2"}'),
    "blank lines inside a text": ("[a]\nx = b\n\n  c\n", '"a": {"x": "b\\nc"}', '"a": {"x": "b\\n\\nc"}'),
    "a closing bracket at the start of a line": ("[a]\nx = [\n  1\n]\n", '"a": {"x": [1]}', "an error"),
    "dots and leading `__` in a key": ("[a]\nb.c = 1\n", "an error", '"a": {"b.c": 1}'),
    "deeper than 64, integers over 4,300 digits, lone surrogates, NUL": (
        '[a]\nx = "\\ud800"\n', "an error", '"a": {"x": "\ud800"}',
    ),
    "`${name}` of an enclosing section": ("[a]\nn = 1\n[a.b]\nx = ${n}\n", '"a": {"n": 1, "b": {"x": 1}}', "an error"),
    "a number in text": (
        '[a]\nv = 1.10\nx = "v${a.v}"\n', '"a": {"v": 1.1, "x": "v1.10"}', '"a": {"v": 1.1, "x": "v1.1"}'),
    "text with quotes or `\\` in text": (
        '[a]\ns = "\\"b\\""\nx = "<${a.s}>"\n',
        '"a": {"s": "\\"b\\"", "x": "<\\"b\\">"}',
        '"a": {"s": "\\"b\\"", "x": "\\"<\\"b\\">\\""}',
    ),
    "text in a list, unquoted": (
        '[a]\ns = "b"\nx = [${a.s}]\n', '"a": {"s": "b", "x": ["b"]}', '"a": {"s": "b", "x": "[b]"}',
    ),
    "a reference in the key of an object": (
        '[a]\nx = {"${a.y}": 1}\ny = "k"\n', "an error", '"a": {"x": {"k": 1}, "y": "k"}',
    ),
    "chains of references": (CHAIN, told(ours, "[a]\n" + "".join(f"x{i} = 1\n" for i in range(13))), "an error"),
    "`${env:NAME:default}`": ("[a]\nx = ${env:NO_SUCH_NAME:b}\n", '"a": {"x": "b"}', "an error"),
    "`[META] base`": ('[META]\nbase = "x.ini"\n', "an error", '"META": {"base": "x.ini"}'),
    "a byte order mark": ("\ufeff[a]\nx = 1\n", '"a": {"x": 1}', "an error"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The value .* seems to be single-quoted")
@pytest.mark.parametrize("name", DIFFERENCES)
def test_deliberate_difference(name):
    text, here, there = DIFFERENCES[name]
    assert (told(ours, text), told(theirs, text)) == (here, there)


def test_a_section_that_is_referred_to_twice_is_called_once():
    text = '[a]\n@compared = "new"\n[b]\n@compared = "make"\na = ${a}\nb = ${a}\n'
    here, there = ours(text), theirs(text)
    assert here["b"]["made"][0] is here["b"]["made"][1] is here["a"]
    assert len({id(there["a"]), *map(id, there["b"]["made"][:2])}) == 3


def test_an_override_of_an_unknown_key_is_refused_and_one_of_a_known_key_is_read_as_in_a_file():
    text = "[a]\nx = 1\n"
    with pytest.raises(IngredientsError, match='there is no "a.y"'):
        parse_string(text, [("a.y", "2")])
    assert confection.Config().from_str(text, overrides={"a.y": "2"}) == {"a": {"x": 1, "y": "2"}}
    assert parse_string(text, [("a.x", "2")]) == {"a": {"x": 2}}


def test_all_problems_are_told_at_once_with_their_lines():
    text = "[a]\nx = ${b.c}\ny = ${d.e}\n"
    with pytest.raises(IngredientsError, match=r"<text>:2: a.x[^$]*\$\{b.c\}(.|\n)*<text>:3: a.y"):
        ours(text)
    with pytest.raises(confection.ConfigValidationError) as caught:
        theirs(text)
    assert "b.c" in str(caught.value) and "d.e" not in str(caught.value)


def test_the_docs_name_exactly_these_differences():
    section = DOCS.read_text(encoding="utf-8").partition("## Differences to confection")[2]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")]
    own_tests = ["a call that several settings refer to", "overrides", "mistakes"]
    assert rows[1:] == [*DIFFERENCES, *own_tests]


def test_the_ini_blocks_of_the_docs_parse():
    blocks = re.findall("```ini\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert blocks and all(parse_string(block) for block in blocks)


def test_what_the_docs_say_of_configparser():
    parser = configparser.ConfigParser()
    parser.read_string("[DEFAULT]\nd = 1\n[a]\nX = 2\n[a.b]\n")
    assert {name: dict(section) for name, section in parser.items()} == {
        "DEFAULT": {"d": "1"},
        "a": {"d": "1", "x": "2"},
        "a.b": {"d": "1"},
    }
