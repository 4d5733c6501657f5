"""What differs by task, here: one number for each row of a table."""

import torch

from core import IngredientsError, SettingError
from pantry.tables import numbers, read_csv, refuse, regressor
from recipes import classification

METRICS = ("loss", "mae", "r2")  # what `evaluate` returns
BEST = "loss"  # the one that selects the best epoch if the ingredients name none

REFUSED = {  # settings, sections and registered names that this task cannot use, and why
    "training.scheme.first_size": "rows cannot be resized",
    "training.scheme.balanced": "the targets are numbers, not classes",
    "testing.views": "views are of images",
}


def check(architecture, scheme) -> None:
    """Refuse what can be refused before any data is read."""
    classification.check(architecture, scheme)
    if scheme.best == "mae" and scheme.best_is is None:
        raise SettingError("training.scheme.best", "the best error is the lowest; add best_is = lowest")


def check_data(architecture, samples) -> int:
    """1, the number of outputs. Raises SettingError if rows, targets or the head do not fit."""
    for what, given in (("a sample", samples.first), ("y", samples.targets)):
        if given is not None and (given.ndim != 1 or not given.is_floating_point()):
            message = f"{what} is {given.dtype} {list(given.shape)}, expected a row of floats"
            raise SettingError("training.load_dataset", message)
    if architecture.output_classes not in (None, 1):
        raise SettingError("model.architecture.output_classes", "a row has one target; set it to 1")
    return 1


def check_split(section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other columns than those in training."""
    known = meta["input_format"].get("columns", meta["shape"])
    columns = samples.input_format.get("columns", samples.shape)
    if columns != known:
        raise SettingError(section, f"a row is {columns}, but {known} in training")


def build_model(architecture, shape: list[int], outputs: int) -> torch.nn.Module:
    """The backbone between two standardisations: see `regressor` of pantry/tables.py."""
    return regressor(classification.build_model(architecture, shape, outputs), shape[0])


def default_loss():
    return torch.nn.functional.mse_loss


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, columns), targets (N,). The criterion compares standardised numbers (N,)."""
    return criterion(*model(inputs, targets))


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    """Mean squared error of standardised targets, mean absolute error in their unit, r2, and `metrics`."""
    seen = [(*model.eval()(inputs, targets), targets) for inputs, targets in batches]
    outputs, standardised, targets = (torch.cat(part).float() for part in zip(*seen, strict=True))  # (N,)
    predicted = model.target.undo(outputs)
    errors, deviations = (predicted - targets).double(), (targets - targets.mean()).double()
    r2 = 1 - float(errors.square().sum() / deviations.square().sum().clamp(min=1e-12))
    metrics.update(predicted, targets)
    return {"loss": float((outputs - standardised).square().mean()), "mae": float(errors.abs().mean()), "r2": r2}


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None) -> list[str]:
    """The number for each of inputs (N, columns), with its unit, as text."""
    return [f"{value:.4g} {classes[0]}" for value in model.eval()(inputs).float()[:, 0].tolist()]


READS = "CSV files"


def read_sample(path: str, input_format: dict) -> dict:
    """The rows of a CSV file, by the columns of training; others are ignored: {file:line: row (columns,)}."""
    if "columns" not in input_format:
        raise IngredientsError(f"{path}: the loader names no columns; see Arrays in pantry/images.py")
    header, lines = read_csv(path, input_format.get("delimiter", ","))
    refuse([f"{path}: there is no column {name}" for name in input_format["columns"] if name not in header])
    rows = numbers(path, header, lines, input_format["columns"])
    return {f"{path}:{number}": torch.tensor(row) for (number, _), row in zip(lines, rows, strict=True)}
