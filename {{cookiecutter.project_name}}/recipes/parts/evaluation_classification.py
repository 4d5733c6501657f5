"""Evaluation of classes: one for each sample, or several labels."""

import numpy
import torch.nn.functional as F

from recipes.parts.evaluation import Analysis, as_table, by_class, calibration, precision_recall, thinned


def analyse(experiment, kept, metrics: dict) -> Analysis:
    outputs, targets = kept.joined()
    if targets.ndim == 2:
        return _labels(experiment.meta["classes"], outputs.numpy(), targets.numpy() > 0)
    classes, count = experiment.meta["classes"], outputs.shape[1]
    losses = F.cross_entropy(outputs, targets, reduction="none").numpy()
    shares, truth, predicted = outputs.softmax(1).numpy(), targets.numpy(), outputs.argmax(1).numpy()
    right, confidence = predicted == truth, shares[numpy.arange(len(truth)), predicted]
    cells = truth * count + predicted
    confusion = numpy.bincount(cells, minlength=count**2).reshape(count, count)

    def statistic(indices) -> dict:
        values = {"loss": losses[indices].mean(), "accuracy": right[indices].mean()}
        return values | ({"f1": mean_f1(cells[indices])} if "f1" in metrics else {})

    def mean_f1(cells) -> float:
        drawn = numpy.bincount(cells, minlength=count**2).reshape(count, count)
        found, there = drawn.sum(0), drawn.sum(1)
        return by_class(drawn.diagonal(), found, there)["f1"][found + there > 0].mean()

    def describe(index: int) -> dict:
        guess = {"prediction": classes[predicted[index]], "probability": float(confidence[index])}
        return {"truth": classes[truth[index]], **guess, "loss": float(losses[index])}

    found, there = confusion.sum(0), confusion.sum(1)
    columns = by_class(confusion.diagonal(), found, there) | {"support": there}
    facts = {"confusion": {"classes": classes, "counts": confusion.tolist()}}
    facts["calibration"] = calibration(confidence, right)
    ranked = lambda: {name: (shares[:, k], truth == k, int(there[k])) for k, name in enumerate(classes)}  # noqa: E731
    return Analysis(statistic, losses, describe, None, ranked, as_table(classes, columns), facts)


def _labels(classes: list[str], shares, truth) -> Analysis:
    """Of outputs, which are probabilities, and targets (N, labels)."""
    likely = numpy.clip(numpy.where(truth, shares, 1 - shares), 1e-12, 1)
    losses, guess, there = -numpy.log(likely).mean(1), shares >= 0.5, truth.sum(0)
    order = numpy.argsort(-shares, axis=0, kind="stable")  # (N, labels), as all below
    sorted_shares, hits = numpy.take_along_axis(shares, order, 0), numpy.take_along_axis(truth, order, 0)
    ends = numpy.diff(sorted_shares, axis=0, append=-1) != 0  # equal scores pass together

    def average_precision(weights) -> numpy.ndarray:
        drawn = weights[order]
        found, total = numpy.cumsum(drawn * hits, 0), numpy.cumsum(drawn, 0)
        each = []
        for k in range(len(classes)):
            positives, passed = found[ends[:, k], k], total[ends[:, k], k]
            steps = numpy.diff(positives, prepend=0)
            each.append((steps * positives / numpy.maximum(passed, 1)).sum() / positives[-1] if positives[-1] else numpy.nan)
        return numpy.array(each)

    def counted(weights) -> tuple:
        return weights @ (guess & truth), weights @ guess, weights @ truth

    def statistic(indices) -> dict:
        weights = numpy.bincount(indices, minlength=len(truth))
        average = numpy.nanmean(average_precision(weights)) if there.any() else numpy.nan
        return {"loss": losses[indices].mean(), "map": average, "f1": by_class(*counted(weights))["f1"].mean()}

    def describe(index: int) -> dict:
        named = [[classes[k] for k in numpy.flatnonzero(row[index])] for row in (truth, guess)]
        return {"truth": named[0], "prediction": named[1], "loss": float(losses[index])}

    once = numpy.ones(len(truth))
    columns = {"ap": average_precision(once), **by_class(*counted(once)), "support": there}
    ranked = lambda: {name: (shares[:, k], truth[:, k], int(there[k])) for k, name in enumerate(classes)}  # noqa: E731
    curves = {name: thinned(precision_recall(*each)) for name, each in ranked().items() if each[2]}
    facts = {"calibration": calibration(shares.ravel(), truth.ravel()), "curves": curves}
    return Analysis(statistic, losses, describe, None, ranked, as_table(classes, columns), facts)
