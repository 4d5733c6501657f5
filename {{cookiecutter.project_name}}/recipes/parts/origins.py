"""Where settings come from and go to: the resolved file, who refers to a setting, settings without effect."""

import os
from dataclasses import MISSING, fields
from itertools import islice
from pathlib import Path

from core import Ingredients, registry
from core.arguments import signature_of
from core.ingredients import call_key
from core.parser import Reader
from core.references import find
from core.values import as_written, evaluate, strip_comment
from recipes.settings import SECTIONS, SWEEP, kind_of

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


def unused_settings(ingredients: Ingredients) -> list[str]:
    """Settings of the file without effect in this experiment: facts for people, and those that need another one."""
    referred, written = users(ingredients), [f"{section}.{key}" for section, key in settings(ingredients)]
    idle = {path: f"{path} ({why})" for path, other, is_so, why in WITHOUT_EFFECT if is_so(ingredients.at(other))}
    for name, value in ingredients.at("training.parallel", {}).items() if "LOCAL_RANK" not in os.environ else ():
        if value != vars(SECTIONS["training.parallel"])[name]:  # run folders have the defaults too
            idle[f"training.parallel.{name}"] = f"training.parallel.{name} (torchrun has not started this)"
    for section, key in settings(ingredients):
        if section.partition(".")[0] == "project" and not call_key(ingredients.at(section)):
            idle[f"{section}.{key}"] = f"{section}.{key}"
    return [text for path, text in idle.items() if path in written and path not in READ | referred.keys()]


def resolved_text(ingredients: Ingredients, declared: dict = SECTIONS) -> str:
    """The file of the ingredients with references and overrides replaced by their values; it reads back to the same.

    Comments and order stay. Declared settings that it lacks are added with their defaults, and marked so. References to
    whole sections stay references: they mean one object. Written anew if base files gave a part of it.
    """
    file = Path(ingredients.where().file)
    text = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    if "META" in Reader("", []).read(text) or not text:
        text = str(ingredients)
    draft, lines = Reader("", []).read(text), ["", *text.rstrip().split("\n")]  # by their number; None: left out
    for path in dict.fromkeys([*draft, *sections(ingredients), *declared]):
        node, entries = ingredients.at(path, Ingredients()), draft.get(path, {})
        kind = declared.get(path)
        own = {key: value for key, value in node.items() if key not in entries and not isinstance(value, Ingredients)}
        added = [f"\n{key} = {as_written(value)}" for key, value in own.items()]
        is_told = isinstance(kind, type) and (node or path.partition(".")[0] != SWEEP)
        for item in fields(kind) if is_told else ():
            if item.name not in node and item.default is not MISSING:
                added.append(f"\n{item.name} = {as_written(item.default)}  # default")
        if entries:
            last = _resolve_lines(node, lines, entries)
            lines[last] = None if ingredients.at(path) is None else "".join([lines[last], *added])
        elif added:
            lines.append("".join([f"\n[{path}]", *added]))
    return "\n".join(line for line in lines[1:] if line is not None) + "\n"


def _resolve_lines(node: Ingredients, lines: list, entries: dict) -> int:
    """Fill in the values of a section's settings. Returns the number of its last line.

    A setting is left out, as is a whole section, if an override chose another function.
    """
    last = entries.pop("")[1]
    for key, (_, line, raw) in entries.items():
        below = (at for at in range(line + 1, len(lines)) if lines[at].strip()[:1] not in ("", "#", ";"))
        own, value = [line, *islice(below, raw.count("\n"))], node.get(key, MISSING)
        if isinstance(value, Ingredients) or (raw == node.written(key) and "$" not in raw):
            last = own[-1]
            continue
        rest = lines[line][len(key) :]
        for at in own:
            lines[at] = None
        if value is not MISSING:
            last, lines[line] = line, f"{key} = {as_written(value)}{rest[len(strip_comment(rest)) :]}"
    return last


def sections(ingredients: Ingredients) -> list[str]:
    """The dotted paths of all sections, as they are in the file."""
    return [path for path in ingredients._draft if path and isinstance(ingredients.at(path), Ingredients)]


def settings(ingredients: Ingredients) -> list[tuple[str, str]]:
    """(section, key) of all settings."""
    items = ((path, *item) for path in sections(ingredients) for item in ingredients.at(path).items())
    return [(path, key) for path, key, value in items if not isinstance(value, Ingredients)]


def defaults(ingredients: Ingredients) -> dict:
    """The path of each setting that has a default -> the default: as declared, or of an argument of a function."""
    found = {}
    for path in [*sections(ingredients), *(path for path, kind in SECTIONS.items() if isinstance(kind, type))]:
        section = ingredients.at(path, {})
        called = call_key(section)
        taker = registry[called[1:]].get(section[called]) if called else kind_of(path)
        if callable(taker):
            found |= {f"{path}.{key}": value for key, value in signature_of(taker).defaults.items()}
    return found


def users(ingredients: Ingredients) -> dict[str, list[str]]:
    """The path of each setting and section that references mean -> the settings with these references."""
    nodes, found = {path: ingredients.at(path) for path in ["", *sections(ingredients)]}, {}
    for path, node in nodes.items():
        for key in node:
            names = {}
            evaluate(node.written(key), lambda name, is_text, names=names: names.setdefault(name, ""))
            for name in [name for name in names if not name.startswith("env:")]:
                target = ".".join(find(nodes, name, path, key)).lstrip(".")
                found.setdefault(target, []).append(f"{path}.{key}")
    return found
