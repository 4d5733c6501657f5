"""Evaluation of classes: one for each sample, or several labels."""

import numpy
import torch
import torch.nn.functional as F

from recipes.parts.evaluation import Analysis, by_class, calibration, precision_recall


def analyse(experiment, kept, metrics: dict) -> Analysis:
    """Of logits (N, K) and classes (N,), or of probabilities and labels (N, K)."""
    outputs, targets = map(torch.cat, zip(*kept.seen, strict=True))
    names, thresholds = experiment.meta["classes"], experiment.meta.get("thresholds", {})
    each = numpy.arange(len(names))
    if targets.ndim == 2:
        losses = F.binary_cross_entropy(outputs, targets.float(), reduction="none").mean(1).numpy()
        shares, truth = outputs.numpy(), targets.numpy() > 0
        guess = shares >= [thresholds.get(name, 0.5) for name in names]
        facts = {"calibration": calibration(shares.ravel(), truth.ravel())}
        orders = numpy.argsort(-shares, axis=0).T  # which makes the sorting of each resample quick
        by_score = [(order, shares[order, k], truth[order, k]) for k, order in enumerate(orders)]
    else:
        losses, shares = F.cross_entropy(outputs, targets, reduction="none").numpy(), outputs.softmax(1).numpy()
        truth, guess = (indices[:, None] == each for indices in (targets.numpy(), outputs.argmax(1).numpy()))
        counts = numpy.bincount(targets * len(names) + outputs.argmax(1), minlength=len(names) ** 2)
        facts = {"confusion": {"classes": names, "counts": counts.reshape(len(names), -1).tolist()}}
        facts["calibration"] = calibration(shares[guess], truth[guess])
    right = (truth & guess).any(1)

    def of_classes(indices) -> dict:
        return {"loss": losses[indices].mean(), "accuracy": right[indices].mean()}

    def of_labels(indices) -> dict:
        weights, areas = numpy.bincount(indices, minlength=len(truth)), []
        for order, scores, there in by_score:
            if positives := (there * weights[order]).sum():
                curve = precision_recall(scores, there, positives, weights[order])
                areas.append((numpy.diff(curve["recall"], prepend=0) * curve["precision"]).sum())
        half = shares > 0.5
        f1 = 2 * (weights @ (truth & half)) / (weights @ truth + weights @ half).clip(1)
        return {"loss": losses[indices].mean(), "map": numpy.mean(areas or [0]), "f1": f1.mean()}

    def describe(index: int) -> dict:
        said = [", ".join(names[k] for k in each[rows[index]]) or "none" for rows in (truth, guess)]
        sure = {"probability": float(shares[index].max())} if targets.ndim == 1 else {}
        return {"truth": said[0], "prediction": said[1], **sure, "loss": float(losses[index])}

    return Analysis(
        statistic=of_classes if targets.ndim == 1 else of_labels,
        table=by_class(names, (truth & guess).sum(0), guess.sum(0), truth.sum(0)),
        facts=facts,
        ranked=lambda: {name: (shares[:, k], truth[:, k], truth[:, k].sum()) for k, name in enumerate(names)},
        has_curves=targets.ndim == 2,
        badness=losses,
        describe=describe,
    )
