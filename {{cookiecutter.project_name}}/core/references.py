"""A draft -> the tree of its sections: values are read, and each `${...}` takes the value that it refers to."""

import json
import os

from .errors import Place, note, suggest
from .ingredients import Ingredients, call_key
from .values import BROKEN, MAX_DEPTH, as_written, evaluate

MAX_EXPANSION = 1_000_000  # characters that references may add to one file: the billion-laughs bound
MAX_SEARCH = 50_000  # names times problems that are searched for near ones: half a second
_PENDING = object()  # the value of a setting that waits for others


def find(nodes: dict, name: str, path: str, user: str) -> tuple | None:
    """(section, key) of what `${name}` means to the setting `user` of the section `path`, or None."""
    inner, _, key = name.rpartition(".")
    if inner and key in nodes.get(inner, ()):  # of several parts: from the root first
        return inner, key
    if name == user:  # a setting does not mean itself
        path = path.rpartition(".")[0]
    while key not in nodes.get(section := f"{path}.{inner}".strip("."), ()):  # outwards from its own section
        if not path:
            return None
        path = path.rpartition(".")[0]
    return section, key


class Tree:
    """The tree of a draft: path of a section -> key, or "" for the section itself -> (file, line, text as written).

    In what follows a setting is (path of its section, key).
    """

    def __init__(self, draft: dict, problems: list):
        self.draft, self.problems, self.budget = draft, problems, MAX_EXPANSION
        self.nodes = {}  # path of a section -> the section
        self.origins = {}  # setting that is a reference -> the one whose text it takes
        self.heights = {}  # id of a list, object or section -> (how many levels are in it, the very thing)

    def add(self, path: str, place: tuple) -> Ingredients:
        """The section of that path, put into those above."""
        if path not in self.nodes:
            entries = self.draft.setdefault(path, {"": place})
            self.nodes[path] = Ingredients({key: _PENDING for key in entries if key}, path, self.draft)
            above, _, name = path.rpartition(".")
            if path:
                self.add(above, place)[name] = self.nodes[path]
            if path and name in self.draft[above]:
                setting, section = Place(*self.draft[above].pop(name)), Place(*entries[""])
                message = f"{name} is a setting ({setting}) and a section ([{path}], {section}); rename one"
                note(self.problems, message, path, max(setting, section))
        return self.nodes[path]

    def build(self) -> Ingredients:
        """Give each setting its value. What refers to something that has none yet waits, and is read once more."""
        for path, entries in list(self.draft.items()):
            self.add(path, entries[""])
        settings = ((path, key) for path, entries in self.draft.items() for key in entries if key)
        waits = {setting: needed for setting in settings if (needed := self.settle(*setting))}
        stack = {None: iter(waits)}  # setting -> those it waits for: chains may exceed Python's stack
        while stack:
            setting = next(reversed(stack))
            needed = next(stack[setting], None)
            if needed is None:
                stack.popitem()
                if setting:
                    self.settle(*setting)
            elif needed in stack:
                self.report_circle(list(stack)[list(stack).index(needed) :])
            elif self.value(needed) is _PENDING:
                stack[needed] = iter(waits[needed])
        return self.nodes[""]

    def value(self, setting: tuple):
        return self.nodes[setting[0]][setting[1]]

    def report(self, path: str, key: str, message: str) -> None:
        note(self.problems, message, f"{path}.{key}")
        self.nodes[path][key] = BROKEN

    def report_circle(self, circle: list) -> None:
        names = [f"{path}.{key} ({self.nodes[path].where(key)})" for path, key in circle]
        if len(names) > 20:
            names[10:-10] = [f"… {len(names) - 20} more …"]
        for path, key in circle:
            self.nodes[path][key] = BROKEN
        self.report(*circle[0], "refers to itself: " + " -> ".join([*names, ".".join(circle[0])]))

    def settle(self, path: str, key: str) -> list:
        """Read one setting. Returns the settings that must be read before, if any; then it stays as it is."""
        if self.nodes[path][key] is BROKEN:
            return []
        raw, used, dead, budget = self.draft[path][key][2], {}, {}, self.budget

        def look_up(name: str, is_text: bool):
            if name.startswith("env:"):
                variable, _, default = name[4:].partition(":")
                value = os.environ.get(variable, default if name.count(":") > 1 else None)
                return dead.setdefault(name, "") if value is None else value
            target = find(self.nodes, name, path, key)
            if target is None:
                return dead.setdefault(name, "")
            inside = {setting: self.value(setting) for setting in self.inside(*target)}
            used.update(inside)
            if any(value is _PENDING or value is BROKEN for value in inside.values()):
                return ""
            if is_text:
                return self.text_of(target)
            if raw[0] == "$":
                self.origins[path, key] = self.origins.get(target, target)
            value = self.value(target)
            return self.copy(value) if isinstance(value, dict | list) else value

        try:
            value = evaluate(raw, look_up)
            for name in dead:
                self.report(path, key, self.not_found(name, f"{path}.{key}"))
            waits = [setting for setting, state in used.items() if state is _PENDING] if used else []
            if waits and not dead:
                self.budget = budget
                return waits
            if used and path.count(".") + 1 + self.height(value) > MAX_DEPTH:
                raise ValueError(f"what this copies makes it nested deeper than {MAX_DEPTH}")
            self.nodes[path][key] = BROKEN if dead or BROKEN in used.values() else value
        except ValueError as error:
            self.report(path, key, str(error))
        return []

    def inside(self, path: str, key: str):
        """The setting, or all settings that are written in the section of that name."""
        section = f"{path}.{key}".lstrip(".")
        if section not in self.nodes:
            yield path, key
        for name in self.nodes.get(section, ()):
            yield from self.inside(section, name)

    def not_found(self, name: str, user: str) -> str:
        if name.startswith("env:"):
            return f"the environment variable {name[4:]} is not set; set it, or give a default: ${{{name}:default}}"
        section, _, key = name.rpartition(".")
        while section not in self.nodes:
            section, _, key = section.rpartition(".")
        problem = f'[{section}] has no "{key}".' if section else f'there is no "{key}".'
        if key in self.nodes[section]:
            problem = f"{section}.{key} is a setting, so nothing is below it."
        if sum(map(len, self.draft.values())) * (1 + len(self.problems)) > MAX_SEARCH:
            return problem
        names = (f"{path}.{key}".strip(".") for path, entries in self.draft.items() for key in entries)
        return f"{problem} {suggest(name, [name for name in names if name not in ('', user)], '${{{}}}')}"

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
        if is_nested:
            value = value.copy()
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                value[key] = self.copy(item)
        return value

    def height(self, value) -> int:
        """How many levels of lists, objects and sections are in a value, itself included."""
        if not isinstance(value, dict | list):
            return 0
        if id(value) not in self.heights:
            inside = map(self.height, value.values() if isinstance(value, dict) else value)
            self.heights[id(value)] = 1 + max(inside, default=0), value
        return self.heights[id(value)][0]

    def text_of(self, setting: tuple) -> str:
        """What a reference inside text becomes: text itself, all else as its file has it."""
        path, key = self.origins.get(setting, setting)
        value = self.value((path, key))
        if isinstance(value, Ingredients):
            raise ValueError(f"[{value._path}] is a section, which has no text; name one of its settings")
        text = value if isinstance(value, str) else self.draft[path][key][2]
        if text is not value and "$" in text:  # a list with references of its own: pay, then write
            for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
                self.spend(len(part))
            return as_written(value)
        self.spend(len(text))
        return text
