"""Evaluation of classes: one for each sample, or several labels."""

import numpy
import torch.nn.functional as F

from recipes.parts.evaluation import RESAMPLES, Analysis, as_curves, average_precision, by_class, calibration


def analyse(experiment, kept, metrics: dict) -> Analysis:
    classes, (outputs, targets) = experiment.meta["classes"], kept.joined()
    return (_labels if targets.ndim == 2 else _classes)(classes, outputs, targets)


def _classes(classes: list[str], outputs, targets) -> Analysis:
    """Of logits (N, K) and the class of each sample (N,)."""
    losses = F.cross_entropy(outputs, targets, reduction="none").numpy()
    shares, truth, guess = outputs.softmax(1).numpy(), targets.numpy(), outputs.argmax(1).numpy()
    right, surest = guess == truth, numpy.take_along_axis(shares, guess[:, None], 1)[:, 0]
    counts = numpy.bincount(truth * len(classes) + guess, minlength=len(classes) ** 2).reshape(len(classes), -1)
    there = counts.sum(1)

    def describe(index: int) -> dict:
        said = {"truth": classes[truth[index]], "prediction": classes[guess[index]]}
        return said | {"probability": float(surest[index]), "loss": float(losses[index])}

    return Analysis(
        statistic=lambda indices: {"loss": losses[indices].mean(), "accuracy": right[indices].mean()},
        table=by_class(classes, counts.diagonal(), counts.sum(0), there),
        facts={"confusion": {"classes": classes, "counts": counts.tolist()}, "calibration": calibration(surest, right)},
        ranked=lambda: {name: (shares[:, k], truth == k, there[k]) for k, name in enumerate(classes)},
        badness=losses,
        describe=describe,
    )


def _labels(classes: list[str], outputs, targets) -> Analysis:
    """Of probabilities and targets (N, labels)."""
    losses = F.binary_cross_entropy(outputs, targets.float(), reduction="none").mean(1).numpy()
    shares, truth = outputs.numpy(), targets.numpy() > 0
    guess, each = shares >= 0.5, range(len(classes))

    def ranked(indices=slice(None)) -> dict:
        one, there = (part[indices] for part in (shares, truth))
        return {classes[k]: (one[:, k], there[:, k], there[:, k].sum()) for k in each}

    def counted(indices=slice(None)) -> tuple:
        return (truth & guess)[indices].sum(0), guess[indices].sum(0), truth[indices].sum(0)

    def statistic(indices) -> dict:
        average = numpy.mean([average_precision(*one) for one in ranked(indices).values() if one[2]])
        right, found, there = counted(indices)
        return {"loss": losses[indices].mean(), "map": average, "f1": (2 * right / (found + there).clip(1)).mean()}

    def describe(index: int) -> dict:
        said = [", ".join(classes[k] for k in each if rows[index, k]) or "none" for rows in (truth, guess)]
        return {"truth": said[0], "prediction": said[1], "loss": float(losses[index])}

    averages = numpy.array([average_precision(*one) for one in ranked().values()])
    facts = {"calibration": calibration(shares.ravel(), truth.ravel()), "curves": as_curves(ranked())}
    table = by_class(classes, *counted(), ap=averages)
    return Analysis(statistic, RESAMPLES // 5, table, facts, ranked, losses, describe)
