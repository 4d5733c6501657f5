"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import gc
import os  # not pathlib: it would cost 10 ms of import
import re

from .errors import IngredientsError, Place, Problem, suggest
from .ingredients import Ingredients, call_key, problem_of
from .references import resolve_references
from .values import (
    BIDIRECTIONAL,
    BROKEN,
    MAX_DEPTH,
    Reference,
    as_written,
    brackets,
    is_text,
    read_value,
    strip_comment,
)

MAX_BYTES = 10_000_000
COMMAND_LINE = "command line"

_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")
_PLAIN_SECTION = re.compile(rf"\[((?!DEFAULT\])[a-zA-Z0-9]\w*(?:\.[a-zA-Z0-9]\w*){{0,{MAX_DEPTH - 1}}})\]")
# What a line or value may begin with; frozensets, since every line is asked.
_COMMENT, _INDENT, _BRACKETS = frozenset(("", "#", ";")), frozenset(" \t"), frozenset("[{")
_COMMENT_OR_INDENT = _COMMENT | _INDENT
# Most settings, read in one step: key = 3 text in quotes, 4 integer with 5 fraction, 6 reference.
_USUAL_LINE = re.compile(
    r"([a-zA-Z0-9][\w-]*) ?= ?(?=(.*))"
    r'(?:"([^"\\$#\x00-\x1f]*)"|(-?(?:0|[1-9][0-9]{0,18}))(\.[0-9]{1,18})?|\$\{([\w-]+(?:\.[\w-]+)*)\})'
).fullmatch
_DEFAULT = "[DEFAULT] would hand its values to every section unseen; write a section and refer to it by ${...}"
_DUNDER = "names with two leading underscores are Python's own; choose another"


def parse(file: str | os.PathLike, overrides=(), declared: dict | None = None, checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `declared`: the sections that a recipe declares (see settings.py); then every setting is checked against them.
    `checks`: further functions that take the ingredients and give a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems, file, collects = [], os.fspath(file), gc.isenabled()
    gc.disable()  # all that is made here stays, so passes of the collector find nothing; they took 6 % of the time
    try:
        return _finish(_read_file(file, problems), problems, _shown(file), overrides, declared, checks)
    finally:
        if collects:
            gc.enable()


def parse_string(text: str, overrides=(), declared: dict | None = None) -> Ingredients:
    """Like `parse`, of a text."""
    problems = []
    nodes = _read_text(text, "<text>", problems)
    if "base" in nodes.get("META", ()):
        problems.append(problem_of(nodes["META"], "base", "only a file can have a base file"))
    return _finish(nodes, problems, "<text>", overrides, declared)


def _finish(nodes: dict, problems: list, file: str, overrides, declared: dict | None, checks=()) -> Ingredients:
    if declared is not None:
        from .settings import check_settings, declared_paths  # which import dataclasses: 10 ms
    known = declared_paths(declared) if declared else []
    for path, text, *add in overrides:
        raw = text if isinstance(text, str) else as_written(text)
        try:
            _override(nodes, path, raw, any(add), known)
        except ValueError as error:
            problems.append(Problem(Place(COMMAND_LINE), "--" + path, raw, str(error)))
    root = nodes[""] = Ingredients(place=Place(file))
    _link(nodes, problems)
    resolve_references(nodes, problems)
    if declared is not None:
        problems += check_settings(root, declared)
    for check in checks:  # also where problems were found: all are told at once
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
                problems.append(Problem(max(setting, section), path, "", message))
                del above._entries[name]
            above[name] = node
            path, node = parent, above


def _override(nodes: dict, path: str, raw: str, add: bool, declared: list) -> None:
    """Set one value. Raises ValueError where that cannot be done."""
    parts, (parent, _, key) = path.split("."), path.rpartition(".")
    known = parent in nodes and key in nodes[parent]._entries
    if path in nodes:
        names = ", ".join(nodes[path]._entries) or "it has none"
        raise ValueError(f"[{path}] is a section; name one of its settings: {names}")
    if not known and not add and path not in declared:
        names = [f"{section}.{name}" for section, node in nodes.items() for name in node._entries]
        advice = suggest(path, names + declared, "--{}")
        raise ValueError(f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.')
    if not parent or not all(parts) or any(part.startswith("__") for part in parts) or len(parts) > MAX_DEPTH:
        raise ValueError("name a section and a key, as in training.scheme.epochs")
    value = read_value(raw)
    if key[0] == "@" and known and nodes[parent][key] != value:
        _drop_arguments(nodes, parent)
    node = nodes.setdefault(parent, Ingredients((), parent, Place(COMMAND_LINE)))
    node[key], node._entries[key] = value, (raw, COMMAND_LINE, 0)


def _read_file(file: str, problems: list, children: tuple = ()) -> dict:
    """The sections of `file`, merged over those of its base files."""
    nodes = _read_text(_load(file), _shown(file), problems)
    meta = nodes.get("META", {})
    if "base" not in meta:
        return nodes
    chain, merged = (*children, os.path.realpath(file)), {}
    for base in meta["base"] if type(meta["base"]) is list else [meta["base"]]:
        path = os.path.join(os.path.dirname(file), base) if isinstance(base, str) and base else ""
        if not path:
            message = "name the base file as text, or a list of such names"
        elif (real := os.path.realpath(path)) in chain:
            names = [os.path.basename(other) for other in (*chain[chain.index(real) :], real)]
            message = "base files go in a circle: " + " -> ".join(names)
        elif not os.path.isfile(path):
            message = f"there is no file {path}. {_near_files(base, file)}"
        else:
            _merge(merged, _read_file(path, problems, chain))
            continue
        problems.append(problem_of(meta, "base", message))
    del meta["base"], meta._entries["base"]
    if not meta:
        del nodes["META"]
    _merge(merged, nodes)
    return merged


def _load(file: str) -> str:
    where = _shown(file)
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        message = f"cannot be read ({error})"
        if os.path.isdir(file):
            message = "is a folder; name the ini file in it"
        elif isinstance(error, FileNotFoundError):
            message = f"there is no such file. {_near_files(os.path.basename(file), file)}"
        raise IngredientsError(f"{where}: {message}") from None
    if len(data) > MAX_BYTES:
        raise IngredientsError(f"{where}: is larger than {MAX_BYTES // 1_000_000} MB, which no ingredients file is")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n?|\n", data[: error.start]))
        message = f"byte {data[error.start]:#04x} is no UTF-8; save the file as UTF-8"
        raise IngredientsError([Problem(Place(where, line), "", "", message)]) from None


def _shown(file: str) -> str:
    """The shorter of the path as given and the path from the current folder."""
    try:
        return min(os.path.normpath(file), os.path.relpath(file), key=len)
    except ValueError:  # on another drive
        return file


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
    """Another function takes other arguments: those of the one before must not leak into it."""
    for other in [other for other in nodes if other.startswith(path + ".")]:
        del nodes[other]
    nodes[path] = Ingredients((), path, nodes[path]._place)


def _read_text(text: str, file: str, problems: list) -> dict:
    """The sections of one text by their dotted path; values are read, references not yet resolved."""

    def problem(line, message, key, raw=""):
        problems.append(Problem(Place(file, line), key, raw, message))

    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines if "\0" in text or not text.isascii() else (), 1):
        for bad in dict.fromkeys(_FORBIDDEN.findall(line)):
            kind = "NUL" if bad == "\0" else "a lone surrogate" if "\ud800" <= bad <= "\udfff" else "it hides text"
            advice = f'delete it, or write "\\u{ord(bad):04x}"'
            problem(number, f"the character U+{ord(bad):04X} ({kind}) is not allowed; {advice}", "")
    nodes, node, entries, path, number, count = {}, None, {}, "", 0, len(lines)
    lines.append("[")  # so that there is always a next line
    while number < count:
        line = lines[number]
        number += 1  # from here on the line's number as people count
        usual = _USUAL_LINE(line)
        if usual and node is not None and (lines[number][:1] or lines[number + 1][:1]) not in _COMMENT_OR_INDENT:
            key, raw, value = usual.group(1, 2, 3)
            if key not in node:
                kind = usual.lastindex
                if kind > 3:
                    value = int(raw) if kind == 4 else float(raw) if kind == 5 else Reference(usual[6])
                entries[key], node[key] = (raw, file, number), value
                continue
        start, first = number, line[:1]
        if first == "[":
            path, wrong = _read_header(line, nodes)
            if wrong:
                problem(number, wrong, f"[{path}" + "]" * ("]" in line))
                path = ""
            node = Ingredients((), path, Place(file, number))
            entries = node._entries
            if path:
                nodes[path] = node
            continue
        if first in _COMMENT_OR_INDENT:
            if first in _INDENT and (text := line.strip(" \t"))[:1] not in _COMMENT:
                wrong = "an indented line, but no text value stands above that it could continue; unindent it"
                problem(number, wrong, text)
            continue
        key, equals, raw = line.partition("=")
        if ":" in key:
            key, equals, raw = line.partition(":")
        key, raw = key.rstrip(" \t"), raw.strip(" \t")
        if "#" in raw:
            raw = strip_comment(raw).rstrip(" \t")
        while lines[number][:1] in _COMMENT:
            number += 1
        if lines[number][:1] in _INDENT or raw[:1] in _BRACKETS:
            raw, number = _continuation(lines, number, raw, f"{path}.{key}".lstrip("."), problem)
        try:
            if not equals or node is None or not key or key[0] in "@_" or "." in key or key in node:
                _check_key(key, equals, node)
            entries[key] = (raw, file, start)
            node[key] = BROKEN
            node[key] = read_value(raw)
        except ValueError as error:
            problem(start, str(error), f"{path}.{key}" if path and equals and key else key, raw)
    return nodes


def _read_header(line: str, nodes: dict) -> tuple[str, str | None]:
    """The path of a `[section]` line, and what is wrong with it."""
    plain = _PLAIN_SECTION.fullmatch(line)
    if plain and plain[1] not in nodes:
        return plain[1], None
    path, bracket, rest = line[1:].partition("]")
    path, rest = ".".join(part.strip(" \t") for part in path.split(".")), rest.strip(" \t")
    is_odd = ".." in f".{path}." or not {"[", "$", "@"}.isdisjoint(path)
    known = nodes[path]._place.line if path in nodes else None
    return path, _first(
        (not bracket, f"the section does not close: write [{path}]"),
        (rest[:1] not in _COMMENT, f"there is text after the section's name: {rest}; put it on a line of its own"),
        (is_odd, "a section's name is plain words between dots, as in [training.scheme]"),
        (path == "DEFAULT", _DEFAULT),
        (".__" in f".{path}", _DUNDER),
        (path.count(".") >= MAX_DEPTH, f"nested deeper than {MAX_DEPTH}"),
        (known, f"[{path}] stands already at line {known}; put both together"),
    )


def _check_key(key: str, equals: str, node: Ingredients | None) -> None:
    """Raises ValueError where a setting cannot have that key."""
    other = call_key(node or {}) if key[:1] == "@" else None
    entries = {} if node is None else node._entries
    raw, _, line = entries.get(key) or entries.get(other) or ("", "", 0)
    dots = f"a key holds no dots; write [{key.rpartition('.')[0]}] below this section's name and the last word as key"
    message = _first(
        (not equals, "this is neither a [section], a key = value nor a # comment; write key = value"),
        (not key, "the key is missing: write key = value"),
        (node is None, "a setting before any section; put a [section] line above it"),
        (key[:2] == "__", _DUNDER),
        ("." in key, dots),
        (key in entries, f"{key} stands already at line {line} ({key} = {raw}); remove one"),
        (other, f"a section calls one function, and this one has {other} at line {line}"),
        (key == "@", "name the registry: write @registry = function"),
    )
    if message:
        raise ValueError(message)


def _first(*rules: tuple) -> str | None:
    """The message of the first rule, (condition, message), whose condition holds."""
    return next((message for holds, message in rules if holds), None)


def _continuation(lines: list, number: int, raw: str, key: str, problem) -> tuple[str, int]:
    """`raw` with the indented lines after it, and the number of the last line taken."""
    is_open = raw[:1] in _BRACKETS
    depth = brackets(raw) if is_open else 0
    taken, parts = number, [raw]
    for at in range(number, len(lines) - 1):
        text = lines[at].strip(" \t")
        if text[:1] in _COMMENT:
            continue
        if lines[at][0] not in _INDENT and not (depth > 0 and text[0] in "]}"):
            break
        taken = at + 1
        wrong = None
        if depth <= 0 and is_open:
            wrong = "the list or object above is closed; unindent this line"
        elif depth <= 0 and _LOOKS_LIKE_SETTING.match(text):
            wrong = "an indented line that looks like a setting or a section: unindent it, or quote the text above"
        elif depth <= 0 and not is_text(raw):
            wrong = "only plain text continues on an indented line; unindent it, or write the text without quotes"
        if wrong:
            problem(at + 1, f"{wrong}: {text}", key)
            continue
        text = strip_comment(text).rstrip(" \t")
        depth += brackets(text) if is_open else 0
        parts.append(text)
    return "\n".join(parts), taken
