"""What each registered function returns, and what it may carry besides, as protocols.

A registered function is a factory: it is called with the settings of its section and returns one of the callables
below. A function carries something besides as an attribute (`preprocess.of_batch = ...`); `isinstance(preprocess,
BatchPreprocess)` asks for it, and nothing else in the recipes does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # torch is imported when it is needed
    import torch
    from torch import Tensor

    from recipes.parts.evaluation import Metrics
    from recipes.parts.samples import Samples
    from recipes.settings import Architecture, Scheme

# ---------------------------------------------------------------------------------------------------------------- data


class Download(Protocol):
    """download_function: fetches the data and returns its folder."""

    def __call__(self) -> Path: ...


@runtime_checkable
class Dataset(Protocol):
    """A map-style data set of pairs. `samples.FACTS` lists the attributes that it may have besides."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


class Loader(Protocol):
    """load_dataset: returns arrays (X, y), first axis the sample, or a map-style data set."""

    def __call__(self) -> tuple[Any, Any] | Dataset: ...


@runtime_checkable
class Checkable(Protocol):
    """A loader or download which tells what it would return, for --check; nothing large is read."""

    def check(self) -> Any: ...


class Preprocess(Protocol):
    """preprocess: the same result every time, for one sample."""

    def __call__(self, sample) -> Any: ...


@runtime_checkable
class BatchPreprocess(Protocol):
    """A preprocess for many samples (N, C, H, W) at once, which is faster."""

    def of_batch(self, samples: Tensor) -> Tensor: ...


class Augment(Protocol):
    """augment: random, on a batch, on its device. Randomness comes from `generator` or torch's default generator."""

    def __call__(self, inputs: Tensor, targets, generator: torch.Generator) -> tuple[Tensor, Any]: ...


@runtime_checkable
class SampleAugment(Protocol):
    """An augment that works on one sample where samples are read, with torch's default generator."""

    def per_sample(self, sample, target) -> tuple[Any, Any]: ...


@runtime_checkable
class MovingAugment(Protocol):
    """An augment that only moves pixels, filling with 0: of the inputs, or of targets that are images too."""

    def move(self, inputs: Tensor, generator: torch.Generator) -> Tensor: ...


@runtime_checkable
class Sequence(Protocol):
    """An augment made of others."""

    steps: tuple[Augment, ...]


# ------------------------------------------------------------------------------------------------------------ training


class Loss(Protocol):
    """loss: a scalar to minimize."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor: ...


class Schedule(Protocol):
    """schedule: the factor of the learning rate at a share of training, progress in [0, 1]."""

    def __call__(self, progress: float) -> float: ...


@runtime_checkable
class Preparable(Protocol):
    """A loss or schedule that has to know the run: returns the function to call in its place.

    A loss is given (targets, classes, device), a schedule (epochs, steps_per_epoch, history).
    """

    def prepare(self, *facts) -> Any: ...


class Optimizer(Protocol):
    """optimizer: builds the optimizer of a model."""

    def __call__(self, model: torch.nn.Module) -> torch.optim.Optimizer: ...


@runtime_checkable
class TwoWeightSets(Protocol):
    """An optimizer that trains on other weights than it evaluates, such as schedule-free ones."""

    def train(self) -> None: ...
    def eval(self) -> None: ...


# ---------------------------------------------------------------------------------------------------------- evaluation


@runtime_checkable
class Metric(Protocol):
    """metric: this, as in torchmetrics, or a function (outputs, targets) -> number of all samples at once."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...
    def compute(self) -> Any: ...
    def reset(self) -> None: ...
    def to(self, device) -> Any: ...


class Views(Protocol):
    """views: the batches over which predictions are averaged."""

    def __call__(self, inputs: Tensor) -> list[Tensor]: ...


@runtime_checkable
class ReversibleViews(Protocol):
    """Views whose outputs, images too, can be moved back over the input."""

    def back(self, outputs: list[Tensor]) -> list[Tensor]: ...


class Tracker(Protocol):
    """tracker: opened with the run's folder and ingredients; the log it returns is called once an epoch."""

    def __call__(self, folder: Path, ingredients) -> Any: ...


@runtime_checkable
class Closable(Protocol):
    """A tracker's log that wants to be closed."""

    def close(self) -> None: ...


# --------------------------------------------------------------------------------------------------------------- tasks


class Task(Protocol):
    """A module recipes/<task>.py: what differs by task. Refusals are raised as SettingError(path, message)."""

    METRICS: tuple[str, ...]  # names of what `evaluate` returns
    BEST: str  # the one that selects the best epoch: the lowest "loss", the highest of any other
    REFUSED: dict[str, str]  # setting, section or registered name -> why this task cannot use it

    def check(self, architecture: Architecture, scheme: Scheme) -> None:
        """Refuses what can be refused before any data is read."""

    def check_data(self, architecture: Architecture, samples: Samples) -> int:
        """Refuses samples that do not fit; returns the number of outputs that the network needs."""

    def check_split(self, section: str, samples: Samples, meta: dict) -> None:
        """Refuses validation or test data unlike the training data."""

    def build_model(self, architecture: Architecture, shape: list[int], outputs: int) -> torch.nn.Module: ...
    def default_loss(self) -> Loss | None: ...
    def loss(self, model, inputs, targets, criterion) -> Tensor: ...
    def evaluate(self, model, batches: Iterable, metrics: Metrics, views=None) -> dict[str, float]:
        """METRICS over all batches, each sample counted once.

        `metrics.update(outputs, targets)` adds a batch to those of [validation.metrics]. `views`: those of
        [testing.views], over whose batches predictions are averaged, or None.
        """

    def predict(self, model, inputs, classes: list[str], views=None) -> list[str]: ...

    def read_sample(self, path: str, input_format: dict):
        """The sample that an argument of `recipes.predict` names, before preprocess; or {name: sample}."""


@runtime_checkable
class Draws(Protocol):
    """A task with pictures: images (3, H, W) of a batch, with its predictions if a model is given."""

    def draw(self, inputs, targets, classes: list[str], model=None) -> list[Tensor]: ...


@runtime_checkable
class AdaptsAugment(Protocol):
    """A task whose targets move with the inputs: returns the augment that moves both."""

    def adapt_augment(self, augment: Augment) -> Augment: ...


@runtime_checkable
class StandsIn(Protocol):
    """A task which makes a data set of black images (N, C, H, W), for --check before the data is there."""

    def stand_in(self, images: Tensor, classes: int) -> Any: ...


@runtime_checkable
class ReadsInputs(Protocol):
    """A task whose arguments of `recipes.predict` are no image files."""

    READS: str  # what they are, such as "text"
