"""What differs by task, here: a number, or a class, for each row of a table."""

import torch

from core import IngredientsError, SettingError
from pantry.tables import check_lengths, encode, read_csv, refuse, standardised
from recipes import classification

OF_NUMBERS, OF_CLASSES = ("loss", "mae", "r2"), ("loss", "accuracy", "f1")  # what `evaluate` returns
METRICS = (*OF_NUMBERS, *OF_CLASSES[1:])
BEST = "loss"  # the one that selects the best epoch if the ingredients name none

REFUSED = {  # settings, sections and registered names that this task cannot use, and why
    "training.scheme.first_size": "rows cannot be resized",
    "testing.views": "views are of images",
}


def check(architecture, scheme) -> None:
    """Refuse what can be refused before any data is read."""
    classification.check(architecture, scheme)
    if scheme.best == "mae" and scheme.best_is is None:
        raise SettingError("training.scheme.best", "the best error is the lowest; add best_is = lowest")


def check_data(architecture, samples) -> int:
    """The number of outputs: 1 number, or the classes. Raises SettingError if rows, targets or the head do not fit."""
    if samples.first.ndim != 1 or not samples.first.is_floating_point():
        message = f"a sample is {samples.first.dtype} {samples.shape}, expected a row of floats"
        raise SettingError("training.load_dataset", message)
    if samples.labels is not None:
        classes = classification.check_data(architecture, samples)
        if classes < 2:
            raise SettingError("training.load_dataset", "all rows are of one class")
        return classes
    if samples.targets is None or samples.targets.ndim != 1:
        raise SettingError("training.load_dataset", "expected a target for each row: floats or class indices (N,)")
    if architecture.output_classes not in (None, 1):
        raise SettingError("model.architecture.output_classes", "a row has one target, a number; set it to 1")
    return 1


def metrics_of(outputs: int) -> tuple[str, ...]:
    return OF_NUMBERS if outputs == 1 else OF_CLASSES


def check_split(section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other columns, categories or classes than those in training."""
    for name in ("columns", "categories", "missing"):
        given, known = samples.input_format.get(name), meta["input_format"].get(name)
        if given != known:
            message = f"its {name} are {given}, but {known} in training; set like = the training file of load_csv"
            raise SettingError(section, message)
    if samples.shape != meta["shape"]:
        raise SettingError(section, f"a row is {samples.shape}, but {meta['shape']} in training")
    if samples.labels is not None:
        classification.check_split(section, samples, meta)


def build_model(architecture, shape: list[int], outputs: int) -> torch.nn.Module:
    """The backbone between two standardisations: see `standardised` of pantry/tables.py."""
    network = classification.build_model(architecture, shape, outputs)
    return standardised(network, shape[0], of_classes=outputs > 1)


def default_loss():
    """Mean squared error, or cross entropy of classes."""
    F = torch.nn.functional
    return lambda outputs, targets: (F.cross_entropy if outputs.ndim == 2 else F.mse_loss)(outputs, targets)


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, columns), targets (N,). The criterion compares standardised numbers (N,)."""
    return criterion(*model(inputs, targets)) if model.target else criterion(model(inputs), targets)


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    """Of numbers: mean squared error of standardised targets, mean absolute error in their unit, r2. Of classes: cross
    entropy, accuracy, and F1, the mean over classes."""
    model.eval()
    if model.target is None:
        return evaluate_classes(model, batches, metrics)
    seen = metrics.gathered([(*model(inputs, targets), targets) for inputs, targets in batches])
    outputs, standard, targets = (torch.cat(part).float() for part in zip(*seen, strict=True))  # (N,)
    predicted = model.target.undo(outputs)
    errors, deviations = (predicted - targets).double(), (targets - targets.mean()).double()
    r2 = 1 - float(errors.square().sum() / deviations.square().sum().clamp(min=1e-12))
    metrics.update(predicted, targets)
    return {"loss": float((outputs - standard).square().mean()), "mae": float(errors.abs().mean()), "r2": r2}


def evaluate_classes(model, batches, metrics) -> dict[str, float]:
    seen = metrics.gathered([(model(inputs).float(), targets) for inputs, targets in batches])
    logits, targets = (torch.cat(part) for part in zip(*seen, strict=True))  # (N, classes), (N,)
    metrics.update(logits, targets)
    predicted = logits.argmax(1)
    correct = predicted == targets
    parts = (targets[correct], targets, predicted)
    right, truth, guesses = (part.bincount(minlength=logits.shape[1]).double() for part in parts)
    f1 = (2 * right / (truth + guesses))[truth + guesses > 0].mean()
    value = torch.nn.functional.cross_entropy(logits, targets)
    return {"loss": float(value), "accuracy": float(correct.double().mean()), "f1": float(f1)}


def exported(model, inputs, views=None) -> torch.Tensor:
    """numbers (N, 1) in the unit of the target, or probabilities (N, classes)"""
    return model(inputs) if model.target else classification.exported(model, inputs)


def restored(model, run, rows, targets=None):
    """What the model returns, by an exported file."""
    if not model.target:
        return classification.exported.undo(run(rows))
    numbers = run(rows)
    return numbers if targets is None else (model.target(numbers)[:, 0], model.target(targets[:, None])[:, 0])


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]:
    """{"value", "unit"} for each of inputs (N, columns), or of classes as in classification."""
    if model.target is None:
        return classification.predict(model, inputs, classes, None, top, thresholds)
    return [{"value": value, "unit": classes[0]} for value in model.eval()(inputs).float()[:, 0].tolist()]


READS = "CSV files"


def read_sample(path, input_format: dict) -> dict:
    """The rows of a CSV file, by the columns of training; others are ignored: {file:line: row (columns,)}."""
    if "columns" not in input_format:
        raise IngredientsError(f"{path}: the loader names no columns; see Arrays in pantry/images.py")
    header, lines = read_csv(path, input_format["delimiter"])
    problems = [f"{path}: there is no column {name}" for name in input_format["columns"] if name not in header]
    refuse(problems)
    lines = check_lengths(path, header, lines, problems)
    rows = encode(path, header, lines, input_format, problems)
    refuse(problems)
    return {f"{path}:{number}": torch.tensor(row) for (number, _), row in zip(lines, rows, strict=True)}
