"""Which setting or section an error is reported at."""

import traceback
from contextlib import contextmanager

import torch

from core import IngredientsError, SettingError


@contextmanager
def blame(path: str):
    """Errors from inside that name no setting are reported at the setting or section `path`."""
    try:
        yield
    except IngredientsError as error:
        if error.problems:
            raise
        raise SettingError(path, str(error)) from error


@contextmanager
def errors_of(path: str, *given: torch.Tensor):
    """Report what a registered function raises at `path`, its section, with the shapes of what it was given.

    Errors of the user's own functions stay as they are, with their traceback.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (IngredientsError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        own = any("custom_functions" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
        if own or (isinstance(error, IngredientsError) and error.problems):
            raise
        shapes = " and ".join(str(list(tensor.shape)) for tensor in given)
        reason = " ".join(str(error).split()).partition(". ")[0]
        cannot = f"cannot take {shapes}: " if given and not isinstance(error, IngredientsError) else ""
        raise SettingError(path, cannot + reason) from error
