"""Sections that a recipe declares: a dataclass names each setting with its type, default, unit and meaning.

A table of declared sections maps a dotted path to such a dataclass, or to the name of the registry whose functions
the section calls: `{"training.scheme": Scheme, "training.preprocess": "preprocess"}`.
"""

from dataclasses import MISSING, field, fields

from .annotations import adapt, describe, fits, hints_of, mend
from .errors import Place, Problem, suggest
from .ingredients import Ingredients, is_call

FREE = "project"  # may carry facts that no code reads


def setting(default, doc: str):
    """A field of a declared section; `doc` gives its meaning and unit in one line."""
    return field(default=default, metadata={"doc": doc})


def read_section(ingredients: Ingredients, path: str, declared: type):
    """The declared section at `path` as an instance of its dataclass; absent settings take their defaults."""
    section = ingredients.at(path, {})
    hints = hints_of(declared)
    known = [item.name for item in fields(declared)]
    return declared(**{name: adapt(section[name], hints.get(name)) for name in known if name in section})


def is_declared(declared: dict, path: str) -> bool:
    """Whether a recipe declares the setting at this dotted path."""
    section, _, key = path.rpartition(".")
    kind = declared.get(section)
    return isinstance(kind, type) and key in (item.name for item in fields(kind))


def declared_paths(declared: dict) -> list[str]:
    """The dotted paths of all declared settings."""
    return [f"{path}.{item.name}" for path, kind in declared.items() if isinstance(kind, type) for item in fields(kind)]


def check_settings(ingredients: Ingredients, declared: dict) -> list[Problem]:
    """The problems of all sections: unknown sections and settings, values or functions of the wrong kind."""
    parents = {path[:at] for path in declared for at, letter in enumerate(path) if letter == "."}
    problems, todo = [], [(ingredients, "")]
    while todo:
        node, path = todo.pop(0)
        kind = declared.get(path)
        below = [
            (value, f"{path}.{key}" if path else key) for key, value in node.items() if isinstance(value, Ingredients)
        ]
        if isinstance(kind, str) or is_call(node):
            problems += _check_slot(ingredients, node, path, kind if isinstance(kind, str) else None, declared)
            continue
        if isinstance(kind, type):
            problems += _check_declared(node, path, kind)
        elif path and path not in parents and path.partition(".")[0] != FREE:
            known = [*declared, *sorted(parents)]
            message = (
                f"no recipe reads this section. {suggest(path, known, '[{}]')} Facts of your own belong below [project]"
            )
            problems.append(Problem(_place(ingredients, path), f"[{path}]", "", message))
            continue
        elif path and path.partition(".")[0] != FREE:
            problems += _check_declared(node, path, None)
        todo += below
    return problems


def _place(ingredients: Ingredients, path: str) -> Place:
    return ingredients.where(path) or Place("")


def _check_slot(ingredients, node, path: str, kind: str | None, declared: dict) -> list[Problem]:
    called = next((key for key in node if key[:1] == "@"), None)
    if called == f"@{kind}" or (kind is None and path.partition(".")[0] == FREE):
        return []
    if kind is None:
        slots = [name for name, other in declared.items() if other == called[1:]]
        message = f"no recipe calls a function here. {suggest(path, slots, '[{}]')}"
    else:
        message = f"this section calls a function: write @{kind} = name"
    place = (node.where(called) if called else None) or _place(ingredients, path)
    return [
        Problem(place, f"{path}.{called}" if called else f"[{path}]", node.written(called) if called else "", message)
    ]


def _check_declared(node: Ingredients, path: str, kind: type | None) -> list[Problem]:
    problems = []
    hints = hints_of(kind) if kind else {}
    known = {item.name: item for item in fields(kind)} if kind else {}
    for key, value in node.items():
        if isinstance(value, Ingredients):
            if key in known:
                problems.append(Problem(_place(node, key), f"[{path}.{key}]", "", f"{key} is a setting of [{path}]"))
            continue
        raw, message = node.written(key), None
        if key not in known:
            message = f"no such setting. {suggest(key, known)}" if known else f"[{path}] has no settings of its own"
        elif not fits(value, hints[key]):
            message = mend(value, raw, hints[key])
        if message:
            problems.append(Problem(node.where(key) or Place(path), f"{path}.{key}", raw, message))
    missing = [name for name, item in known.items() if item.default is MISSING and name not in node]
    for name in missing:
        problems.append(Problem(_place(node, ""), f"{path}.{name}", "", f"missing: {describe(hints[name])} is needed"))
    return problems


def help_text(declared: dict) -> str:
    """The declared settings, a line each: name, type, default, meaning."""
    lines = []
    for path, kind in declared.items():
        lines.append(
            f"\n[{path}]" + ("" if isinstance(kind, type) else f"  @{kind} = name of a function, and its arguments")
        )
        hints = hints_of(kind) if isinstance(kind, type) else {}
        for item in fields(kind) if hints else ():
            default = "" if item.default is MISSING else f" = {item.default}"
            lines.append(
                f"  {item.name}{default}  ({describe(hints[item.name])})\n      {item.metadata.get('doc', '')}"
            )
    return "\n".join(lines).lstrip("\n")
