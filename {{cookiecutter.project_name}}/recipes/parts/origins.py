"""Where settings come from and go to: the resolved file, the users of a setting, settings that nothing reads."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

from core import Ingredients
from core.ingredients import is_call
from core.values import as_written, strip_comment
from recipes.settings import SECTIONS

READ = {"project.name", "project.meta.task"}  # the settings below [project] that recipes read
# Settings without effect unless another is set: path -> (the other, whether it must be, why this one is unused).
PARTNERS = {
    "training.scheme.patience": ("training.scheme.early_stop", True, "early_stop is False"),
    "training.scheme.best_is": ("training.scheme.best", True, "best is not set"),
    "training.scheme.validation_fraction": ("validation.load_dataset", False, "there is [validation.load_dataset]"),
}


def unused_settings(ingredients: Ingredients) -> list[str]:
    """Settings of the file that this experiment does not read: facts for people, and those that need another one."""
    calls, unused = {path for path in sections(ingredients) if is_call(ingredients.at(path))}, []
    for path in settings(ingredients):
        if path in PARTNERS:
            other, wanted, reason = PARTNERS[path]
            unused += [] if bool(ingredients.at(other)) == wanted else [f"{path} ({reason})"]
        elif path.startswith("project.") and path not in READ and path.rpartition(".")[0] not in calls:
            unused += [path] if next(users(ingredients, path), None) is None else []
    return unused


def resolved_text(ingredients: Ingredients, declared: dict = SECTIONS) -> str:
    """The file of the ingredients with references and overrides replaced by their values; it reads back to the same.

    Comments and order stay. Declared settings that it lacks are added with their defaults, and marked so. References to
    whole sections stay references: they mean one object. Written anew if base files gave a part of it.
    """
    text, file = str(ingredients), Path(ingredients.where("").file)
    if file.is_file() and not re.search(r"^\[\s*META\s*\]", own := file.read_text(encoding="utf-8-sig"), re.MULTILINE):
        text = own
    blocks, replaced = [["", []]], False  # blocks: of each section: its path and its lines
    for line in re.split("\r\n|\r|\n", text.rstrip()):
        path, lines = blocks[-1]
        if line[:1] == "[":
            path = ".".join(part.strip() for part in line[1 : line.index("]")].split("."))
            blocks.append([path, [line]])
            continue
        if line[:1] not in ("", " ", "\t", "#", ";", "]", "}"):
            line, replaced = _resolved_line(ingredients, path, line)
        elif replaced and line[:1] in (" ", "\t", "]", "}") and line.strip()[:1] not in ("", "#", ";"):
            continue  # the rest of a value that is on one line now
        lines += [] if line is None else [line]
    known = [*sections(ingredients), *(path for path, kind in declared.items() if isinstance(kind, type))]
    written = {path for path, _ in blocks}
    blocks += [[path, []] for path in dict.fromkeys(known) if path not in written]
    lines = []
    for path, block in blocks:
        added = _missing_lines(ingredients, path, block, declared.get(path))
        end = len(block) - next((i for i, line in enumerate(reversed(block)) if line and line[0] not in "#;"), 0)
        lines += (block[:end] or (["", f"[{path}]"] if added else [])) + added + block[end:]
    return "\n".join(lines).lstrip("\n") + "\n"


def _resolved_line(ingredients: Ingredients, path: str, line: str) -> tuple[str | None, bool]:
    """(the line with its value filled in, or None if the setting is gone; whether it was replaced)."""
    key = re.split("[=:]", line, maxsplit=1)[0].rstrip()
    where, value = f"{path}.{key}", ingredients.at(path, {}).get(key, MISSING)
    if value is MISSING:  # an argument of a function that the command line replaced
        return None, True
    if isinstance(value, Ingredients) or not ("$" in ingredients.written(where) or not ingredients.where(where).line):
        return line, False
    raw = re.split("[=:]", line, maxsplit=1)[1].strip()
    note = raw[len(strip_comment(raw)) :] if raw else ""
    return f"{key} = {as_written(value)}{note}", True


def sections(ingredients: Ingredients, above: str = ""):
    """The dotted paths of all sections, as they are in the file."""
    for key, value in ingredients.items():
        path = f"{above}.{key}".lstrip(".")
        if isinstance(value, Ingredients) and value._path == path:
            yield path
            yield from sections(value, path)


def _missing_lines(ingredients: Ingredients, path: str, block: list, kind) -> list[str]:
    """Lines for the settings that the text of a section lacks: those of the command line, then defaults."""
    node = ingredients.at(path, {})
    held = {re.split("[=:]", line, maxsplit=1)[0].rstrip() for line in block}
    own = [(key, value) for key, value in node.items() if not isinstance(value, Ingredients) and key not in held]
    lines = [f"{key} = {as_written(value)}" for key, value in own] if path else []
    for item in fields(kind) if isinstance(kind, type) else ():
        if item.name not in node and item.default is not MISSING:
            lines.append(f"{item.name} = {as_written(item.default)}  # default")
    return lines


def settings(ingredients: Ingredients):
    """The dotted paths of all settings."""
    for path in sections(ingredients):
        yield from (
            f"{path}.{key}" for key, value in ingredients.at(path).items() if not isinstance(value, Ingredients)
        )


def users(ingredients: Ingredients, wanted: str):
    """The settings whose references mean `wanted`; looked up as the language says."""
    for user in settings(ingredients):
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
