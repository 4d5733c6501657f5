"""Names -> functions. Every section with `@registry = name` is checked before the first one is called."""

import importlib

from .errors import IngredientsError, Place, Problem, note, suggest
from .ingredients import Ingredients, call_key, problem_of
from .values import BROKEN

_HOLDERS = (dict, list)  # what sections may stand in; most values are neither


class Registry(dict):
    """Functions of one kind by name: `@registry.NAME.register("x")`, `registry.NAME.get("x")`."""

    def __init__(self, name: str):
        self.name, self._signatures, self._modules, self._shelves = name, {}, {}, {}

    def register(self, name: str):
        """Decorator that enters a function (or class) under `name`; a name taken by another place is an error."""
        if not isinstance(name, str) or not name:
            raise IngredientsError(f'registry.{self.name}: name the function: @registry.{self.name}.register("x")')

        def enter(function):
            self._read_shelf(name)
            other = dict.get(self, name)
            if other is not None and source(other) != source(function):  # the same place again: a reload
                taken = f'"{name}" is taken in the registry {self.name} by {source(other)}'
                raise IngredientsError(f"{source(function)}: {taken}; give one of them another name")
            self[name] = function
            self._signatures.pop(name, None)
            return function

        return enter

    __call__ = register

    def module(self, path: str, wrap) -> None:
        """Let `path.name` mean `wrap(that function or class)`, for all public names of an installed module.

        The module is imported when a name of it is asked for. What `wrap` gives is checked like what is registered.
        """
        self._modules[path] = wrap

    def shelve(self, name: str, module: str) -> None:
        """Let `module` register `name` once somebody asks for it; `path.*`: the names of an installed module."""
        if self._shelves.setdefault(name, module) != module and name[-1] != "*":  # on two shelves: the second refuses
            importlib.import_module(module)

    def _read_shelf(self, name: str) -> None:
        path = f"{name.rpartition('.')[0]}.*"
        if shelf := self._shelves.get(name) or self._shelves.get(path):
            try:
                importlib.import_module(shelf)
            except ImportError as error:
                raise IngredientsError(f"{name} is in {shelf}, which cannot be imported: {error}") from error

    def __contains__(self, name) -> bool:
        return dict.__contains__(self, name) or name in self._shelves

    def __iter__(self):
        """The names that are registered, those on shelves that are not yet imported included."""
        return iter(dict.fromkeys([*self.keys(), *(name for name in self._shelves if name[-1] != "*")]))

    def names(self) -> list[str]:
        """All names; `path.NAME` stands for those of an installed module."""
        paths = dict.fromkeys([*self._modules, *(name[:-2] for name in self._shelves if name[-1] == "*")])
        return [*self, *(f"{path}.NAME" for path in paths)]

    def get(self, name: str):
        """The function under `name`; IngredientsError with the nearest names where there is none."""
        return self[str(name)]  # a name is text, also where it reads as a number

    def __missing__(self, name: str):
        path = name.rpartition(".")[0]
        self._read_shelf(name)
        if dict.__contains__(self, name):
            return self[name]
        members = _public(path) if path in self._modules else {}
        if name not in members:
            raise IngredientsError(
                f'the registry {self.name} has no "{name}". {suggest(name, [*self.names(), *members])}'
            )
        return self.setdefault(name, self._modules[path](members[name]))

    def signature(self, name: str):
        """What the function under `name` takes; asked for once."""
        if name not in self._signatures:
            from .arguments import Signature  # late: `import core` does without

            self._signatures[name] = Signature(self.get(name))
        return self._signatures[name]


def _public(path: str) -> dict:
    """The public functions and classes of a module by their full names; IngredientsError where it is not installed."""
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        package = path.partition(".")[0]
        raise IngredientsError(f"{path} cannot be imported ({error}): python -m pip install {package}") from error
    names = [key for key in dir(module) if key[0] != "_" and callable(getattr(module, key))]
    return {f"{path}.{key}": getattr(module, key) for key in names}


class Registries(dict):
    """All registries by name: `registry.create("load_dataset")`, then `registry.load_dataset`."""

    def create(self, name: str) -> Registry:
        """The registry of that name, made where it is new."""
        if not name.isidentifier() or name.startswith("_") or hasattr(Registries, name):
            raise IngredientsError(f'"{name}" cannot name a registry: choose a plain word such as load_dataset')
        return self.setdefault(name, Registry(name))

    def __getattr__(self, name: str) -> Registry:
        if name in self:
            return self[name]
        advice = "" if name.startswith("_") else f'registry.create("{name}") makes it. {suggest(name, self)}'
        raise AttributeError(f'there is no registry "{name}"; {advice}')

    def __dir__(self):
        return [*super().__dir__(), *self]


registry = Registries()


def source(function) -> Place:
    """The file and line where a function or class was written."""
    import inspect

    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    try:
        file = code.co_filename if code else inspect.getsourcefile(function)
        line = code.co_firstlineno if code else inspect.getsourcelines(function)[1]
    except (TypeError, OSError):
        return Place(f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}")
    return Place(file, line)


def _sections(node: Ingredients, path: str, seen: set):
    """(section, path) of each section once, those inside before the one that holds them."""
    seen.add(id(node))
    for key, value in node.items():
        inside = []
        if isinstance(value, _HOLDERS):
            _replaced(value, inside.append)
        for inner in inside:
            if id(inner) not in seen:
                yield from _sections(inner, inner._path or f"{path}.{key}".lstrip("."), seen)
    yield node, path


def _replaced(value, replace):
    """A value whose sections, also those in its lists and objects, are replaced by `replace(section)`."""
    if isinstance(value, Ingredients):
        return replace(value)
    if isinstance(value, dict):
        return {key: _replaced(item, replace) for key, item in value.items()}
    return [_replaced(item, replace) for item in value] if isinstance(value, list) else value


def check_functions(ingredients: Ingredients) -> list[Problem]:
    """The problems of all `@` sections: registry, name, arguments missing, unknown or of the wrong kind."""
    problems = []
    for node, path in _sections(ingredients, ingredients._path, set()):
        key = call_key(node)
        if key is None or node[key] is BROKEN:  # which is told already
            continue
        name, functions = node[key], registry.get(key[1:])
        try:
            if functions is None:
                raise IngredientsError(f"there is no registry {key[1:]}. {suggest(key[1:], registry, '@{}')}")
            function = functions.get(name)
        except IngredientsError as error:
            note(problems, problem_of(node, key, str(error), path))
            continue
        for problem in functions.signature(name).check(node, path, "argument"):
            told = f"{problem.message} ({name} stands in {source(function)})"
            note(problems, problem._replace(message=told))
    return problems


def resolve(ingredients: Ingredients) -> Ingredients:
    """A copy with each `@registry = name` section replaced by what its function gives back.

    Everything is checked before anything is called. A section that stands at several places is called once.
    Raises IngredientsError with all problems found.
    """
    problems = check_functions(ingredients)
    if problems:
        raise IngredientsError(problems)
    done = {}  # id of a section -> what it became
    for node, _ in _sections(ingredients, "", set()):
        inside = dict(node)
        for name, value in node.items():
            if isinstance(value, _HOLDERS):
                inside[name] = _replaced(value, lambda section: done[id(section)])
        key = call_key(node)
        done[id(node)] = _call(node, key, inside) if key else node.with_items(inside, node)
    return done[id(ingredients)]


def _call(node: Ingredients, key: str, inside: dict):
    from .arguments import adapt, positional

    name, functions = node[key], registry[key[1:]]
    function, hints = functions.get(name), functions.signature(name).hints
    named = {name: adapt(value, hints.get(name)) for name, value in inside.items() if name[0] not in "@*"}
    try:
        return function(*(value for _, value in positional(inside)), **named)
    except ValueError as error:  # a setting that the function refuses; any other error is the function's own
        message = f"{error} ({name} stands in {source(function)})"
        raise IngredientsError([Problem(node.where(key) or Place(node._path), node._path, "", message)]) from error
