"""core/references.py: what references share, copy and cost."""

import time

import pytest
from core import IngredientsError, parse_string
from core.errors import MAX_PROBLEMS


def problems_of(text: str) -> str:
    with pytest.raises(IngredientsError) as caught:
        parse_string(text)
    return str(caught.value)


def levels(count: int, lines: str) -> str:
    """[f0] to [f{count}] that call a function; `lines` of each with {} for the one before."""
    return "[f0]\n@kind = one\n" + "".join(f"[f{i}]\n@kind = one\n" + lines.format(i - 1) for i in range(1, count + 1))


def seconds(function, *args) -> float:
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def test_shared_calls_are_looked_at_once():
    text = levels(60, "x = ${{f{0}}}\ny = ${{f{0}}}\n")
    config = parse_string(text)
    assert config.f60.x is config.f60.y is config.f59
    assert min(seconds(parse_string, text) for _ in range(3)) < 0.5  # 2^60 looks would never end


def test_shared_calls_cost_nothing_of_the_bound():
    text = f"[f]\n@kind = one\nx = {'a' * 100_000}\n[s]\n" + "".join(f"k{i} = ${{f}}\n" for i in range(100))
    assert parse_string(text).s.k99 is parse_string(text).f or parse_string(text).s.k99["x"] == "a" * 100_000
    assert "grow to more than" in problems_of(text.replace("@kind = one\n", ""))


@pytest.mark.parametrize("lines", ["x = ${{f{0}}}\n", "x = [${{f{0}}}]\n"])
def test_calls_nested_too_deep(lines):
    assert "what this copies makes it nested deeper than 64" in problems_of(levels(70, lines))


def test_sections_nested_too_deep():
    text = "[s0]\nx = 1\n" + "".join(f"[s{i}]\nx = ${{s{i - 1}}}\n" for i in range(1, 70))
    assert "s64.x = ${s63}\n    what this copies makes it nested deeper than 64" in problems_of(text)


@pytest.mark.parametrize("first", ["[]", '""', "{}", "1"])
def test_growth_of_nothing(first):
    """Empty values are told too: ten of ten of ten of them are as many as of any."""
    text = f"[a]\nx0 = [{first}]\n" + "".join(f"x{i} = [{', '.join([f'${{x{i - 1}}}'] * 10)}]\n" for i in range(1, 12))
    assert "grow to more than" in problems_of(text)


def test_growth_of_a_list_as_text():
    """A list that shares calls is small, but its text is not."""
    text = levels(30, "x = [${{f{0}}}, ${{f{0}}}]\n") + '[t]\ny = "${f30.x}"\n'
    assert 't.y = "${f30.x}"\n    the references grow' in problems_of(text)


def test_each_circle_is_told_once():
    text = problems_of("[a]\nx = ${y}\ny = ${x}\nz = ${x}\n[b]\nx = ${y}${nope}\ny = [${x}]\nw = ${w2}\nw2 = ${w}\n")
    assert text.count("refers to itself") == 2
    assert "refers to itself: a.x (<text>:2) -> a.y (<text>:3) -> a.x\n" in text
    assert "refers to itself: b.w (<text>:8) -> b.w2 (<text>:9) -> b.w" in text and 'there is no "nope"' in text


def test_each_dead_reference_of_a_setting_is_told():
    text = problems_of("[a]\nx = ${no}${none}${no}\n")
    assert text.count("a.x = ") == 2 and 'there is no "no"' in text and 'there is no "none"' in text


def test_a_circle_is_told_beside_another_problem():
    text = problems_of("[a]\nbad = ${nope}\nx = ${bad}${y}\ny = [${x}, ${bad}]\nz = [[${bad}]]\n")
    assert "refers to itself: a.x (<text>:3) -> a.y (<text>:4) -> a.x" in text
    assert text.count("<text>:") == 2 + 2  # z follows from bad, and is not told


def test_circles_by_the_thousand():
    text = "[a]\n" + "".join(f"x{i} = ${{y{i}}}\ny{i} = ${{x{i}}}\n" for i in range(2000))
    told = problems_of(text)
    assert told.count("refers to itself") == MAX_PROBLEMS and told.endswith("… and more")
    text = "[a]\n" + "".join(f"x{i} = ${{x{(i + 1) % 3000}}}\n" for i in range(3000))
    assert "a.x9 (<text>:11) -> … 2980 more … -> a.x2990" in problems_of(text)


def test_text_of_a_list_that_is_referred_to():
    text = '[a]\nn = 1.10\nl = [1.10,  2]\nm = [${n}, "${n}"]\nk = ${l}\nx = "${k} ${m}"\n'
    assert parse_string(text).a.x == '[1.10,  2] [1.1, "1.10"]'


@pytest.mark.parametrize("value", ["[${f}]", '{"$$k": [1, ${f}]}', "[${s}]"])
def test_a_call_in_a_list_stays_the_same_when_printed(value):
    text = f"[f]\n@kind = one\n[s]\nx = ${{f}}\n[a]\nx = {value}\n"
    for config in (parse_string(text), parse_string(str(parse_string(text)))):
        found = config.a.x
        while found is not config.f:
            assert found, "it is a copy"
            found = found[-1] if isinstance(found, list) else next(iter(found.values()))


def test_no_search_for_near_names_when_there_are_many():
    text = "[a]\n" + "".join(f"k{number} = ${{z}}\n" for number in range(100_000))
    assert min(seconds(problems_of, text) for _ in range(3)) < 3
    text = "[a]\nname = 1\n" + "".join(f"k{number} = ${{a.nmae}}\n" for number in range(40))
    assert problems_of(text).count("Did you mean ${a.name}?") == 40
