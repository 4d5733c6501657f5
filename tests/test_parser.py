"""core/parser.py and core/values.py: what the cases of test_language.py do not reach."""

import gc
import time
from contextlib import suppress

import pytest
from core import Ingredients, IngredientsError, parse, parse_string
from core.errors import MAX_PROBLEMS


def problems_of(text, **kwargs):
    with pytest.raises(IngredientsError) as caught:
        parse_string(text, **kwargs)
    return str(caught.value)


def test_an_escape_beside_a_reference():
    config = parse_string('[a]\nb = 1\nx = ["\\u00e9", ${a.b}, "\\ud83c\\udf89 ${a.b}"]\n')
    assert config.a.x == ["é", 1, "🎉 1"]
    assert "a lone surrogate" in problems_of('[a]\nb = 1\nx = ["\\ud800", ${a.b}]\n')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]\nx = [1, }\n", "expecting value at character 5)"),
        ("[a]\nb = 1\nx = [${a.b}, }\n", "expecting value at character 10)"),  # counted in the line as written
        ('[a]\nx = {"k": 1, "l": 2, "k": 3}\n', 'duplicate key "k"'),
        ("[a]\nx = [NaN]\n", "NaN is not a finite number"),
        ("[a]\nb = 1\nx = [${b}, -Infinity]\n", "-Infinity is not a finite number"),
        ("[a]\nx = [1e999]\n", "1e999 is not a finite number"),
        ("[a]\nx = 1e999\n  more\n", "only plain text continues"),
        ("[a]\nx = [1]\n\n# note\n  2\n", "only plain text continues on an indented line, or an open list"),
        ("[a]\nx = one\n]\n", "<text>:3: ]\n    this is not a [section]"),
        ("[a]\nx = [${y}, ${b}}]\n", "does not parse"),
        # the whole name, also of the first setting of a section
        ("[a]\n__x = 1\n", "<text>:2: a.__x = 1\n    names with two leading underscores"),
        ("[a]\nx = 1\n  2\n", "<text>:3: a.x\n    only plain text continues"),
        ("[a]\nx = [1]\n]\n", "<text>:3: a.x\n    only plain text continues on an indented line, or an open list"),
        ("__x = 1\n  2\n", "<text>:1: __x = 1"),
        ("[a]\n[b]\n[a]\n", "already defined at line 1;"),  # also of an empty one
        ("[a]\nx = [1, $x]\n", "write ${section.key}"),
        ('[a]\nx = {"$k": 1}\n', "or $$ for a dollar sign"),
        ('[a]\nk = 1\nx = {"${k}": 1}\n', "the key of an object cannot contain a reference"),
    ],
)
def test_error_text(text, told):
    assert told in problems_of(text)


@pytest.mark.parametrize(
    "text", ["0\n", "a\n", "\0a", "a\x01", "\u202ea", "a\u202e", "a b", " a", "a\t", "007", "1", "$"]
)
def test_a_text_prints_as_what_reads_back_to_it(text):
    assert parse_string(str(Ingredients({"a": Ingredients({"x": text})}))).a.x == text


ESCAPES = {
    "text with a note": "x = t{} # note\n",
    "an open text with a note": 'x = t"{} # note\n',
    "an open list": "x = [{}\n  # note\n",
    "an open text in a list": 'x = ["{}\n  1]\n',
}


@pytest.mark.parametrize("kind", ESCAPES)
@pytest.mark.parametrize("piece", ['\\"', "${"])
def test_a_long_line_of_escapes_is_scanned_once(kind, piece):
    """Each of them might open a quoted text; to look for its end from each would take 15 seconds here."""
    start = time.process_time()
    with suppress(IngredientsError):
        parse_string("[a]\n" + ESCAPES[kind].format(piece * 50_000))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('t\\" # note', 't\\"'),
        ('say "a # b" # note', 'say "a # b"'),
        ('C:\\"a # b" # note', 'C:\\"a # b"'),
        ('t" # note', 't"'),
        ('"a" t" # "b', '"a" t" # "b'),
    ],
)
def test_a_note_begins_outside_quotes(line, value):
    raw = parse_string(f"[a]\nx = .{line}\n").a.x
    assert raw == f".{value}"


@pytest.mark.parametrize("close", ["]", "  ]", "\t] # note", "\n# note\n]"])
def test_a_closing_bracket_may_be_indented_or_not(close):
    assert parse_string(f"[a]\nx = [1,\n  2\n{close}\ny = 3\n").a == {"x": [1, 2], "y": 3}


@pytest.mark.parametrize("between", ["", "\n", "# note\n", "\n\n; note\n"])
@pytest.mark.parametrize("value", ["1", "0.5", '"t"', "${b}"])
def test_no_line_below_a_usual_value_is_lost(value, between):
    """Settings that are read in one step still see what stands below them."""
    text = f"[a]\nb = 7\nx = {value}\n{between}"
    assert parse_string(text + "y = 2\n").a.y == 2
    if value == "${b}":
        assert parse_string(text + "  more\n").a.x == "7\nmore"
    else:
        assert "only plain text continues" in problems_of(text + "  more\n")


def test_a_wrong_byte_after_a_byte_order_mark(tmp_path):
    (tmp_path / "a.ini").write_bytes(b"\xef\xbb\xbf[a]\r\nx = \xe9\r\n")
    with pytest.raises(IngredientsError, match=r"a.ini:2:\n +byte 0xe9 is not UTF-8"):
        parse(tmp_path / "a.ini")


def test_overrides_that_cannot_stand():
    text = "[a]\nx = 1\n"
    told = "x is a setting (<text>:2) and a section ([a.x], command line); rename one"
    assert told in problems_of(text, overrides=[("a.x.y", "1", True)])
    assert "name a section and a key" in problems_of(text, overrides=[(".".join("a" * 2000), "1", True)])
    told = problems_of(text, overrides=[("META.base", "x.ini", True)])
    assert (
        told
        == "command line: --META.base = x.ini\n    base files are read before the command line; name them in the file"
    )
    assert "[a] is a section; name one of its settings. Available: x." in problems_of(text, overrides=[("a", "1")])
    assert "U+202E is not allowed" in problems_of(text, overrides=[("a.x", "\u202e")])
    two = problems_of("[a]\n@f = g\n", overrides=[("a.@h", "1", True)])
    assert "@f is already set at <text>:2" in two


def test_what_is_told_of_a_wrong_file_is_bounded():
    told = problems_of("[a]\n" + "wrong\n" * 3000)
    assert told.count("this is not a [section]") == MAX_PROBLEMS and told.endswith("\n… and more")
    assert len(problems_of(f"[a]\nx = {'y' * 10_000}\nx = 1\n{'z' * 10_000}\n")) < 1000


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_is_left_as_it_was(tmp_path, collects):
    (tmp_path / "right.ini").write_text("[a]\nx = 1\n")
    (tmp_path / "wrong.ini").write_text("[a]\nx = [\n")
    was = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        parse(tmp_path / "right.ini")
        with pytest.raises(IngredientsError):
            parse(tmp_path / "wrong.ini")
        assert gc.isenabled() == collects
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize(
    ("raw", "mend"),
    [
        ("['a']", "use double quotes"),
        ("[True]", "write true"),
        ("[1, None]", "write null"),
        ("[.5]", "write a 0 before the dot"),
        ("[1, 2,]", "remove the comma before it"),
        ("[16, 16", "close it"),
    ],
)
def test_a_list_as_python_writes_it_is_told_how_to_mend(raw, mend):
    with pytest.raises(IngredientsError, match=mend):
        parse_string(f"[a]\nx = {raw}\n")
