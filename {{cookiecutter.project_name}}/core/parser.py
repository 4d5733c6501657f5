"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import gc
import os  # not pathlib: it would cost 10 ms of import
import re

from .errors import IngredientsError, Place, Problem, note, shortened, suggest
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
# Most lines, read in one step: 1 section; or 2 key = 3 value, which may be 4 text in quotes, 5 integer with 6 fraction,
# 7 reference; then 8 line ends, and nothing below that continues it. Or nothing.
_USUAL = re.compile(
    rf"(?:\[((?!DEFAULT\])[a-zA-Z0-9]\w*(?:\.[a-zA-Z0-9]\w*){{0,{MAX_DEPTH - 1}}})\]|([a-zA-Z0-9][\w-]*) ?= ?"
    r'("([^"\\$#\x00-\x1f]*)"|(-?(?:0|[1-9][0-9]{0,18}))(\.[0-9]{1,18})?|\$\{([\w-]+(?:\.[\w-]+)*)\}|[^\s\[{#][^\n#]*))'
    r"(\n+)(?![ \t#;\n])|"
).match
# All else is read in blocks: a line with those below that are blank, comments, indented or, of a list, close it.
_NEXT = re.compile(r"^[^ \t\n#;]", re.MULTILINE).search
_NEXT_OR_CLOSING = re.compile(r"^[^ \t\n#;\]}]", re.MULTILINE).search
_CONTINUED = re.compile(r"^[ \t]*([^ \t\n#;].*)", re.MULTILINE).finditer
_COMMENT, _INDENT, _BRACKETS = frozenset(("", "#", ";")), frozenset(" \t"), frozenset("[{")
_NO_SETTING = _COMMENT | _INDENT | {"["}
_new = tuple.__new__  # of a namedtuple: calling its class takes three times as long
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
        return _finish(_read_file(file, problems), problems, file, overrides, declared, checks)
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
            note(problems, Problem(Place(COMMAND_LINE), "--" + path, raw, str(error)))
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
                note(problems, Problem(max(setting, section), path, "", message))
                del above._entries[name]
            above[name] = node
            path, node = parent, above


def _override(nodes: dict, path: str, raw: str, add: bool, declared: list) -> None:
    """Set one value. Raises ValueError where that cannot be done."""
    parent, _, key = path.rpartition(".")
    known = parent in nodes and key in nodes[parent]._entries
    if bad := _FORBIDDEN.search(raw):
        raise ValueError(f"the character U+{ord(bad[0]):04X} is not allowed")
    if path == "META.base":
        raise ValueError("base files are read before this; name them in the file")
    if path in nodes:
        raise ValueError(f"[{path}] is a section; name one of its settings. {suggest('', nodes[path]._entries)}")
    if not known and not add and path not in declared:
        names = [f"{section}.{name}" for section, node in nodes.items() for name in node._entries]
        advice = suggest(path, names + declared, "--{}")
        raise ValueError(f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.')
    if not known:  # a name that a file can hold
        if _read_text(f"[{parent}]\n{key} = 1\n", COMMAND_LINE, []) != {parent: {key: 1}}:
            raise ValueError("name a section and a key, as in training.scheme.epochs")
        if wrong := _wrong_key(key, "=", nodes.get(parent, Ingredients())):
            raise ValueError(wrong)
    value = read_value(raw)
    if key[0] == "@" and known and nodes[parent][key] != value:
        _drop_arguments(nodes, parent)
    node = nodes.setdefault(parent, Ingredients((), parent, Place(COMMAND_LINE)))
    node[key], node._entries[key] = value, (raw, COMMAND_LINE, 0)


def _read_file(file: str, problems: list, children: tuple = ()) -> dict:
    """The sections of `file`, merged over those of its base files."""
    nodes = _read_text(_load(file), file, problems)
    meta = nodes.get("META", {})
    if "base" not in meta:
        return nodes
    chain, merged = (*children, os.path.realpath(file)), {}
    for base in meta["base"] if type(meta["base"]) is list else [meta["base"]]:
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
        note(problems, problem_of(meta, "base", message))
    del meta["base"], meta._entries["base"]
    if not meta:
        del nodes["META"]
    _merge(merged, nodes)
    return merged


def _load(file: str) -> str:
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        message = f"cannot be read ({error})"
        if os.path.isdir(file):
            message = "is a folder; name the ini file in it"
        elif isinstance(error, FileNotFoundError):
            message = f"there is no such file. {_near_files(os.path.basename(file), file)}"
        raise IngredientsError(f"{Place(file)}: {message}") from None
    if len(data) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES // 1_000_000} MB, which no ingredients file is"
        raise IngredientsError(f"{Place(file)}: {message}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n?|\n", data[: error.start]))
        message = f"byte {data[error.start]:#04x} is no UTF-8; save the file as UTF-8"
        raise IngredientsError([Problem(Place(file, line), "", "", message)]) from None


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

    def tell(line, message, key, raw=""):
        note(problems, Problem(Place(file, line), key, raw, message))

    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    text = text if text.endswith("\n") else text + "\n"
    if "\0" in text or not text.isascii():
        _check_characters(text, tell)
    nodes, node, at, number, size = {}, None, 0, 1, len(text)  # number: of the line that begins at `at`
    while at < size:
        usual = _USUAL(text, at)
        header, key, raw, quoted, integer, fraction, reference, ends = usual.groups()
        if key and node is not None and key not in node:
            node._entries[key] = raw, file, number
            if integer:
                node[key] = float(raw) if fraction else int(raw)
            elif reference:
                node[key] = _new(Reference, (reference, None, None))
            elif quoted is not None:
                node[key] = quoted
            else:
                _set_value(node, key, raw.rstrip(" \t"), file, number, tell)
        elif header and header not in nodes:
            node = nodes[header] = Ingredients((), header, _new(Place, (file, number)))
        else:
            line = text[at : text.index("\n", at)]
            opens = line[:1] not in _NO_SETTING and _split(line)[2][:1] in _BRACKETS
            following = (_NEXT_OR_CLOSING if opens else _NEXT)(text, at + 1)
            end = following.start() if following else size
            node = _read_block(text[at:end], number, file, nodes, node, tell)
            number += text.count("\n", at, end)
            at = end
            continue
        number += len(ends)
        at = usual.end()
    return nodes


def _check_characters(text: str, tell) -> None:
    for match in _FORBIDDEN.finditer(text):
        bad = match[0]
        kind = "NUL" if bad == "\0" else "a lone surrogate" if "\ud800" <= bad <= "\udfff" else "it hides text"
        advice = f'delete it, or write "\\u{ord(bad):04x}"'
        line = text.count("\n", 0, match.start()) + 1
        tell(line, f"the character U+{ord(bad):04X} ({kind}) is not allowed; {advice}", "")


def _read_block(block: str, number: int, file: str, nodes: dict, node: Ingredients | None, tell) -> Ingredients | None:
    """Read a section's header, or a setting with the lines that continue it; gives the section that holds from here."""
    line, _, rest = block.partition("\n")
    if line[:1] not in _NO_SETTING:
        _read_setting(line, rest, number, file, node, tell)
        return node
    if line[:1] == "[":
        path, wrong = _read_header(line, nodes)
        if wrong:
            tell(number, wrong, f"[{path}" + "]" * ("]" in line))
            path = ""
        node = Ingredients((), path, Place(file, number))
        nodes.update({path: node} if path else ())
    wrong = "an indented line, but no text value stands above that it could continue; unindent it"
    for stray in _CONTINUED(block):
        if stray[0][0] in _INDENT:
            tell(number + block.count("\n", 0, stray.start()), wrong, stray[1].rstrip(" \t"))
    return node


def _split(line: str) -> tuple[str, str, str]:
    """(key, = or :, value) of a setting, without a comment; the mark is empty where the line has none."""
    key, equals, raw = line.partition("=")
    if ":" in key:
        key, equals, raw = line.partition(":")
    return key.rstrip(" \t"), equals, strip_comment(raw.strip(" \t")).rstrip(" \t")


def _read_setting(line: str, rest: str, number: int, file: str, node: Ingredients | None, tell) -> None:
    """Read a setting from its first line and the `rest` that continues it."""
    key, equals, raw = _split(line)
    name = key if node is None or not equals or not key else f"{node._path}.{key}".lstrip(".")
    raw = _continued(raw, rest, lambda at, wrong: tell(number + 1 + rest.count("\n", 0, at), wrong, name))
    if wrong := _wrong_key(key, equals, node):
        tell(number, wrong, name, raw)
    else:
        _set_value(node, key, raw, file, number, tell)


def _set_value(node: Ingredients, key: str, raw: str, file: str, number: int, tell) -> None:
    node._entries[key] = raw, file, number
    try:
        node[key] = read_value(raw)
    except ValueError as error:
        node[key] = BROKEN
        tell(number, str(error), f"{node._path}.{key}".lstrip("."), raw)


def _read_header(line: str, nodes: dict) -> tuple[str, str | None]:
    """The path of a `[section]` line, and what is wrong with it."""
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


def _wrong_key(key: str, equals: str, node: Ingredients | None) -> str | None:
    """Why a setting cannot have that key."""
    other = call_key(node or {}) if key[:1] == "@" else None
    entries = {} if node is None else node._entries
    raw, _, line = entries.get(key) or entries.get(other) or ("", "", 0)
    dots = f"a key holds no dots; write [{key.rpartition('.')[0]}] below this section's name and the last word as key"
    return _first(
        (not equals, "this is neither a [section], a key = value nor a # comment; write key = value"),
        (not key, "the key is missing: write key = value"),
        (node is None, "a setting before any section; put a [section] line above it"),
        (key[:2] == "__", _DUNDER),
        ("." in key, dots),
        (key in entries, f"{key} stands already at line {line} ({key} = {shortened(raw)}); remove one"),
        (other, f"a section calls one function, and this one has {other} at line {line}"),
        (key == "@", "name the registry: write @registry = function"),
    )


def _first(*rules: tuple) -> str | None:
    """The message of the first rule, (condition, message), whose condition holds."""
    return next((message for holds, message in rules if holds), None)


def _continued(raw: str, rest: str, tell) -> str:
    """`raw` with the lines of `rest`, which are indented or close a bracket; tell(character, what is wrong there)."""
    is_open = raw[:1] in _BRACKETS
    depth = brackets(raw) if is_open else 0
    continues = is_open or is_text(raw)
    parts = [raw]
    for line in _CONTINUED(rest):
        text = line[1].rstrip(" \t")
        wrong = None
        if depth <= 0 and is_open:
            wrong = "the list or object above is closed; unindent this line"
        elif depth <= 0 and _LOOKS_LIKE_SETTING.match(text):
            wrong = "an indented line that looks like a setting or a section: unindent it, or quote the text above"
        elif not continues:
            wrong = "only plain text continues on an indented line; unindent it, or write the text without quotes"
        if wrong:
            tell(line.start(), f"{wrong}: {text}")
            continue
        text = strip_comment(text).rstrip(" \t")
        depth += brackets(text) if is_open else 0
        parts.append(text)
    return "\n".join(parts)
