"""Evaluation of masks: intervals from the counts of each image, a table by class, the images with the highest loss."""

import numpy
import torch
import torch.nn.functional as F

from recipes.parts import evaluation
from recipes.parts.calling import Metrics
from recipes.parts.evaluation import Analysis, by_class, calibration
from recipes.segmentation import IGNORED

SOME = 17  # every such pixel is enough for the calibration


class Kept(evaluation.Kept):
    """Counts of each image; pixels themselves would be too many.

    seen: of each batch (right, true, predicted pixels (n, classes), loss (n,) summed over pixels)
    """

    def __init__(self, metrics, model):
        super().__init__(metrics, model)
        self.pixels, self.confusion, self.some = [], 0, []

    def update(self, logits, classes) -> None:
        """Of pixels that count: logits (pixels, classes), classes (pixels,)."""
        Metrics.update(self, logits, classes)
        confidence, guess = logits.softmax(1).max(1)
        losses = F.cross_entropy(logits, classes, reduction="none")
        self.pixels.append((classes, guess, losses, confidence))
        self.classes = logits.shape[1]

    def end_batch(self, masks) -> None:
        """masks (n, H, W): to which images the pixels since the last batch belong."""
        truth, guess, losses, confidence = (torch.cat(part).cpu().numpy() for part in zip(*self.pixels, strict=True))
        sizes = (masks != IGNORED).flatten(1).sum(1).cpu().numpy()
        image, right, shape = numpy.repeat(numpy.arange(len(sizes)), sizes), truth == guess, (len(sizes), self.classes)
        parts = [
            (image[chosen] * self.classes + part[chosen])
            for part, chosen in ((truth, right), (truth, ...), (guess, ...))
        ]
        counts = [numpy.bincount(part, minlength=shape[0] * shape[1]).reshape(shape) for part in parts]
        self.seen.append((*counts, numpy.bincount(image, losses, len(sizes))))
        pairs = numpy.bincount(truth * self.classes + guess, minlength=self.classes**2)
        self.confusion = self.confusion + pairs.reshape(self.classes, -1)
        self.some.append((confidence[::SOME], right[::SOME]))
        self.pixels = []


def analyse(experiment, kept: Kept, metrics: dict) -> Analysis:
    classes = experiment.meta["classes"]
    right, truth, guess, losses = (numpy.concatenate(part) for part in zip(*kept.seen, strict=True))

    def measure(weights) -> dict:
        """The task's metrics, with each image counted `weights` times."""
        hits, there, found = (weights @ part for part in (right, truth, guess))
        present, pixels = there + found > 0, max(1, there.sum())
        iou, dice = hits / (there + found - hits).clip(1), 2 * hits / (there + found).clip(1)
        values = {"loss": weights @ losses / pixels, "mean_iou": iou[present].mean(), "dice": dice[present].mean()}
        values["pixel_accuracy"] = hits.sum() / pixels
        return values | {f"iou.{classes[k]}": iou[k] for k in numpy.flatnonzero(present)}

    def describe(index: int) -> dict:
        values = measure(numpy.arange(len(losses)) == index)
        return {name: float(values[name]) for name in ("loss", "mean_iou", "pixel_accuracy")}

    hits, there, found = (part.sum(0) for part in (right, truth, guess))
    return Analysis(
        statistic=lambda indices: measure(numpy.bincount(indices, minlength=len(losses))),
        table=by_class(classes, hits, found, there, iou=hits / (there + found - hits).clip(1)),
        facts={
            "confusion": {"classes": classes, "counts": kept.confusion.tolist()},
            "calibration": calibration(*map(numpy.concatenate, zip(*kept.some, strict=True))),
        },
        badness=losses / truth.sum(1).clip(1),
        describe=describe,
    )
