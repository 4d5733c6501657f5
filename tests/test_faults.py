"""core/: one mistake, one problem."""

import pytest
from core import IngredientsError, parse, parse_string
from recipes.settings import check_sections, setting


def problems_of(text, **kwargs):
    with pytest.raises(IngredientsError) as caught:
        parse_string(text, **kwargs)
    return [(problem.place.line, problem.key) for problem in caught.value.problems], str(caught.value)


def test_a_header_that_does_not_close_counts_as_closed():
    where, text = problems_of("[model # of it\nn = 1\n[a]\nx = ${model.n}\n")
    assert where == [(1, "[model")] and "write [model]" in text


def test_a_header_with_text_after_it_counts_as_a_header():
    assert problems_of("[model] x\nn = 1\n[a]\nx = ${model.n}\n")[0] == [(1, "[model]")]


def test_the_settings_of_a_section_without_a_name_are_no_problem_of_their_own():
    assert problems_of("[]\nx = 1\n[a]\ny = 2\n")[0] == [(1, "[]")]


def test_the_second_part_of_a_section_that_is_given_twice_is_checked():
    from dataclasses import dataclass

    @dataclass
    class A:
        x: int = setting(1, "a number")

    where, text = problems_of(
        "[a]\nx = 1\n[a]\ny = 2\n[b]\nz = ${a.y}${a.no}\n", checks=[lambda root: check_sections(root, {"a": A, "b": A})]
    )
    assert where == [(3, "[a]"), (4, "a.y"), (6, "b.z"), (6, "b.z")] or where == [(3, "[a]"), (4, "a.y"), (6, "b.z")]
    assert "already defined at line 1" in text and "no such setting" in text


@pytest.mark.parametrize("text", ["[META]\n", "[META]\nbas = x.ini\n"])
def test_meta_without_base(tmp_path, text):
    (tmp_path / "a.ini").write_text(text)
    with pytest.raises(IngredientsError, match=r"a.ini:1: META.base\n +missing"):
        parse(tmp_path / "a.ini")


@pytest.mark.parametrize("value", ["a\0b", '"a\0b"', "[1, \0]"])
def test_a_nul_in_a_value_is_one_problem(value):
    where, text = problems_of(f"[a]\nx = {value}\n")
    assert where[0] == (2, "") and len(where) == (2 if value[0] == "[" else 1)
    assert "U+0000 is not allowed" in text and "\0" not in text


def test_names_and_values_are_printed_escaped():
    _, text = problems_of("[a\x1b[31m]\nx\x07 = [\x1b]2;title\n[b]\ny = ${\x9b}\n")
    assert "\x1b" not in text and "\x07" not in text and "\x9b" not in text and "\\x1b[31m" in text
    assert str(IngredientsError("\x1b[2J")) == "\\x1b[2J"


@pytest.mark.parametrize("text", ["x = [1,\n2,\n3]\n", "x = [\n1,\n2\n]\n", 'x = {\n"a": 1,\n"b": 2\n}\n'])
def test_a_list_that_is_continued_without_indent_is_one_problem(text):
    where, told = problems_of(f"[a]\n{text}y = 2\n[b]\nz = ${{a.y}}\n")
    assert where == [(3, "a.x")] and "indent" in told


def test_an_open_list_ends_at_the_next_setting_or_section():
    assert problems_of("[a]\nx = [1,\ny = 2\n[b]\nz = ${a.y}\n")[0] == [(2, "a.x")]


def test_a_setting_given_twice_in_overrides():
    _, text = problems_of("[a]\nx = 1\n", overrides=[("a.x", "2"), ("a.x", "3")])
    assert text == "command line: --a.x = 3\n    a.x is given twice: 2 and 3; remove one"
    assert parse_string("[a]\nx = 1\n", overrides=[("a.x", "2"), ("a.x", "2")]).a.x == 2


@pytest.mark.parametrize(("value", "word"), [("None", "None"), ("", "empty")])
def test_none_and_nothing_for_a_number(value, word):
    from dataclasses import dataclass

    @dataclass
    class A:
        epochs: float = setting(1.0, "passes")

    where, text = problems_of(f"[a]\nepochs = {value}\n", checks=[lambda root: check_sections(root, {"a": A})])
    assert where == [(2, "a.epochs")] and f"is {word}" in text and "expected a number" in text


@pytest.mark.parametrize("text", ["[a\x1bb]\nx = 1\n", "[a]\nx\x1b = 1\n", "[a]\nx\x9by = 1\n"])
def test_a_name_with_a_control_character_is_refused(text):
    where, told = problems_of(text)
    assert len(where) == 1 and "control character" in told and "\x1b" not in told and "\x9b" not in told


def test_control_characters_in_values_are_printed_escaped():
    printed = str(parse_string('[a]\nx = "\\u001b[2J"\ny = "\\u009b"\n'))
    assert printed == '[a]\nx = "\\u001b[2J"\ny = "\\u009b"\n' and parse_string(printed).a.y == "\x9b"
