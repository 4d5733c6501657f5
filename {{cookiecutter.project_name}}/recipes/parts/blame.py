"""Which setting or section an error is reported at."""

import traceback
from contextlib import contextmanager

import torch

from core import IngredientsError, SettingError


@contextmanager
def blame(path: str, *given: torch.Tensor):
    """Report errors from inside at the setting or section `path`, with the shapes of what a function was given.

    Errors that name a setting of their own stay as they are, and those of the user's own functions, with a traceback.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (IngredientsError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        own = any("custom_functions" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
        is_plain = isinstance(error, IngredientsError)
        if (is_plain and error.problems) or (own and not is_plain):
            raise
        shapes = " and ".join(str(list(tensor.shape)) for tensor in given)
        reason = str(error) if is_plain else " ".join(str(error).split()).partition(". ")[0]
        cannot = f"cannot take {shapes}: " if given and not is_plain else ""
        raise SettingError(path, cannot + reason) from error
