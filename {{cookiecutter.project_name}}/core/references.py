"""`${...}`: each reference finds its target once, in an order in which every target is ready before its user."""

import os

from .errors import suggest
from .ingredients import Ingredients, is_call, problem_of
from .values import BROKEN, MAX_DEPTH, Reference, Template, Text, as_written

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound
_PENDING = frozenset((Reference, Text, Template))
_PLAIN = frozenset((str, int, float, bool, type(None)))


class _Scope:
    """What all settings of a file share while their references are resolved."""

    def __init__(self, nodes: dict, problems: list):
        self.nodes, self.problems = nodes, problems  # nodes: the sections by path, the root by ""
        self.budget = MAX_EXPANSION
        self.texts = {}  # (section, key) -> what a reference in text puts there, where that is not what is written
        self.open = set()  # the settings on the stack
        self.depths = {}  # id of a section that calls a function, which many may share -> its depth

    def spend(self, characters: int) -> None:
        self.budget -= characters
        if self.budget < 0:
            text = f"the references of this file grow to more than {MAX_EXPANSION:,} characters; shorten the chain"
            raise ValueError(text)

    def tell(self, node: Ingredients, key: str, message: str) -> None:
        self.problems.append(problem_of(node, key, message))


def resolve_references(nodes: dict, problems: list) -> None:
    """Put the values in place of the references, in all sections (`nodes`, by path)."""
    scope = _Scope(nodes, problems)
    for node in nodes.values():
        for key, value in node.items():
            if type(value) in _PENDING:
                _settle(scope, node, key)


def _settle(scope: _Scope, node: Ingredients, key: str) -> None:
    """Depth first, with a stack of our own: chains may be longer than Python's."""
    item = _open(scope, node, key)
    stack = [item] if item else []
    while stack:
        node, key, targets, needed = stack[-1]
        if needed and node[key] is not BROKEN:
            other, name = needed.pop()
            if type(other[name]) in _PENDING:
                if (other._path, name) in scope.open:
                    _break_cycle(scope, stack, other, name)
                elif item := _open(scope, other, name):
                    stack.append(item)
            if other[name] is BROKEN:  # what is told is the problem of the first
                node[key] = BROKEN
            continue
        stack.pop()
        scope.open.discard((node._path, key))
        if node[key] is not BROKEN:
            _fill(scope, node, key, targets)
        elif stack:
            node, key, _, _ = stack[-1]
            node[key] = BROKEN


def _open(scope: _Scope, node: Ingredients, key: str) -> tuple | None:
    """Find what a setting refers to, and fill it in; if it must wait, (section, key, targets, settings to wait for)."""
    template, targets, needed = node[key], {}, []
    kind = type(template)
    if kind is Reference and template.env is None:  # the common case, in a third of the time
        found = _find(scope.nodes, template.path, node._path, key)
        if found and found[1] is not None and type(value := found[0][found[1]]) in _PLAIN:
            node[key] = value
            if type(value) is not str:
                scope.texts[node._path, key] = _text_of(scope, found)
            return None
    for reference in (template,) if kind is Reference else template if kind is Text else template.references:
        if type(reference) is str:
            continue
        if reference.env is not None:
            found, message = (None, reference), _check_environment(reference)
        else:
            found = _find(scope.nodes, reference.path, node._path, key)
            message = None if found else _not_found(scope, reference.path, f"{node._path}.{key}")
        if message:
            scope.tell(node, key, message)
            node[key] = BROKEN
            continue
        targets[reference] = found
        section, name = found
        if section is not None:
            value = section[name] if name is not None else section
            if value is BROKEN:
                node[key] = BROKEN
            elif type(value) in _PENDING:
                needed.append(found)
            elif name is None:
                needed += _pending_within(scope.nodes, section)
    if node[key] is BROKEN:
        return None
    if needed:
        scope.open.add((node._path, key))
        return node, key, targets, needed[::-1]
    return _fill(scope, node, key, targets)


def _check_environment(reference: Reference) -> str | None:
    if os.environ.get(reference.env, reference.default) is None:
        advice = f"is not set; set it, or give a default: ${{env:{reference.env}:default}}"
        return f"the environment variable {reference.env} {advice}"
    return None


def _pending_within(nodes: dict, section: Ingredients) -> list[tuple]:
    """The settings with references, or with a problem, in a section and its subsections."""
    needed, broken, todo = [], [], [section]
    for node in todo:  # which grows on the way
        for key, value in node.items():
            if type(value) in _PENDING:
                needed.append((node, key))
            elif value is BROKEN:
                broken.append((node, key))
            elif type(value) is Ingredients and value is nodes.get(f"{node._path}.{key}"):  # not one referred to
                todo.append(value)
    return needed + broken  # a circle is told before what follows from another problem


def _find(nodes: dict, path: str, scope: str, user: str) -> tuple | None:
    """(section, key) of the setting that `path` means in the section `scope`, to the setting `user`.

    (section, None) for a section; None for neither. A path of several parts is looked up from the root first;
    then both kinds go from the own section outwards.
    """
    inner, _, name = path.rpartition(".")
    found = _at(nodes, inner, name) if inner else None
    own = not inner and name == user  # a setting does not mean itself
    while found is None:
        if not own:
            found = _at(nodes, f"{scope}.{inner}" if scope and inner else scope or inner, name)
        if not scope:
            break
        scope, own = scope.rpartition(".")[0], False
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


def _break_cycle(scope: _Scope, stack: list, node: Ingredients, key: str) -> None:
    paths = [(held._path, name) for held, name, _, _ in stack]
    chain = [item[:2] for item in stack[paths.index((node._path, key)) :]]
    names = [f"{node._path}.{key} ({node.where(key)})" for node, key in chain]
    if len(names) > 20:
        names[10:-10] = [f"… {len(names) - 20} more …"]
    scope.tell(node, key, "refers to itself: " + " -> ".join([*names, f"{node._path}.{key}"]))
    for node, key in chain:
        node[key] = BROKEN


def _fill(scope: _Scope, node: Ingredients, key: str, targets: dict) -> None:
    """Replace the references of a setting whose targets are all ready."""
    template = node[key]
    try:
        if type(template) is Reference:
            value = _value_of(targets[template])
            if not isinstance(value, str):
                scope.texts[node._path, key] = _text_of(scope, targets[template])
        else:
            value = _put(scope, targets, template if type(template) is Text else template.value)
            if type(template) is Template:
                scope.texts[node._path, key] = as_written(value)
        if isinstance(value, dict | list):
            if type(template) is Reference:
                scope.spend(_size(value))
            if _depth(scope, value) + node._path.count(".") + 1 > MAX_DEPTH:
                raise ValueError(f"what this copies makes it nested deeper than {MAX_DEPTH}")
        node[key] = value
    except ValueError as error:
        scope.tell(node, key, str(error))
        node[key] = BROKEN


def _value_of(target: tuple):
    node, key = target
    if node is None:
        return os.environ.get(key.env, key.default)
    return _copy(node if key is None else node[key])


def _put(scope: _Scope, targets: dict, value):
    """`value` with its references replaced, at any depth of lists and objects."""
    if isinstance(value, Reference):
        result = _value_of(targets[value])
        scope.spend(_size(result))
        return result
    if isinstance(value, Text):
        return "".join(part if isinstance(part, str) else _as_text(scope, targets[part]) for part in value)
    if isinstance(value, list):
        return [_put(scope, targets, part) for part in value]
    if isinstance(value, dict):
        return {key: _put(scope, targets, part) for key, part in value.items()}
    return value


def _size(value) -> int:
    """Characters that a copy of the value adds; a section that calls a function is shared and adds none."""
    if isinstance(value, dict):
        shared = isinstance(value, Ingredients) and is_call(value)
        return 0 if shared else sum(len(key) + _size(item) for key, item in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else len(str(value))


def _depth(scope: _Scope, value) -> int:
    """Levels of lists, objects and sections; a shared section is measured once."""
    if isinstance(value, Ingredients) and id(value) in scope.depths:
        return scope.depths[id(value)]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inside is None:
        return 0
    depth = 1 + max((_depth(scope, item) for item in inside), default=0)
    if isinstance(value, Ingredients) and is_call(value):
        scope.depths[id(value)] = depth
    return depth


def _copy(value):
    """A section is copied at all depths, but one that calls a function is shared: it is called once."""
    if isinstance(value, Ingredients) and not is_call(value):
        return value.with_items({key: _copy(item) for key, item in value.items()})
    return value


def _as_text(scope: _Scope, target: tuple) -> str:
    node, key = target
    held = node if key is None else node[key] if node is not None else None
    if isinstance(held, Ingredients):
        inside = [f"{held._path}.{name}" for name in held._entries]
        raise ValueError(f"[{held._path}] is a section, which has no text. {suggest(held._path, inside, '${{{}}}')}")
    text = _text_of(scope, target)
    scope.spend(len(text))
    return text


def _text_of(scope: _Scope, target: tuple) -> str | None:
    """What a reference inside text puts there: text itself, all else as it stands in its file; None for a section."""
    node, key = target
    if node is None:
        return _value_of(target)
    if key is None or isinstance(node[key], Ingredients):
        return None
    if isinstance(node[key], str):
        return node[key]
    return scope.texts.get((node._path, key)) or node._entries[key][0]
