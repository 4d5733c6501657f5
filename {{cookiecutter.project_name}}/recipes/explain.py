"""What `--print` and `--explain` show: the settings as they hold, and where one of them comes from and goes to."""

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

from core.arguments import describe
from core.declared import FREE, declared_paths, kind_of
from core.errors import IngredientsError, suggest
from core.ingredients import Ingredients, call_key, is_call
from core.registry import registry, source
from core.values import as_written, strip_comment
from recipes.settings import SECTIONS


def printed(ingredients: Ingredients, file: str) -> str:
    """The answer to --print: the file's own text as it holds; written anew where base files gave a part of it."""
    with open(file, encoding="utf-8-sig") as stream:
        text = stream.read()
    has_base = re.search(r"^\[\s*META\s*\]", text, re.MULTILINE)
    return resolved_text(ingredients, str(ingredients) if has_base else text, SECTIONS)


def resolved_text(ingredients: Ingredients, text: str, declared: dict) -> str:
    """`text`, from which the ingredients were read, with references and overrides replaced by the values that hold.

    Comments and order stay. Declared settings that it lacks are added with their defaults, and marked so. It reads back
    to the same ingredients. References to whole sections stay references: they mean one object.
    """
    blocks, replaced = [["", []]], False  # of each section: its path and its lines
    for line in re.split("\r\n|\r|\n", text.rstrip()):
        path, lines = blocks[-1]
        if line[:1] == "[":
            path = ".".join(part.strip() for part in line[1 : line.index("]")].split("."))
            blocks.append([path, [line]])
            continue
        if line[:1] not in ("", " ", "\t", "#", ";", "]", "}"):
            line, replaced = _resolved_line(ingredients, path, line)
        elif replaced and line[:1] in (" ", "\t", "]", "}") and line.strip()[:1] not in ("", "#", ";"):
            continue  # the rest of a value that stands on one line now
        lines.append(line)
    known = [*_sections(ingredients), *(path for path, kind in declared.items() if isinstance(kind, type))]
    written = {path for path, _ in blocks}
    blocks += [[path, []] for path in dict.fromkeys(known) if path not in written]
    lines = []
    for path, block in blocks:
        added = _missing_lines(ingredients, path, block, declared.get(path))
        end = len(block) - next((i for i, line in enumerate(reversed(block)) if line and line[0] not in "#;"), 0)
        lines += (block[:end] or (["", f"[{path}]"] if added else [])) + added + block[end:]
    return "\n".join(lines).lstrip("\n") + "\n"


def _resolved_line(ingredients: Ingredients, path: str, line: str) -> tuple[str, bool]:
    key = re.split("[=:]", line, maxsplit=1)[0].rstrip()
    where, value = f"{path}.{key}", ingredients.at(path)[key]
    if isinstance(value, Ingredients) or not ("$" in ingredients.written(where) or not ingredients.where(where).line):
        return line, False
    raw = re.split("[=:]", line, maxsplit=1)[1].strip()
    note = raw[len(strip_comment(raw)) :] if raw else ""
    return f"{key} = {as_written(value)}{note}", True


def _sections(ingredients: Ingredients, above: str = ""):
    for key, value in ingredients.items():
        path = f"{above}.{key}".lstrip(".")
        if isinstance(value, Ingredients) and value._path == path:
            yield path
            yield from _sections(value, path)


def _missing_lines(ingredients: Ingredients, path: str, block: list, kind) -> list[str]:
    """Settings of a section that its text lacks: those of the command line, then defaults."""
    node = ingredients.at(path, {})
    held = {re.split("[=:]", line, maxsplit=1)[0].rstrip() for line in block}
    own = [(key, value) for key, value in node.items() if not isinstance(value, Ingredients) and key not in held]
    lines = [f"{key} = {as_written(value)}" for key, value in own] if path else []
    for item in fields(kind) if isinstance(kind, type) else ():
        if item.name not in node and item.default is not MISSING:
            lines.append(f"{item.name} = {as_written(item.default)}  # default")
    return lines


def explain(ingredients: Ingredients, path: str, declared: dict = SECTIONS) -> str:
    """Value, kind, origin, users and reader of the setting at a dotted path. IngredientsError where there is none."""
    section, _, key = path.rpartition(".")
    place, caller = ingredients.where(path) if path else None, ingredients.at(section)
    default, lines = MISSING, []
    for item in fields(kind_of(declared, section)) if isinstance(kind_of(declared, section), type) else ():
        if item.name == key:
            default = item.default
            lines.append(f"    meaning: {item.metadata.get('doc', '')}")
            lines.append(f"    read by: {', '.join(_readers(kind_of(declared, section), key)) or 'nothing'}")
    if isinstance(caller, Ingredients) and (called := call_key(caller)) and caller[called] in registry[called[1:]]:
        function = registry[called[1:]].get(caller[called])
        parameter = inspect.signature(function).parameters.get(key)
        default = MISSING if parameter is None or parameter.default is parameter.empty else parameter.default
        lines.append(f"    goes to: {caller[called]} ({source(function)})")
    if place is not None:
        value, raw = ingredients.at(path), ingredients.written(path)
        is_section = isinstance(value, Ingredients)
        lines = [
            f"{path} = {'[section]' if is_section else as_written(value)}",
            f"    kind: {'a section' if is_section else describe(type(value))}",
            f"    from: {place}" + (f", written {raw}" if "$" in raw else ""),
            *lines,
        ]
    elif default is not MISSING:
        value = list(default) if isinstance(default, tuple) else default
        lines = [f"{path} = {as_written(value)}", "    from: its default; the file does not set it", *lines]
    else:
        names = [*_settings(ingredients), *declared_paths(declared)]
        raise IngredientsError(f"--explain {path}: there is no such setting. {suggest(path, names)}")
    if path.startswith(FREE + ".") and (readers := _lines_with(f'"{path}"')):
        lines.append(f"    read by: {', '.join(readers)}")
    return "\n".join(lines + [f"    used in: {user} ({ingredients.where(user)})" for user in _users(ingredients, path)])


def unread(ingredients: Ingredients, read: set[str]) -> list[str]:
    """Settings of the free-form sections that no reference, function or code (`read`) takes: facts for people."""
    calls = {path for path in _sections(ingredients) if is_call(ingredients.at(path))}
    free = [path for path in _settings(ingredients) if path.startswith(FREE + ".")]
    mine = [path for path in free if path not in read and path.rpartition(".")[0] not in calls]
    return [path for path in mine if next(_users(ingredients, path), None) is None]


def _settings(ingredients: Ingredients):
    for path in _sections(ingredients):
        yield from (
            f"{path}.{key}" for key, value in ingredients.at(path).items() if not isinstance(value, Ingredients)
        )


def _users(ingredients: Ingredients, wanted: str):
    """The settings whose references mean `wanted`; looked up as the language says."""
    for user in _settings(ingredients):
        raw, section = ingredients.written(user), user.rpartition(".")[0]
        for inner in re.findall(r"\$\{([^{}$]*)\}", raw):
            path = inner.strip().replace(":", ".")
            scopes = [*(section[: len(section) - len(rest)] for rest in _endings(section)), ""]
            for scope in ["", *scopes] if "." in path else scopes:
                found = f"{scope}.{path}".lstrip(".")
                if found != user and ingredients.where(found) is not None:
                    if found == wanted:
                        yield user
                    break


def _endings(section: str) -> list[str]:
    """ "" and then ever longer ends of a dotted path, so that what is left of it goes outwards."""
    parts = section.split(".")
    return ["", *("." + ".".join(parts[at:]) for at in range(len(parts) - 1, 0, -1))]


def _readers(kind: type, key: str) -> list[str]:
    """Lines of the recipes that read a dataclass's field from a variable of its name, or at once."""
    name = kind.__name__
    return _lines_with(rf"(?<![.\w])({name.lower()}|.*\b{name}\))\.{key}\b", Path(inspect.getfile(kind)))


def _lines_with(pattern: str, beside: Path = Path(__file__)) -> list[str]:
    return [
        f"{file.parent.name}/{file.name}:{number}"
        for file in sorted(beside.parent.glob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
