"""Names -> functions. Every section with `@registry = name` is checked before the first one is called."""

import importlib
import os

from .errors import IngredientsError, Place, Problem, suggest
from .ingredients import Ingredients, call_key, is_call, problem_of
from .values import BROKEN


class Registry:
    """Functions of one kind by name: `@registry.NAME.register("x")`, `registry.NAME.get("x")`."""

    def __init__(self, name: str):
        self.name = name
        self._functions, self._signatures, self._modules = {}, {}, {}

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
            self._signatures.pop(name, None)
            return function

        return enter

    __call__ = register

    def module(self, path: str, wrap) -> None:
        """Let `path.name` mean `wrap(that function or class)`, for all public names of an installed module.

        The module is imported when a name of it is asked for, not before. `wrap` gives what `register` would enter; its
        signature is checked like any other.
        """
        self._modules[path] = wrap

    def get(self, name: str):
        """The function under `name`; IngredientsError with the nearest names where there is none."""
        if name not in self:
            raise IngredientsError(self.missing(name))
        return self._functions[name]

    def missing(self, name: str) -> str:
        """That there is no such name, and which there are."""
        return f'the registry {self.name} has no "{name}". {suggest(str(name), [*self, *self._names_beside(name)])}'

    def _names_beside(self, name: str) -> list[str]:
        """The names of the module that `name` points into."""
        path = name.rpartition(".")[0] if isinstance(name, str) else ""
        if path not in self._modules:
            return [f"{path}.NAME" for path in self._modules]
        try:
            module = importlib.import_module(path)
        except ImportError:
            return []
        return [f"{path}.{key}" for key in dir(module) if key[0] != "_" and callable(getattr(module, key))]

    def signature(self, name: str):
        """What the function under `name` takes; asked for once."""
        if name not in self._signatures:
            from .arguments import Signature  # late: inspect and typing would cost 15 ms of `import core`

            self._signatures[name] = Signature(self.get(name))
        return self._signatures[name]

    def __contains__(self, name: str) -> bool:
        if name not in self._functions and "." in str(name) and name in self._names_beside(name):
            path, _, key = name.rpartition(".")
            self._functions[name] = self._modules[path](getattr(importlib.import_module(path), key))
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
    import inspect

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
    from .arguments import check_arguments

    key = call_key(node)
    name = node[key]
    functions = registry.get(key[1:])
    if functions is not None and isinstance(name, str) and name in functions:
        found = check_arguments(node, path, functions.signature(name), "argument")
        told = f" ({name} stands in {source(functions.get(name))})" if found else ""
        return [problem._replace(message=problem.message + told) for problem in found]
    if functions is None:
        message = f"there is no registry {key[1:]}. {suggest(key[1:], registry, '@{}')}"
    else:
        message = functions.missing(name)
    problem = problem_of(node, key, message, path)
    return [] if name is BROKEN else [problem._replace(raw=problem.raw or str(name))]


def _resolve(node: Ingredients, done: dict):
    """`node` with its calls made, arguments before their function; `done` holds what each section gave."""
    if id(node) not in done:
        inside = {
            key: _resolve(value, done) if isinstance(value, Ingredients) else value for key, value in node.items()
        }
        if is_call(node):
            done[id(node)] = _call(node, inside)
        else:
            done[id(node)] = resolved = node.with_items(inside)
            resolved._parsed = node
    return done[id(node)]


def _call(node: Ingredients, inside: dict):
    from .arguments import adapt, positional

    key = call_key(node)
    name, functions = node[key], registry[key[1:]]
    function, hints = functions.get(name), functions.signature(name).hints
    named = {name: adapt(value, hints.get(name)) for name, value in inside.items() if name[0] not in "@*"}
    try:
        return function(*(value for _, value in positional(inside)), **named)
    except ValueError as error:  # a setting that the function refuses; any other error is the function's own
        message = f"{error} ({name} stands in {source(function)})"
        raise IngredientsError([Problem(node.where(key) or Place(node._path), node._path, "", message)]) from error
