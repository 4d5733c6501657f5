"""Evaluation of classes: one for each sample, or several labels."""

import numpy
import torch.nn.functional as F

from recipes.parts.evaluation import RESAMPLES, Analysis, as_curves, by_class, calibration


def analyse(experiment, kept, metrics: dict) -> Analysis:
    classes, (outputs, targets) = experiment.meta["classes"], kept.joined()
    facts, resamples = {}, RESAMPLES
    if targets.ndim == 2:  # of labels the outputs are probabilities
        shares, truth = outputs.numpy(), targets.numpy() > 0  # (N, K)
        losses = F.binary_cross_entropy(outputs, targets.float(), reduction="none").mean(1).numpy()
        guess, confidence, right = shares >= 0.5, shares.ravel(), truth.ravel()
        measure, resamples = experiment.task.measure, RESAMPLES // 5
        statistic = lambda indices: measure(outputs[indices], targets[indices])  # noqa: E731
    else:
        shares, each = outputs.softmax(1).numpy(), numpy.arange(len(classes))
        losses = F.cross_entropy(outputs, targets, reduction="none").numpy()
        target, predicted = targets.numpy(), outputs.argmax(1).numpy()
        truth, guess = target[:, None] == each, predicted[:, None] == each
        confidence, right = shares[guess], predicted == target
        counts = numpy.bincount(target * len(classes) + predicted, minlength=len(classes) ** 2)
        facts = {"confusion": {"classes": classes, "counts": counts.reshape(len(classes), -1).tolist()}}
        statistic = lambda indices: {"loss": losses[indices].mean(), "accuracy": right[indices].mean()}  # noqa: E731
    facts["calibration"] = calibration(confidence, right)
    there = truth.sum(0)
    ranked = {name: (shares[:, k], truth[:, k], int(there[k])) for k, name in enumerate(classes)}
    if targets.ndim == 2:
        facts["curves"] = as_curves(ranked)

    def describe(index: int) -> dict:
        told = {}
        for name, rows in (("truth", truth), ("prediction", guess)):
            told[name] = ", ".join(classes[k] for k in numpy.flatnonzero(rows[index])) or "none"
        surest = {} if targets.ndim == 2 else {"probability": float(confidence[index])}
        return told | surest | {"loss": float(losses[index])}

    table = by_class(classes, (truth & guess).sum(0), guess.sum(0), there)
    return Analysis(statistic, resamples, table, facts, lambda: ranked, losses, describe)
