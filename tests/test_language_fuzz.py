"""core/ against text that nobody would write: generated trees, token soup, mutated files, bytes.

Each test tries FUZZ_EXAMPLES examples (100 where that is not set). `pytest -m long` tries 200,000 of each.
"""

import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from core import Ingredients, IngredientsError, parse, parse_string, registry, resolve
from core.registry import check_functions
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recipes.settings import check_sections, declared_paths, import_functions

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
SECONDS, MEGABYTES = 1, 200  # processor time of one parse; address space of the whole process that parses
# What a long file may take beyond, a MB of it. It may hold 100,000 settings: at 4 us and 250 bytes each, that is 0.4 s
# and 25 MB. Sections take up to 0.75 s and 48 MB; measured with files of 9.9 MB on a busy machine.
SECONDS_EACH, MEGABYTES_EACH = 1, 50

CASES = json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
SHIPPED = {file.name: file.read_text(encoding="utf-8") for file in sorted(PROJECT.glob("ingredients*.ini"))}
SEEDS = [case["text"] for case in CASES.values()] + list(SHIPPED.values())

every_length = pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(200_000, marks=pytest.mark.long)])


def try_all(examples, check):
    """Run `check`, a @given function, on that many examples."""
    settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)(check)()


# ------------------------------------------------------------------------------------------ printed and parsed again

WORDS = [
    "a",
    "b",
    "x",
    "keys",
    "learning_rate",
    "my-key",
    "two words",
    "donn\xe9es",
    "\u65e5\u672c",
    "0",
    "1e5",
    "true",
]
WORDS += ["a#b", "a;b", "x,y", "{}", "(", "\xa0a", "a\x85b", "%", "a'b", '"']
NAMES = st.sampled_from(WORDS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS | st.lists(SCALARS))
SECTIONS = st.recursive(
    st.dictionaries(NAMES, VALUES, max_size=3).map(Ingredients),
    lambda inner: st.dictionaries(NAMES, VALUES | inner, max_size=3).map(Ingredients),
    max_leaves=5,
)
TREES = st.dictionaries(NAMES, SECTIONS, max_size=3).map(Ingredients)


def exactly(tree):
    """A text that is the same for the same tree: 1, 1.0, True and -0.0 differ, the order of keys does not count."""
    return json.dumps(tree, sort_keys=True)


@every_length
def test_any_tree_printed_and_parsed_is_itself(examples):
    @given(TREES)
    def check(tree):
        printed = str(tree)
        parsed = parse_string(printed)
        assert exactly(parsed) == exactly(tree)
        assert str(parsed) == printed

    try_all(examples, check)


def test_sections_and_values_nested_as_deep_as_may_be():
    path = ".".join("abcdefgh" * 8)
    tree = parse_string(f"[{path}]\nx = {'[' * 64}{']' * 64}\n")
    assert exactly(parse_string(str(tree))) == exactly(tree)
    for wrong in (f"[{path}.a]\n", f"[a]\nx = {'[' * 65}{']' * 65}\n"):
        with pytest.raises(IngredientsError, match="nested deeper than 64"):
            parse_string(wrong)


@st.composite
def linked_files(draw):
    """A file whose settings refer to one another: (text, the tree that it means, [(path, path of the same object)]).

    A setting refers only to sections before its own, so there is no circle; the file has them in any order.
    """
    blocks, tree, settings_of, calls, same = [], {}, {}, [], []
    for number in range(draw(st.integers(1, 5))):
        path = f"s{number}" + ".deep" * draw(st.integers(0, 2))
        is_call = draw(st.booleans())
        section = {"@fuzz_kind": "anything"} if is_call else {}
        lines = [f"[{path}]", *(f"{key} = {value}" for key, value in section.items())]
        told = dict(settings_of)  # path -> (value, its text as a reference puts it into text)
        for key in "xyz"[: draw(st.integers(0, 3))]:
            raw, section[key], text = draw(settings_to(told, tree))
            lines.append(f"{key} = {raw}")
            if text is not None:
                settings_of[f"{path}.{key}"] = told[key] = section[key], text
            if raw[2:-1] in calls:
                same.append((f"{path}.{key}", raw[2:-1]))
        blocks.append("\n".join(lines))
        for part in reversed(path.split(".")[1:]):
            section = {part: section}
        tree[f"s{number}"] = section
        calls += [path] if is_call else []
    return "\n\n".join(draw(st.permutations(blocks))), tree, same


@st.composite
def settings_to(draw, settings_of, tree):
    """(the setting as written, its value, its text or None): a value, or references to what stands in `settings_of`."""
    kind = draw(st.sampled_from(["plain", "whole", "text", "list", "section"]))
    if kind == "section" and tree:
        path, value = draw(st.sampled_from(sorted(tree.items())))
        while "deep" in value and draw(st.booleans()):
            path, value = f"{path}.deep", value["deep"]
        return f"${{{path}}}", value, None
    if kind in ("plain", "section") or not settings_of:
        value = draw(SCALARS)
        raw = json.dumps(value)
        return raw.replace("$", "$$"), value, value if isinstance(value, str) else raw
    path = draw(st.sampled_from(sorted(settings_of)))
    value, text = settings_of[path]
    reference = f"${{{draw(st.sampled_from([path, path.replace('.', ':')]))}}}"
    if kind == "whole":
        return reference, value, text
    if kind == "text":
        return f'"<{reference}>"', f"<{text}>", f"<{text}>"
    return f'[1, {reference}, {{"k": "{reference}"}}]', [1, value, {"k": text}], None


@every_length
def test_any_file_with_references_and_calls_means_what_it_says_and_prints_as_itself(examples):
    @given(linked_files())
    def check(drawn):
        text, tree, same = drawn
        parsed = parse_string(text)
        again = parse_string(str(parsed))
        for one in (parsed, again):
            assert exactly(one) == exactly(tree)
            for path, other in same:  # so that the function is called once
                assert one.at(path) is one.at(other)

    try_all(examples, check)


# ------------------------------------------------------------------------------------- any text parses or is explained

# Parses in a process of its own, where a crash, a hang and a hunger for memory are seen and hurt nobody.
CHILD = """
import json, sys, time, traceback
from core import IngredientsError, parse, parse_string, registry, resolve

registry.create("f").register("anything")(lambda *items, **named: None)
@registry.f.register("typed")
def typed(a: int, b: str = "", *, c: list[float] | None = None): pass

for line in sys.stdin:
    name, what, overrides, megabytes = json.loads(line)
    if sys.platform == "linux":
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    read, told, start = {"parse_string": parse_string}.get(name, parse), [], time.process_time()
    try:
        tree = read(what, overrides)
        took = time.process_time() - start
        if name == "parse alone":
            tree = parse_string("")
        tell = lambda tree: json.dumps(tree, sort_keys=True, ensure_ascii=False)
        if tell(parse_string(str(tree))) != tell(tree):
            raise ValueError("printed as\\n" + str(tree))
        resolve(tree)
    except IngredientsError as error:
        took = time.process_time() - start
        told = [[problem.place.file, problem.place.line, problem.message] for problem in error.problems]
        told = told or [["", 0, str(error)]]
    except BaseException:
        took, told = time.process_time() - start, traceback.format_exc()
    print(json.dumps([told, took]), flush=True)
"""


class Child:
    """The language in a process of its own, which is started again when it has ended."""

    def __init__(self):
        self.process = None

    def ask(self, name, what, overrides=(), seconds=SECONDS, megabytes=MEGABYTES):
        """[[file, line, message], ...] of the problems that `name(what, overrides)` tells within those bounds."""
        if self.process is None or self.process.poll() is not None:
            command = [sys.executable, "-c", CHILD]
            self.process = subprocess.Popen(
                command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        watch = threading.Timer(20 * seconds, self.process.kill)  # by the clock, and a machine may be busy
        watch.start()
        self.process.stdin.write(json.dumps([name, what, overrides, int(megabytes)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        watch.cancel()
        if not answer:
            self.stop()
        assert answer, f"no answer within {20 * seconds} s, or the process died"
        told, took = json.loads(answer)
        assert not isinstance(told, str), told
        assert took <= seconds, f"{took:.2f} s"
        assert all(message for _, _, message in told)
        return told

    def stop(self):
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


@pytest.fixture(scope="module")
def child():
    child = Child()
    yield child
    if child.process:
        child.stop()


# One draw of bytes is a soup: hypothesis draws a list of pieces fifty times slower.
PIECES = [*"abx@*=:\n\r\t#;'\",[]{}$1\\\0 ", *"\ufeff\u202e\x85\u2028\xa0\xe9\ud800", "__", "  ", " = ", ", ", " # "]
PIECES += ["\n[a]\n", "\n[a.b]\n", "\n[b]\n", "\n[a.*.b]\n", "\n[META]\nbase = ", "\n[DEFAULT]\n", "\n  ", "\n\t# x\n"]
PIECES += [
    "\na = ",
    "\nb = ",
    "\nx = ",
    "\n* = ",
    "\n@f = anything\n",
    "\n@f = typed\n",
    "\n[b.a.b]\nx = 1",
    "\n  b = 2",
]
PIECES += [
    "${",
    "$$",
    "${a}",
    "${a.b}",
    "${b:a}",
    "${x}",
    "${a.b.x}",
    "${b.a}",
    "${env:HOME}",
    "${env:NO:d}",
    "\\ud800",
]
PIECES += [
    "-0",
    "1e9",
    "1e999",
    "1.10",
    "true",
    "None",
    "NaN",
    "Infinity",
    '"a"',
    "[1, ",
    "]",
    '{"a": ',
    "}",
    "a.ini",
    "a.b",
]


def soup(size):
    return st.binary(max_size=size).map(lambda data: "".join(PIECES[byte % len(PIECES)] for byte in data))


def mutate(text, edits):
    """`text` after some edits, four bytes each: a place, a length, and what to put there (a piece, or twice itself)."""
    for at in range(0, len(edits) - 3, 4):
        start = int.from_bytes(edits[at : at + 2]) % (len(text) + 1)
        cut = text[start : start + edits[at + 2] % 40]
        put = [*PIECES, "", cut, cut * 2][edits[at + 3] % (len(PIECES) + 3)]
        text = text[:start] + put + text[start + len(cut) * (edits[at + 2] % 2) :]
    return text


TEXTS = st.one_of(
    st.text(st.characters()),  # lone surrogates, too
    soup(40),
    soup(40).map("[a]\n{}".format),
    st.builds(mutate, st.sampled_from(SEEDS), st.binary(min_size=4, max_size=24)),
)
LARGE = st.builds(lambda head, piece, times: head + piece * times, soup(20), soup(10), st.integers(2, 1_000))
NAME = st.sampled_from(["a.x", "a.y", "a.b", "a.b.c", "b.@f", "b.a", "b.*", "b.*.x", "n.e.w", "a.@g", "x", "a.__x"])
OVERRIDES = st.lists(st.tuples(NAME | soup(4), soup(5), st.booleans()), min_size=1, max_size=3)
FILES = st.one_of(
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    TEXTS.map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.binary(),
    st.builds(
        lambda one, data, other: one.encode("utf-8", "replace") + data + other.encode("utf-8", "replace"),
        soup(20),
        st.binary(max_size=3),
        soup(20),
    ),
)


def count_lines(text):
    return len(re.split("\r\n|\r|\n", text))


@every_length
def test_any_text_parses_or_is_explained(child, examples):
    @given(TEXTS)
    def check(text):
        for file, line, _ in child.ask("parse_string", text):
            assert file == "<text>" and 1 <= line <= count_lines(text)

    try_all(examples, check)


@every_length
def test_any_long_text_parses_or_is_explained(child, examples):
    @given(LARGE)
    @example("[a]\nx = " + "[" * 100_000)
    @example("[a]\nx = " + "${" * 50_000)
    @example("[a]\nx = " + '{"a":' * 50_000)
    def check(text):
        for file, line, _ in child.ask("parse_string", text):
            assert file == "<text>" and 1 <= line <= count_lines(text)

    try_all(max(1, examples // 40), check)


@every_length
def test_any_override_is_taken_or_is_explained(child, examples):
    text = "[a]\nx = 1\ny = ${x}\n[a.b]\nc = 1\n[b]\n@f = typed\na = 2\n"

    @given(OVERRIDES)
    def check(overrides):
        for file, line, _ in child.ask("parse_string", text, overrides):
            assert (file, line) == ("command line", 0) or file == "<text>" and 1 <= line <= count_lines(text)

    try_all(examples, check)


@every_length
def test_any_file_parses_or_is_explained(child, tmp_path, examples):
    """Bytes; half of them with a base file of bytes."""

    @given(FILES, FILES, st.sampled_from(["", "[META]\nbase = base.ini\n", '[META]\nbase = ["base.ini", "a.ini"]\n']))
    def check(data, base, head):
        files = {"a.ini": head.encode() + data, "base.ini": base}
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        for file, line, _ in child.ask("parse", str(tmp_path / "a.ini")):
            if file:
                text = files[Path(file).name].decode("utf-8", "replace")
                assert 1 <= line <= count_lines(text)

    try_all(examples, check)


# ------------------------------------------------------------------------------------ the line that an error reports


def mutations(text):
    """(text with one character deleted, doubled or swapped with the next, the lines that this touches from 1)."""
    for at, character in enumerate(text):
        line = text.count("\n", 0, at) + 1
        lines = {line, line + 1} if "\n" in text[at : at + 2] else {line}
        following = text[at + 1 : at + 2]
        for put, rest in (("", at + 1), (character * 2, at + 1), (following + character, at + 2)):
            if text[:at] + put + text[rest:] != text:
                yield text[:at] + put + text[rest:], lines


def names_in(lines, numbers):
    """The names that these lines give or refer to: of sections, keys, references and whatever else stands in them."""
    return {
        name
        for number in numbers
        for name in re.findall(r"[^\s\[\].:=${}#\"',;]+", "".join(lines[number - 1 : number]))
    }


def header_of(lines, number):
    """The number of the [section] line above a line."""
    return max((at for at in range(1, number + 1) if lines[at - 1].lstrip("\ufeff")[:1] == "["), default=0)


def why_there(problem, touched, before, after):
    """How a problem follows from a change to the lines `touched`; None where it does not."""
    line, first = problem.place.line, min(touched)
    if not line:
        gone = any(before[number - 1][:1] == "[" for number in touched if number <= len(before))
        return "the section whose name changed is needed and has no line" if gone else None
    written, shift = after[line - 1], len(before) - len(after)
    opens = written.partition("=")[2].strip()[:1] in ("[", "{")
    if line in touched:
        return "the changed line"
    if any(re.search(rf"(line |:){number}\b", problem.message) for number in touched):
        return "its message names the changed line"
    if opens and all(text[:1] in " \t]}#;" for text in after[line : first - 1] if text):
        return "it opens the bracket that the changed line closed"
    if line > first and all(text[:1] in " \t]}#;" for text in after[max(touched) : line] if text):
        return "it continues the changed line"
    above = header_of(before, first - 1)
    below = above and after[line - 1].startswith(before[above - 1].partition("]")[0] + ".")
    if (below or header_of(after, line) == above) and any(before[number - 1][:1] == "[" for number in touched):
        return "the settings below the header that broke fell to its section"
    if line > first and header_of(before, line + shift) in touched:
        return "it stood in the section whose name changed"
    members = [number for number in range(1, len(before) + 1) if header_of(before, number) in touched]
    lost = names_in(before, {*touched, *members}) | names_in(after, touched)
    if lost & {name for inner in re.findall(r"\$\{([^}]*)\}", written) for name in re.split("[.:]", inner)}:
        return "it refers to a name of the changed line, or of the section whose name changed"
    lacks = problem.message.startswith(("missing", "this section calls a function"))
    if lacks and line == header_of(after, first):
        return "it is the section that lost a setting"
    names = [before[number - 1].partition("]")[0] for number in touched if before[number - 1 : number]]
    if lacks and any(written.startswith(f"{name}.") for name in names):
        return "it is the first section in the one whose name changed"
    return None


# CR line ends count as lines only to the language, and the chain is long.
GOOD = {
    name: case["text"]
    for name, case in CASES.items()
    if "accept" in case and "\r" not in case["text"] and name != "chain_60"
}


@pytest.mark.parametrize("examples", [4 * EXAMPLES, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_an_error_after_a_slip_of_the_keyboard_stands_at_its_line_or_at_the_line_that_it_breaks(tmp_path, examples):
    """The shipped settings are checked as train.py does: with the recipe's sections and the functions' arguments."""
    import_functions(PROJECT)
    runpy.run_path(str(PROJECT / "custom_functions.blank.py"))
    tried = [(name, *mutation) for name, text in (GOOD | SHIPPED).items() for mutation in mutations(text)]
    reasons = Counter()
    for name, text, touched in tried[:: max(1, len(tried) // examples)]:
        before = (GOOD | SHIPPED)[name].split("\n")
        try:
            if name in GOOD:
                parse_string(text)
            else:
                (tmp_path / name).write_text(text, encoding="utf-8")
                parse(tmp_path / name, (), declared_paths(), [check_sections, check_functions])
        except IngredientsError as error:
            why = {why_there(problem, touched, before, text.split("\n")): problem for problem in error.problems}
            assert None not in why, f"after a change in line {touched} of {name}: {why[None]}"
            reasons["mutations that fail"] += 1
            reasons.update(why.keys())
    print(
        f"{min(examples, len(tried)):,} mutations",
        *(f"{count} {reason}" for reason, count in reasons.items()),
        sep="\n",
    )
    assert reasons["the changed line"] > 0.7 * reasons["mutations that fail"]


# ----------------------------------------------------------------------------------------------------- what was found


@pytest.mark.parametrize("text", ["0\n", "a\n", "a\r", "\0a", "a\0", "\x1b"], ids=ascii)
def test_text_with_a_control_character_at_its_end_prints_as_itself(text):
    tree = Ingredients({"a": Ingredients({"x": text})})
    assert exactly(parse_string(str(tree))) == exactly(tree)


@pytest.mark.parametrize(
    "path", ["[a].x", "a].x", "@f.x", "a$.x", "DEFAULT.x", " a.x", "a.=", "a.#x", "a.x\ny"], ids=ascii
)
def test_a_name_that_no_file_can_hold_is_not_added_either(path):
    with pytest.raises(IngredientsError, match="command line: --"):
        parse_string("[b]\n", [(path, "1", True)])


@pytest.mark.parametrize("text", ["\0", "\ud800", "\u202e", '"a\u202eb"'], ids=ascii)
def test_characters_that_a_file_may_not_hold_are_refused_in_an_override(text):
    with pytest.raises(IngredientsError, match="command line: --a.x"):
        parse_string("[a]\nx = 1\n", [("a.x", text)])


def test_a_base_file_named_on_the_command_line_is_read_or_refused_but_not_dropped(tmp_path):
    (tmp_path / "a.ini").write_text("[a]\nx = 1\n")
    (tmp_path / "b.ini").write_text("[a]\ny = 2\n")
    try:
        assert parse(tmp_path / "a.ini", [("META.base", "b.ini", True)]) == {"a": {"x": 1, "y": 2}}
    except IngredientsError as error:
        assert "META.base" in str(error)  # noqa: PT017


def test_a_base_file_with_a_nul_in_its_name_is_explained(tmp_path):
    (tmp_path / "a.ini").write_text('[META]\nbase = "\\u0000"\n')
    with pytest.raises(IngredientsError, match="a.ini:2: META.base"):
        parse(tmp_path / "a.ini")


@pytest.mark.parametrize("value", ["[${f}]", '{"k": ${f}}', "[[${f}]]"])
def test_a_reference_to_a_call_in_a_list_or_object_is_the_object_that_it_gave(value):
    kind = registry.create("fuzz_kind")
    if "anything" not in kind:
        kind.register("anything")(lambda *items, **named: object())
    tree = resolve(parse_string(f"[f]\n@fuzz_kind = anything\n[a]\nx = {value}\n"))
    found = tree.a.x
    while isinstance(found, list | dict) and "@fuzz_kind" not in found:
        found = found[0] if isinstance(found, list) else found["k"]
    assert found is tree.f


LONG_FILES = {
    "settings": lambda size: "[a]\n" + "".join(f"k{number}=1\n" for number in range(size // 10)),
    "sections": lambda size: "".join(f"[s{number}]\n" for number in range(size // 10)),
    "wrong lines": lambda size: "[a]\n" + "x\n" * (size // 2),
    "keys that stand twice": lambda size: "[a]\n" + "x=1\n" * (size // 4),
    "dead references": lambda size: "[a]\n" + "".join(f"k{number}=${{z}}\n" for number in range(size // 13)),
    "a text": lambda size: "[a]\nx = y\n" + " z\n" * (size // 3),
}

ENDS_EARLY = ("wrong lines", "keys that stand twice")


@pytest.mark.parametrize("size", [100_000, 1_000_000, 9_900_000])
@pytest.mark.parametrize("kind", LONG_FILES)
def test_a_file_as_large_as_may_be_is_read_in_its_bounds(child, tmp_path, kind, size):
    """What ends early stays in the time of any file; what keeps each line cannot, and takes its share of each MB."""
    (tmp_path / "a.ini").write_text(LONG_FILES[kind](size))
    file, each = str(tmp_path / "a.ini"), size / 1_000_000
    seconds = SECONDS if kind in ENDS_EARLY else SECONDS + each * SECONDS_EACH
    child.ask("parse alone", file, (), seconds, MEGABYTES + each * MEGABYTES_EACH)
    child.stop()  # which gives back its memory
