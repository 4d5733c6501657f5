"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import os  # not pathlib: it would cost 10 ms of import
import re

from .errors import IngredientsError, Place, Problem, note, shortened, suggest
from .ingredients import Ingredients, call_key, locate
from .references import resolve_references
from .values import BIDIRECTIONAL, BROKEN, MAX_DEPTH, as_written, brackets, is_text, read_value, strip_comment

MAX_BYTES = 10_000_000
COMMAND_LINE = Place("command line")

_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x84\x86-\x9f]")  # what a terminal obeys; \x85 is a line end of some systems
_COMMENT, _INDENT, _OPENING = frozenset(("", "#", ";")), frozenset(" \t"), frozenset("[{")


def parse(file: str | os.PathLike, overrides=(), known=(), checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `known`: dotted paths that overrides may set although the file does not have them.
    `checks`: functions that take the ingredients and return a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems, file = [], os.fspath(file)
    return _finish(_read_file(file, problems), problems, file, overrides, known, checks)


def parse_string(text: str, overrides=(), known=(), checks=(), name: str = "<text>") -> Ingredients:
    """Like `parse`, of a text; name: of it, in messages."""
    problems = []
    nodes = _Reader(name, problems).read(text)
    if "base" in nodes.get("META", ()):
        note(problems, "only a file can have a base file", "META.base", nodes["META"].where("base"))
    return _finish(nodes, problems, name, overrides, known, checks)


def _finish(nodes: dict, problems: list, file: str, overrides, known, checks) -> Ingredients:
    _override(nodes, overrides, known, problems)
    root = nodes[""] = Ingredients(place=Place(file))
    _link(nodes, problems)
    resolve_references(nodes, problems)
    for check in checks:  # even after other problems: all are reported at once
        problems += check(root)
    if problems:
        raise IngredientsError(sorted(locate(IngredientsError(problems), root).problems, key=lambda p: p.place))
    return root


def _link(nodes: dict, problems: list) -> None:
    """Put each section into the one above it, and make those that are missing; "" is the root."""
    todo = [*nodes][::-1]
    while todo:
        path = todo.pop()
        parent, _, name = path.rpartition(".")
        if path and parent not in nodes:
            nodes[parent] = Ingredients((), parent, nodes[path]._place)
            todo.append(parent)
        if path and name in nodes[parent]._entries:
            setting, section = nodes[parent].where(name), nodes[path]._place
            message = f"{name} is a setting ({setting}) and a section ([{path}], {section}); rename one"
            note(problems, message, path, max(setting, section))
            del nodes[parent]._entries[name]
        if path:
            nodes[parent][name] = nodes[path]


def _override(nodes: dict, overrides, known, problems: list) -> None:
    """Put the settings of the command line over those of the file."""
    given = {}
    for path, value, *add in overrides:
        raw = value if isinstance(value, str) else as_written(value)
        try:
            if given.setdefault(path, raw) != raw:
                raise ValueError(f"{path} is given twice: {shortened(given[path])} and {shortened(raw)}; remove one")
            _set(nodes, path, raw, any(add), known)
        except ValueError as error:
            note(problems, str(error), f"--{path}", COMMAND_LINE, raw)


def _set(nodes: dict, path: str, raw: str, may_add: bool, known) -> None:
    """Set one value. Raises ValueError if that is impossible."""
    parent, _, key = path.rpartition(".")
    node = nodes.get(parent, Ingredients((), parent, COMMAND_LINE))
    is_new = key not in node._entries
    if path == "META.base":
        raise ValueError("base files are read before the command line; name them in the file")
    if path in nodes:
        raise ValueError(f"[{path}] is a section; name one of its settings. {suggest('', nodes[path]._entries)}")
    if is_new and not may_add and path not in known:
        names = [f"{section}.{name}" for section, other in nodes.items() for name in other._entries]
        advice = suggest(path, [*names, *known], "--{}")
        raise ValueError(f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.')
    if is_new and _Reader("", []).read(f"[{parent}]\n{key} = 1\n") != {parent: {key: 1}}:
        raise ValueError("name a section and a key, as in training.scheme.epochs")
    if wrong := is_new and _wrong_key(key, "=", node):
        raise ValueError(wrong)
    if bad := _FORBIDDEN.search(raw):
        raise ValueError(f"the character U+{ord(bad[0]):04X} is not allowed")
    value = read_value(raw)
    if key[0] == "@" and node.get(key, value) != value:
        node = _drop_arguments(nodes, parent)
    nodes.setdefault(parent, node).enter(key, value, raw, *COMMAND_LINE)


def _read_file(file: str, problems: list, children: tuple = ()) -> dict:
    """The sections of `file`, merged over those of its base files."""
    nodes, merged = _Reader(file, problems).read(_load(file)), {}
    if "META" not in nodes:
        return nodes
    meta, chain = nodes.pop("META"), (*children, os.path.realpath(file))
    bases, wrong = meta.get("base", []), {key: "no such setting. There is base." for key in meta if key != "base"}
    if "base" not in meta:
        wrong["base"] = "missing: write base = FILE, or remove the section"
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
        note(problems, message, f"META.{key}", meta.where(key) or meta._place, meta.written(key))
    _merge(merged, nodes)
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


def _merge(base: dict, over: dict) -> None:
    """Lay the sections `over` on the sections `base`, in place."""
    for path in [path for path in over if path in base]:
        before, after = call_key(base.get(path, {})), call_key(over[path])
        if before and after and (before, base[path][before]) != (after, over[path][after]):
            _drop_arguments(base, path)
    for path, node in over.items():
        below = base.setdefault(path, node)
        below._place = node._place
        below.update(node)
        below._entries.update(node._entries)


def _drop_arguments(nodes: dict, path: str) -> Ingredients:
    """Another function takes other arguments: those of the previous one must not leak into it."""
    for other in [other for other in nodes if other.startswith(path + ".")]:
        del nodes[other]
    nodes[path] = Ingredients((), path, nodes[path]._place)
    return nodes[path]


class _Reader:
    """The sections of one text (`nodes`, by dotted path); values are read, references not yet resolved."""

    def __init__(self, file: str, problems: list):
        self.file, self.problems = file, problems
        self.nodes, self.node = {}, None  # node: the section that the next setting belongs to
        self.lines, self.ahead = iter(()), None  # (number, line) of what is still to be read; the next one of them

    def report(self, line: int, message: str, key: str, raw: str = "") -> None:
        note(self.problems, message, key, Place(self.file, line), raw)

    def read(self, text: str) -> dict:
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        lines = enumerate(_FORBIDDEN.sub(self.refuse_character, text).split("\n"), start=1)
        self.lines = ((number, line) for number, line in lines if line.lstrip(" \t")[:1] not in _COMMENT)
        self.next_line()
        while self.ahead:
            number, line = self.next_line()
            if line[0] == "[":
                self.read_header(line, number)
            elif line[0] not in _INDENT:
                self.read_setting(line, number)
            else:
                message = "an indented line, but no text value is above that it could continue"
                self.report(number, message, line.strip(" \t"))
        return self.nodes

    def next_line(self) -> tuple[int, str]:
        line, self.ahead = self.ahead, next(self.lines, None)
        return line

    def refuse_character(self, match) -> str:
        bad, line = match[0], match.string.count("\n", 0, match.start()) + 1
        kind = "NUL" if bad == "\0" else "a lone surrogate" if "\ud800" <= bad <= "\udfff" else "it hides text"
        advice = f'delete it, or write "\\u{ord(bad):04x}"'
        self.report(line, f"the character U+{ord(bad):04X} ({kind}) is not allowed; {advice}", "")
        return "\ufffd"  # so that it is reported once

    def read_header(self, line: str, number: int) -> None:
        path, bracket, rest = line[1:].partition("]")
        parts = (path if bracket else strip_comment(path)).split(".")
        path = ".".join(part.strip(" \t") for part in parts)
        is_known, self.node = path in self.nodes, Ingredients((), path, Place(self.file, number))
        if path.isidentifier() and path[0] != "_" and path != "DEFAULT" and bracket and not rest and not is_known:
            self.nodes[path] = self.node  # as most are: none of the messages below need be written
            return
        first = self.nodes.get(path, self.node)._place.line
        is_plain = ".." not in f".{path}." and not re.search(r"[\[$@]" if bracket else r"[^\w.*-]", path)
        wrong = _first(
            (path == "DEFAULT", "[DEFAULT] would give its values to every section; write a section and refer to it"),
            (_CONTROL.search(path), "a name cannot contain a control character; delete it"),
            (".__" in f".{path}", "names with two leading underscores are reserved; choose another"),
            (path.count(".") >= MAX_DEPTH, f"nested deeper than {MAX_DEPTH}"),
            (bracket and not is_plain, "a section name is plain words between dots, as in [training.scheme]"),
        )
        message = wrong or _first(
            (not bracket, f"the section does not close: write [{path}]"),
            (rest.strip(" \t")[:1] not in _COMMENT, f"text after the section name: {rest}; give it a line of its own"),
            (is_known, f"[{path}] is already defined at line {first}; merge the two"),
        )
        if message:
            self.report(number, message, f"[{path}{bracket}")
        if is_plain and not wrong:  # the settings of other sections are read, and left out
            self.node = self.nodes.setdefault(path, self.node)

    def read_setting(self, line: str, number: int) -> None:
        key, equals, raw = line.partition("=")
        if ":" in key:
            key, equals, raw = line.partition(":")
        key, raw, is_broken = key.rstrip(" \t"), strip_comment(raw.strip(" \t")).rstrip(" \t"), False
        if raw[:1] in _OPENING or (self.ahead and self.ahead[1][0] in _INDENT):
            raw, is_broken = self.read_more(raw, self.name_of(key, equals))
        wrong, value = _wrong_key(key, equals, self.node), BROKEN
        try:
            value = BROKEN if wrong or is_broken else read_value(raw)
        except ValueError as error:
            self.report(number, str(error), self.name_of(key, equals), raw)
        if wrong:
            self.report(number, wrong, self.name_of(key, equals), raw)
        else:
            self.node.enter(key, value, raw, self.file, number)

    def name_of(self, key: str, equals: str) -> str:
        return f"{self.node._path}.{key}".lstrip(".") if self.node is not None and equals and key else key

    def read_more(self, raw: str, name: str) -> tuple[str, bool]:
        """`raw` with the lines that continue it, and whether they are wrong."""
        parts, is_open, is_loose = [raw], raw[:1] in _OPENING, False
        depth = brackets(raw) if is_open else 0
        while self.ahead:
            number, line = self.ahead
            text = line.strip(" \t")
            goes_on = line[0] in _INDENT or (is_open and line[0] in "]}")
            is_setting = _LOOKS_LIKE_SETTING.match(text)
            if not goes_on and (depth <= 0 or (is_setting and text[0] != '"')):
                break
            self.next_line()
            wrong = _first(
                (not goes_on, "indent the lines that continue a list or object"),
                (depth <= 0 and is_open, "the list or object above is closed; unindent this line"),
                (depth <= 0 and is_setting, "this looks like a setting or a section: unindent it, or quote all of it"),
                (not is_open and not is_text(raw), "only plain text continues on an indented line; unindent it"),
            )
            if wrong and not is_loose:
                self.report(number, f"{wrong}: {text}", name)
            is_loose = is_loose or not goes_on
            if is_loose or not wrong:
                parts.append(strip_comment(text).rstrip(" \t"))
                depth += brackets(parts[-1]) if is_open else 0
        return "\n".join(parts), is_loose


def _wrong_key(key: str, equals: str, node: Ingredients | None) -> str | None:
    """Why a setting cannot have that key."""
    entries = {} if node is None else node._entries
    other = call_key(node or {}) if key[:1] == "@" else None
    if equals and node is not None and key.isidentifier() and key[:2] != "__" and key not in entries:
        return None  # as almost all are: none of the messages below need be written
    raw, _, line = entries.get(key) or entries.get(other) or ("", *COMMAND_LINE)
    dots = f"a key contains no dots; write a section [{key.rpartition('.')[0]}] and the last word as key"
    return _first(
        (not equals, "this is not a [section], a key = value or a # comment; write key = value"),
        (not key, "the key is missing: write key = value"),
        (node is None, "a setting before any section; put a [section] line above it"),
        (_CONTROL.search(key), "a name cannot contain a control character; delete it"),
        (key[:2] == "__", "names with two leading underscores are reserved; choose another"),
        ("." in key, dots),
        (key in entries, f"{key} is already set at line {line} ({key} = {shortened(raw)}); remove one"),
        (other, f"a section calls one function, and this one has {other} at line {line}"),
        (key == "@", "name the registry: write @registry = function"),
    )


def _first(*rules: tuple) -> str | None:
    """The message of the first rule, (condition, message), whose condition holds."""
    return next((message for holds, message in rules if holds), None)
