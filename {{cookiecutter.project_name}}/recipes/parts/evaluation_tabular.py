"""Evaluation of numbers; of classes as in evaluation_classification.py, and their F1."""

import numpy
import torch

from recipes.parts import evaluation_classification
from recipes.parts.evaluation import Analysis

POINTS = 500  # of the file's pairs of truth and prediction


def analyse(experiment, kept, metrics: dict) -> Analysis:
    outputs, targets = map(torch.cat, zip(*kept.seen, strict=True))
    if targets.is_floating_point():
        return _numbers(outputs.double().numpy(), targets.double().numpy(), experiment.meta["classes"][0], metrics)
    analysis = evaluation_classification.analyse(experiment, kept, metrics)
    others, truth, guess = analysis.statistic, targets.numpy(), outputs.argmax(1).numpy()

    def statistic(indices) -> dict:
        drawn = truth[indices], guess[indices], truth[indices][truth[indices] == guess[indices]]
        there, found, right = (numpy.bincount(part, minlength=outputs.shape[1]) for part in drawn)
        f1 = (2 * right / (there + found).clip(1))[there + found > 0].mean()
        return others(indices) | {"f1": f1}

    analysis.statistic = statistic
    return analysis


def _numbers(outputs, targets, unit: str, metrics: dict) -> Analysis:
    """Of predictions and targets (N,)."""
    errors = outputs - targets
    scale = metrics["loss"] / max((errors**2).mean(), 1e-12)  # the loss is that of standardised numbers

    def statistic(indices) -> dict:
        wrong, there = errors[indices], targets[indices]
        r2 = 1 - (wrong**2).sum() / max(((there - there.mean()) ** 2).sum(), 1e-12)
        return {"loss": (wrong**2).mean() * scale, "mae": abs(wrong).mean(), "r2": r2}

    def describe(index: int) -> dict:
        return {"truth": targets[index], "prediction": outputs[index], "error": errors[index], "unit": unit}

    some = slice(POINTS)
    facts = {"numbers": {"truth": targets[some].tolist(), "prediction": outputs[some].tolist(), "unit": unit}}
    return Analysis(statistic, facts=facts, badness=abs(errors), describe=describe)
