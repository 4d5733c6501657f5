"""The object that a file becomes: a dict with attribute access that knows where each value came from."""

from .errors import IngredientsError, Place, suggest
from .values import as_json, as_written


class Ingredients(dict):
    """A section: `config.training.scheme.epochs`, or `config["training"]["scheme"]["epochs"]`.

    A key that is also a method (`keys`, `items`, `get`, `at`) is reached by `["keys"]`.
    `str()` gives an ini that parses back to the same.
    """

    # draft: path of a section -> key, or "" for the section itself -> (file, line, text as written); of the whole file
    __slots__ = ("_draft", "_path")

    def __init__(self, items=(), path: str = "", draft: dict | None = None):
        super().__init__(items)
        self._path, self._draft = path, draft or {}

    def __getattr__(self, name: str):
        if name in self:
            return self[name]
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(f'[{self._path}] has no "{name}". {suggest(name, map(str, self))}')

    def __setattr__(self, name: str, value):
        (object.__setattr__ if name in Ingredients.__slots__ else dict.__setitem__)(self, name, value)

    def __dir__(self):
        return [*super().__dir__(), *(key for key in self if isinstance(key, str) and key.isidentifier())]

    def copy(self, items=None) -> "Ingredients":
        """A section with the same origin, and with other contents if they are given."""
        return Ingredients(self if items is None else items, self._path, self._draft)

    def at(self, path: str, default=None):
        """The value at a dotted path below this section, or `default`."""
        value = self
        for part in path.split(".") if path else ():
            if not isinstance(value, Ingredients) or part not in value:
                return default
            value = value[part]
        return value

    def where(self, path: str = "") -> Place | None:
        """The place (file and line) of the setting or section at a dotted path; None if no file has it."""
        path = f"{self._path}.{path}".strip(".")
        section, _, key = path.rpartition(".")
        entry = self._draft[path][""] if path in self._draft else self._draft.get(section, {}).get(key)
        return entry and Place(*entry)

    def written(self, path: str) -> str:
        """The text of the setting at a dotted path as its file has it; "" for a section."""
        return (self.where(path) or Place("")).raw

    def __str__(self) -> str:
        return "".join(_blocks(self, self, "")).removeprefix("\n")


def call_key(section: dict) -> str | None:
    """`@registry` if the section calls a function, else None."""
    return next((key for key in section if str(key)[:1] == "@"), None)


def locate(error: IngredientsError, ingredients: Ingredients) -> IngredientsError:
    """The error with the place of each problem that has none yet: its own, or that of the nearest section around."""
    root, problems = Ingredients((), "", ingredients._draft), []
    for problem in error.problems:
        path = above = problem.key.strip("[]")
        while above and not root.where(above):
            above = above.rpartition(".")[0]
        if not problem.place:
            place = root.where(above) or Place("ingredients")
            problem = problem._replace(place=place, raw=problem.raw or root.written(path))
        problems.append(problem)
    return IngredientsError(problems) if problems else error


def _blocks(root: Ingredients, node: Ingredients, path: str):
    """The ini text of a section and of those in it, a block each."""
    lines, inner = [], []
    for key, value in node.items():
        where = f"{path}.{key}" if path else key
        if isinstance(value, Ingredients) and (value._path == where or not _is_shared(root, value)):
            inner.append((where, value))
        else:
            text = _item(root, value) if isinstance(value, dict | list) else as_written(value)
            lines.append(f"{key} = {text}".rstrip(" ") + "\n")
    if path and (lines or not inner):
        yield f"\n[{path}]\n" + "".join(lines)
    for where, value in inner:
        yield from _blocks(root, value, where)


def _is_shared(root: Ingredients, value) -> bool:
    return isinstance(value, Ingredients) and call_key(value) and root.at(value._path) is value


def _item(root: Ingredients, value) -> str:
    """The text of a value in a list or object; a call from elsewhere stays the same call when read back."""
    if _is_shared(root, value):
        return f"${{{value._path}}}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_json(key)}: {_item(root, item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(_item(root, item) for item in value)}]" if isinstance(value, list) else as_json(value)
