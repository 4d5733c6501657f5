"""Text -> Ingredients: sections, values, base files, overrides. Every mistake is found in one pass, with its line."""

import os
import re
from pathlib import Path

from .errors import IngredientsError, Place, Problem, suggest
from .ingredients import Entry, Ingredients, Section, build
from .references import resolve_references
from .settings import check_settings, declared_paths, is_declared
from .values import BIDIRECTIONAL, BROKEN, MAX_DEPTH, as_written, bracket_depth, read_value, strip_comment

MAX_BYTES = 10_000_000
COMMAND_LINE = Place("command line")

_LINE_END = re.compile("\r\n|\r|\n")
_FORBIDDEN = re.compile(f"[\0\ud800-\udfff{BIDIRECTIONAL}]")
_LOOKS_LIKE_SETTING = re.compile(r"@?[^\s=:]+[ \t]*(=|:([ \t]|$))|\[[^\[\]]*\][ \t]*$")


def parse(file: str | Path, overrides=(), declared: dict | None = None, checks=()) -> Ingredients:
    """Read an ini file with its base files and resolve its references; functions stay names.

    `overrides`: (path, text) pairs, or (path, text, True) to add a setting that the file does not have.
    `declared`: the sections that a recipe declares (see settings.py); then every setting is checked against them.
    `checks`: further functions that take the ingredients and give a list of problems.
    Raises IngredientsError with all problems found, those of the checks included.
    """
    problems = []
    sections = _read_file(Path(file), problems, ())
    _apply_overrides(sections, overrides, problems, declared or {})
    if declared is not None:
        checks = (lambda ingredients: check_settings(ingredients, declared), *checks)
    return _finish(sections, problems, checks)


def parse_string(text: str, overrides=()) -> Ingredients:
    """Like `parse`, of a text."""
    problems = []
    sections = _read_lines(text, "<text>", problems)
    if "META" in sections and "base" in sections["META"].entries:
        entry = sections["META"].entries["base"]
        problems.append(Problem(entry.place, "META.base", entry.raw, "only a file can have a base file"))
    _apply_overrides(sections, overrides, problems, {})
    return _finish(sections, problems, ())


def _finish(sections: dict, problems: list, checks) -> Ingredients:
    resolve_references(sections, problems)
    ingredients = build(sections)
    for check in checks:  # also where problems were found: all are told at once
        problems += check(ingredients)
    if problems:
        raise IngredientsError(sorted(problems, key=lambda problem: problem.place))
    return ingredients


# ---------------------------------------------------------------------------------------------------- files


def _read_file(file: Path, problems: list, children: tuple) -> dict:
    """The sections of `file`, merged over those of its base files."""
    sections = _read_lines(_read_text(file), _shown(file), problems)
    meta = sections.get("META")
    if meta is None or "base" not in meta.entries:
        return sections
    entry = meta.entries["base"]
    chain = (*children, file.resolve())
    bases = entry.value if isinstance(entry.value, list) else [entry.value]
    merged = {}
    for base in bases:
        problem = None
        if not isinstance(base, str) or not base:
            problem = "name the base file as text, or a list of such names"
        elif (file.parent / base).resolve() in chain:
            names = [*chain[chain.index((file.parent / base).resolve()) :], (file.parent / base).resolve()]
            problem = "base files go in a circle: " + " -> ".join(path.name for path in names)
        elif not (file.parent / base).is_file():
            near = [path.name for path in file.parent.glob("*.ini")]
            problem = f"there is no file {file.parent / base}. " + suggest(base, near)
        if problem:
            problems.append(Problem(entry.place, "META.base", entry.raw, problem))
        else:
            _merge(merged, _read_file(file.parent / base, problems, chain), problems)
    del meta.entries["base"]
    if not meta.entries:
        del sections["META"]
    _merge(merged, sections, problems)
    return merged


def _shown(file: Path) -> str:
    """The shorter of the path as given and the path from the current folder."""
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive
        return str(file)
    return min(str(file), relative, key=len)


def _read_text(file: Path) -> str:
    where = _shown(file)
    try:
        size = file.stat().st_size
        data = b"" if file.is_dir() or size > MAX_BYTES else file.read_bytes()
    except FileNotFoundError:
        near = [path.name for path in file.absolute().parent.glob("*.ini")]
        raise IngredientsError(f"{where}: there is no such file. {suggest(file.name, near)}") from None
    except (OSError, ValueError) as error:
        raise IngredientsError(f"{where}: cannot be read ({error})") from None
    if file.is_dir():
        raise IngredientsError(f"{where}: is a folder; name the ini file in it")
    if size > MAX_BYTES or len(data) > MAX_BYTES:
        raise IngredientsError(f"{where}: is larger than {MAX_BYTES // 1_000_000} MB, which no ingredients file is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data[: error.start].decode("utf-8", "replace"))) + 1
        raise IngredientsError(
            [Problem(Place(where, line), "", "", f"byte {data[error.start]:#04x} is no UTF-8; save the file as UTF-8")]
        ) from None


def _merge(base: dict, over: dict, problems: list) -> None:
    """Lay the sections `over` on the sections `base`, in place."""
    for path in [path for path in over if path in base]:
        before, after = _function(base.get(path)), _function(over[path])
        if before and after and before != after:
            _drop_arguments(base, path)
    for path, section in over.items():
        if path in base:
            base[path].place = section.place
            base[path].entries.update(section.entries)
        else:
            base[path] = section
    _check_shape(base, problems)


def _function(section: Section | None):
    entries = section.entries.items() if section else ()
    return next(((key, entry.raw.strip("\"'")) for key, entry in entries if key[0] == "@"), None)


def _drop_arguments(sections: dict, path: str) -> None:
    """Another function takes other arguments: those of the one before must not leak into it."""
    for other in [other for other in sections if other.startswith(path + ".")]:
        del sections[other]
    sections[path] = Section(sections[path].place)


# ---------------------------------------------------------------------------------------------------- lines


def _read_lines(text: str, file: str, problems: list) -> dict:
    """The sections of one text, flat: dotted path -> Section."""

    def problem(line, message, key="", raw=""):
        problems.append(Problem(Place(file, line), key, raw, message))

    lines = _LINE_END.split(text.removeprefix("\ufeff"))
    if _FORBIDDEN.search(text):
        _refuse_characters(lines, problem)
    sections, section, path = {}, None, ""
    number, count = 0, len(lines)
    while number < count:
        line = lines[number]
        number += 1  # from here on the line's number as people count
        first = line[:1]
        if first == "" or first in "#;":
            continue
        if first == "[":
            path = _header(line, number, sections, problem)
            section = sections[path] if path else Section(Place(file, number))
            section.place = Place(file, number)
            continue
        if first in " \t":
            _stray_indented_line(line.strip(" \t"), number, problem)
            continue
        start = number
        key, raw = _split(line)
        if number < count and (lines[number][:1] in ("", " ", "\t", "#", ";") or raw[:1] in ("[", "{")):
            raw, number = _continuation(lines, number, raw, path, key, problem)
        message = _key_problem(key, section)
        if message:
            problem(start, message, f"{path}.{key}" if path and key else key or "", "" if key is None else raw)
            continue
        try:
            value, references = read_value(raw)
        except ValueError as error:
            problem(start, str(error), f"{path}.{key}", raw)
            value, references = BROKEN, ()
        section.entries[key] = Entry(path, key, value, raw, file, start, references)
    _check_shape(sections, problems)
    return sections


def _refuse_characters(lines: list, problem) -> None:
    for number, line in enumerate(lines, 1):
        for bad in dict.fromkeys(_FORBIDDEN.findall(line)):
            kind = "NUL" if bad == "\0" else "a bidirectional control" if bad in BIDIRECTIONAL else "a lone surrogate"
            problem(
                number,
                f'the character U+{ord(bad):04X} ({kind}) is not allowed; delete it, or write "\\u{ord(bad):04x}"',
            )


def _header(line: str, number: int, sections: dict, problem) -> str:
    """The path of a `[section]` line, entered into `sections`; "" when it is wrong."""
    inner, bracket, rest = line[1:].partition("]")
    rest = rest.strip(" \t")
    path = ".".join(part.strip(" \t") for part in inner.split("."))
    message = None
    if not bracket:
        message = f"the section does not close: write [{path}]"
    elif rest and rest[0] not in "#;":
        message = f"there is text after the section's name: {rest}; put it on a line of its own"
    elif not all(path.split(".")):
        message = "a section's name has non-empty parts between dots, as in [training.scheme]"
    elif "[" in path or "$" in path or "@" in path:
        message = "a section's name is plain words between dots, as in [training.scheme]"
    elif path == "DEFAULT":
        message = "[DEFAULT] would hand its values to every section unseen; write a section and refer to it by ${...}"
    elif any(part.startswith("__") for part in path.split(".")):
        message = "names with two leading underscores are Python's own; choose another"
    elif path.count(".") >= MAX_DEPTH:
        message = f"nested deeper than {MAX_DEPTH}"
    elif path in sections:
        message = f"[{path}] stands already at line {sections[path].place.line}; put both together"
    if message:
        problem(number, message, f"[{path}" + ("]" if bracket else ""))
        return ""
    sections[path] = Section(None)
    return path


def _split(line: str) -> tuple:
    equals, colon = line.find("="), line.find(":")
    at = min(equals, colon) if equals >= 0 and colon >= 0 else max(equals, colon)
    if at < 0:
        return None, line.strip(" \t")
    raw = line[at + 1 :].strip(" \t")
    return line[:at].rstrip(" \t"), strip_comment(raw).rstrip(" \t") if raw else raw


def _key_problem(key: str | None, section: Section | None) -> str | None:
    if key is None:
        return "this is neither a [section], a key = value nor a # comment; write key = value"
    if not key:
        return "the key is missing: write key = value"
    if section is None:
        return "a setting before any section; put a [section] line above it"
    if key.startswith("__"):
        return "names with two leading underscores are Python's own; choose another"
    if "." in key:
        return (
            f"a key holds no dots; write [{key.rpartition('.')[0]}] below this section's name and the last word as key"
        )
    if key in section.entries:
        first = section.entries[key]
        return f"{key} stands already at line {first.line} ({key} = {first.raw}); remove one"
    if key[0] == "@":
        other = next((name for name in section.entries if name[0] == "@"), None)
        if other:
            return f"a section calls one function, and this one has {other} at line {section.entries[other].line}"
        if key == "@":
            return "name the registry: write @registry = function"
    return None


def _stray_indented_line(text: str, number: int, problem) -> None:
    if text and text[0] not in "#;":
        problem(number, "an indented line, but no text value stands above that it could continue; unindent it", text)


def _continuation(lines: list, number: int, raw: str, path: str, key, problem) -> tuple:
    """`raw` with the indented lines after it, and the number of the last line taken."""
    is_open = raw[:1] in ("[", "{")
    depth = bracket_depth(raw) if is_open else 0
    taken, start, parts = number, number, [raw]
    while number < len(lines):
        line = lines[number]
        text = line.strip(" \t")
        if text and text[0] not in "#;":
            if line[0] not in " \t" and not (depth > 0 and line[0] in "]}"):
                break
            message = _continuation_problem(text, parts[0], depth, is_open)
            if message:
                problem(number + 1, message, f"{path}.{key}" if key else "", text)
            else:
                text = strip_comment(text).rstrip(" \t")
                depth += bracket_depth(text) if is_open else 0
                parts.append(text)
            taken = number + 1
        elif is_open and depth <= 0:
            break
        number += 1
    return "\n".join(parts), max(taken, start)


def _continuation_problem(text: str, first: str, depth: int, is_open: bool) -> str | None:
    if depth > 0:
        return None
    if is_open:
        return "the list or object above is closed; unindent this line"
    if _LOOKS_LIKE_SETTING.match(text):
        return f"an indented line that looks like a setting or a section: unindent it, or quote the text above: {text}"
    if first[:1] == '"' or not isinstance(_ready(first), str | None):
        return "only plain text continues on an indented line; unindent it, or write the text without quotes"
    return None


def _ready(raw: str):
    try:
        value, references = read_value(raw)
    except ValueError:
        return None
    return "" if references or value is None else value


def _check_shape(sections: dict, problems: list) -> None:
    """Make missing parents; a name is a setting or a section, not both."""
    for path in list(sections):
        parent, _, name = path.rpartition(".")
        while parent and parent not in sections:
            sections[parent] = Section(sections[path].place)
            parent = parent.rpartition(".")[0]
        parent = path.rpartition(".")[0]
        if parent and name in sections[parent].entries:
            entry, place = sections[parent].entries[name], sections[path].place
            if entry.place == place:
                continue
            late = max(entry.place, place)
            message = f"{name} is a setting ({entry.place}) and a section ([{path}], {place}); rename one"
            problem = Problem(late, path, entry.raw if late == entry.place else "", message)
            if problem not in problems:
                problems.append(problem)


# ------------------------------------------------------------------------------------------------ overrides


def _apply_overrides(sections: dict, overrides, problems: list, declared: dict) -> None:
    for override in overrides:
        path, text, add = override if len(override) == 3 else (*override, False)
        raw = text if isinstance(text, str) else as_written(text)
        message = _override(sections, path, raw, add or is_declared(declared, path), declared)
        if message:
            problems.append(Problem(COMMAND_LINE, "--" + path, raw, message))


def _override(sections: dict, path: str, raw: str, add: bool, declared: dict) -> str | None:
    """Set one value; the message where that cannot be done."""
    parent, _, key = path.rpartition(".")
    known = parent in sections and key in sections[parent].entries
    if path in sections:
        inside = list(sections[path].entries)
        return f"[{path}] is a section; " + (
            f"name one of its settings: {', '.join(inside)}" if inside else "it is empty"
        )
    if not known and not add:
        names = [f"{section}.{name}" for section, held in sections.items() for name in held.entries]
        names += declared_paths(declared)
        return f'there is no "{path}". {suggest(path, names, "--{}")} --add {path}={raw} makes a new setting.'
    if not parent or not all(path.split(".")) or any(part.startswith("__") for part in path.split(".")):
        return "name a section and a key, as in training.scheme.epochs"
    try:
        value, references = read_value(raw)
    except ValueError as error:
        return str(error)
    if parent not in sections:
        sections[parent] = Section(COMMAND_LINE)
        shape = []
        _check_shape(sections, shape)
        if shape:
            return shape[0].message
    if key[0] == "@" and known and sections[parent].entries[key].raw.strip("\"'") != raw.strip("\"'"):
        _drop_arguments(sections, parent)
    sections[parent].entries[key] = Entry(parent, key, value, raw, COMMAND_LINE.file, 0, references)
    return None
