"""What differs by task, here: several labels for each image, or none. Targets (N, labels) are 0 or 1."""

import torch
import torch.nn.functional as F

from core import SettingError
from core.registry import need
from recipes import classification
from recipes.parts.pictures import as_pixels, captioned

METRICS = ("loss", "map", "f1")  # binary cross entropy; average precision and F1 at 0.5, averaged over labels
BEST = "map"
EVALUATION = "classification"
REFUSED = {"training.scheme.balanced": "a sample has several labels; weight them by pos_weight of [training.loss]"}
REFUSED |= dict.fromkeys(("cross_entropy", "focal", "mixup", "cutmix"), "takes one class for each sample")

check, build_model, read_sample = classification.check, classification.build_model, classification.read_sample


def check_data(architecture, samples) -> int:
    """The number of labels."""
    targets, wanted = samples.targets, architecture.output_classes
    if targets is None or targets.ndim != 2 or not ((targets == 0) | (targets == 1)).all():
        raise SettingError("training.load_dataset", "expected targets (N, labels) of 0 and 1, as of load_image_csv")
    if wanted not in (None, targets.shape[1]):
        raise SettingError("model.architecture.output_classes", f"the data has {targets.shape[1]} labels")
    return targets.shape[1]


def check_split(section: str, samples, meta: dict) -> None:
    if samples.classes and samples.classes != meta["classes"]:
        raise SettingError(section, f"its labels are {samples.classes}, but those of training are {meta['classes']}")


def default_loss():
    return torch.nn.BCEWithLogitsLoss()


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, C, H, W), targets (N, labels)."""
    return criterion(model(inputs), targets.float())


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    need("torchmetrics")
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    seen = metrics.gathered([(exported(model, inputs, views), targets) for inputs, targets in batches])
    outputs, targets = (torch.cat(part) for part in zip(*seen, strict=True))  # (N, labels)
    metrics.update(outputs, targets)
    return {
        "loss": float(F.binary_cross_entropy(outputs, targets.float())),
        "map": float(multilabel_average_precision(outputs, targets.long(), targets.shape[1])),
        "f1": float(multilabel_f1_score(outputs, targets.long(), targets.shape[1])),
    }


def exported(model, inputs, views=None) -> torch.Tensor:
    """probabilities (N, labels), each by itself; averaged over views, if there are any"""
    batches = views(inputs) if views else [inputs]
    return torch.stack([model.eval()(batch).float().sigmoid() for batch in batches]).mean(0)


exported.undo = torch.logit


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]:
    """{"labels": those of each input that reach their threshold, or 0.5, the most probable first}."""
    limits, rows = thresholds or {}, exported(model, inputs, views).tolist()
    ranked = (sorted(zip(row, classes, strict=True), reverse=True) for row in rows)
    return [{"labels": {name: round(p, 6) for p, name in row if p >= limits.get(name, 0.5)}} for row in ranked]


def draw(inputs, targets, classes: list[str], model=None) -> list:
    """Images with their labels above; with a model those that it predicts."""
    truth = [[classes[i] for i in row.nonzero()[:, 0].tolist()] for row in targets]
    named = truth if model is None else [found["labels"] for found in predict(model, inputs, classes)]
    return list(map(captioned, map(as_pixels, inputs), [", ".join(names) or "none" for names in named]))
