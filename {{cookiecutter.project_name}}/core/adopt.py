"""Classes of installed packages as functions of a registry, as in `@optimizer = torch.optim.RMSprop`."""

import collections.abc
import functools
import importlib
import inspect
import operator
import types
import typing
from contextlib import contextmanager

from .errors import SettingError


def need(package: str, module: str | None = None):
    """The module of an optional package. Raises ValueError with the pip command if it is not installed."""
    try:
        return importlib.import_module(module or package)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != package:  # it is there, and lacks something itself
            raise
        raise ValueError(f"needs the package {package}: python -m pip install {package}") from None


def adopt(factory, cls, without=(), defaults=None, **added):
    """`factory` with the name, the source line and the arguments of `cls`, to be checked like any registered function.

    `without`: arguments that the recipe supplies. `defaults`: a default where `cls` has none or another one. `added`:
    further arguments, name = (annotation, default). Where `cls` takes a tensor, a file gives a list of numbers.
    """
    only = inspect.Parameter.KEYWORD_ONLY
    try:  # annotations may be text, with names that the module imports for type checkers alone
        signature = inspect.signature(cls, eval_str=True, locals=vars(collections.abc))
    except NameError:
        signature = inspect.signature(cls)
    taken = [inspect.Parameter(name, only, annotation=hint, default=value) for name, (hint, value) in added.items()]
    for p in signature.parameters.values():
        if p.name not in without and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            default = (defaults or {}).get(p.name, p.default)
            taken.append(p.replace(kind=only, default=default, annotation=_without_tensors(p.annotation)))
    functools.update_wrapper(factory, cls, updated=())
    factory.__signature__ = inspect.Signature(taken)
    return factory


def _without_tensors(hint):
    """The annotation in kinds that a file can contain."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_tensor(hint):
        return list[float]
    if origin in (typing.Union, types.UnionType):  # float | Tensor: the number will do
        kept = [_without_tensors(arg) for arg in args if not _is_tensor(arg) or float not in args]
        return functools.reduce(operator.or_, kept)
    if origin in (tuple, list, collections.abc.Iterable):
        return (tuple if origin is tuple else list)[tuple(map(_without_tensors, args))]
    return hint


def _is_tensor(hint) -> bool:
    return isinstance(hint, type) and (hint.__module__, hint.__name__) == ("torch", "Tensor")


@contextmanager
def explain(path: str, name: str, outputs, targets):
    """What a class says of its inputs as one line, at the setting `path`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = " ".join(str(error).split()).partition(". ")[0]
        shapes = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
        raise SettingError(path, f"{name} cannot take {shapes}: {reason}") from error


def refuse(reason: str):
    """A stand-in, of any arguments, for what cannot be used here."""

    def factory(**settings):
        raise ValueError(reason)

    factory.__doc__ = reason
    return factory


def attempt(make):
    """What `make()` returns; what a class says of its arguments becomes a ValueError, which gets the ini's line."""
    try:
        return make()
    except (TypeError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from error
