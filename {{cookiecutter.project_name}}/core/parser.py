"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

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
    Text,
    as_written,
    bracket_depth,
    read_value,
    strip_comment,
)

MAX_BYTES = 10_000_000
COMMAND_LINE = "command line"

_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")
# What a line or value may begin with; frozensets, since a line is asked several times.
_COMMENT, _INDENT, _BRACKETS = frozenset(("", "#", ";")), frozenset(" \t"), frozenset("[{")
_NO_SETTING = _COMMENT | _INDENT | {"["}
_DUNDER = "names with two leading underscores are Python's own; choose another"


def parse(file: str | os.PathLike, overrides=(), declared: dict | None = None, checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `declared`: the sections that a recipe declares (see settings.py); then every setting is checked against them.
    `checks`: further functions that take the ingredients and give a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems, file = [], os.fspath(file)
    return _finish(_read_file(file, problems, ()), problems, overrides, declared, checks, Place(_shown(file)))


def parse_string(text: str, overrides=(), declared: dict | None = None) -> Ingredients:
    """Like `parse`, of a text."""
    problems = []
    nodes = _read_lines(text, "<text>", problems)
    if "base" in nodes.get("META", ()):
        problems.append(problem_of(nodes["META"], "base", "only a file can have a base file"))
    return _finish(nodes, problems, overrides, declared, (), Place("<text>"))


def _finish(nodes: dict, problems: list, overrides, declared: dict | None, checks, place: Place) -> Ingredients:
    if declared is not None:
        from .settings import check_settings, declared_paths  # which import dataclasses: 10 ms
    known = declared_paths(declared) if declared else []
    for path, text, *add in overrides:
        raw = text if isinstance(text, str) else as_written(text)
        message = _override(nodes, path, raw, any(add), known)
        if message:
            problems.append(Problem(Place(COMMAND_LINE), "--" + path, raw, message))
    root = nodes[""] = Ingredients(place=place)
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
        above = None
        while path and above is None:
            parent, _, name = path.rpartition(".")
            above = nodes.get(parent)
            holder = above
            if holder is None:
                holder = nodes[parent] = Ingredients((), parent, node._place)
            elif name in holder._entries:
                setting, section = holder.where(name), node._place
                message = f"{name} is a setting ({setting}) and a section ([{path}], {section}); rename one"
                problems.append(Problem(max(setting, section), path, "", message))
                del holder._entries[name]
            holder[name] = node
            path, node = parent, holder


# ---------------------------------------------------------------------------------------------------- files


def _read_file(file: str, problems: list, children: tuple) -> dict:
    """The sections of `file`, merged over those of its base files."""
    nodes = _read_lines(_read_text(file), _shown(file), problems)
    meta = nodes.get("META", Ingredients())
    if "base" not in meta:
        return nodes
    chain, merged = (*children, os.path.realpath(file)), {}
    for base in meta["base"] if type(meta["base"]) is list else [meta["base"]]:
        path = os.path.join(os.path.dirname(file), base) if isinstance(base, str) and base else None
        if path is None:
            problems.append(problem_of(meta, "base", "name the base file as text, or a list of such names"))
        elif (real := os.path.realpath(path)) in chain:
            names = [os.path.basename(other) for other in (*chain[chain.index(real) :], real)]
            problems.append(problem_of(meta, "base", "base files go in a circle: " + " -> ".join(names)))
        elif not os.path.isfile(path):
            message = f"there is no file {path}. {suggest(base, _ini_files(os.path.dirname(file)))}"
            problems.append(problem_of(meta, "base", message))
        else:
            _merge(merged, _read_file(path, problems, chain))
    del meta["base"], meta._entries["base"]
    if not meta:
        del nodes["META"]
    _merge(merged, nodes)
    return merged


def _ini_files(folder: str) -> list[str]:
    return [name for name in os.listdir(folder or ".") if name.endswith(".ini")] if os.path.isdir(folder or ".") else []


def _shown(file: str) -> str:
    """The shorter of the path as given and the path from the current folder."""
    try:
        return min(os.path.normpath(file), os.path.relpath(file), key=len)
    except ValueError:  # on another drive
        return file


def _read_text(file: str) -> str:
    where = _shown(file)
    try:
        if os.path.isdir(file):
            raise IngredientsError(f"{where}: is a folder; name the ini file in it")
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = suggest(os.path.basename(file), _ini_files(os.path.dirname(file)))
        raise IngredientsError(f"{where}: there is no such file. {near}") from None
    except (OSError, ValueError) as error:
        raise IngredientsError(f"{where}: cannot be read ({error})") from None
    if len(data) > MAX_BYTES:
        raise IngredientsError(f"{where}: is larger than {MAX_BYTES // 1_000_000} MB, which no ingredients file is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_lines(data[: error.start].decode("utf-8", "replace")))
        message = f"byte {data[error.start]:#04x} is no UTF-8; save the file as UTF-8"
        raise IngredientsError([Problem(Place(where, line), "", "", message)]) from None


def _merge(base: dict, over: dict) -> None:
    """Lay the sections `over` on the sections `base`, in place."""
    for path in [path for path in over if path in base]:
        before, after = call_key(base.get(path, {})), call_key(over[path])
        if before and after and (before, base[path][before]) != (after, over[path][after]):
            _drop_arguments(base, path)
    for path, node in over.items():
        if path in base:
            base[path]._place = node._place
            base[path].update(node)
            base[path]._entries.update(node._entries)
        else:
            base[path] = node


def _drop_arguments(nodes: dict, path: str) -> None:
    """Another function takes other arguments: those of the one before must not leak into it."""
    for other in [other for other in nodes if other.startswith(path + ".")]:
        del nodes[other]
    nodes[path] = Ingredients((), path, nodes[path]._place)


# ---------------------------------------------------------------------------------------------------- lines


def _lines(text: str) -> list[str]:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n")


def _read_lines(text: str, file: str, problems: list) -> dict:
    """The sections of one text by their dotted path; values are read, references not yet resolved."""

    def problem(line, message, key="", raw=""):
        problems.append(Problem(Place(file, line), key, raw, message))

    lines = _lines(text.removeprefix("\ufeff"))
    if "\0" in text or not (text.isascii() or _FORBIDDEN.search(text) is None):
        _refuse_characters(lines, problem)
    nodes, node, entries, path = {}, None, {}, ""
    number, count = 0, len(lines)
    lines.append("[")  # so that there is always a next line
    while number < count:
        line = lines[number]
        number += 1  # from here on the line's number as people count
        first = line[:1]
        if first in _NO_SETTING:
            if first == "[":
                path = _header(line, number, nodes, problem)
                node = Ingredients((), path, Place(file, number))
                entries = node._entries
                if path:
                    nodes[path] = node
            elif line.strip(" \t")[:1] not in _COMMENT:
                message = "an indented line, but no text value stands above that it could continue; unindent it"
                problem(number, message, line.strip(" \t"))
            continue
        start = number
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
        if not equals or node is None or not key or key[0] in "@_" or "." in key or key in node:
            message = _key_problem(key, equals, node)
            if message:
                problem(start, message, f"{path}.{key}" if path and equals and key else key, raw)
                continue
        entries[key] = (raw, file, start)
        try:
            node[key] = read_value(raw)
        except ValueError as error:
            problem(start, str(error), f"{path}.{key}".lstrip("."), raw)
            node[key] = BROKEN
    return nodes


def _refuse_characters(lines: list, problem) -> None:
    for number, line in enumerate(lines, 1):
        for bad in dict.fromkeys(_FORBIDDEN.findall(line)):
            kind = (
                "NUL" if bad == "\0" else "a lone surrogate" if bad < "\uf000" and bad > "\ud700" else "it hides text"
            )
            advice = f'delete it, or write "\\u{ord(bad):04x}"'
            problem(number, f"the character U+{ord(bad):04X} ({kind}) is not allowed; {advice}")


def _header(line: str, number: int, nodes: dict, problem) -> str:
    """The path of a `[section]` line; "" when it is wrong."""
    path, bracket, rest = line[1:].partition("]")
    rest = rest.strip(" \t")
    if " " in path or "\t" in path:
        path = ".".join(part.strip(" \t") for part in path.split("."))
    message = None
    if not bracket:
        message = f"the section does not close: write [{path}]"
    elif rest and rest[0] not in "#;":
        message = f"there is text after the section's name: {rest}; put it on a line of its own"
    elif not path or ".." in f".{path}." or "[" in path or "$" in path or "@" in path:
        message = "a section's name is plain words between dots, as in [training.scheme]"
    elif path == "DEFAULT":
        message = "[DEFAULT] would hand its values to every section unseen; write a section and refer to it by ${...}"
    elif "__" in path and any(part.startswith("__") for part in path.split(".")):
        message = _DUNDER
    elif path.count(".") >= MAX_DEPTH:
        message = f"nested deeper than {MAX_DEPTH}"
    elif path in nodes:
        message = f"[{path}] stands already at line {nodes[path]._place.line}; put both together"
    if message:
        problem(number, message, f"[{path}" + ("]" if bracket else ""))
        return ""
    return path


def _key_problem(key: str, equals: str, node: Ingredients | None) -> str | None:
    if not equals:
        return "this is neither a [section], a key = value nor a # comment; write key = value"
    if not key:
        return "the key is missing: write key = value"
    if node is None:
        return "a setting before any section; put a [section] line above it"
    if key.startswith("__"):
        return _DUNDER
    if "." in key:
        return (
            f"a key holds no dots; write [{key.rpartition('.')[0]}] below this section's name and the last word as key"
        )
    if key in node:
        return f"{key} stands already at line {node.where(key).line} ({key} = {node.written(key)}); remove one"
    other = call_key(node)
    if key[0] == "@" and other:
        return f"a section calls one function, and this one has {other} at line {node.where(other).line}"
    return "name the registry: write @registry = function" if key == "@" else None


def _continuation(lines: list, number: int, raw: str, key: str, problem) -> tuple[str, int]:
    """`raw` with the indented lines after it, and the number of the last line taken."""
    is_open = raw[:1] in _BRACKETS
    depth = bracket_depth(raw) if is_open else 0
    taken, parts = number, [raw]
    for number in range(number, len(lines) - 1):  # noqa: B020
        text = lines[number].strip(" \t")
        if text[:1] in _COMMENT:
            if is_open and depth <= 0:
                break
            continue
        if lines[number][0] not in " \t" and not (depth > 0 and text[0] in "]}"):
            break
        message = None
        if depth <= 0 and is_open:
            message = "the list or object above is closed; unindent this line"
        elif depth <= 0 and _LOOKS_LIKE_SETTING.match(text):
            message = "an indented line that looks like a setting or a section: unindent it, or quote the text above"
        elif depth <= 0 and not _is_text(raw):
            message = "only plain text continues on an indented line; unindent it, or write the text without quotes"
        if message:
            problem(number + 1, f"{message}: {text}", key)
        else:
            text = strip_comment(text).rstrip(" \t")
            depth += bracket_depth(text) if is_open else 0
            parts.append(text)
        taken = number + 1
    return "\n".join(parts), taken


def _is_text(raw: str) -> bool:
    try:
        return raw[:1] != '"' and isinstance(read_value(raw), str | Text | Reference)
    except ValueError:
        return True  # which is told elsewhere


# ------------------------------------------------------------------------------------------------ overrides


def _override(nodes: dict, path: str, raw: str, add: bool, declared: list) -> str | None:
    """Set one value; the message where that cannot be done."""
    parent, _, key = path.rpartition(".")
    parts = path.split(".")
    known = parent in nodes and key in nodes[parent]._entries
    if path in nodes:
        return f"[{path}] is a section; name one of its settings: {', '.join(nodes[path]._entries) or 'it has none'}"
    if not known and not add and path not in declared:
        names = [f"{section}.{name}" for section, node in nodes.items() for name in node._entries]
        advice = suggest(path, names + declared, "--{}")
        return f'there is no "{path}". {advice} --add {path}={raw} makes a new setting.'
    if not parent or not all(parts) or any(part.startswith("__") for part in parts):
        return "name a section and a key, as in training.scheme.epochs"
    for at in range(1, len(parts) - 1):
        if parts[at] in nodes.get(".".join(parts[:at]), Ingredients())._entries:
            return f"{'.'.join(parts[: at + 1])} is a setting, so nothing stands below it"
    try:
        value = read_value(raw)
    except ValueError as error:
        return str(error)
    if parent not in nodes:
        nodes[parent] = Ingredients((), parent, Place(COMMAND_LINE))
    if key[0] == "@" and known and nodes[parent][key] != value:
        _drop_arguments(nodes, parent)
    nodes[parent][key] = value
    nodes[parent]._entries[key] = (raw, COMMAND_LINE, 0)
    return None
