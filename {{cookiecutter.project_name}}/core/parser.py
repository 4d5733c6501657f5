"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import os  # not pathlib: it would cost 10 ms of import
import re

from .errors import IngredientsError, Place, Problem, note, shortened, suggest
from .ingredients import Ingredients, call_key, problem_of
from .references import resolve_references
from .values import BIDIRECTIONAL, BROKEN, MAX_DEPTH, as_written, brackets, is_text, read_value, strip_comment

MAX_BYTES = 10_000_000
COMMAND_LINE = "command line"

_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")
_PLAIN_PATH = re.compile(r"[\w*-]+(\.[\w*-]+)*")
_COMMENT, _INDENT, _OPENING = ("", "#", ";"), (" ", "\t"), ("[", "{")


def parse(file: str | os.PathLike, overrides=(), declared: dict | None = None, checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `declared`: the sections that a recipe declares (see declared.py); then every setting is checked against them.
    `checks`: further functions that take the ingredients and return a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems, file = [], os.fspath(file)
    return _finish(_read_file(file, problems), problems, file, overrides, declared, checks)


def parse_string(text: str, overrides=(), declared: dict | None = None) -> Ingredients:
    """Like `parse`, of a text."""
    problems = []
    nodes = _Reader("<text>", problems).read(text)
    if "base" in nodes.get("META", ()):
        problems.append(problem_of(nodes["META"], "base", "only a file can have a base file"))
    return _finish(nodes, problems, "<text>", overrides, declared)


def _finish(nodes: dict, problems: list, file: str, overrides, declared: dict | None, checks=()) -> Ingredients:
    known, given = [], {}
    if declared is not None:
        from .declared import check_settings, declared_paths  # which import dataclasses: 10 ms

        known = declared_paths(declared)
    for path, value, *add in overrides:
        raw = value if isinstance(value, str) else as_written(value)
        try:
            if given.setdefault(path, raw) != raw:
                raise ValueError(f"{path} is given twice: {shortened(given[path])} and {shortened(raw)}; remove one")
            _override(nodes, path, raw, any(add), known)
        except ValueError as error:
            note(problems, Problem(Place(COMMAND_LINE), "--" + path, raw, str(error)))
    root = nodes[""] = Ingredients(place=Place(file))
    _link(nodes, problems)
    resolve_references(nodes, problems)
    if declared is not None:
        problems += check_settings(root, declared)
    for check in checks:  # even after other problems: all are reported at once
        problems += check(root)
    if problems:
        raise IngredientsError(sorted(problems, key=lambda problem: problem.place))
    return root


def _link(nodes: dict, problems: list) -> None:
    """Put each section into the one above it, and make those that are missing; "" is the root."""
    for path, node in list(nodes.items()):
        is_new = True
        while path and is_new:
            parent, _, name = path.rpartition(".")
            above = nodes.get(parent)
            if is_new := above is None:
                above = nodes[parent] = Ingredients((), parent, node._place)
            elif name in above._entries:
                setting, section = above.where(name), node._place
                message = f"{name} is a setting ({setting}) and a section ([{path}], {section}); rename one"
                note(problems, Problem(max(setting, section), path, "", message))
                del above._entries[name]
            above[name] = node
            path, node = parent, above


def _override(nodes: dict, path: str, raw: str, add: bool, declared: list) -> None:
    """Set one value. Raises ValueError if that is impossible."""
    parent, _, key = path.rpartition(".")
    known = parent in nodes and key in nodes[parent]._entries
    if bad := _FORBIDDEN.search(raw):
        raise ValueError(f"the character U+{ord(bad[0]):04X} is not allowed")
    if path == "META.base":
        raise ValueError("base files are read before the command line; name them in the file")
    if path in nodes:
        raise ValueError(f"[{path}] is a section; name one of its settings. {suggest('', nodes[path]._entries)}")
    if not known and not add and path not in declared:
        names = [f"{section}.{name}" for section, node in nodes.items() for name in node._entries]
        advice = suggest(path, names + declared, "--{}")
        raise ValueError(f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.')
    if not known:  # a name that a file may contain
        if _Reader(COMMAND_LINE, []).read(f"[{parent}]\n{key} = 1\n") != {parent: {key: 1}}:
            raise ValueError("name a section and a key, as in training.scheme.epochs")
        if wrong := _wrong_key(key, "=", nodes.get(parent, Ingredients())):
            raise ValueError(wrong)
    value = read_value(raw)
    if key[0] == "@" and known and nodes[parent][key] != value:
        _drop_arguments(nodes, parent)
    nodes.setdefault(parent, Ingredients((), parent, Place(COMMAND_LINE))).enter(key, value, raw, COMMAND_LINE, 0)


def _read_file(file: str, problems: list, children: tuple = ()) -> dict:
    """The sections of `file`, merged over those of its base files."""
    nodes, merged = _Reader(file, problems).read(_load(file)), {}
    if "META" not in nodes:
        return nodes
    meta, chain = nodes.pop("META"), (*children, os.path.realpath(file))
    if "base" not in meta:
        problems.append(problem_of(meta, "base", "missing: write base = FILE, or remove the section"))
    bases = meta.get("base", [])
    for base in bases if type(bases) is list else [bases]:
        path = os.path.normpath(os.path.join(os.path.dirname(file), base)) if isinstance(base, str) else ""
        if not path or not base or "\0" in base:
            message = "name the base file as text, or a list of such names"
        elif (real := os.path.realpath(path)) in chain:
            names = [os.path.basename(other) for other in (*chain[chain.index(real) :], real)]
            message = "base files go in a circle: " + " -> ".join(names)
        elif not os.path.isfile(path):
            message = f"there is no file {path}. {_near_files(base, file)}"
        else:
            _merge(merged, _read_file(path, problems, chain))
            continue
        if base is not BROKEN:
            note(problems, problem_of(meta, "base", message))
    problems += [problem_of(meta, key, "no such setting. There is base.") for key in meta if key != "base"]
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


def _drop_arguments(nodes: dict, path: str) -> None:
    """Another function takes other arguments: those of the previous one must not leak into it."""
    for other in [other for other in nodes if other.startswith(path + ".")]:
        del nodes[other]
    nodes[path] = Ingredients((), path, nodes[path]._place)


class _Reader:
    """The sections of one text (`nodes`, by dotted path); values are read, references not yet resolved."""

    def __init__(self, file: str, problems: list):
        self.file, self.problems = file, problems
        self.nodes, self.node = {}, None  # node: the section that the next setting belongs to

    def report(self, line: int, message: str, key: str, raw: str = "") -> None:
        note(self.problems, Problem(Place(self.file, line), key, raw, message))

    def read(self, text: str) -> dict:
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        lines, at = _FORBIDDEN.sub(self.refuse_character, text).split("\n"), 0
        while at < len(lines):
            line = lines[at].rstrip(" \t")
            at += 1
            if line.lstrip(" \t")[:1] in _COMMENT:
                continue
            if line[0] == "[":
                self.read_header(line, at)
            elif line[0] in _INDENT:
                message = "an indented line, but no text value is above that it could continue; unindent it"
                self.report(at, message, line.strip(" \t"))
            else:
                at = self.read_setting(lines, at)
        return self.nodes

    def refuse_character(self, match) -> str:
        bad, line = match[0], match.string.count("\n", 0, match.start()) + 1
        kind = "NUL" if bad == "\0" else "a lone surrogate" if "\ud800" <= bad <= "\udfff" else "it hides text"
        advice = f'delete it, or write "\\u{ord(bad):04x}"'
        self.report(line, f"the character U+{ord(bad):04X} ({kind}) is not allowed; {advice}", "")
        return "\ufffd"  # so that it is reported once

    def read_header(self, line: str, number: int) -> None:
        path, bracket, rest = line[1:].partition("]")
        path = strip_comment(path or " ").strip(" \t") if not bracket else path
        path, rest = ".".join(part.strip(" \t") for part in path.split(".")), rest.strip(" \t")
        is_odd = ".." in f".{path}." or not {"[", "$", "@"}.isdisjoint(path)
        known = self.nodes[path]._place.line if path in self.nodes else None
        wrong = _first(
            (is_odd, "a section name is plain words between dots, as in [training.scheme]"),
            (path == "DEFAULT", "[DEFAULT] would give its values to every section; write a section and refer to it"),
            (".__" in f".{path}", "names with two leading underscores are reserved; choose another"),
            (path.count(".") >= MAX_DEPTH, f"nested deeper than {MAX_DEPTH}"),
        )
        message = _first(
            (not bracket, f"the section does not close: write [{path}]"),
            (rest[:1] not in _COMMENT, f"text after the section name: {rest}; move it to a line of its own"),
            (wrong, wrong),
            (known, f"[{path}] is already defined at line {known}; merge the two"),
        )
        if message:
            self.report(number, message, f"[{path}{bracket}")
        self.node = self.nodes.get(path) or Ingredients((), path, Place(self.file, number))
        if not wrong and (bracket or _PLAIN_PATH.fullmatch(path)):  # of others the settings are read, and left out
            self.nodes[path] = self.node

    def read_setting(self, lines: list[str], at: int) -> int:
        """Read the setting that begins in the line before `at`; the index of the first line after it."""
        key, equals, raw = _split(lines[at - 1])
        name = key if self.node is None or not equals or not key else f"{self.node._path}.{key}".lstrip(".")
        number, parts, is_open = at, [raw], raw[:1] in _OPENING
        depth, is_loose = brackets(raw) if is_open else 0, False
        while at < len(lines):
            line, wrong = lines[at], None
            text = line.strip(" \t")
            if text[:1] not in _COMMENT:
                is_setting = _LOOKS_LIKE_SETTING.match(text)
                if line[0] not in _INDENT and not (is_open and line[0] in ("]", "}")):
                    if depth <= 0 or (is_setting and text[0] != '"'):
                        break
                    wrong = None if is_loose else "indent the lines that continue a list or object"
                    is_loose = True
                elif depth <= 0 and is_open:
                    wrong = "the list or object above is closed; unindent this line"
                elif depth <= 0 and is_setting:
                    wrong = "an indented line looks like a setting or a section: unindent it, or quote the text above"
                elif not is_open and not is_text(raw):
                    wrong = "only plain text continues on an indented line; unindent it, or remove the quotes"
                if wrong:
                    self.report(at + 1, f"{wrong}: {text}", name)
                if is_loose or not wrong:
                    parts.append(strip_comment(text).rstrip(" \t"))
                    depth += brackets(parts[-1]) if is_open else 0
            at += 1
        self.enter(key, equals, name, "\n".join(parts), is_loose, number)
        return at

    def enter(self, key: str, equals: str, name: str, raw: str, is_broken: bool, number: int) -> None:
        """Put a setting into its section, or report why it cannot be there."""
        if wrong := _wrong_key(key, equals, self.node):
            self.report(number, wrong, name, raw)
            return
        value = BROKEN
        try:
            value = BROKEN if is_broken else read_value(raw)
        except ValueError as error:
            self.report(number, str(error), name, raw)
        self.node.enter(key, value, raw, self.file, number)


def _split(line: str) -> tuple[str, str, str]:
    """(key, = or :, value) of a setting, without a comment; the mark is empty if the line has none."""
    key, equals, raw = line.partition("=")
    if ":" in key:
        key, equals, raw = line.partition(":")
    return key.rstrip(" \t"), equals, strip_comment(raw.strip(" \t")).rstrip(" \t")


def _wrong_key(key: str, equals: str, node: Ingredients | None) -> str | None:
    """Why a setting cannot have that key."""
    other = call_key(node or {}) if key[:1] == "@" else None
    entries = {} if node is None else node._entries
    raw, _, line = entries.get(key) or entries.get(other) or ("", "", 0)
    dots = f"a key contains no dots; write a section [{key.rpartition('.')[0]}] and the last word as key"
    return _first(
        (not equals, "this is not a [section], a key = value or a # comment; write key = value"),
        (not key, "the key is missing: write key = value"),
        (node is None, "a setting before any section; put a [section] line above it"),
        (key[:2] == "__", "names with two leading underscores are reserved; choose another"),
        ("." in key, dots),
        (key in entries, f"{key} is already set at line {line} ({key} = {shortened(raw)}); remove one"),
        (other, f"a section calls one function, and this one has {other} at line {line}"),
        (key == "@", "name the registry: write @registry = function"),
    )


def _first(*rules: tuple) -> str | None:
    """The message of the first rule, (condition, message), whose condition holds."""
    return next((message for holds, message in rules if holds), None)
