"""Sections that a recipe declares: a dataclass names each setting with its type, default, unit and meaning.

A table of declared sections maps a dotted path to such a dataclass, or to the name of the registry whose functions
the section calls: `{"training.scheme": Scheme, "training.preprocess": "preprocess"}`.
"""

from dataclasses import MISSING, field, fields

from .arguments import Signature, adapt, check_arguments, describe
from .errors import Place, Problem, suggest
from .ingredients import Ingredients, call_key, problem_of

FREE = "project"  # may carry facts that no code reads


def setting(default, doc: str):
    """A field of a declared section; `doc` gives its meaning and unit in one line."""
    return field(default=default, metadata={"doc": doc})


def read_section(ingredients: Ingredients, path: str, declared: type):
    """The declared section at `path` as an instance of its dataclass; absent settings take their defaults."""
    section = ingredients.at(path, {})
    hints = Signature(declared).hints
    known = [item.name for item in fields(declared)]
    return declared(**{name: adapt(section[name], hints.get(name)) for name in known if name in section})


def declared_paths(declared: dict) -> list[str]:
    """The dotted paths of all declared settings."""
    return [f"{path}.{item.name}" for path, kind in declared.items() if isinstance(kind, type) for item in fields(kind)]


def check_settings(ingredients: Ingredients, declared: dict) -> list[Problem]:
    """The problems of all sections: unknown sections and settings, values or functions of the wrong kind."""
    known = {*declared, *(path[:at] for path in declared for at, letter in enumerate(path) if letter == ".")}
    problems, todo = [], [(ingredients, "")]
    for node, path in todo:  # which grows on the way
        kind, free = declared.get(path), path.partition(".")[0] in ("", FREE)
        called = call_key(node)
        message = None
        if isinstance(kind, str) and called != f"@{kind}":
            message = f"this section calls a function: write @{kind} = name"
        elif called and not free and not isinstance(kind, str):
            slots = [name for name, other in declared.items() if other == called[1:]]
            message = f"no recipe calls a function here. {suggest(path, slots, '[{}]')}"
        elif not called and not free and path not in known:
            advice = suggest(path, [*declared, *sorted(known - {*declared})], "[{}]")
            message = f"no recipe reads this section. {advice} Facts of your own belong below [{FREE}]"
        elif isinstance(kind, type) or (not called and not free):
            problems += _check_declared(node, path, kind)
        if message:
            subject = f"{path}.{called}" if called else f"[{path}]"
            place = node.where(called or "") or Place(path)
            problems.append(Problem(place, subject, node.written(called) if called else "", message))
        elif not called:
            inside = ((key, value) for key, value in node.items() if isinstance(value, Ingredients))
            todo += ((value, f"{path}.{key}".lstrip(".")) for key, value in inside)
    for path, kind in declared.items():
        if isinstance(kind, type) and path not in (seen for _, seen in todo):
            problems += check_arguments(Ingredients((), path, ingredients.where("")), path, Signature(kind), "setting")
    return problems


def _check_declared(node: Ingredients, path: str, kind: type | None) -> list[Problem]:
    """Subsections that are declared themselves, or unknown, are looked at in their own turn."""
    fields_alone = {key: value for key, value in node.items() if not isinstance(value, Ingredients)}
    if kind is None:
        message = f"[{path}] has no settings of its own"
        return [problem_of(node, key, message, path) for key in fields_alone]
    return check_arguments(node.with_items(fields_alone), path, Signature(kind), "setting")


def help_text(declared: dict) -> str:
    """The declared settings, a line each: name, type, default, meaning."""
    lines = []
    for path, kind in declared.items():
        lines.append(
            f"\n[{path}]" + ("" if isinstance(kind, type) else f"  @{kind} = name of a function, and its arguments")
        )
        hints = Signature(kind).hints if isinstance(kind, type) else {}
        for item in fields(kind) if hints else ():
            default = "" if item.default is MISSING else f" = {item.default}"
            lines.append(
                f"  {item.name}{default}  ({describe(hints[item.name])})\n      {item.metadata.get('doc', '')}"
            )
    return "\n".join(lines).lstrip("\n")
