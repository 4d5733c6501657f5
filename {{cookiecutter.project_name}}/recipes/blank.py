"""What differs by task, here: your own. It runs as it is; replace each function by yours.

Rename the file as you like, and set `task` in [project.meta] to its name. Refuse settings by SettingError.
"""

import torch
from torch import nn

from core import IngredientsError, SettingError
from recipes.parts.backbone import find_backbone

METRICS = ("loss",)  # yours: the names of what `evaluate` returns, such as ("loss", "accuracy")
BEST = "loss"  # yours: the one that selects the best epoch, the lowest of "loss", the highest of any other
REFUSED = {  # yours: settings, sections and registered names that your task cannot use, and why
    "training.scheme.first_size": "rows cannot be resized",
    "training.scheme.balanced": "the targets are numbers",
    "testing.views": "views are of images",
}
READS = "numbers"  # yours: what the arguments of `recipes.predict` are; remove it if they are image files


def check(architecture, scheme) -> None:
    """Refuse what can be refused before any data is read. Here: an unknown backbone or option."""
    find_backbone(architecture.backbone, architecture.options)


def check_data(architecture, samples) -> int:
    """The number of outputs that the network needs. Refuse samples and targets that do not fit. Here: one number."""
    if samples.targets is not None and not samples.targets.is_floating_point():
        raise SettingError("training.load_dataset", f"y is {samples.targets.dtype}, expected floats")
    if architecture.output_classes not in (None, 1):
        raise SettingError("model.architecture.output_classes", "must be 1, or absent")
    return 1


def check_split(section: str, samples, meta: dict) -> None:
    """Refuse validation or test data unlike the training data (`meta`: its shape, classes and input_format)."""
    if samples.shape != meta["shape"]:
        raise SettingError(section, f"a sample is {samples.shape}, but {meta['shape']} in training")


def build_model(architecture, shape: list[int], outputs: int) -> nn.Module:
    """The network for samples of `shape`. Here: the backbone, tried once so that a misfit shows before training."""
    model = find_backbone(architecture.backbone, architecture.options)(shape[0], outputs)
    with torch.inference_mode():
        model.eval()(torch.zeros(2, *shape))
    return model


def default_loss():
    """`criterion(outputs, targets) -> scalar` where [training.loss] is absent."""
    return nn.MSELoss()


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch, a scalar. Here: inputs (N, columns), outputs (N, 1), targets (N,)."""
    return criterion(model(inputs)[:, 0], targets)


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    """METRICS over all batches, each sample counted once; `metrics`, those of [validation.metrics], are updated."""
    seen = metrics.gathered([(model.eval()(inputs)[:, 0], targets) for inputs, targets in batches])
    outputs, targets = (torch.cat(part).float() for part in zip(*seen, strict=True))  # (N,)
    metrics.update(outputs, targets)
    return {"loss": float(nn.functional.mse_loss(outputs, targets))}


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]:
    """What `python -m recipes.predict` writes for each of inputs, ready for JSON."""
    return [{"value": value} for value in model.eval()(inputs)[:, 0].tolist()]


def read_sample(given: str, input_format: dict) -> torch.Tensor:
    """The sample that an argument of `python -m recipes.predict` names. Here: numbers."""
    try:
        return torch.tensor([float(number) for number in given.split(",")])
    except ValueError:
        raise IngredientsError(f"{given}: expected numbers separated by commas, such as 0.5,-0.2") from None
