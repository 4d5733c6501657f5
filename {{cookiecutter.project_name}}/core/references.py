"""`${...}`: each reference finds its target by name, and takes its value once that is known."""

import json
import os
from itertools import chain, islice

from .errors import note, suggest
from .ingredients import Ingredients, call_key
from .values import BROKEN, MAX_DEPTH, Pending, Reference, as_written, evaluate

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound
MAX_SEARCH = 50_000  # names times problems that are searched for near ones: half a second


def resolve_references(nodes: dict, problems: list) -> None:
    """Put the values in place of the references, in all sections (`nodes`, by path)."""
    scope = _Scope(nodes, problems)
    pending = [(path, key) for path, node in nodes.items() for key in node if isinstance(node[key], Pending)]
    stack = {None: iter(pending)}  # setting -> those it waits for: chains may exceed Python's stack
    while stack:
        needed = next(stack[next(reversed(stack))], None)
        if needed is None:
            stack.popitem()
        elif needed in stack:
            scope.report_circle(list(stack)[list(stack).index(needed) :])
        elif isinstance(nodes[needed[0]][needed[1]], Pending):
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
        self.origins = {}  # (path, key) of a setting that is a reference -> (section, key) whose text it takes
        self.heights = {}  # path of a section that calls a function -> how many levels are in it

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
        raw, references = node[key]
        for token, reference in references.items():
            targets[token] = find(self.nodes, reference, path, key)
            if targets[token] is None:
                self.report(path, key, self.not_found(reference, f"{path}.{key}"))
        if node[key] is BROKEN:
            return
        waits = list(targets.values())
        for other, name in waits:  # which grows: of a section all that is written in it
            if isinstance(other[name], Pending):
                yield other._path, name
            value = other[name]
            if isinstance(value, Ingredients) and value._path == f"{other._path}.{name}".lstrip("."):
                waits += [(value, inner) for inner in value]
        if any(other[name] is BROKEN for other, name in waits):
            node[key] = BROKEN  # its cause is reported already
            return

        def look_up(token: str, is_text: bool):
            other, name = targets[token]
            if is_text:
                return self.text_of(other, name)
            if raw[0] == "$":
                self.origins[path, key] = self.origins.get((other._path, name), (other, name))
            return self.copy(other[name]) if isinstance(other[name], dict | list) else other[name]

        try:
            value = evaluate(raw, look_up)
            if path.count(".") + 1 + self.height(value) > MAX_DEPTH:
                raise ValueError(f"what this copies makes it nested deeper than {MAX_DEPTH}")
            node[key] = value
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

    def copy(self, value):
        """A copy, which is paid for. A section that calls a function is shared instead: it is called once."""
        if isinstance(value, Ingredients) and call_key(value):
            return value
        is_nested = isinstance(value, dict | list)  # 1: a list of empty lists is not free
        self.spend(1 + len("".join(value) if isinstance(value, dict) else "" if is_nested else str(value)))
        if isinstance(value, list):
            return [self.copy(item) for item in value]
        if not is_nested:
            return value
        items = {key: self.copy(item) for key, item in value.items()}
        return value.with_items(items) if isinstance(value, Ingredients) else items

    def height(self, value) -> int:
        """How many levels of lists, objects and sections are in a value, itself included."""
        if not isinstance(value, dict | list):
            return 0
        path = value._path if isinstance(value, Ingredients) and call_key(value) else None
        if path not in self.heights:
            items = value.values() if isinstance(value, dict) else value
            height = 1 + max(map(self.height, items), default=0)
            if path is None:
                return height
            self.heights[path] = height
        return self.heights[path]

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
