"""Calling what is registered: what it may carry, its errors at the setting that named it, what it returns."""

import traceback
from contextlib import contextmanager

import torch

from core import IngredientsError, SettingError


def carried(thing, name: str):
    """What a function, data set or task may have besides, or None; recipes/contracts.py lists it."""
    return getattr(thing, name, None)


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


def prepared(path: str, function, *facts):
    """`function.prepare(*facts)` if it has to know more of the run, such as the share of each class."""
    with blame(path):
        prepare = carried(function, "prepare")
        return prepare(*facts) if prepare else function


def check_loss(loss, experiment) -> None:
    """Refuse what the loss returned, if it has no gradient to follow."""
    if not torch.is_tensor(loss):
        returned = type(loss).__name__
    elif loss.ndim or not loss.requires_grad:
        returned = f"a tensor of shape {list(loss.shape)}" + ("" if loss.requires_grad else " without gradient")
    else:
        return
    name = experiment.ingredients.at("training.loss.@loss", f"of {experiment.task.__name__}")
    message = f"loss {name} returned {returned}, expected a scalar that requires grad, such as the mean"
    raise SettingError("training.loss", message)


class Metrics(dict):
    """Metrics by name, updated and computed together."""

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch."""
        for name, metric in self.items():
            with blame(f"validation.metrics.{name}", outputs, targets):
                metric.update(outputs, targets)

    def gathered(self, parts):
        """What a task's `evaluate` found, part by part; under torchrun what all processes found, in order."""
        return parts

    def compute(self) -> dict[str, float]:
        """The values, and a new start; NAME_0, NAME_1, ... of a metric with several, such as one for each class."""
        computed = {}
        for name, metric in self.items():
            with blame(f"validation.metrics.{name}"):
                values = torch.as_tensor(metric.compute(), dtype=torch.float64).flatten().tolist()
            computed |= {name: values[0]} if len(values) == 1 else {f"{name}_{i}": v for i, v in enumerate(values)}
            metric.reset()
        return computed
