"""Sections that a recipe declares: a dataclass names each setting with its type, default, unit and meaning.

A table of declared sections maps a dotted path to such a dataclass, or to the name of the registry whose functions
the section calls: `{"training.scheme": Scheme, "validation.metrics.*": "metric"}`. A last part `*` means any name.
"""

from dataclasses import field, fields

from .arguments import Signature, adapt
from .errors import Place, Problem, note, suggest
from .ingredients import Ingredients, call_key, problem_of
from .values import BROKEN

FREE = "project"  # may contain facts that no code reads


def setting(default, doc: str):
    """A field of a declared section; `doc` gives its meaning and unit in one line."""
    return field(default=default, metadata={"doc": doc})


def read_section(ingredients: Ingredients, path: str, declared: type):
    """The declared section at `path` as an instance of its dataclass; absent settings take their defaults."""
    section, hints = ingredients.at(path, {}), Signature(declared).hints
    return declared(**{name: adapt(section[name], hint) for name, hint in hints.items() if name in section})


def declared_paths(declared: dict) -> list[str]:
    """The dotted paths of all declared settings."""
    return [f"{path}.{item.name}" for path, kind in declared.items() if isinstance(kind, type) for item in fields(kind)]


def kind_of(declared: dict, path: str):
    """What is declared at a path: a dataclass, the name of a registry, or None."""
    return declared.get(path) or declared.get(path.rpartition(".")[0] + ".*")


def check_settings(ingredients: Ingredients, declared: dict) -> list[Problem]:
    """The problems of all sections: unknown sections and settings, values or functions of the wrong kind."""
    above = {path[:at] for path in declared for at, letter in enumerate(path) if letter == "."}
    absent = [path for path, kind in declared.items() if isinstance(kind, type) and ingredients.at(path) is None]
    empty = {path: Ingredients((), path, ingredients.where("")) for path in absent if path[-1] != "*"}
    problems, todo = [], [("", ingredients), *empty.items()]
    for path, node in todo:  # which grows on the way
        kind, called, message = kind_of(declared, path), call_key(node), None
        is_free = path.partition(".")[0] in ("", FREE)
        inside = {key: value for key, value in node.items() if isinstance(value, Ingredients)}
        own = node.with_items({key: value for key, value in node.items() if key not in inside})
        if isinstance(kind, str):
            if called != f"@{kind}":
                message = f"this section calls a function: write @{kind} = name"
                node.update({called: BROKEN} if called else ())  # so that a wrong registry is reported once
        elif called and not is_free:
            slots = [slot for slot, other in declared.items() if other == called[1:]]
            message = f"no recipe calls a function here. {_nearest(path, slots)}"
        elif isinstance(kind, type):
            for problem in Signature(kind).check(own, path, "setting"):
                note(problems, problem)
        elif path in above and not is_free:
            problems += [problem_of(node, key, f"[{path}] has no settings of its own", path) for key in own]
        elif not is_free and (own or not any(value._place == node._place for value in inside.values())):
            advice = f"{_nearest(path, [*declared, *above])} Facts of your own belong below [{FREE}]"
            message = f"no recipe reads this section. {advice}"
        if message:
            subject, key = (f"{path}.{called}", called) if called else (f"[{path}]", "")
            note(problems, Problem(node.where(key) or Place(path), subject, node.written(key), message))
        if not called and not isinstance(kind, str):
            todo += [(f"{path}.{key}".lstrip("."), value) for key, value in inside.items()]
    return problems


def _nearest(path: str, names: list[str]) -> str:
    """The sections that were probably meant; if [above] is none of theirs, a star is taken to be the last part."""
    above, _, last = path.rpartition(".")
    if not any(name.startswith(f"{above}.") for name in names):
        names = [name[:-1] + last if name[-1] == "*" and name.count(".") == path.count(".") else name for name in names]
    return suggest(path, names, "[{}]")
