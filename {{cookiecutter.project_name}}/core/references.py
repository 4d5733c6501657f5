"""`${...}`: each reference finds its target by name, and takes its value once that is known."""

import itertools
import json
import os

from .errors import note, suggest
from .ingredients import Ingredients, is_call, problem_of
from .values import BROKEN, MAX_DEPTH, Reference, Template, Text, as_written

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound
MAX_SEARCH = 50_000  # names times problems that are searched for near ones: half a second
_TOO_LARGE = f"the references of this file grow to more than {MAX_EXPANSION:,} characters; shorten the chain"
_PENDING = frozenset((Reference, Text, Template))
_PLAIN = frozenset((str, int, float, bool, type(None)))


class _Scope:
    """What the settings of a file share while their references are resolved."""

    def __init__(self, nodes: dict, problems: list):
        self.nodes, self.problems, self.budget = nodes, problems, MAX_EXPANSION
        self.origins = {}  # (path, key) of a reference -> (section, key) whose text stands for it
        self.levels = {}  # path of a section that calls a function -> the deepest level where it is shared

    def spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise ValueError(_TOO_LARGE)

    def tell(self, path: str, key: str, message: str) -> None:
        note(self.problems, problem_of(self.nodes[path], key, message))
        self.nodes[path][key] = BROKEN


def resolve_references(nodes: dict, problems: list) -> None:
    """Put the values in place of the references, in all sections (`nodes`, by path)."""
    scope = _Scope(nodes, problems)
    for path, node in nodes.items():
        for key, value in node.items():
            if type(value) is Reference:
                found = _find(nodes, value, path, key)
                if found and type(found[0][found[1]]) in _PLAIN:  # most references, in half the time
                    node[key] = found[0][found[1]]
                    scope.origins[path, key] = scope.origins.get((found[0]._path, found[1]), found)
    todo = ((path, key) for path, node in nodes.items() for key, value in node.items() if type(value) in _PENDING)
    stack = {None: todo}  # setting -> generator of those that it waits for: chains may be longer than Python's stack
    while stack:
        needed = next(stack[next(reversed(stack))], None)
        if needed is None:
            stack.popitem()
        elif needed not in stack:
            stack[needed] = _resolve(scope, *needed)
        else:
            circle = list(stack)[list(stack).index(needed) :]
            names = [f"{path}.{key} ({nodes[path].where(key)})" for path, key in circle]
            if len(names) > 20:
                names[10:-10] = [f"… {len(names) - 20} more …"]
            scope.tell(*needed, "refers to itself: " + " -> ".join([*names, ".".join(needed)]))
            for path, key in circle:
                nodes[path][key] = BROKEN


def _resolve(scope: _Scope, path: str, key: str):
    """Put the value of one setting; a generator of the (path, key) that must be resolved before."""
    node, targets = scope.nodes[path], {}
    template, waits = node[key], []
    kind = type(template)
    for reference in (template,) if kind is Reference else template if kind is Text else template.references:
        if type(reference) is Reference:
            found = targets[reference] = _find(scope.nodes, reference, path, key)
            if found is None:
                scope.tell(path, key, _not_found(scope, reference, f"{path}.{key}"))
            elif type(found[0][found[1]]) not in _PLAIN:
                waits.append(found)
    for other, name in waits:  # which grows: of a section all that is written in it
        value = other[name]
        if type(value) in _PENDING and node[key] is not BROKEN:
            yield other._path, name
        elif type(value) is Ingredients and value._path == f"{other._path}.{name}".lstrip("."):
            waits += [(value, inner) for inner in value]
    if node[key] is BROKEN or (waits and BROKEN in (other[name] for other, name in waits)):
        node[key] = BROKEN  # what is told already
        return
    if kind is Reference:
        other, name = targets[template]
        scope.origins[path, key] = scope.origins.get((other._path, name), (other, name))
    try:
        node[key] = _fill(scope, template.value if kind is Template else template, path.count(".") + 1, targets)
    except ValueError as error:
        scope.tell(path, key, str(error))


def _find(nodes: dict, reference: Reference, path: str, user: str) -> tuple | None:
    """(section, key) of what a reference means to the setting `user` of the section `path`; None for nothing."""
    if reference.env is not None:
        value = os.environ.get(reference.env, reference.default)
        return None if value is None else (Ingredients({user: value}), user)
    inner, _, name = reference.path.rpartition(".")
    if inner and name in nodes.get(inner, ()):  # of several parts: from the root first
        return nodes[inner], name
    if reference.path == user:  # a setting does not mean itself
        path = path.rpartition(".")[0]
    while name not in nodes.get(section := f"{path}.{inner}".strip("."), ()):  # from the own section outwards
        if not path:
            return None
        path = path.rpartition(".")[0]
    return nodes[section], name


def _not_found(scope: _Scope, reference: Reference, user: str) -> str:
    if (name := reference.env) is not None:
        return f"the environment variable {name} is not set; set it, or give a default: ${{env:{name}:default}}"
    section, _, name = reference.path.rpartition(".")
    while section not in scope.nodes:
        section, _, name = section.rpartition(".")
    problem = f'[{section}] has no "{name}".' if section else f'there is no "{name}".'
    if name in scope.nodes[section]:
        problem = f"{section}.{name} is a setting, so nothing stands below it."
    settings = ((path, key) for path, node in scope.nodes.items() for key in itertools.chain([""], node._entries))
    every = (".".join(filter(None, setting)) for setting in settings)
    names = list(itertools.islice(every, MAX_SEARCH // (1 + len(scope.problems))))
    if next(every, None) is not None:
        return problem
    return f"{problem} {suggest(reference.path, (name for name in names if name not in ('', user)), '${{{}}}')}"


def _fill(scope: _Scope, value, level: int, targets: dict | None = None):
    """`value` below `level` others, its references replaced by `targets`; without targets a copy, which is paid."""
    kind = type(value)
    if kind is Reference:
        node, key = targets[value]
        return node[key] if type(node[key]) in _PLAIN else _fill(scope, node[key], level)
    if kind is Text:
        return "".join(part if type(part) is str else _text(scope, *targets[part]) for part in value)
    if kind not in _PLAIN and level >= MAX_DEPTH:
        raise ValueError(f"what this copies makes it nested deeper than {MAX_DEPTH}")
    if kind is Ingredients and is_call(value):  # shared, not copied: it is called once
        if scope.levels.get(value._path, 0) < level:
            _fill(scope, dict(value), level, {})  # for its depth alone: what has targets costs nothing
            scope.levels[value._path] = level
        return value
    if targets is None:  # 1: a list of empty lists is not free
        scope.spend(1 + len(str(value) if kind in _PLAIN else "" if kind is list else "".join(value)))
    if kind is list:
        return [_fill(scope, item, level + 1, targets) for item in value]
    if kind in _PLAIN:
        return value
    items = {key: _fill(scope, item, level + 1, targets) for key, item in value.items()}
    return items if kind is dict else value.with_items(items)


def _text(scope: _Scope, node: Ingredients, key: str) -> str:
    """What a reference inside text puts there: text itself, all else as it stands in its file."""
    node, key = scope.origins.get((node._path, key), (node, key))
    value = node[key]
    if type(value) is Ingredients:
        advice = suggest(value._path, [f"{value._path}.{name}" for name in value._entries], "${{{}}}")
        raise ValueError(f"[{value._path}] is a section, which has no text. {advice}")
    text = value if type(value) is str else node._entries[key][0]
    if text is not value and "${" in text.replace("$$", ""):  # a list with references of its own: pay, then write
        for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
            scope.spend(len(part))
        return as_written(value)
    scope.spend(len(text))
    return text
