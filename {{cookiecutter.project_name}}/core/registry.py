"""Names -> functions. Every section with `@registry = name` is checked before the first one is called."""

import importlib

from .errors import IngredientsError, Place, Problem, suggest
from .ingredients import Ingredients, call_key, locate
from .values import BROKEN


class Registry(dict):
    """Functions of one kind by name: `@registry.NAME.register("x")`, `registry.NAME.get("x")`.

    A name on a shelf has the module that registers it as value until somebody asks for it.
    """

    def __init__(self, name: str):
        self.name, self.modules = name, {}  # path of an installed module -> its `wrap`, or the shelf that gives it

    def register(self, name: str):
        """Decorator that enters a function (or class) under `name`; a name taken by another place is an error."""

        def enter(function):
            self._read_shelf(name)
            other = dict.get(self, name)
            if callable(other) and source(other) != source(function):  # the same place again: a reload
                taken = f'"{name}" is taken in the registry {self.name} by {source(other)}'
                raise IngredientsError(f"{source(function)}: {taken}; give one of them another name")
            self[name] = function
            return function

        return enter

    __call__ = register

    def module(self, path: str, wrap) -> None:
        """Let `path.name` mean `wrap(that function or class)`, for all public names of an installed module."""
        self.modules[path] = wrap

    def shelve(self, name: str, module: str) -> None:
        """Let `module` register `name` once somebody asks for it; `path.*`: the names of an installed module."""
        if name.endswith(".*"):
            self.modules.setdefault(name[:-2], module)
        elif self.setdefault(name, module) != module:  # on two shelves: the second refuses
            importlib.import_module(module)

    def _read_shelf(self, name: str) -> None:
        for shelf in (dict.get(self, name), self.modules.get(name.rpartition(".")[0])):
            if isinstance(shelf, str):
                _import(shelf, name)

    def names(self) -> list[str]:
        """All names; `path.NAME` stands for those of an installed module."""
        return [*self, *(f"{path}.NAME" for path in self.modules)]

    def get(self, name: str):
        """The function under `name`; IngredientsError with the nearest names if there is none."""
        name, members = str(name), {}  # a name is text, even if it reads as a number
        path = name.rpartition(".")[0]
        self._read_shelf(name)
        if name not in self and path in self.modules:
            public = {key: value for key, value in vars(_import(path, name)).items() if key[0] != "_"}
            members = {f"{path}.{key}": value for key, value in public.items() if callable(value)}
        if name in members:
            self[name] = self.modules[path](members[name])
        if name not in self:
            advice = suggest(name, [*self.names(), *members])
            raise IngredientsError(f'the registry {self.name} has no "{name}". {advice}')
        return self[name]


def _import(module: str, name: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        lacks = error.name or module
        if lacks.startswith(("core.", "pantry.", "recipes.")):
            raise IngredientsError(f"{lacks.replace('.', '/')}.py is missing, and {name} needs it ({error})") from error
        advice = f"{error}: python -m pip install {lacks.partition('.')[0]}"
        raise IngredientsError(f"{name} is in {module}, which cannot be imported: {advice}") from error


class Registries(dict):
    """All registries by name: `registry.create("load_dataset")`, then `registry.load_dataset`."""

    def create(self, name: str) -> Registry:
        """The registry of that name, made if it is new."""
        return self.setdefault(name, Registry(name))

    def __missing__(self, name: str):
        raise IngredientsError(f"there is no registry {name}. {suggest(name, self, '@{}')}")

    def __getattr__(self, name: str) -> Registry:
        if name in self:
            return self[name]
        raise AttributeError(f'there is no registry "{name}"; registry.create("{name}") makes it')


registry = Registries()


def source(function) -> Place:
    """The file and line where a function or class was written."""
    import inspect

    function = inspect.unwrap(function)
    try:
        return Place(inspect.getsourcefile(function), inspect.getsourcelines(function)[1])
    except (TypeError, OSError):
        return Place(f"{inspect.getmodule(function).__name__}.{function}")


def check_functions(ingredients: Ingredients) -> list[Problem]:
    """The problems of all `@` sections: registry, name, arguments missing, unknown or of the wrong kind."""
    from .arguments import signature_of  # imports inspect and typing: `import core` does without

    problems, todo, seen = [], [ingredients], set()
    for value in todo:  # which grows on the way
        if id(value) in seen:
            continue
        seen.add(id(value))
        todo += [
            item for item in (value.values() if isinstance(value, dict) else value) if isinstance(item, dict | list)
        ]
        key = call_key(value) if isinstance(value, Ingredients) else None
        if not key or value[key] is BROKEN:
            continue
        try:
            function = registry[key[1:]].get(value[key])
            wrong = signature_of(function).check(value, value._path, "argument")
            where = f" ({value[key]} is defined at {source(function)})" if wrong else ""
            problems += [problem._replace(message=problem.message + where) for problem in wrong]
        except IngredientsError as error:
            problems.append(Problem(None, f"{value._path}.{key}", "", str(error)))
    return problems


def resolve(ingredients: Ingredients) -> Ingredients:
    """A copy with each `@registry = name` section replaced by what its function returns, which is called once.

    Everything is checked before anything is called. Raises IngredientsError with all problems found.
    """
    problems = check_functions(ingredients)
    if problems:
        raise locate(IngredientsError(problems), ingredients)
    done = {}  # id of a section -> what it became

    def resolved(value):
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if not isinstance(value, dict) or id(value) in done:
            return done.get(id(value), value)
        items = {key: resolved(item) for key, item in value.items()}
        if isinstance(value, Ingredients):
            key = call_key(value)
            items = done[id(value)] = _call(value, key, items) if key else value.copy(items)
        return items

    return resolved(ingredients)


def _call(node: Ingredients, key: str, inside: dict):
    from .arguments import adapt, positional, signature_of

    function = registry[key[1:]].get(node[key])
    hints = signature_of(function).hints
    named = {name: adapt(value, hints.get(name)) for name, value in inside.items() if name[0] not in "@*"}
    try:
        return function(*(value for _, value in positional(inside)), **named)
    except ValueError as error:  # a setting that the function refuses; any other error is the function's own
        message = f"{error} ({node[key]} is defined at {source(function)})"
        raise IngredientsError([Problem(node.where(key), node._path, "", message)]) from error


def need(package: str):
    """The module of an optional package. Raises ValueError with the pip command if it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != package:  # it is there, and lacks something itself
            raise
        raise ValueError(f"needs the package {package}: python -m pip install {package}") from None
