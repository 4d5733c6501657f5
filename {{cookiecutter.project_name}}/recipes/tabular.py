"""What differs by task, here: one number for each row of a table."""

import torch

from core import Ingredients, located
from core.settings import read_section
from pantry.models import find_backbone
from pantry.tables import numbers, read_csv, refuse, regressor
from recipes import classification
from recipes.settings import Scheme

FIGURES = ("loss", "mae", "r2")  # what `evaluate` gives
BEST = "loss"  # the one by which the best epoch is chosen where the ingredients name none


def check(ingredients: Ingredients, architecture) -> None:
    """Refuse what can be refused before any data is read."""
    classification.check(ingredients, architecture)
    scheme = read_section(ingredients, "training.scheme", Scheme)
    if scheme.best == "mae" and scheme.best_is != "lowest":
        raise located(ingredients, "training.scheme.best", "an error is best where it is lowest; add best_is = lowest")


def check_data(ingredients: Ingredients, architecture, samples) -> int:
    """1, the numbers that the network gives. Raises IngredientsError where rows, targets or the head do not fit."""
    if len(samples.shape) != 1 or not samples.first.is_floating_point():
        message = f"a sample is {samples.first.dtype} {samples.shape}; a row of floats (columns,) is needed"
        raise located(ingredients, "training.load_dataset", message)
    if samples.targets is None or not samples.targets.is_floating_point() or samples.targets.ndim != 1:
        raise located(ingredients, "training.load_dataset", "y is no row of floats (N,), one for each sample")
    if architecture.output_classes not in (None, 1):
        raise located(ingredients, "model.architecture.output_classes", "a row has one number to predict; write 1")
    return 1


def check_other_data(ingredients: Ingredients, section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other columns than those in training."""
    if samples.shape != meta["shape"]:
        raise located(ingredients, section, f"a sample is {samples.shape}, but in training {meta['shape']}")


def build_model(ingredients: Ingredients, architecture, shape: list[int], outputs: int) -> torch.nn.Module:
    """The backbone, tried once, with the units of inputs and target kept inside: see `regressor` of pantry/tables.py."""
    network = classification.build_model(ingredients, architecture, shape, outputs)
    return regressor(network, shape[0])


def default_loss():
    return torch.nn.functional.mse_loss


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, columns), targets (N,). The criterion compares standardised numbers (N,)."""
    return criterion(*model(inputs, targets))


@torch.inference_mode()
def evaluate(model, batches, metrics: dict | None = None, views=None) -> dict[str, float]:
    """Over all batches: loss, the mean squared error in variances of the training targets; mae, the mean absolute error
    in the unit of the target; r2, the share of the targets' variance that is explained; and `metrics`.
    """
    model.eval()
    seen, squares, metrics = [], 0.0, metrics or {}
    for metric in metrics.values():
        metric.reset()
    for inputs, targets in batches:
        outputs, wanted = model(inputs, targets)
        squares = squares + (outputs.float() - wanted).square().sum()
        predicted, targets = model.target.undo(outputs.float()), targets.float()
        seen.append((predicted, targets))
        for metric in metrics.values():
            metric.update(predicted, targets)
    predicted, targets = (torch.cat(part).double() for part in zip(*seen, strict=True))
    errors, spread = predicted - targets, float((targets - targets.mean()).square().sum())
    r2 = 1 - float(errors.square().sum()) / spread if spread else 0.0
    figures = {"loss": float(squares) / len(targets), "mae": float(errors.abs().mean()), "r2": r2}
    return figures | {name: float(metric.compute()) for name, metric in metrics.items()}


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None) -> list[str]:
    """The number for each of inputs (N, columns) and its unit, as texts."""
    unit = "" if classes == ["0"] else f" {classes[0]}"  # a loader that knows none
    return [f"{value:.4g}{unit}" for value in model.eval()(inputs).float()[:, 0].tolist()]


def read_sample(path: str, form: dict) -> dict:
    """The rows of a CSV file with the columns of training, others are passed over: {file:line: row (columns,)}."""
    if "columns" not in form:
        refuse([f"{path}: the loader of this training told no columns; let it give form = {{'columns': [...]}}"])
    header, lines = read_csv(path, form.get("delimiter", ","))
    refuse([f"{path}: there is no column {name}" for name in form["columns"] if name not in header])
    rows = numbers(path, header, lines, form["columns"])
    return {f"{path}:{number}": torch.tensor(row) for (number, _), row in zip(lines, rows, strict=True)}
