"""Classes of installed packages as registered functions. Not a shelf: it registers nothing."""

import functools
from inspect import Parameter, Signature, signature


def adopt(factory, cls, without=(), defaults=None, **added):
    """`factory` with the name, the source line and the arguments of `cls`, to be checked like any registered function.

    `without`: arguments that the recipe supplies. `defaults`: a default where `cls` has none or another one. `added`:
    further arguments, name = (annotation, default). Where `cls` takes a tensor, a file gives a list of numbers.
    """
    only = Parameter.KEYWORD_ONLY
    taken = [Parameter(key, only, annotation=hint, default=default) for key, (hint, default) in added.items()]
    for p in signature(cls).parameters.values():
        if p.name not in without and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            taken.append(p.replace(kind=only, default=(defaults or {}).get(p.name, p.default)))
    functools.update_wrapper(factory, cls, updated=())
    factory.__signature__ = Signature(taken)
    return factory


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
