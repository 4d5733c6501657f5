"""What installed packages bring: their classes as functions of ours, as in `@optimizer = torch.optim.RMSprop`."""

import importlib
import typing


def need(package: str, module: str | None = None):
    """The module of an optional package. Raises ValueError with the pip command where it is not installed."""
    try:
        return importlib.import_module(module or package)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] != package:  # it is there, and misses something itself
            raise
        raise ValueError(f"needs the package {package}: python -m pip install {package}") from None


def adopt(factory, cls, without=(), defaults=None, **added):
    """`factory` with the name, the source line and the arguments of `cls`, to be checked like any function of ours.

    `without`: arguments that the recipe fills in. `defaults`: a default where `cls` has none or another one. `added`:
    further arguments, name = (annotation, default). Where `cls` wants a tensor, a file gives a list of numbers.
    """
    import collections.abc
    import functools
    import inspect

    only = inspect.Parameter.KEYWORD_ONLY
    try:  # annotations may be text, with names that the module imports for type checkers alone
        signature = inspect.signature(cls, eval_str=True, locals=vars(collections.abc))
    except NameError:
        signature = inspect.signature(cls)
    taken = [inspect.Parameter(name, only, annotation=hint, default=value) for name, (hint, value) in added.items()]
    for p in signature.parameters.values():
        if p.name not in without and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            default = (defaults or {}).get(p.name, p.default)
            taken.append(p.replace(kind=only, default=default, annotation=_as_written(p.annotation)))
    functools.update_wrapper(factory, cls, updated=())
    factory.__signature__ = inspect.Signature(taken)
    return factory


def _as_written(hint):
    """The annotation in kinds that a file can hold."""
    import collections.abc
    import functools
    import operator
    import types

    import torch

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is torch.Tensor:
        return list[float]
    if origin in (typing.Union, types.UnionType):  # float | Tensor: the number will do
        kept = [_as_written(arg) for arg in args if arg is not torch.Tensor or float not in args]
        return functools.reduce(operator.or_, kept)
    if origin in (tuple, list, collections.abc.Iterable):
        return (tuple if origin is tuple else list)[tuple(map(_as_written, args))]
    return hint


def refuse(reason: str):
    """A stand-in, of any arguments, for what cannot be used here."""

    def factory(**settings):
        raise ValueError(reason)

    factory.__doc__ = reason
    return factory


def attempt(make):
    """What `make()` gives; what a class says of its arguments becomes a ValueError, to which the ini's line is put."""
    try:
        return make()
    except (TypeError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise ValueError(str(error).strip().partition("\n")[0]) from error
