"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import os  # not pathlib: it would cost 10 ms of import
import re

from .errors import IngredientsError, Place, Problem, note, shortened, suggest
from .ingredients import Ingredients, call_key, locate
from .references import build
from .values import BIDIRECTIONAL, MAX_DEPTH, as_written, brackets, evaluate, is_text, no_reference, strip_comment

MAX_BYTES = 10_000_000
COMMAND_LINE = Place("command line")

_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x84\x86-\x9f]")  # what a terminal obeys; \x85 is a line end of some systems
_COMMENT, _INDENT, _OPENING = frozenset(("", "#", ";")), frozenset(" \t"), frozenset("[{")
_NAME = r"(?!__)[^\[\]$@.\x00-\x1f\x7f-\x84\x86-\x9f]+"
_SECTION = re.compile(rf"{_NAME}(?:\.{_NAME})*")


def parse(file: str | os.PathLike, overrides=(), known=(), checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `known`: dotted paths that overrides may set although the file does not have them.
    `checks`: functions that take the ingredients and return a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems, file = [], os.fspath(file)
    return _finish(_read_file(file, problems), problems, file, overrides, known, checks)


def parse_string(text: str, overrides=(), known=(), checks=()) -> Ingredients:
    """Like `parse`, of a text."""
    problems = []
    draft = Reader("<text>", problems).read(text)
    if "base" in draft.get("META", ()):
        note(problems, "only a file can have a base file", "META.base")
    return _finish(draft, problems, "<text>", overrides, known, checks)


def _finish(draft: dict, problems: list, file: str, overrides, known, checks) -> Ingredients:
    draft[""] = {"": ("", file, 0)}
    try:
        _override(draft, overrides, known, problems)
        root = build(draft, problems)
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
        entries = draft.get(section, {"": ("", *COMMAND_LINE)})
        try:
            if given.setdefault(path, raw) != raw:
                raise ValueError(f"{path} is given twice: {shortened(given[path])} and {shortened(raw)}; remove one")
            if path in draft:
                raise ValueError(f"[{path}] is a section; name one of its settings. {suggest('', [*draft[path]][1:])}")
            if key not in entries:
                _check_new(draft, path, raw, any(add), known)
            if bad := _FORBIDDEN.search(raw):
                raise ValueError(f"the character U+{ord(bad[0]):04X} is not allowed")
            _merge(draft, {section: {"": entries[""], key: (raw, *COMMAND_LINE)}})
        except ValueError as error:
            note(problems, str(error), f"--{path}", COMMAND_LINE, raw)


def _check_new(draft: dict, path: str, raw: str, may_add: bool, known) -> None:
    """Raises ValueError if the command line cannot set what the file lacks."""
    section, _, key = path.rpartition(".")
    if path == "META.base":
        raise ValueError("base files are read before the command line; name them in the file")
    if not may_add and path not in known:
        names = [f"{section}.{name}" for section, entries in draft.items() for name in entries if name]
        advice = suggest(path, [*names, *known], "--{}")
        raise ValueError(f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.')
    if Reader("", []).read(f"[{section}]\n{key} = 1\n") != {section: {"": ("", "", 1), key: ("1", "", 2)}}:
        raise ValueError("name a section and a key, as in training.scheme.epochs")
    if wrong := _wrong_key(key, "=", draft.get(section, {})):
        raise ValueError(wrong)


def _merge(below: dict, above: dict) -> None:
    """Lay the sections of `above` on those of `below`, in place."""
    for path in [path for path in above if path in below]:
        before, after = (call_key(draft.get(path, ())) for draft in (below, above))
        if before and after and (before, _name_of(below[path][before])) != (after, _name_of(above[path][after])):
            below[path] = {}  # another function takes other arguments: those of the previous one must not leak into it
            for inner in [other for other in below if other.startswith(path + ".")]:
                del below[inner]
    for path, entries in above.items():
        below.setdefault(path, {}).update(entries)


def _name_of(entry: tuple) -> str:
    return entry[0].strip("\"'")


def _read_file(file: str, problems: list, children: tuple = ()) -> dict:
    """The sections of `file`, merged over those of its base files."""
    draft, merged = Reader(file, problems).read(_load(file)), {}
    if "META" not in draft:
        return draft
    meta, chain, bases = draft.pop("META"), (*children, os.path.realpath(file)), []
    wrong = {key: "no such setting. There is base." for key in meta if key not in ("", "base")}
    try:
        bases = evaluate(meta["base"][0], no_reference)
    except (KeyError, ValueError) as error:
        wrong["base"] = str(error) if "base" in meta else "missing: write base = FILE, or remove the section"
    for base in bases if type(bases) is list else [bases]:
        path = os.path.normpath(os.path.join(os.path.dirname(file), base)) if isinstance(base, str) else ""
        if not path or not base or "\0" in base:
            wrong["base"] = "name the base file as text, or a list of such names"
        elif (real := os.path.realpath(path)) in chain:
            names = [os.path.basename(other) for other in (*chain[chain.index(real) :], real)]
            wrong["base"] = "base files go in a circle: " + " -> ".join(names)
        elif not os.path.isfile(path):
            wrong["base"] = f"there is no file {path}. {_near_files(base, file)}"
        else:
            _merge(merged, _read_file(path, problems, chain))
    for key, message in wrong.items():
        raw, *place = meta.get(key, meta[""])
        note(problems, message, f"META.{key}", Place(*place), raw)
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
        message = f"no such file. {_near_files(os.path.basename(file), file)}"
    except IsADirectoryError:
        message = "is a folder; name the ini file in it"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {error}"
    raise IngredientsError(f"{Place(file)}: {message}")


def _near_files(name: str, beside: str) -> str:
    from glob import glob  # seldom needed

    return suggest(name, glob("*.ini", root_dir=os.path.dirname(beside) or None))


class Reader:
    """One text -> its draft: path of a section -> key, or "" for the section -> (text as written, file, line)."""

    def __init__(self, file: str, problems: list):
        self.file, self.problems, self.draft = file, problems, {}
        self.section, self.entries = "", None  # that the next setting belongs to
        # Of the setting above: its dotted path, key, first line, further lines, and how many brackets are open.
        self.name, self.key, self.raw, self.more, self.depth, self.is_loose = "", "", "", [], 0, False

    def report(self, line: int, message: str, key: str, raw: str = "") -> None:
        note(self.problems, message, key, Place(self.file, line), raw)

    def read(self, text: str) -> dict:
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        for number, line in enumerate(_FORBIDDEN.sub(self.refuse_character, text).split("\n"), start=1):
            first = line.lstrip(" \t")[:1]
            if first in _COMMENT:
                continue
            if line[0] in _INDENT or (self.raw[:1] in _OPENING and self.goes_on(line)):
                self.read_more(line, number)
                continue
            if self.more:
                self.close()
            (self.read_header if first == "[" else self.read_setting)(line, number)
        self.close()
        return self.draft

    def refuse_character(self, match) -> str:
        bad, line = match[0], match.string.count("\n", 0, match.start()) + 1
        kind = "NUL" if bad == "\0" else "a lone surrogate" if "\ud800" <= bad <= "\udfff" else "it hides text"
        advice = f'delete it, or write "\\u{ord(bad):04x}"'
        self.report(line, f"the character U+{ord(bad):04X} ({kind}) is not allowed; {advice}", "")
        return "\ufffd"  # so that it is reported once

    def read_header(self, line: str, number: int) -> None:
        path, bracket, rest = line[1:].partition("]")
        path = ".".join(part.strip(" \t") for part in (path if bracket else strip_comment(path)).split("."))
        first = self.draft.get(path, {}).get("")
        is_name = _SECTION.fullmatch(path) and path != "DEFAULT" and path.count(".") < MAX_DEPTH
        # the settings of a section that cannot be are read, and left out
        self.entries = self.draft.setdefault(path, {"": ("", self.file, number)}) if is_name else {}
        self.section, self.name, self.raw, self.depth = path, "", "", 0
        if is_name and bracket and not rest and not first:
            return  # as most are: none of the messages below need be written
        message = _first(
            (path == "DEFAULT", "[DEFAULT] would give its values to every section; write a section and refer to it"),
            (_CONTROL.search(path), "a name cannot contain a control character; delete it"),
            (".__" in f".{path}", "names with two leading underscores are reserved; choose another"),
            (path.count(".") >= MAX_DEPTH, f"nested deeper than {MAX_DEPTH}"),
            (not bracket, f"the section does not close: write [{path}]"),
            (not is_name, "a section name is plain words between dots, as in [training.scheme]"),
            (rest.strip(" \t")[:1] not in _COMMENT, f"text after the section name: {rest}; give it a line of its own"),
            (first, f"[{path}] is already defined at line {(first or [0])[-1]}; merge the two"),
        )
        if message:
            self.report(number, message, f"[{path}{bracket}")

    def read_setting(self, line: str, number: int) -> None:
        key, equals, raw = line.partition("=")
        if ":" in key:
            key, equals, raw = line.partition(":")
        key, self.raw = key.rstrip(" \t"), strip_comment(raw.strip(" \t")).rstrip(" \t")
        self.name = f"{self.section}.{key}" if self.section and equals and key else key
        self.key, self.depth, self.is_loose = key, brackets(self.raw) if self.raw[:1] in _OPENING else 0, False
        if wrong := _wrong_key(key, equals, self.entries):
            self.report(number, wrong, self.name, self.raw)
        else:
            self.entries[key] = self.raw, self.file, number

    def goes_on(self, line: str) -> bool:
        """Whether a line that is not indented still belongs to the list or object above."""
        return line[0] in "]}" or (self.depth > 0 and (line[0] == '"' or not _LOOKS_LIKE_SETTING.match(line)))

    def read_more(self, line: str, number: int) -> None:
        """A line that continues the setting above."""
        text, was_loose = line.strip(" \t"), self.is_loose
        is_loose = line[0] not in " \t]}"
        wrong = _first(
            (not self.name, "an indented line, but no text value is above that it could continue"),
            (is_loose, "indent the lines that continue a list or object"),
            (self.depth > 0, None),
            (
                _LOOKS_LIKE_SETTING.match(text),
                "this looks like a setting or a section: unindent it, or quote all",
            ),
            (
                not is_text(self.raw),
                "only plain text continues on an indented line, or an open list or object; unindent it",
            ),
        )
        if wrong and not was_loose:
            self.report(number, f"{wrong}: {text}", self.name)
        self.is_loose = was_loose or is_loose
        if self.is_loose or not wrong:
            self.more.append(strip_comment(text).rstrip(" \t"))
            self.depth += brackets(self.more[-1]) if self.raw[:1] in _OPENING else 0

    def close(self) -> None:
        """Put the lines of a value together."""
        if self.more and self.key in (self.entries or ()):
            raw, *place = self.entries[self.key]
            self.entries[self.key] = ("\n".join([raw, *self.more]), *place)
        self.more = []


def _wrong_key(key: str, equals: str, entries: dict | None) -> str | None:
    """Why a setting cannot have that key."""
    other = call_key(entries or ()) if key[:1] == "@" else None
    if equals and entries is not None and key.isidentifier() and key[:2] != "__" and key not in entries:
        return None  # as almost all are: none of the messages below need be written
    raw, _, line = (entries or {}).get(key) or (entries or {}).get(other) or ("", *COMMAND_LINE)
    return _first(
        (not equals, "this is not a [section], a key = value or a # comment; write key = value"),
        (not key, "the key is missing: write key = value"),
        (entries is None, "a setting before any section; put a [section] line above it"),
        (_CONTROL.search(key), "a name cannot contain a control character; delete it"),
        (key[:2] == "__", "names with two leading underscores are reserved; choose another"),
        ("." in key, f"a key contains no dots; write a section [{key.rpartition('.')[0]}] and the last word as key"),
        (key in (entries or ()), f"{key} is already set at line {line} ({key} = {shortened(raw)}); remove one"),
        (other, f"a section calls one function, and this one has {other} at line {line}"),
        (key == "@", "name the registry: write @registry = function"),
    )


def _first(*rules: tuple) -> str | None:
    """The message of the first rule, (condition, message), whose condition holds."""
    return next((message for holds, message in rules if holds), None)
