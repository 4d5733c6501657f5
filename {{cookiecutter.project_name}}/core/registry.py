"""Names -> functions. Every section with `@registry = name` is checked before the first one is called."""

import inspect

from .annotations import adapt, fits, hints_of, mend
from .errors import IngredientsError, Place, Problem, suggest
from .ingredients import Ingredients, is_call
from .values import BROKEN

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Registry:
    """Functions of one kind by name: `@registry.NAME.register("x")`, `registry.NAME.get("x")`."""

    def __init__(self, name: str):
        self.name = name
        self._functions = {}

    def register(self, name: str):
        """Decorator that enters a function (or class) under `name`; a name taken by another place is an error."""
        if not isinstance(name, str) or not name:
            raise IngredientsError(
                f'registry.{self.name}: name the function, as in @registry.{self.name}.register("x")'
            )

        def enter(function):
            other = self._functions.get(name)
            if other is not None and source(other) != source(function):  # the same place again: a reload
                raise IngredientsError(
                    f'{source(function)}: "{name}" is taken in the registry {self.name} by {source(other)}; '
                    "give one of them another name"
                )
            self._functions[name] = function
            return function

        return enter

    __call__ = register

    def get(self, name: str):
        """The function under `name`; IngredientsError with the nearest names where there is none."""
        if name not in self._functions:
            raise IngredientsError(f'the registry {self.name} has no "{name}". {suggest(str(name), self._functions)}')
        return self._functions[name]

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    def __iter__(self):
        return iter(self._functions)


class Registries:
    """All registries: `registry.create("load_dataset")`, then `registry.load_dataset`."""

    def __init__(self):
        self._all = {}

    def create(self, name: str) -> Registry:
        """The registry of that name, made where it is new."""
        if not name.isidentifier() or name.startswith("_") or hasattr(Registries, name):
            raise IngredientsError(f'"{name}" cannot name a registry: choose a plain word such as load_dataset')
        return self._all.setdefault(name, Registry(name))

    def __getattr__(self, name: str) -> Registry:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._all:
            raise AttributeError(
                f'there is no registry "{name}"; registry.create("{name}") makes it. {suggest(name, self)}'
            )
        return self._all[name]

    def __iter__(self):
        return iter(self._all)

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def __dir__(self):
        return [*super().__dir__(), *self._all]


registry = Registries()


def source(function) -> Place:
    """The file and line where a function or class was written."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is not None:
        return Place(code.co_filename, code.co_firstlineno)
    try:
        return Place(inspect.getsourcefile(function) or "?", inspect.getsourcelines(function)[1])
    except (TypeError, OSError):
        return Place(f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}")


# ------------------------------------------------------------------------------------------------- resolve


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
    problems, seen, signatures = [], set(), {}
    todo = [(ingredients, "")]
    while todo:
        node, path = todo.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_call(node):
            problems += _check_call(node, node._path or path, signatures)
        for key, value in node.items():
            if isinstance(value, Ingredients):
                todo.append((value, f"{path}.{key}" if path else key))
    return problems


def _check_call(node: Ingredients, path: str, signatures: dict) -> list[Problem]:
    kind, name = _called(node)
    place = node.where("@" + kind) or node.where("") or Place(path)
    subject, raw = f"{path}.@{kind}", node.written("@" + kind) or str(name)
    if kind not in registry:
        advice = suggest(kind, registry, "@{}")
        return [Problem(place, subject, raw, f"there is no registry {kind}. {advice}")]
    if name is BROKEN:
        return []
    if not isinstance(name, str) or name not in getattr(registry, kind):
        advice = suggest(str(name), getattr(registry, kind))
        return [Problem(place, subject, raw, f'the registry {kind} has no "{name}". {advice}')]
    function = getattr(registry, kind).get(name)
    if function not in signatures:
        signatures[function] = _signature(function)
    parameters, hints = signatures[function]
    if parameters is None:
        return []
    taken, problems = _bound(node, parameters, path)
    for parameter, (key, value) in taken.items():
        hint = hints.get(parameter.name, parameter.empty)
        if hint is not parameter.empty and not isinstance(value, Ingredients) and not fits(value, hint):
            raw = node.written(key)
            problems.append(Problem(node.where(key) or place, f"{path}.{key}", raw, mend(value, raw, hint)))
    missing = [p.name for p in parameters if p not in taken and p.default is p.empty and p.kind not in _VARIADIC]
    if missing:
        problems.append(Problem(place, path, "", f"{name} needs {' and '.join(missing)}"))
    told = f" ({name} stands in {_short(source(function))})"
    return [problem._replace(message=problem.message + told) for problem in problems]


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _called(node: Ingredients) -> tuple:
    key = next(key for key in node if key[:1] == "@")
    return key[1:], node[key]


def _signature(function) -> tuple:
    try:
        return list(inspect.signature(function).parameters.values()), hints_of(function)
    except (ValueError, TypeError):  # a builtin that does not tell
        return None, {}


def _positional(node: Ingredients) -> list:
    """(key, value) of the positional arguments: a list, or subsections in their order."""
    star = node.get("*", [])
    if isinstance(star, dict):
        return [(f"*.{key}", value) for key, value in star.items()]
    return [("*", value) for value in (star if isinstance(star, list) else [star])]


def _bound(node: Ingredients, parameters: list, path: str) -> tuple:
    """Which argument goes to which parameter: {parameter: (key, value)}, and the problems of those that go nowhere."""
    taken, problems = {}, []

    def problem(key, message):
        where = node.where(key.partition(".")[0]) or node.where(_at_key(node))
        problems.append(Problem(where or Place(path), f"{path}.{key}", node.written(key), message))

    slots = [p for p in parameters if p.kind in _POSITIONAL]
    positional = _positional(node)
    for index, (key, value) in enumerate(positional):
        if index < len(slots):
            taken[slots[index]] = (key, value)
        elif not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            problem(key, f"{len(positional)} positional arguments, but the function takes {len(slots)}")
            break
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key, value in node.items():
        if key == "*" or key[0] == "@":
            continue
        parameter = named.get(key)
        if parameter is None and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            problem(key, f'the function has no argument "{key}". {suggest(key, named)}')
        elif parameter in taken:
            problem(key, f'"{key}" is given already by *; remove one')
        elif parameter is not None:
            taken[parameter] = (key, value)
    return taken, problems


def _at_key(node: Ingredients) -> str:
    return "@" + _called(node)[0]


def _short(place: Place) -> str:
    import os

    inside = os.path.relpath(place.file) if os.path.isabs(place.file) else place.file
    return str(place._replace(file=min(inside, place.file, key=len)))


def _resolve(node, done: dict):
    """`node` with its calls made, arguments before their function; `done` holds what each section gave."""
    if not isinstance(node, Ingredients):
        return node
    if id(node) not in done:
        inside = {key: _resolve(value, done) for key, value in node.items()}
        if is_call(node):
            done[id(node)] = _call(node, inside)
        else:
            resolved = node.with_items(inside)
            resolved._parsed = node
            done[id(node)] = resolved
    return done[id(node)]


def _call(node: Ingredients, inside: dict):
    kind, name = _called(node)
    function = getattr(registry, kind).get(name)
    hints = hints_of(function)
    star = inside.pop("*", [])
    positional = list(star.values()) if isinstance(star, dict) else star if isinstance(star, list) else [star]
    named = {key: adapt(value, hints.get(key)) for key, value in inside.items() if key[0] != "@"}
    try:
        return function(*positional, **named)
    except ValueError as error:  # a setting that the function refuses; any other error is the function's own
        place = node.where(_at_key(node)) or Place(node._path)
        message = f"{error} ({name} stands in {_short(source(function))})"
        raise IngredientsError([Problem(place, node._path, "", message)]) from error
