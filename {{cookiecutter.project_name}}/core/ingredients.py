"""The object that a file becomes: a dict with attribute access that knows where each value came from."""

from .errors import IngredientsError, Place, Problem, suggest
from .values import as_written, children


class Entry:
    """One setting as read: its value, the text it came from, and its place."""

    __slots__ = ("file", "key", "line", "raw", "references", "section", "state", "targets", "value", "written")

    NEW, OPEN, DONE, BROKEN = range(4)

    def __init__(self, section, key, value, raw, file, line, references):
        self.section, self.key = section, key
        self.value, self.raw = value, raw
        self.file, self.line = file, line
        self.references = references
        self.state = 0
        self.targets = self.written = None

    @property
    def place(self) -> Place:
        return Place(self.file, self.line)

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}"

    @property
    def text(self) -> str:
        """What a reference inside text puts there: text itself, all else as it stands in its file."""
        if self.written is not None:
            return self.written
        return self.value if isinstance(self.value, str) else self.raw


class Section:
    """One section as read: the place of its `[name]` line and its settings."""

    __slots__ = ("entries", "place")

    def __init__(self, place: Place):
        self.place = place
        self.entries = {}


class SectionCopy:
    """Stands for a copy of a section, until all references are known."""

    __slots__ = ("depth", "path", "size")

    def __init__(self, path: str, depth: int, size: int):
        self.path, self.depth, self.size = path, depth, size


class Ingredients(dict):
    """A section: `config.training.scheme.epochs`, or `config["training"]["scheme"]["epochs"]`.

    A key that is also a method of dict (`keys`, `items`, `get`) is reached by `["keys"]`.
    `str()` gives an ini that parses back to the same.
    """

    __slots__ = ("_parsed", "_path", "_section")  # the section that this was resolved from; its path; its text

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._parsed, self._path, self._section = None, "", None

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            if name.startswith("_"):
                raise AttributeError(name) from None
            where = f"[{self._path}]" if self._path else "the ingredients"
            raise AttributeError(f'{where} has no "{name}". {suggest(name, [str(key) for key in self])}') from None

    def __setattr__(self, name: str, value):
        if name in Ingredients.__slots__:
            super().__setattr__(name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str):
        try:
            del self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __dir__(self):
        return [*super().__dir__(), *(key for key in self if isinstance(key, str) and key.isidentifier())]

    def copy(self) -> "Ingredients":
        return _like(self, self)

    def at(self, path: str, default=None):
        """The value at a dotted path below this section, or `default` where there is none."""
        value = self
        for part in path.split("."):
            if not isinstance(value, Ingredients) or part not in value:
                return default
            value = value[part]
        return value

    def where(self, path: str) -> Place | None:
        """The place (file and line) of the setting or section at a dotted path; None where there is none."""
        node, key = self._parsed_node(path)
        if key not in node:
            return None
        if node._section is not None and key in node._section.entries:
            return node._section.entries[key].place
        held = node[key]
        return held._section.place if isinstance(held, Ingredients) and held._section else None

    def written(self, path: str) -> str:
        """The text of the setting at a dotted path as it stands in its file; "" for a section."""
        node, key = self._parsed_node(path)
        entries = node._section.entries if node._section is not None else {}
        return entries[key].raw if key in entries else ""

    def _parsed_node(self, path: str):
        parent, _, key = path.rpartition(".")
        node = self if self._parsed is None else self._parsed
        node = node.at(parent) if parent else node
        return (node if isinstance(node, Ingredients) else Ingredients()), key

    def __str__(self) -> str:
        return "".join(_blocks(self, self, "")).removeprefix("\n")

    __repr__ = dict.__repr__


def located(ingredients: Ingredients, path: str, message: str) -> IngredientsError:
    """The error for one setting or section, with its file, line and value as written; for a recipe to raise."""
    place = ingredients.where(path) or Place("ingredients")
    return IngredientsError([Problem(place, path, ingredients.written(path), message)])


def _like(node: Ingredients, items) -> Ingredients:
    """A section with the same origin and other contents."""
    other = Ingredients(items)
    other._parsed, other._path, other._section = node._parsed, node._path, node._section
    return other


def _blocks(root: Ingredients, node: Ingredients, path: str):
    """The ini text of a section and of those in it, a block each."""
    lines, inner = [], []
    for key, value in node.items():
        if not isinstance(value, Ingredients):
            lines.append(f"{key} = {as_written(value)}".rstrip() + "\n")
        elif _is_elsewhere(root, value, f"{path}.{key}" if path else key):
            lines.append(f"{key} = ${{{value._path}}}\n")
        else:
            inner.append((f"{path}.{key}" if path else key, value))
    if path and (lines or not inner):
        yield f"\n[{path}]\n" + "".join(lines)
    for where, value in inner:
        yield from _blocks(root, value, where)


def _is_elsewhere(root: Ingredients, value: Ingredients, path: str) -> bool:
    """A function's section that stands at another path: both are one object, and stay one when read back."""
    return value._path != path and is_call(value) and root.at(value._path) is value


def is_call(section: dict) -> bool:
    return any(key[:1] == "@" for key in section if isinstance(key, str))


def build(sections: dict) -> Ingredients:
    """The nested object of flat sections whose references are resolved."""
    nodes = {"": Ingredients()}

    def node_at(path):
        if path not in nodes:
            parent, _, name = path.rpartition(".")
            nodes[path] = node = Ingredients()
            node._path = path
            node_at(parent)[name] = node
        return nodes[path]

    copies = []
    for path, section in sections.items():
        node = node_at(path)
        node._section = section
        for key, entry in section.entries.items():
            node[key] = entry.value
            if entry.targets is not None:
                copies.append((node, entry))
                entry.targets = None
    for node, entry in copies:
        node[entry.key] = _materialise(nodes, entry.value)
    return nodes[""]


def _materialise(nodes: dict, value):
    """`value` with each SectionCopy made; a function's section is not copied, so that it is called once."""
    if isinstance(value, SectionCopy):
        node = nodes[value.path]
        return node if is_call(node) else _materialise(nodes, node)
    if isinstance(value, Ingredients):
        if is_call(value):
            return value
        return _like(value, {key: _materialise(nodes, item) for key, item in value.items()})
    if isinstance(value, list):
        return [_materialise(nodes, item) for item in children(value)]
    if isinstance(value, dict):
        return {key: _materialise(nodes, item) for key, item in value.items()}
    return value
