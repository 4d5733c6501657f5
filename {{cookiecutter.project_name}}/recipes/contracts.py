"""What functions of the registries, data sets and tasks are given and return, and what they may have besides.

A registered function is a factory: it is called with the settings of its section, and returns a function that
`Registered` describes under the name of the registry. Such a function may carry more as an attribute
(`preprocess.of_batch = ...`): `Carried` has that, and the recipes ask for it by `carried(preprocess, "of_batch")`.
For readers and type checkers: nothing imports this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Optimizer

from recipes.parts.calling import Metrics
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
    def postprocess(self, prediction: dict) -> dict: ...  # of one input, as `predict` of the task returns it
    def tracker(self, folder: Path, ingredients) -> Callable[[dict, int], None]: ...  # log(metrics, epoch)


class Carried(Protocol):
    """What these functions may carry."""

    steps: tuple[Callable, ...]  # augment that is a sequence: the augments that it is made of

    def check(self) -> Any: ...  # loader, download: what it would load, for --check; nothing large is read
    def of_batch(self, samples: Tensor) -> Tensor: ...  # preprocess: many samples (N, C, H, W) at once, which is faster
    def per_sample(self, sample, target) -> tuple: ...  # augment: of one sample, by torch's default generator
    def move(self, inputs: Tensor, generator: Generator) -> Tensor: ...  # augment that moves pixels and fills with 0

    # A loss or schedule that has to know the run: the function to call in its place.
    # A loss is given (targets, classes, device), a schedule (epochs, steps_per_epoch, history).
    def prepare(self, *facts) -> Any: ...

    def train(self) -> None: ...  # optimizer that trains on other weights than it evaluates, as schedule-free ones do
    def eval(self) -> None: ...
    def back(self, outputs: list[Tensor]) -> list[Tensor]: ...  # views: moves outputs that are images over the input
    def close(self) -> None: ...  # tracker's log, at the end


class Dataset(Protocol):
    """A map-style data set of pairs. `samples.FACTS` lists the attributes that it may have besides."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


class Metric(Protocol):
    """A metric of batches, as in torchmetrics."""

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...
    def compute(self) -> Any: ...
    def reset(self) -> None: ...
    def to(self, device) -> Any: ...


class Task(Protocol):
    """A module recipes/<task>.py: what differs by task; recipes/blank.py explains each. Refuses by SettingError.

    It may lack what comes below `read_sample`: `carried(task, name)` is None then.
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
    # A dict for each input, ready for JSON; keys that begin with "_" hold tensors for drawing. top: how many classes to
    # name, thresholds: {class: lowest probability, or score}; a task may ignore them.
    def predict(self, model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]: ...
    # Before preprocess; or several: {name: sample}. source: a path, or an Upload of pantry/_fetch.py.
    def read_sample(self, source, input_format: dict) -> Any: ...

    EVALUATION: str  # name of recipes/parts/evaluation_<name>.py, which analyses its outputs, if not the task's name
    READS: str  # what the arguments of `recipes.predict` are if they are no image files, such as "text"
    # Of networks that take turns in each step, such as a GAN, each with an optimizer of its own: (the name of a part of
    # the model, its loss, called as `loss`), in order. A part may come twice.
    LOSSES: list[tuple[str, Callable]]

    def metrics_of(self, outputs: int) -> tuple[str, ...]: ...  # those of METRICS that are computed
    def adapt_augment(self, augment: Callable) -> Callable: ...  # one that moves the targets along with the inputs
    def draw(self, inputs, targets, classes: list[str], model=None) -> list[Tensor]: ...  # images (3, H, W) of a batch
    # A file's image of bytes (3, H, W) with its prediction, for --draw; without it the prediction is written above.
    # Of large images only every `step`-th pixel is drawn.
    def draw_prediction(self, pixels: Tensor, prediction: dict, classes: list[str], step: int) -> Tensor: ...
    def rows(self, prediction: dict, classes: list[str]) -> list[dict]: ...  # for CSV, if it is not one

    EXPORTS: tuple[str, ...]  # formats that recipes.export writes unless told; all

    # What an exported file returns, its docstring a description, and its `undo(outputs)` the model's outputs again;
    # or else `restored`: what the model returns, by `run(samples)` of such a file.
    def exported(self, model, inputs, views=None) -> Tensor: ...
    def restored(self, model, run, samples, *targets) -> Any: ...
    def stand_in(self, images: Tensor, classes: int) -> Any: ...  # a data set of black images (N, C, H, W)
