"""Where settings come from and go to: the resolved file, who refers to a setting, settings without effect."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

from core import Ingredients
from core.ingredients import call_key
from core.references import find
from core.values import Pending, as_written, read_value, strip_comment
from recipes.settings import SECTIONS

READ = {"project.name", "project.meta.task"}  # the settings below [project] that recipes read
# Settings without effect as long as another is as it is: (path, the other, whether it is so, in words).
WITHOUT_EFFECT = (
    ("training.scheme.patience", "training.scheme.early_stop", lambda on: not on, "early_stop is False"),
    ("training.scheme.best_is", "training.scheme.best", lambda name: name is None, "best is not set"),
    (
        "training.scheme.validation_fraction",
        "validation.load_dataset",
        lambda section: bool(section) and not section.get("optional"),
        "[validation.load_dataset] is there",
    ),
    ("training.scheme.validation_fraction", "training.scheme.fold", bool, "fold is set"),
    ("validation.load_dataset.@load_dataset", "training.scheme.fold", bool, "fold is set"),
    (
        "training.model.save_dir",
        "training.model.save_name",
        lambda name: bool(name) and "/" in name,
        "save_name has one",
    ),
)
# A setting in the text of a file: its key, its value with the lines that continue it, the end of the line.
_SETTING = re.compile(r"^([^\s\[\]}#;=:][^=:\n]*)[=:](.*(?:\n(?:[ \t]*(?:[#;].*)?\n)*[ \t\]}].*)*)(\n?)", re.MULTILINE)


def unused_settings(ingredients: Ingredients) -> list[str]:
    """Settings of the file without effect in this experiment: facts for people, and those that need another one."""
    referred, written = users(ingredients), [f"{section}.{key}" for section, key in settings(ingredients)]
    idle = {path: f"{path} ({why})" for path, other, is_so, why in WITHOUT_EFFECT if is_so(ingredients.at(other))}
    for section, key in settings(ingredients):
        if section.partition(".")[0] == "project" and not call_key(ingredients.at(section)):
            idle[f"{section}.{key}"] = f"{section}.{key}"
    return [text for path, text in idle.items() if path in written and path not in READ | referred.keys()]


def resolved_text(ingredients: Ingredients, declared: dict = SECTIONS) -> str:
    """The file of the ingredients with references and overrides replaced by their values; it reads back to the same.

    Comments and order stay. Declared settings that it lacks are added with their defaults, and marked so. References to
    whole sections stay references: they mean one object. Written anew if base files gave a part of it.
    """
    file = Path(ingredients.where("").file)
    text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    if not text or re.search(r"^\[\s*META\s*\]", text, re.MULTILINE):
        text = str(ingredients)
    blocks = {}  # path of a section -> its text
    for block in re.split(r"^(?=\[)", text.rstrip() + "\n", flags=re.MULTILINE):
        header = block[1 : block.index("]")] if block[:1] == "[" else ""
        blocks[".".join(part.strip() for part in header.split("."))] = block
    known = [*sections(ingredients), *(path for path, kind in declared.items() if isinstance(kind, type))]
    result = ""
    for path in dict.fromkeys([*blocks, *known]):
        block = blocks.get(path, f"\n[{path}]\n")
        added = _missing_lines(ingredients.at(path), block, declared.get(path)) if path else ""
        if added or path in blocks:
            block = _SETTING.sub(lambda match, path=path: _resolved(ingredients, path, *match.groups()), block)
            end = re.search(r"(?:\n(?:[#;].*)?)*\Z", block).start()  # comments there belong to the next section
            result += block[:end] + added + block[end:]
    return result.lstrip("\n")


def _resolved(ingredients: Ingredients, path: str, key: str, raw: str, end: str) -> str:
    """A setting of a file with its value filled in; "" if an override chose a function without such an argument."""
    name = key.rstrip()
    where, value = f"{path}.{name}", ingredients.at(path, {}).get(name, MISSING)
    if value is MISSING:
        return ""
    if isinstance(value, Ingredients) or ("$" not in ingredients.written(where) and ingredients.where(where).line):
        return f"{key}={raw}{end}"
    first, *others = raw.strip().split("\n")
    note = first[len(strip_comment(first)) :]
    comments = [f"\n{line}" for line in others if line.strip()[:1] in ("#", ";")]
    return f"{name} = {as_written(value)}{note}{''.join(comments)}{end}"


def _missing_lines(node: Ingredients | None, block: str, kind) -> str:
    """Lines for the settings that the text of a section lacks: those of the command line, then defaults."""
    node, held = node or {}, {match[1].rstrip() for match in _SETTING.finditer(block)}
    own = {key: value for key, value in node.items() if not isinstance(value, Ingredients) and key not in held}
    declared = fields(kind) if isinstance(kind, type) else ()
    defaults = {item.name: item.default for item in declared if item.name not in node and item.default is not MISSING}
    lines = [f"\n{key} = {as_written(value)}" for key, value in own.items()]
    return "".join([*lines, *(f"\n{key} = {as_written(value)}  # default" for key, value in defaults.items())])


def sections(ingredients: Ingredients, above: str = ""):
    """The dotted paths of all sections, as they are in the file."""
    for key, value in ingredients.items():
        path = f"{above}.{key}".lstrip(".")
        if isinstance(value, Ingredients) and value._path == path:
            yield path
            yield from sections(value, path)


def settings(ingredients: Ingredients):
    """(section, key) of all settings."""
    for path in sections(ingredients):
        yield from ((path, key) for key, value in ingredients.at(path).items() if not isinstance(value, Ingredients))


def users(ingredients: Ingredients) -> dict[str, list[str]]:
    """The path of each setting and section that references mean -> the settings with these references."""
    nodes = {path: ingredients.at(path) for path in ["", *sections(ingredients)]}
    found = {}
    for path, node in nodes.items():
        for key in node:
            value = read_value(node.written(key))
            for reference in value.references.values() if isinstance(value, Pending) else ():
                if reference.env is None:
                    section, name = find(nodes, reference, path, key)
                    found.setdefault(f"{section._path}.{name}".lstrip("."), []).append(f"{path}.{key}")
    return found
