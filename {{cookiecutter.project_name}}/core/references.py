"""`${...}`: each reference finds its target once, in an order in which every target is ready before its user."""

import os

from .errors import Place, Problem, suggest
from .ingredients import Ingredients, is_call
from .values import BROKEN, MAX_DEPTH, Reference, Text, as_written, depth

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound
_NEW, _OPEN, _DONE = range(3)


class Pending:
    """A setting whose value holds references: where it stands, and what they refer to."""

    __slots__ = ("key", "node", "references", "state", "targets")

    def __init__(self, node: Ingredients, key: str, references: list):
        self.node, self.key, self.references = node, key, references
        self.state, self.targets = _NEW, {}

    @property
    def path(self) -> str:
        return f"{self.node._path}.{self.key}"

    def problem(self, message: str) -> Problem:
        raw, file, line, _ = self.node._entries[self.key]
        return Problem(Place(file, line), self.path, raw, message)


def resolve_references(nodes: dict, problems: list) -> None:
    """Put the values in place of the references, in all sections (`nodes`, by path)."""
    pending = [
        Pending(node, key, entry[3])
        for node in nodes.values()
        for key, entry in node._entries.items()
        if entry[3] is not None
    ]
    by_path = {(item.node._path, item.key): item for item in pending}
    within = {}  # section -> the settings with references in it and in its subsections
    for item in pending:
        path = item.node._path
        while path:
            within.setdefault(path, []).append(item)
            path = path.rpartition(".")[0]
    scope = _Scope(nodes, by_path, within, problems)
    for item in pending:
        if item.state == _NEW:
            _settle(scope, item)


class _Scope:
    def __init__(self, nodes: dict, by_path: dict, within: dict, problems: list):
        self.nodes, self.by_path, self.within, self.problems = nodes, by_path, within, problems
        self.budget = MAX_EXPANSION

    def spend(self, characters: int) -> None:
        self.budget -= characters
        if self.budget < 0:
            text = f"the references of this file grow to more than {MAX_EXPANSION:,} characters; shorten the chain"
            raise ValueError(text)


def _settle(scope: _Scope, item: Pending) -> None:
    """Depth first, with a stack of our own: chains may be longer than Python's."""
    stack = [(item, _needed(scope, item))]
    while stack:
        item, needed = stack[-1]
        other = next(needed, None) if item.state == _OPEN else None
        if other is None:
            if item.state == _OPEN:
                _fill(scope, item)
            stack.pop()
            if item.node[item.key] is BROKEN and stack:
                _break(stack[-1][0])  # what is told is the problem of the first
        elif other.state == _NEW:
            stack.append((other, _needed(scope, other)))
        elif other.state == _OPEN:
            _report_cycle(scope, [held for held, _ in stack], other)
        elif other.node[other.key] is BROKEN:
            _break(item)


def _break(item: Pending) -> None:
    item.state, item.node[item.key] = _DONE, BROKEN


def _needed(scope: _Scope, item: Pending):
    """Find what the setting refers to; an iterator over the settings to settle before it."""
    item.state, needed = _OPEN, []
    for reference in item.references:
        found = (None, reference.env) if reference.env is not None else _find(scope.nodes, reference.path, item)
        if reference.env is not None and os.environ.get(reference.env, reference.default) is None:
            advice = f"is not set; set it, or give a default: ${{env:{reference.env}:default}}"
            scope.problems.append(item.problem(f"the environment variable {reference.env} {advice}"))
            _break(item)
        elif found is None:
            scope.problems.append(item.problem(_not_found(scope, reference.path, item.path)))
            _break(item)
        elif found[1] is None:
            needed += scope.within.get(found[0]._path, ())
        elif (found[0] or {}).get(found[1]) is BROKEN:
            _break(item)
        elif found[0] is not None and (found[0]._path, found[1]) in scope.by_path:
            needed.append(scope.by_path[found[0]._path, found[1]])
        item.targets[reference] = found
    return iter(needed)


def _find(nodes: dict, path: str, user: Pending) -> tuple | None:
    """(section, key) of the setting that `path` means to `user`, (section, None) for a section; None for neither.

    A path of several parts is looked up from the root first; then both kinds go from the own section outwards.
    """
    inner, _, name = path.rpartition(".")
    found = _at(nodes, inner, name) if inner else None
    scope = user.node._path
    while found is None:
        if inner or scope != user.node._path or name != user.key:
            found = _at(nodes, f"{scope}.{inner}" if scope and inner else scope or inner, name)
        if not scope:
            break
        scope = scope.rpartition(".")[0]
    return found


def _at(nodes: dict, section: str, name: str) -> tuple | None:
    node = nodes.get(section)
    if node is not None and name in node._entries:
        return node, name
    node = nodes.get(f"{section}.{name}" if section else name)
    return None if node is None else (node, None)


def _not_found(scope: _Scope, path: str, user: str) -> str:
    section, rest = "", path
    while rest and (inner := f"{section}.{rest.partition('.')[0]}".lstrip(".")) in scope.nodes:
        section, rest = inner, rest.partition(".")[2]
    name = rest.partition(".")[0]
    problem = f'[{section}] has no "{name}".' if section else f'there is no "{name}".'
    if section and name in scope.nodes[section]._entries:
        problem = f"{section}.{name} is a setting, so nothing stands below it."
    if len(scope.problems) > 50:  # the search for near names takes its time
        return problem
    names = [f"{name}.{key}" if key else name for name, node in scope.nodes.items() for key in ["", *node._entries]]
    return f"{problem} {suggest(path, (name for name in names if name not in ('', user)), '${{{}}}')}"


def _report_cycle(scope: _Scope, stack: list, target: Pending) -> None:
    chain = stack[stack.index(target) :]
    names = [f"{item.path} ({item.problem('').place})" for item in chain]
    if len(names) > 20:
        names[10:-10] = [f"… {len(names) - 20} more …"]
    scope.problems.append(target.problem("refers to itself: " + " -> ".join([*names, target.path])))
    for item in chain:
        _break(item)


def _fill(scope: _Scope, item: Pending) -> None:
    """Replace the references of a setting whose targets are all ready."""
    template = item.node[item.key]
    try:
        value = _put(scope, item, template)
        if isinstance(value, dict | list) and depth(value) + item.node._path.count(".") + 1 > MAX_DEPTH:
            raise ValueError(f"what this copies makes it nested deeper than {MAX_DEPTH}")
    except ValueError as error:
        scope.problems.append(item.problem(str(error)))
        _break(item)
        return
    raw, file, line, _ = item.node._entries[item.key]
    text = None
    if not isinstance(value, str):  # a list with references in it, or what another setting holds
        text = _text_of(item.targets[template], template) if isinstance(template, Reference) else as_written(value)
    item.node._entries[item.key] = (raw, file, line, text)
    item.node[item.key], item.state = value, _DONE


def _put(scope: _Scope, item: Pending, value):
    """`value` with its references replaced, at any depth of lists and objects."""
    if isinstance(value, Reference):
        found, key = item.targets[value]
        result = _text_of((None, key), value) if found is None else found if key is None else found[key]
        if isinstance(result, Ingredients):
            result = result if is_call(result) else _copy(result)
        if isinstance(result, dict | list) or value is not item.node[item.key]:
            scope.spend(_size(result))
        return result
    if isinstance(value, Text):
        parts = [part if isinstance(part, str) else _as_text(scope, item.targets[part], part) for part in value]
        return "".join(parts)
    if isinstance(value, list):
        return [_put(scope, item, part) for part in value]
    if isinstance(value, dict):
        return {key: _put(scope, item, part) for key, part in value.items()}
    return value


def _size(value) -> int:
    if isinstance(value, dict):
        return sum(len(key) + _size(item) for key, item in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else len(str(value))


def _copy(value):
    """A section is copied at all depths, but one that calls a function is shared: it is called once."""
    if isinstance(value, Ingredients) and not is_call(value):
        return value.with_items({key: _copy(item) for key, item in value.items()})
    return value


def _as_text(scope: _Scope, target: tuple, reference: Reference) -> str:
    node, key = target
    held = node if key is None else node[key] if node is not None else None
    if isinstance(held, Ingredients):
        inside = [f"{held._path}.{name}" for name in held._entries]
        raise ValueError(f"[{held._path}] is a section, which has no text. {suggest(held._path, inside, '${{{}}}')}")
    text = _text_of(target, reference)
    scope.spend(len(text))
    return text


def _text_of(target: tuple, reference: Reference) -> str | None:
    """What a reference inside text puts there: text itself, all else as it stands in its file; None for a section."""
    node, key = target
    if node is None:
        return os.environ.get(key, reference.default)
    if key is None or isinstance(node[key], Ingredients):
        return None
    raw, _, _, text = node._entries[key]
    return node[key] if isinstance(node[key], str) else raw if text is None else text
