"""What functions of the registries, data sets and tasks are given and return, and what they may have besides.

A registered function is a factory: it is called with the settings of its section, and returns a function that
`Registered` describes under the name of the registry. Such a function may carry more as an attribute
(`preprocess.of_batch = ...`): `isinstance(preprocess, BatchPreprocess)` asks for it, and nothing else in the recipes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Optimizer

from core import IngredientsError, SettingError

if TYPE_CHECKING:
    from recipes.parts.samples import Samples
    from recipes.settings import Architecture, Scheme


class Registered(Protocol):
    """What the functions of a registry return."""

    def download_function(self) -> Path: ...  # the folder of the data
    def load_dataset(self) -> tuple[Any, Any] | Dataset: ...  # arrays (X, y), first axis the sample, or a data set
    def preprocess(self, sample) -> Any: ...  # the same result every time
    def augment(self, inputs: Tensor, targets, generator: Generator) -> tuple[Tensor, Any]: ...  # of a batch, random
    def backbone(self, in_channels: int, output_classes: int) -> Module: ...
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor: ...  # a scalar to minimize
    def optimizer(self, model: Module) -> Optimizer: ...
    def schedule(self, progress: float) -> float: ...  # factor of the learning rate; progress of training in [0, 1]
    def metric(self, outputs: Tensor, targets: Tensor) -> Any: ...  # numbers, of all samples at once; or a Metric
    def views(self, inputs: Tensor) -> list[Tensor]: ...  # the batches over which predictions are averaged
    def tracker(self, folder: Path, ingredients) -> Callable[[dict, int], None]: ...  # log(metrics, epoch)


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set of pairs. `samples.FACTS` lists the attributes that it may have besides."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@runtime_checkable
class Checkable(Protocol):
    """A loader or download that returns, for --check, what it would load; nothing large is read."""

    def check(self) -> Any: ...


@runtime_checkable
class BatchPreprocess(Protocol):
    """A preprocess of many samples (N, C, H, W) at once, which is faster."""

    def of_batch(self, samples: Tensor) -> Tensor: ...


@runtime_checkable
class SampleAugment(Protocol):
    """An augment of one sample where samples are read. Its randomness comes from torch's default generator."""

    def per_sample(self, sample, target) -> tuple[Any, Any]: ...


@runtime_checkable
class MovingAugment(Protocol):
    """An augment that only moves pixels, filling with 0: of the inputs, or of targets that are images too."""

    def move(self, inputs: Tensor, generator: Generator) -> Tensor: ...


@runtime_checkable
class Sequence(Protocol):
    """An augment made of others."""

    steps: tuple[Callable, ...]


@runtime_checkable
class Preparable(Protocol):
    """A loss or schedule that has to know the run: returns the function to call in its place.

    A loss is given (targets, classes, device), a schedule (epochs, steps_per_epoch, history).
    """

    def prepare(self, *facts) -> Any: ...


@runtime_checkable
class TwoWeightSets(Protocol):
    """An optimizer that trains on other weights than it evaluates, such as schedule-free ones."""

    def train(self) -> None: ...
    def eval(self) -> None: ...


@runtime_checkable
class Metric(Protocol):
    """A metric of batches, as in torchmetrics."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...
    def compute(self) -> Any: ...
    def reset(self) -> None: ...
    def to(self, device) -> Any: ...


@runtime_checkable
class ReversibleViews(Protocol):
    """Views whose outputs, images too, can be moved back over the input."""

    def back(self, outputs: list[Tensor]) -> list[Tensor]: ...


@runtime_checkable
class Closable(Protocol):
    """A tracker's log that wants to be closed."""

    def close(self) -> None: ...


class Task(Protocol):
    """A module recipes/<task>.py: what differs by task; recipes/blank.py explains each. Refuses by SettingError.

    It may lack what comes below `read_sample`: `find_in(task, name)` returns that, or None.
    """

    METRICS: tuple[str, ...]  # names of what `evaluate` returns
    BEST: str  # the one that selects the best epoch: the lowest "loss", the highest of any other
    REFUSED: dict[str, str]  # setting, section or registered name -> why this task cannot use it

    def check(self, architecture: Architecture, scheme: Scheme) -> None: ...  # before any data is read
    def check_data(self, architecture: Architecture, samples: Samples) -> int: ...  # the network's number of outputs
    def check_split(self, section: str, samples: Samples, meta: dict) -> None: ...  # is it like the training data?
    def build_model(self, architecture: Architecture, shape: list[int], outputs: int) -> Module: ...
    def default_loss(self) -> Callable | None: ...
    def loss(self, model, inputs, targets, criterion) -> Tensor: ...  # a scalar
    def evaluate(self, model, batches: Iterable, metrics: Metrics, views=None) -> dict[str, float]: ...
    def predict(self, model, inputs, classes: list[str], views=None) -> list[str]: ...
    def read_sample(self, path: str, input_format: dict) -> Any: ...  # before preprocess; or several: {name: sample}

    READS: str  # what the arguments of `recipes.predict` are if they are no image files, such as "text"
    # Of networks that take turns in each step, such as a GAN, each with an optimizer of its own: (the name of a part of
    # the model, its loss, called as `loss`), in order. A part may come twice.
    LOSSES: list[tuple[str, Callable]]

    def metrics_of(self, outputs: int) -> tuple[str, ...]: ...  # those of METRICS that are computed
    def adapt_augment(self, augment: Callable) -> Callable: ...  # one that moves the targets along with the inputs
    def draw(self, inputs, targets, classes: list[str], model=None) -> list[Tensor]: ...  # images (3, H, W) of a batch
    def stand_in(self, images: Tensor, classes: int) -> Any: ...  # a data set of black images (N, C, H, W)


# ------------------------------------------------------------------------------------------------------- calling them


def find_in(task, name: str):
    """What a task may lack, or None."""
    return vars(task).get(name)


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
        return function.prepare(*facts) if isinstance(function, Preparable) else function


def check_loss(loss, name: str) -> None:
    """Refuse what the loss of that name returned, if it has no gradient to follow."""
    if not torch.is_tensor(loss):
        returned = type(loss).__name__
    elif loss.ndim or not loss.requires_grad:
        returned = f"a tensor of shape {list(loss.shape)}" + ("" if loss.requires_grad else " without gradient")
    else:
        return
    message = f"loss {name} returned {returned}, expected a scalar that requires grad, such as the mean"
    raise SettingError("training.loss", message)


class Metrics(dict):
    """Metrics by name, updated and computed together."""

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch."""
        for name, metric in self.items():
            with blame(f"validation.metrics.{name}", outputs, targets):
                metric.update(outputs, targets)

    def compute(self) -> dict[str, float]:
        """The values, and a new start; NAME_0, NAME_1, ... of a metric with several, such as one for each class."""
        computed = {}
        for name, metric in self.items():
            with blame(f"validation.metrics.{name}"):
                values = torch.as_tensor(metric.compute(), dtype=torch.float64).flatten().tolist()
            computed |= {name: values[0]} if len(values) == 1 else {f"{name}_{i}": v for i, v in enumerate(values)}
            metric.reset()
        return computed


def as_metric(thing):
    """The metric itself, or one made of a function. Raises ValueError if it is neither."""
    if isinstance(thing, Metric):
        return thing
    if not callable(thing):
        message = "expected a function (outputs, targets) -> number, or an object with update and compute"
        raise ValueError(f"{message}, got {thing!r}")
    seen = []
    metric = SimpleNamespace(reset=seen.clear, higher_is_better=getattr(thing, "higher_is_better", None))
    metric.update = lambda outputs, targets: seen.append((outputs.detach(), targets))
    metric.compute = lambda: thing(*(torch.cat(part) for part in zip(*seen, strict=True)))
    metric.to = lambda device: metric  # it holds tensors where the outputs are
    return metric
