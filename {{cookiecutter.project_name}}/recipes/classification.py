"""What differs by task, here: one class for each sample."""

import torch
import torch.nn.functional as F

from core import Ingredients, IngredientsError, located
from pantry.losses import cross_entropy
from pantry.models import find_backbone

BEST = "accuracy"  # the figure by which the best epoch is chosen; the larger the better, then the smaller loss


def check(ingredients: Ingredients, architecture) -> None:
    """Refuse what can be refused before any data is read."""
    try:
        find_backbone(architecture.backbone)
    except IngredientsError as error:
        raise located(ingredients, "model.architecture.backbone", str(error)) from None


def check_data(ingredients: Ingredients, architecture, samples) -> int:
    """The number of classes. Raises IngredientsError where the head or the targets do not fit."""
    targets = samples.targets
    if targets is not None and (targets.ndim != 1 or targets.is_floating_point()):
        raise IngredientsError(
            f"[training.load_dataset]: y is {targets.dtype} {list(targets.shape)}; (N,) integers are needed"
        )
    if targets is not None and int(targets.min()) < 0:
        raise IngredientsError(f"[training.load_dataset]: class {int(targets.min())}; classes count from 0")
    counted = len(samples.classes) if samples.classes else int(targets.max()) + 1 if targets is not None else None
    wanted = architecture.output_classes
    if wanted is None and counted is None:
        raise located(
            ingredients, "model.architecture", "write output_classes: this data set does not tell its classes"
        )
    if wanted is not None and counted is not None and wanted != counted:
        names = ", ".join((samples.classes or list(map(str, range(counted))))[:12])
        message = f"the data has {counted} classes ({names}{', …' if counted > 12 else ''}); write {counted}"
        raise located(ingredients, "model.architecture.output_classes", message)
    return wanted or counted


def build_model(ingredients: Ingredients, architecture, sample: torch.Tensor, classes: int) -> torch.nn.Module:
    """The network for samples like `sample` (C, H, W), tried once so that a misfit shows before training."""
    build = find_backbone(architecture.backbone)
    where = "model.architecture.backbone"
    if sample.ndim != 3 or sample.shape[0] not in (1, 3) and architecture.backbone != "small_cnn":
        message = f"takes images (C, H, W) of 1 or 3 channels, but a preprocessed sample is {list(sample.shape)}"
        raise located(ingredients, where, message)
    model = build(in_channels=sample.shape[0], output_classes=classes)
    try:
        with torch.inference_mode():
            outputs = model.eval()(torch.zeros(2, *sample.shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        size = "x".join(map(str, sample.shape[1:]))
        message = f"cannot take images of {size} pixels ({str(error).splitlines()[0]}); enlarge them by preprocess"
        raise located(ingredients, where, message) from None
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
def evaluate(model, batches) -> dict[str, float]:
    """Loss (cross entropy) and accuracy over all batches, each sample counted once."""
    model.eval()
    count, total_loss, correct = 0, 0.0, 0
    for inputs, targets in batches:
        logits = model(inputs)  # (N, classes)
        total_loss = total_loss + F.cross_entropy(logits, targets, reduction="sum")
        correct = correct + (logits.argmax(1) == targets).sum()
        count += len(targets)
    return {"loss": float(total_loss) / count, "accuracy": int(correct) / count}


@torch.inference_mode()
def predict(model, inputs, classes: list[str]) -> list[tuple[str, float]]:
    """(class, confidence) for each of inputs (N, C, H, W); confidence is the softmax, from 0 to 1."""
    confidences, indices = model.eval()(inputs).softmax(1).max(1)
    return [(classes[index], float(confidence)) for confidence, index in zip(confidences, indices, strict=True)]
