"""What differs by task, here: one class for each sample."""

import torch
import torch.nn.functional as F

from core import Ingredients, IngredientsError, located
from pantry.losses import cross_entropy
from recipes.parts.backbone import find_backbone
from recipes.pictures import as_pixels, captioned

FIGURES = ("loss", "accuracy")  # what `evaluate` gives
BEST = "accuracy"  # the one by which the best epoch is chosen where the ingredients name none


def check(ingredients: Ingredients, architecture) -> None:
    """Refuse what can be refused before any data is read."""
    try:
        find_backbone(architecture.backbone, architecture.options)
    except IngredientsError as error:
        raise located(ingredients, "model.architecture.backbone", str(error)) from None


def check_data(ingredients: Ingredients, architecture, samples) -> int:
    """The number of classes of the training data. Raises IngredientsError where the head or the targets do not fit."""
    if not samples.first.is_floating_point():
        message = f"a sample is {samples.first.dtype} {samples.shape}; a network takes floats: let preprocess make them"
        raise located(ingredients, "training.load_dataset", message)
    return count_classes(ingredients, architecture, samples)


def count_classes(ingredients: Ingredients, architecture, samples) -> int:
    """The same, whatever a sample is."""
    targets, wanted = samples.targets, architecture.output_classes
    if targets is not None and (targets.ndim != 1 or targets.is_floating_point()):
        message = f"y is {targets.dtype} {list(targets.shape)}; class indices (N,) are needed, whole numbers from 0 up"
        raise located(ingredients, "training.load_dataset", message)
    least, counted = 0, len(samples.classes) if samples.classes else None
    if counted is None and targets is not None:
        least, counted = int(targets.min()), int(targets.max()) + 1
    if least < 0 or (least == 1 and wanted == counted - 1):
        message = f"the classes in y go from {least} to {counted - 1}; classes count from 0"
        raise located(ingredients, "training.load_dataset", message)
    if wanted is None and counted is None:
        raise located(
            ingredients, "model.architecture", "write output_classes: this data set does not tell its classes"
        )
    if wanted is not None and counted is not None and wanted != counted:
        names = ", ".join((samples.classes or list(map(str, range(counted))))[:12])
        message = f"the data has {counted} classes ({names}{', …' if counted > 12 else ''}); write {counted}"
        raise located(ingredients, "model.architecture.output_classes", message)
    return wanted or counted


def check_other_data(ingredients: Ingredients, section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other classes than those in training, or of other channels."""
    known, targets = meta["classes"], samples.targets
    message = None
    if samples.classes and list(samples.classes) != list(known):
        message = f"its classes are {', '.join(samples.classes)}, but training has {', '.join(known)}"
    elif targets is not None and not 0 <= int(targets.min()) <= int(targets.max()) < len(known):
        message = f"it has classes {int(targets.min())} to {int(targets.max())}, but training has 0 to {len(known) - 1}"
    elif samples.shape[0] != meta["shape"][0]:
        message = f"a sample is {samples.shape}, but in training {meta['shape']}"
    if message:
        raise located(ingredients, section, message)


def build_model(
    ingredients: Ingredients, architecture, shape: list[int], classes: int, dtype=torch.float32
) -> torch.nn.Module:
    """The network for samples of `shape` (C, H, W), tried once so that a misfit shows before training."""
    where = "model.architecture.backbone"
    try:
        build = find_backbone(architecture.backbone, architecture.options)
        model = build(in_channels=shape[0], output_classes=classes)
        with torch.inference_mode():
            outputs = model.eval()(torch.zeros(2, *shape, dtype=dtype))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        message = f"cannot take samples of {shape}: {str(error).splitlines()[0]}; change their size by preprocess"
        raise located(ingredients, where, message) from error
    if outputs.shape != (2, classes):
        message = f"gives {list(outputs.shape)} for 2 samples, but [2, {classes}] is needed"
        raise located(ingredients, where, message)
    return model


def default_loss():
    return cross_entropy()


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, C, H, W), targets (N,)."""
    return criterion(model(inputs), targets)


@torch.inference_mode()
def evaluate(model, batches, metrics: dict | None = None, views=None) -> dict[str, float]:
    """Loss (cross entropy), accuracy and `metrics` over all batches, each sample counted once.

    `views`: test-time augmentation, see `logits_of`.
    """
    model.eval()
    count, total_loss, correct, metrics = 0, 0.0, 0, metrics or {}
    for metric in metrics.values():
        metric.reset()
    for inputs, targets in batches:
        logits = logits_of(model, inputs, views)
        total_loss = total_loss + F.cross_entropy(logits, targets, reduction="sum")
        correct = correct + (logits.argmax(1) == targets).sum()
        count += len(targets)
        for metric in metrics.values():
            metric.update(logits, targets)
    figures = {}
    for name, metric in metrics.items():
        values = (
            torch.as_tensor(metric.compute(), dtype=torch.float64).flatten().tolist()
        )  # several where it is told for each class
        figures |= {name: values[0]} if len(values) == 1 else {f"{name}_{at}": value for at, value in enumerate(values)}
    return {"loss": float(total_loss) / count, "accuracy": int(correct) / count, **figures}


def logits_of(model, inputs, views=None) -> torch.Tensor:
    """(N, classes). With `views(inputs) -> list of batches`: the log of the mean of their softmax."""
    if views is None:
        return model(inputs).float()
    return torch.stack([model(view).float().softmax(1) for view in views(inputs)]).mean(0).log()


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None) -> list[str]:
    """The class and its softmax, from 0 to 1, for each of inputs (N, C, H, W), as texts."""
    confidences, indices = logits_of(model.eval(), inputs, views).softmax(1).max(1)
    return [f"{classes[index]}  {confidence:.4f}" for confidence, index in zip(confidences, indices, strict=True)]


def draw(inputs, targets, classes: list[str], model=None) -> list:
    """Images with their classes above, the largest share after mixup; with a model what it says instead."""
    if inputs.ndim != 4:
        return []
    truth = [classes[index] for index in (targets if targets.ndim == 1 else targets.argmax(1)).tolist()]
    said = truth if model is None else [text.rpartition("  ")[0] for text in predict(model, inputs, classes)]
    drawn = []
    for sample, right, text in zip(inputs, truth, said, strict=True):
        wrong = f"{text}, not {right}" if text != right else text
        drawn.append(captioned(as_pixels(sample), wrong, None if model is None else text == right))
    return drawn
