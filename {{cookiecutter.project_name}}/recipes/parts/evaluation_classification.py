"""Evaluation of classes: one for each sample, or several labels. K classes, shares (N, K): their probabilities."""

import numpy
import torch
import torch.nn.functional as F

from recipes.parts.evaluation import Analysis, by_class, calibration, precision_recall


def analyse(experiment, kept, metrics: dict) -> Analysis:
    outputs, targets = map(torch.cat, zip(*kept.seen, strict=True))
    names, thresholds = experiment.meta["classes"], experiment.meta.get("thresholds", {})
    if targets.ndim == 1:
        return _classes(names, outputs, targets)
    return _labels(names, outputs, targets, [thresholds.get(name, 0.5) for name in names])


def _classes(names: list[str], outputs, targets) -> Analysis:
    """Of logits (N, K) and classes (N,)."""
    losses, shares = F.cross_entropy(outputs, targets, reduction="none").numpy(), outputs.softmax(1).numpy()
    truth, guess = (part.numpy()[:, None] == numpy.arange(len(names)) for part in (targets, outputs.argmax(1)))
    right = (truth & guess).any(1)
    counts = numpy.bincount(targets * len(names) + outputs.argmax(1), minlength=len(names) ** 2)
    facts = {"confusion": {"classes": names, "counts": counts.reshape(len(names), -1).tolist()}}
    facts["calibration"] = calibration(shares[guess], right)

    def statistic(indices) -> dict:
        return {"loss": losses[indices].mean(), "accuracy": right[indices].mean()}

    return _analysis(names, shares, truth, guess, losses, facts=facts, statistic=statistic)


def _labels(names: list[str], outputs, targets, thresholds: list[float]) -> Analysis:
    """Of probabilities and labels (N, K). Table and worst samples are of what passes the thresholds."""
    losses = F.binary_cross_entropy(outputs, targets.float(), reduction="none").mean(1).numpy()
    shares, truth = outputs.numpy(), targets.numpy() > 0
    orders = numpy.argsort(-shares, axis=0).T  # once, which makes the sorting of each resample quick
    by_score = [(order, shares[order, k], truth[order, k]) for k, order in enumerate(orders)]
    right, either = truth * (shares > 0.5) * 1.0, truth + (shares > 0.5) * 1.0

    def statistic(indices) -> dict:
        weights, areas = numpy.bincount(indices, minlength=len(truth)), []
        for order, scores, there in by_score:
            if positives := (there * weights[order]).sum():
                curve = precision_recall(scores, there, positives, weights[order])
                areas.append((numpy.diff(curve["recall"], prepend=0) * curve["precision"]).sum())
        f1 = (2 * (weights @ right) / (weights @ either).clip(1)).mean()
        return {"loss": losses[indices].mean(), "map": numpy.mean(areas or [0]), "f1": f1}

    more = {"facts": {"calibration": calibration(shares.ravel(), truth.ravel())}, "has_curves": True}
    return _analysis(names, shares, truth, shares >= thresholds, losses, statistic=statistic, **more)


def _analysis(names: list[str], shares, truth, guess, losses, **more) -> Analysis:
    def describe(index: int) -> dict:
        said = [", ".join(names[k] for k in numpy.flatnonzero(rows[index])) or "none" for rows in (truth, guess)]
        return {"truth": said[0], "prediction": said[1], "loss": float(losses[index])}

    def ranked() -> dict:
        return {name: (shares[:, k], truth[:, k], truth[:, k].sum()) for k, name in enumerate(names)}

    table = by_class(names, (truth & guess).sum(0), guess.sum(0), truth.sum(0))
    return Analysis(table=table, ranked=ranked, badness=losses, describe=describe, **more)
