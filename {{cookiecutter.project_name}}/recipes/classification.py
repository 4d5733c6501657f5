"""What differs by task, here: one class for each sample."""

import torch
import torch.nn.functional as F

from core import SettingError, registry
from recipes.parts.backbone import find_backbone
from recipes.parts.pictures import as_pixels, captioned

METRICS = ("loss", "accuracy")  # what `evaluate` returns
BEST = "accuracy"  # the one that selects the best epoch if the ingredients name none
REFUSED = {}  # settings, sections and registered names that this task cannot use, and why


def check(architecture, scheme) -> None:
    """Refuse what can be refused before any data is read."""
    find_backbone(architecture.backbone, architecture.options)


def check_data(architecture, samples) -> int:
    """The number of classes of the training data. Raises SettingError if the head or the targets do not fit."""
    targets, wanted = samples.targets, architecture.output_classes
    if targets is not None and samples.labels is None:
        message = f"y is {targets.dtype} {list(targets.shape)}, expected class indices (N,), integers from 0"
        raise SettingError("training.load_dataset", message)
    lowest, counted = 0, len(samples.classes) if samples.classes else None
    if counted is None and targets is not None:
        lowest, counted = int(targets.min()), int(targets.max()) + 1
    if lowest < 0 or (lowest == 1 and wanted == counted - 1):
        message = f"the classes in y are {lowest} to {counted - 1}, expected 0 to {counted - lowest - 1}"
        raise SettingError("training.load_dataset", message)
    if counted == 1:
        message = f"has one class alone, {samples.classes[0] if samples.classes else 0}; expected 2 or more"
        raise SettingError("training.load_dataset", message)
    if wanted is None and counted is None:
        raise SettingError("model.architecture", "set output_classes: this data set does not know its classes")
    if wanted not in (None, counted) and counted is not None:
        names = ", ".join((samples.classes or list(map(str, range(counted))))[:12])
        message = f"the data has {counted} classes ({names}{', ...' if counted > 12 else ''}); set it to {counted}"
        raise SettingError("model.architecture.output_classes", message)
    return wanted or counted


def check_split(section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other classes than those in training, or of other channels."""
    known, targets, message = meta["classes"], samples.targets, ""
    if samples.classes and list(samples.classes) != list(known):
        message = f"its classes are {', '.join(samples.classes)}, but those of training are {', '.join(known)}"
    elif targets is not None and not 0 <= int(targets.min()) <= int(targets.max()) < len(known):
        message = f"its classes are {int(targets.min())} to {int(targets.max())}, training has 0 to {len(known) - 1}"
    elif samples.shape[0] != meta["shape"][0]:
        message = f"a sample is {samples.shape}, but {meta['shape']} in training"
    if message:
        raise SettingError(section, message)


def build_model(architecture, shape: list[int], classes: int, dtype=torch.float32) -> torch.nn.Module:
    """The network for samples of `shape` (C, H, W), tried once so that a misfit shows before training."""
    model = find_backbone(architecture.backbone, architecture.options)(shape[0], classes)
    with torch.inference_mode():
        outputs = model.eval()(torch.zeros(2, *shape, dtype=dtype))
    if outputs.shape != (2, classes):
        message = f"returns {list(outputs.shape)} for 2 samples, expected [2, {classes}]"
        raise SettingError("model.architecture.backbone", message)
    return model


def default_loss():
    return registry.loss.get("cross_entropy")()


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, C, H, W), targets (N,)."""
    return criterion(model(inputs), targets)


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    """Cross entropy and accuracy over all batches, each sample counted once. `metrics`, `views`: see the contracts."""
    model.eval()
    count, total_loss, correct = 0, 0.0, 0
    for inputs, targets in batches:
        logits = logits_of(model, inputs, views)
        total_loss = total_loss + F.cross_entropy(logits, targets, reduction="sum")
        correct = correct + (logits.argmax(1) == targets).sum()
        count += len(targets)
        metrics.update(logits, targets)
    total_loss, correct, count = map(sum, zip(*metrics.gathered([(total_loss, correct, count)]), strict=True))
    return {"loss": float(total_loss) / count, "accuracy": int(correct) / count}


def logits_of(model, inputs, views=None) -> torch.Tensor:
    """(N, classes). With `views(inputs) -> list of batches`: the log of the mean of their softmax."""
    if views is None:
        return model(inputs).float()
    return torch.stack([model(view).float().softmax(1) for view in views(inputs)]).mean(0).log()


def exported(model, inputs, views=None) -> torch.Tensor:
    """probabilities (N, classes)"""
    return logits_of(model, inputs, views).softmax(1)


exported.undo = lambda shares: shares.clamp(min=1e-38).log()  # logits, up to a constant


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]:
    """{"class", "probability"} for each of inputs (N, C, H, W), with thresholds "sure" too, with top > 1 "top"."""
    best = logits_of(model.eval(), inputs, views).softmax(1).topk(min(top, len(classes)))
    predictions = []
    for shares, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        found = {classes[index]: round(share, 6) for index, share in zip(indices, shares, strict=True)}
        name, probability = next(iter(found.items()))
        more = {"sure": probability >= thresholds.get(name, 0)} if thresholds else {}
        predictions.append({"class": name, "probability": probability} | ({"top": found} if top > 1 else {}) | more)
    return predictions


def read_sample(source, input_format: dict):
    from recipes.parts.predictor import read_image

    return read_image(source, input_format)


def draw(inputs, targets, classes: list[str], model=None) -> list:
    """Images with their classes above, the largest share after mixup; with a model what it predicts instead."""
    if inputs.ndim != 4:
        return []
    truth = [classes[index] for index in (targets if targets.ndim == 1 else targets.argmax(1)).tolist()]
    texts = truth if model is None else [classes[i] for i in logits_of(model.eval(), inputs).argmax(1).tolist()]
    captions = [text if text == right else f"{text}, not {right}" for text, right in zip(texts, truth, strict=True)]
    good = [None if model is None else text == right for text, right in zip(texts, truth, strict=True)]
    return list(map(captioned, map(as_pixels, inputs), captions, good))
