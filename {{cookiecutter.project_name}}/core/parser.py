"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import os  # not pathlib: it would cost 10 ms of import
import re

from .errors import IngredientsError, Place, Problem, note, shortened, suggest
from .ingredients import Ingredients, call_key, locate
from .references import Tree
from .values import BIDIRECTIONAL, MAX_DEPTH, as_written, brackets, evaluate, is_text, no_reference, strip_comment

MAX_BYTES = 10_000_000
COMMAND_LINE = Place("command line")

_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")
_COMMENT, _OPENING = frozenset(("", "#", ";")), frozenset("[{")
# What is wrong with "[section]" or "key=" -> what to write; \x85 is a line end of some systems
_NAME_RULES = {
    r"^\[DEFAULT\]": "[DEFAULT] would give its values to every section; write a section and refer to it",
    r"[\x00-\x1f\x7f-\x84\x86-\x9f]": "a name cannot contain a control character; delete it",
    r"^\[?__|\.__": "names with two leading underscores are reserved; choose another",
    rf"^\[(?:[^.]*\.){{{MAX_DEPTH}}}": f"nested deeper than {MAX_DEPTH}",
    r"^\[(?:\.|\]|.*(?:[\[$@]|\.[.\]]))": "a section name is plain words between dots, as in [training.scheme]",
    r"^=": "the key is missing: write key = value",
    r"^@=": "name the registry: write @registry = function",
    r"^[^\[].*\.": "a key contains no dots; write a [section] for the words before the last one",
}
_WRONG_NAME = re.compile("|".join(f"({rule})" for rule in _NAME_RULES))


def parse(file: str | os.PathLike, overrides=(), known=(), checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `known`: dotted paths that overrides may set although the file does not have them.
    `checks`: functions that take the ingredients and return a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems, file = [], os.fspath(file)
    return _finish(_read_file(file, _load(file), problems), problems, file, overrides, known, checks)


def parse_string(text: str, overrides=(), known=(), checks=(), name: str = "<text>") -> Ingredients:
    """Like `parse`, of a text; name: of it, in messages."""
    problems = []
    draft = Reader(name, problems).read(text)
    if "base" in draft.get("META", ()):
        note(problems, "only a file can have a base file", "META.base")
    return _finish(draft, problems, name, overrides, known, checks)


def _finish(draft: dict, problems: list, file: str, overrides, known, checks) -> Ingredients:
    draft[""] = {"": Place(file)}
    try:
        _override(draft, overrides, known, problems)
        root = Tree(draft, problems).build()
    except IngredientsError:  # more problems than anybody would read
        root, checks = Ingredients((), "", draft), ()
    for check in checks:  # even after other problems: all are reported at once
        problems += check(root)
    if problems:
        raise IngredientsError(sorted(locate(IngredientsError(problems), root).problems, key=lambda p: p.place))
    return root


def _override(draft: dict, overrides, known, problems: list) -> None:
    """Lay the settings of the command line on those of the file."""
    given = {}
    for path, value, *add in overrides:
        raw = value if isinstance(value, str) else as_written(value)
        section, _, key = path.rpartition(".")
        entries, wrong = draft.get(section, {"": COMMAND_LINE}), None
        if given.setdefault(path, raw) != raw:
            wrong = f"{path} is given twice: {shortened(given[path])} and {shortened(raw)}; remove one"
        elif path == "META.base":
            wrong = "base files are read before the command line; name them in the file"
        elif path in draft:
            wrong = f"[{path}] is a section; name one of its settings. {suggest('', [*draft[path]][1:])}"
        elif bad := _FORBIDDEN.search(raw):
            wrong = f"the character U+{ord(bad[0]):04X} is not allowed"
        elif key not in entries and not any(add) and path not in known:
            names = [f"{section}.{name}" for section, others in draft.items() for name in others if name]
            advice = suggest(path, [*names, *known], "--{}")
            wrong = f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.'
        elif key not in entries:
            read = Reader("", []).read(f"[{section}]\n{key} = 1\n")
            is_right = read == {section: {"": ("", 1, ""), key: ("", 2, "1")}}
            wrong = _wrong_key(key, entries) if is_right else "name a section and a key, as in training.scheme.epochs"
        if wrong:
            note(problems, wrong, f"--{path}", COMMAND_LINE._replace(raw=raw))
        else:
            _merge(draft, {section: {"": entries[""], key: COMMAND_LINE._replace(raw=raw)}})


def _merge(below: dict, above: dict) -> None:
    """Lay the sections of `above` on those of `below`, in place."""
    for path in [path for path in above if path in below]:
        both = [draft[path] for draft in (below, above) if path in draft]
        calls = {(key, entries[key][2].strip("\"'")) for entries in both if (key := call_key(entries))}
        if len(calls) == 2:
            below[path] = {}  # another function takes other arguments: those of the previous one must not leak into it
            for inner in [other for other in below if other.startswith(path + ".")]:
                del below[inner]
    for path, entries in above.items():
        below.setdefault(path, {}).update(entries)


def _read_file(file: str, text: str, problems: list, children: tuple = ()) -> dict:
    """The sections of a file, laid on those of its base files."""
    draft, merged = Reader(file, problems).read(text), {}
    if "META" not in draft:
        return draft
    meta, chain = draft.pop("META"), (*children, os.path.realpath(file))
    wrong = {key: "no such setting. There is base." for key in meta if key not in ("", "base")}
    try:
        if "base" not in meta:
            raise ValueError("missing: write base = FILE, or remove the section")
        bases = evaluate(meta["base"][2], no_reference)
        for base in bases if type(bases) is list else [bases]:
            if not isinstance(base, str) or not base:
                raise ValueError("name the base file as text, or a list of such names")
            path = os.path.normpath(os.path.join(os.path.dirname(file), base))
            base_text = _load(path)
            if (real := os.path.realpath(path)) in chain:
                names = [os.path.basename(other) for other in (*chain[chain.index(real) :], real)]
                raise ValueError("base files go in a circle: " + " -> ".join(names))
            _merge(merged, _read_file(path, base_text, problems, chain))
    except (ValueError, IngredientsError) as error:
        wrong["base"] = str(error)
    for key, message in wrong.items():
        note(problems, message, f"META.{key}", Place(*meta.get(key, meta[""])))
    _merge(merged, draft)
    return merged


def _load(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES // 1_000_000} MB, which no ingredients file is")
        return data.decode()
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n?|\n", data[: error.start]))
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise IngredientsError([Problem(Place(file, line), "", "", message)]) from None
    except FileNotFoundError:
        from glob import glob  # seldom needed

        folder, name = os.path.split(file)
        message = f"no such file. {suggest(name, glob('*.ini', root_dir=folder or None))}"
    except IsADirectoryError:
        message = "is a folder; name the ini file in it"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {error}"
    raise IngredientsError(f"{Place(file)}: {message}")


class Reader:
    """One text -> its draft: path of a section -> key, or "" for the section -> (file, line, text as written)."""

    def __init__(self, file: str, problems: list):
        self.file, self.problems, self.draft = file, problems, {}
        self.section, self.entries = None, {}  # that the next setting belongs to
        # Of the setting above: key, first line, further lines, brackets that are open, whether a line lacks its indent.
        self.key, self.raw, self.more, self.depth, self.is_loose = "", "", [], 0, False

    def report(self, line: int, message: str, key: str, raw: str = "") -> None:
        note(self.problems, message, key, Place(self.file, line, raw))

    def path(self) -> str:
        return f"{self.section or ''}.{self.key}".lstrip(".")

    def read(self, text: str) -> dict:
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        for bad in _FORBIDDEN.finditer(text):
            number, code = text.count("\n", 0, bad.start()) + 1, f"{ord(bad[0]):04x}"
            self.report(number, f'the character U+{code.upper()} is not allowed; delete it, or write "\\u{code}"', "")
        for number, line in enumerate(_FORBIDDEN.sub("\ufffd", text).split("\n"), start=1):  # each is reported once
            first = line.lstrip(" \t")[:1]
            if first in _COMMENT:
                continue
            goes_on = self.depth > 0 and (first == '"' or not _LOOKS_LIKE_SETTING.match(line))
            if goes_on or line[0] in " \t" or (first in "]}" and self.raw[:1] in _OPENING):
                self.read_more(line, number)
                continue
            if self.more:
                self.close()
            (self.read_header if first == "[" else self.read_setting)(line, number)
        self.close()
        return self.draft

    def read_header(self, line: str, number: int) -> None:
        path, bracket, rest = line[1:].partition("]")
        path = ".".join(part.strip(" \t") for part in (path if bracket else strip_comment(path)).split("."))
        wrong, first = _wrong_name(f"[{path}]"), self.draft.get(path)
        # the settings of a section that cannot be are read, and left out
        self.entries = {} if wrong else self.draft.setdefault(path, {"": (self.file, number, "")})
        self.section, self.key, self.raw, self.depth = path, "", "", 0
        if not bracket:
            wrong = wrong or f"the section does not close: write [{path}]"
        elif rest.strip(" \t")[:1] not in _COMMENT:
            wrong = f"text after the section name: {rest}; give it a line of its own"
        elif first:
            wrong = f"[{path}] is already defined at line {first[''][1]}; merge the two"
        if wrong:
            self.report(number, wrong, f"[{path}{bracket}")

    def read_setting(self, line: str, number: int) -> None:
        key, equals, raw = line.partition("=")
        if ":" in key:
            key, equals, raw = line.partition(":")
        key, raw = key.rstrip(" \t"), strip_comment(raw.strip(" \t")).rstrip(" \t")
        self.key, self.raw, self.is_loose = key, raw, False
        self.depth = brackets(raw) if raw[:1] in _OPENING else 0
        if not equals:
            wrong = "this is not a [section], a key = value or a # comment; write key = value"
        elif self.section is None:
            wrong = "a setting before any section; put a [section] line above it"
        else:
            wrong = _wrong_key(key, self.entries)
        if wrong:
            self.report(number, wrong, self.path() if equals and key else key, raw)
        else:
            self.entries[key] = self.file, number, raw

    def read_more(self, line: str, number: int) -> None:
        """A line that continues the setting above."""
        text, was_loose, wrong = line.strip(" \t"), self.is_loose, None
        if not self.key:
            wrong = "an indented line, but no text value is above that it could continue"
        elif line[0] not in " \t]}":
            wrong, self.is_loose = "indent the lines that continue a list or object", True
        elif self.depth <= 0 and _LOOKS_LIKE_SETTING.match(text):
            wrong = "this looks like a setting or a section: unindent it, or quote all of it"
        elif self.depth <= 0 and not is_text(self.raw):
            wrong = "only plain text continues on an indented line, or an open list or object; unindent it"
        if wrong and not was_loose:
            self.report(number, f"{wrong}: {text}", self.path() if self.key else "")
        if self.is_loose or not wrong:
            self.more.append(strip_comment(text).rstrip(" \t"))
            self.depth += brackets(self.more[-1]) if self.raw[:1] in _OPENING else 0

    def close(self) -> None:
        """Put the lines of a value together."""
        if self.more and self.key in self.entries:
            *place, raw = self.entries[self.key]
            self.entries[self.key] = *place, "\n".join([raw, *self.more])
        self.more = []


def _wrong_key(key: str, entries: dict) -> str | None:
    """Why a section cannot have a setting of that key."""
    other = key if key in entries else call_key(entries) if key[:1] == "@" else None
    if key and other:
        return f"{other} is already set at {Place(*entries[other])}; a section has it once, and calls one function"
    return _wrong_name(f"{key}=")


def _wrong_name(name: str) -> str | None:
    if name[:-1].isidentifier() and name[:2] != "__":  # as most are
        return None
    wrong = _WRONG_NAME.search(name)
    return wrong and [*_NAME_RULES.values()][wrong.lastindex - 1]
