"""Names -> functions. Every section with `@registry = name` is checked before the first one is called."""

import inspect
import os

from .arguments import adapt, check_arguments, positional, signature_of
from .errors import IngredientsError, Place, Problem, suggest
from .ingredients import Ingredients, is_call
from .values import BROKEN


class Registry:
    """Functions of one kind by name: `@registry.NAME.register("x")`, `registry.NAME.get("x")`."""

    def __init__(self, name: str):
        self.name = name
        self._functions = {}

    def register(self, name: str):
        """Decorator that enters a function (or class) under `name`; a name taken by another place is an error."""
        if not isinstance(name, str) or not name:
            raise IngredientsError(f'registry.{self.name}: name the function: @registry.{self.name}.register("x")')

        def enter(function):
            other = self._functions.get(name)
            if other is not None and source(other) != source(function):  # the same place again: a reload
                taken = f'"{name}" is taken in the registry {self.name} by {source(other)}'
                raise IngredientsError(f"{source(function)}: {taken}; give one of them another name")
            self._functions[name] = function
            return function

        return enter

    __call__ = register

    def get(self, name: str):
        """The function under `name`; IngredientsError with the nearest names where there is none."""
        if name not in self._functions:
            raise IngredientsError(f'the registry {self.name} has no "{name}". {suggest(str(name), self)}')
        return self._functions[name]

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __iter__(self):
        return iter(self._functions)


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
    """The file and line where a function or class was written; the file from the current folder where it is in it."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    try:
        file = code.co_filename if code else inspect.getsourcefile(function)
        line = code.co_firstlineno if code else inspect.getsourcelines(function)[1]
    except (TypeError, OSError):
        return Place(f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}")
    return Place(file.removeprefix(os.getcwd() + os.sep), line)


def resolve(ingredients: Ingredients) -> Ingredients:
    """A copy with each `@registry = name` section replaced by what its function gives back.

    Everything is checked before anything is called. A section that stands at several places is called once.
    Raises IngredientsError with all problems found.
    """
    problems = check_functions(ingredients)
    if problems:
        raise IngredientsError(problems)
    return _resolve(ingredients, {})


def check_functions(ingredients: Ingredients) -> list[Problem]:
    """The problems of all `@` sections: registry, name, arguments missing, unknown or of the wrong kind."""
    problems, seen, todo = [], set(), [(ingredients, "")]
    for node, path in todo:  # which grows on the way
        if id(node) not in seen:
            seen.add(id(node))
            problems += _check_call(node, node._path or path) if is_call(node) else ()
            inside = ((key, value) for key, value in node.items() if isinstance(value, Ingredients))
            todo += ((value, f"{path}.{key}".lstrip(".")) for key, value in inside)
    return problems


def _check_call(node: Ingredients, path: str) -> list[Problem]:
    key, name = _called(node)
    functions = registry.get(key[1:])
    if functions is not None and isinstance(name, str) and name in functions:
        told = f" ({name} stands in {source(functions.get(name))})"
        found = check_arguments(node, path, functions.get(name), "argument")
        return [problem._replace(message=problem.message + told) for problem in found]
    if functions is None:
        message = f"there is no registry {key[1:]}. {suggest(key[1:], registry, '@{}')}"
    else:
        message = f'the registry {key[1:]} has no "{name}". {suggest(str(name), functions)}'
    place = node.where(key) or node._place or Place(path)
    return [] if name is BROKEN else [Problem(place, f"{path}.{key}", node.written(key) or str(name), message)]


def _called(node: Ingredients) -> tuple:
    return next((key, name) for key, name in node.items() if key[:1] == "@")


def _resolve(node, done: dict):
    """`node` with its calls made, arguments before their function; `done` holds what each section gave."""
    if not isinstance(node, Ingredients):
        return node
    if id(node) not in done:
        inside = {key: _resolve(value, done) for key, value in node.items()}
        if is_call(node):
            done[id(node)] = _call(node, inside)
        else:
            done[id(node)] = resolved = node.with_items(inside)
            resolved._parsed = node
    return done[id(node)]


def _call(node: Ingredients, inside: dict):
    key, name = _called(node)
    function = registry[key[1:]].get(name)
    hints = signature_of(function)[1]
    named = {name: adapt(value, hints.get(name)) for name, value in inside.items() if name[0] not in "@*"}
    try:
        return function(*(value for _, value in positional(inside)), **named)
    except ValueError as error:  # a setting that the function refuses; any other error is the function's own
        message = f"{error} ({name} stands in {source(function)})"
        raise IngredientsError([Problem(node.where(key) or Place(node._path), node._path, "", message)]) from error
