"""`${...}`: each reference finds its target by name, and takes its value once that is known."""

import json
import os
from itertools import chain, islice

from .errors import note, suggest
from .ingredients import Ingredients, call_key
from .values import BROKEN, MAX_DEPTH, Reference, Text, as_written, references_in

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound
MAX_SEARCH = 50_000  # names times problems that are searched for near ones: half a second


def resolve_references(nodes: dict, problems: list) -> None:
    """Put the values in place of the references, in all sections (`nodes`, by path)."""
    scope = _Scope(nodes, problems)
    stack = {None: iter(list(scope.pending))}  # setting -> those it waits for: chains may exceed Python's stack
    while stack:
        needed = next(stack[next(reversed(stack))], None)
        if needed is None:
            stack.popitem()
        elif needed in stack:
            scope.report_circle(list(stack)[list(stack).index(needed) :])
        elif needed in scope.pending:
            stack[needed] = scope.resolve(*needed)


def find(nodes: dict, reference: Reference, path: str, user: str) -> tuple | None:
    """(section, key) of what a reference means to the setting `user` of the section `path`, or None."""
    if reference.env is not None:
        value = os.environ.get(reference.env, reference.default)
        return None if value is None else (Ingredients({user: value}), user)
    inner, _, name = reference.path.rpartition(".")
    if inner and name in nodes.get(inner, ()):  # of several parts: from the root first
        return nodes[inner], name
    if reference.path == user:  # a setting does not mean itself
        path = path.rpartition(".")[0]
    while name not in nodes.get(section := f"{path}.{inner}".strip("."), ()):  # outwards from its own section
        if not path:
            return None
        path = path.rpartition(".")[0]
    return nodes[section], name


class _Scope:
    """What the settings of a file share while their references are resolved."""

    def __init__(self, nodes: dict, problems: list):
        self.nodes, self.problems, self.budget = nodes, problems, MAX_EXPANSION
        self.origins = {}  # (path, key) of a reference -> (section, key) whose text it takes
        self.levels = {}  # path of a section that calls a function -> the deepest level where it is shared
        self.pending = {}  # (path, key) of a setting -> its references, until they are resolved
        for path, node in nodes.items():
            for key, value in node.items():
                if not isinstance(value, Ingredients) and (references := references_in(value)):
                    self.pending[path, key] = references

    def report(self, path: str, key: str, message: str) -> None:
        node = self.nodes[path]
        note(self.problems, message, f"{path}.{key}", node.where(key), node.written(key))
        node[key] = BROKEN

    def report_circle(self, circle: list) -> None:
        names = [f"{path}.{key} ({self.nodes[path].where(key)})" for path, key in circle]
        if len(names) > 20:
            names[10:-10] = [f"… {len(names) - 20} more …"]
        self.report(*circle[0], "refers to itself: " + " -> ".join([*names, ".".join(circle[0])]))
        for path, key in circle:
            self.nodes[path][key] = BROKEN

    def resolve(self, path: str, key: str):
        """Put the value of one setting; a generator of the (path, key) that must be resolved before."""
        node, targets = self.nodes[path], {}
        for reference in self.pending[path, key]:
            targets[reference] = find(self.nodes, reference, path, key)
            if targets[reference] is None:
                self.report(path, key, self.not_found(reference, f"{path}.{key}"))
        waits = [found for found in targets.values() if found]
        for other, name in waits:  # which grows: of a section all that is written in it
            if node[key] is not BROKEN and (other._path, name) in self.pending:
                yield other._path, name
            value = other[name]
            if isinstance(value, Ingredients) and value._path == f"{other._path}.{name}".lstrip("."):
                waits += [(value, inner) for inner in value]
        reference = self.pending.pop((path, key))[0]
        if node[key] is reference and targets[reference]:
            other, name = targets[reference]
            self.origins[path, key] = self.origins.get((other._path, name), (other, name))
        if node[key] is BROKEN or any(other[name] is BROKEN for other, name in waits):
            node[key] = BROKEN  # its cause is reported already
            return
        try:
            node[key] = self.fill(node[key], path.count(".") + 1, targets)
        except ValueError as error:
            self.report(path, key, str(error))

    def not_found(self, reference: Reference, user: str) -> str:
        if (name := reference.env) is not None:
            return f"the environment variable {name} is not set; set it, or give a default: ${{env:{name}:default}}"
        section, _, name = reference.path.rpartition(".")
        while section not in self.nodes:
            section, _, name = section.rpartition(".")
        problem = f'[{section}] has no "{name}".' if section else f'there is no "{name}".'
        if name in self.nodes[section]:
            problem = f"{section}.{name} is a setting, so nothing is below it."
        every = (f"{path}.{key}".strip(".") for path, node in self.nodes.items() for key in chain([""], node._entries))
        limit = MAX_SEARCH // (1 + len(self.problems))
        names = [name for name in islice(every, limit) if name not in ("", user)]
        return problem if next(every, None) else f"{problem} {suggest(reference.path, names, '${{{}}}')}"

    def spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise ValueError(f"the references grow to more than {MAX_EXPANSION:,} characters; shorten the chain")

    def fill(self, value, level: int, targets: dict | None = None):
        """`value` below `level` others, its references replaced by `targets`; without targets a copy, which is paid."""
        if isinstance(value, Reference):
            node, key = targets[value]
            return self.fill(node[key], level) if isinstance(node[key], dict | list) else node[key]
        if isinstance(value, Text):
            return "".join(part if isinstance(part, str) else self.text_of(*targets[part]) for part in value)
        is_nested = isinstance(value, dict | list)
        if is_nested and level >= MAX_DEPTH:
            raise ValueError(f"what this copies makes it nested deeper than {MAX_DEPTH}")
        if isinstance(value, Ingredients) and call_key(value):  # shared, not copied: it is called once
            if self.levels.get(value._path, 0) < level:
                self.levels[value._path] = level
                self.fill(dict(value), level, {})  # for its depth alone: what has targets costs nothing
            return value
        if targets is None:  # 1: a list of empty lists is not free
            self.spend(1 + len("".join(value) if isinstance(value, dict) else "" if is_nested else str(value)))
        if isinstance(value, list):
            return [self.fill(item, level + 1, targets) for item in value]
        if not is_nested:
            return value
        items = {key: self.fill(item, level + 1, targets) for key, item in value.items()}
        return value.with_items(items) if isinstance(value, Ingredients) else items

    def text_of(self, node: Ingredients, key: str) -> str:
        """What a reference inside text becomes: text itself, all else as its file has it."""
        node, key = self.origins.get((node._path, key), (node, key))
        value = node[key]
        if isinstance(value, Ingredients):
            advice = suggest(value._path, [f"{value._path}.{name}" for name in value._entries], "${{{}}}")
            raise ValueError(f"[{value._path}] is a section, which has no text. {advice}")
        text = value if isinstance(value, str) else node._entries[key][0]
        if text is not value and "${" in text.replace("$$", ""):  # a list with references of its own: pay, then write
            for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
                self.spend(len(part))
            return as_written(value)
        self.spend(len(text))
        return text
