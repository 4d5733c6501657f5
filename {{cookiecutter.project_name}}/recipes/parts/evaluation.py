"""Evaluate a model in depth. `evaluate_run` writes PNG files, a table by class as CSV, and <split>.json, which holds

samples, metrics   300, {"accuracy": 0.97, ...}
intervals          {"accuracy": [0.95, 0.99], ...}: of 95 % confidence, by resampling the samples
table              by class: {"dog": {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 20}, ...}
confusion          {"classes": [...], "counts": [[...], ...]}: a row for each true class
calibration        {"ece": 0.02, "bins": [{"low": 0.6, "high": 0.67, "count": 8, "accuracy": 0.6, ...}, ...]}
curves             by class: {"threshold": [...], "precision": [...], "recall": [...]}
thresholds         by class: {"threshold": 0.4, "precision": 0.9, ...}, if they were asked for
worst              [{"sample": its file, "picture": "validation-worst-01.png", "loss": 4.2, ...}, ...]
images_per_second  {"model": 9000.0, "all": 4000.0}: of network and metrics; with reading the samples

as far as the task allows. What differs by task is in evaluation_<name>.py, see `EVALUATION` in recipes/contracts.py.
"""

import csv
import importlib.util
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
import torch
from PIL import Image

from recipes.parts import checkpoint, pictures
from recipes.parts.calling import Metrics, carried

WORST, RESAMPLES, BINS, POINTS = 12, 1000, 15, 200  # POINTS: of a curve


@dataclass
class Analysis:
    """What `analyse(experiment, kept, metrics)` of evaluation_<name>.py returns."""

    statistic: Callable | None = None  # indices (N,) of a resample -> {name of a metric: value}
    resamples: int = RESAMPLES  # fewer if the statistic is slow
    table: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)  # confusion, calibration
    ranked: Callable = dict  # () -> {class: (scores (n,), which are right (n,), how many there are to be found)}
    badness: numpy.ndarray | None = None  # of each sample (N,)
    describe: Callable = dict  # index of a sample -> facts about it
    draw: Callable | None = None  # (index, input) -> image (3, H, W); None: as the task draws predictions


class Outputs:
    """A metric without a value, which keeps what the task gives to metrics."""

    def __init__(self, model):
        self.seen = []

    def update(self, outputs, targets) -> None:
        self.seen.append((outputs.cpu(), targets.cpu()))

    def end_batch(self, targets) -> None: ...

    def compute(self) -> tuple:
        return ()

    def reset(self) -> None: ...

    def joined(self) -> tuple:
        """(outputs, targets) of all samples."""
        return tuple(torch.cat(part) for part in zip(*self.seen, strict=True))


def evaluate_run(experiment, split: str, folder: Path, progress, samples=None, thresholds: bool = False) -> dict:
    """Evaluate the model on a split, or on `samples` of it; returns what the JSON file holds.

    progress: `progress(batches, count, text) -> batches`; thresholds: choose one for each class
    """
    started, seconds = time.perf_counter(), []
    samples = experiment.load_checked(split) if samples is None else samples
    order = experiment.some(samples)
    count = len(samples if order is None else order)
    part = find_part(experiment.task)
    kept = (carried(part, "Outputs") or Outputs)(experiment.model)
    batches = progress(experiment.read(samples, experiment.evaluation_batch_size)(order), count, split)
    views = None if split in ("training", "validation") else experiment.functions.at("testing.views")
    watched = replace(experiment, metrics=Metrics({**experiment.metrics, "": kept}))
    metrics = watched.evaluate(experiment.model, _timed(batches, kept, seconds), views)
    speed = {"model": count / sum(seconds), "all": count / (time.perf_counter() - started)}

    analysis = part.analyse(experiment, kept, metrics) if part else Analysis()
    intervals = bootstrap(analysis.statistic, count, analysis.resamples)
    intervals |= bootstrap(_own_metrics(experiment.metrics, kept), count, RESAMPLES // 5)
    found = {"split": split, "samples": count, "metrics": metrics, "intervals": intervals, "table": analysis.table}
    found |= analysis.facts
    if thresholds:
        found["thresholds"] = {name: best_threshold(*one) for name, one in analysis.ranked().items() if one[1].any()}
    found["worst"] = _draw_worst(experiment, samples, analysis, Path(folder), split)
    found["images_per_second"] = {name: round(value, 1) for name, value in speed.items()}
    _write(Path(folder) / split, found)
    return found


def find_part(task):
    """evaluation_<name>.py of a task, else that of tasks which have none, evaluation_own.py, else None."""
    names = carried(task, "EVALUATION") or task.__name__.rpartition(".")[2], "own"
    paths = [f"recipes.parts.evaluation_{name}" for name in names]
    return next((importlib.import_module(path) for path in paths if importlib.util.find_spec(path)), None)


def _timed(batches, kept: Outputs, seconds: list):
    for inputs, targets in batches:
        started = time.perf_counter()
        yield inputs, targets
        kept.end_batch(targets)
        seconds.append(time.perf_counter() - started)


def _own_metrics(metrics: Metrics, kept: Outputs):
    """The statistic of [validation.metrics], if outputs are kept."""
    outputs, targets = kept.joined() if metrics and kept.seen else (None, None)

    def statistic(indices) -> dict:
        metrics.update(outputs[indices], targets[indices])
        return metrics.compute()

    return None if outputs is None else statistic


def bootstrap(statistic, count: int, times: int = RESAMPLES) -> dict[str, list[float]]:
    """95 % intervals, percentiles of a statistic of resampled samples: {name: [low, high]}."""
    random = numpy.random.default_rng(0)
    times = min(times, max(200, 2 * 10**7 // count))  # of many samples fewer, which would take long
    drawn = [statistic(random.integers(count, size=count)) for _ in range(times if statistic else 0)]
    values = {name: [one.get(name, numpy.nan) for one in drawn] for one in drawn for name in one}
    return {name: numpy.nanpercentile(each, (2.5, 97.5)).tolist() for name, each in values.items()}


# ------------------------------------------------------------------------------------------- for evaluation_<name>.py


def calibration(confidence: numpy.ndarray, right: numpy.ndarray) -> dict:
    """The expected calibration error (Guo et al. 2017, arXiv:1706.04599) and its bins, of equal width."""
    places = numpy.ceil(confidence * BINS).clip(1, BINS).astype(int) - 1
    counts = numpy.bincount(places, minlength=BINS)
    sums = [numpy.bincount(places, weights, BINS) for weights in (confidence, right)]
    means = [(total / counts.clip(1)).tolist() for total in sums]
    columns = zip(range(BINS), counts.tolist(), *means, strict=True)
    bins = [
        {"low": i / BINS, "high": (i + 1) / BINS, "count": n, "confidence": c, "accuracy": a} for i, n, c, a in columns
    ]
    return {"ece": float(abs(sums[0] - sums[1]).sum() / len(places)), "bins": bins}


def by_class(classes: list[str], right, found, there, **columns) -> dict[str, dict]:
    """A table of counts (K,): right ones, predicted ones, and those that there are; further columns come first."""
    f1 = 2 * right / (found + there).clip(1)
    columns |= {"precision": right / found.clip(1), "recall": right / there.clip(1), "f1": f1, "support": there}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return {name: dict(zip(columns, row, strict=True)) for name, row in zip(classes, rows, strict=True)}


def precision_recall(scores, right, positives: int) -> dict[str, numpy.ndarray]:
    """Both at each threshold, the highest first."""
    order = numpy.argsort(-scores, kind="stable")
    ends = numpy.flatnonzero(numpy.diff(scores[order], append=-numpy.inf))  # equal scores pass together
    hits = numpy.cumsum(right[order])[ends]
    return {"threshold": scores[order][ends], "precision": hits / (ends + 1), "recall": hits / max(positives, 1)}


def average_precision(*one) -> float:
    """Of what `precision_recall` takes."""
    curve = precision_recall(*one)
    return float((numpy.diff(curve["recall"], prepend=0) * curve["precision"]).sum())


def as_curves(ranked: dict) -> dict[str, dict]:
    """The curves of precision and recall, thinned out."""
    curves = {name: precision_recall(*one) for name, one in ranked.items() if one[1].any()}
    chosen = {
        name: numpy.unique(numpy.linspace(0, len(c["recall"]) - 1, POINTS).astype(int)) for name, c in curves.items()
    }
    return {
        name: {key: v[chosen[name]].round(5).tolist() for key, v in curve.items()} for name, curve in curves.items()
    }


def best_threshold(scores, right, positives: int) -> dict[str, float]:
    """The threshold of the highest F1, half way to the next lower score, and what it gives."""
    curve = precision_recall(scores, right, positives)
    f1 = 2 * curve["precision"] * curve["recall"] / (curve["precision"] + curve["recall"]).clip(1e-12)
    best = int(f1.argmax())
    values = {name: float(values[best]) for name, values in (curve | {"f1": f1}).items()}
    lower = numpy.append(curve["threshold"], 0.0)[best + 1]
    return values | {"threshold": (values["threshold"] + float(lower)) / 2}


# ---------------------------------------------------------------------------------------------------------- files


def _draw_worst(experiment, samples, analysis: Analysis, folder: Path, split: str) -> list[dict]:
    """Draw the worst samples; returns what is known of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{split}-worst-*.png"):
        path.unlink()
    worst = [] if analysis.badness is None else numpy.argsort(-analysis.badness, kind="stable")[:WORST].tolist()
    found = []
    for number, index in enumerate(worst, 1):
        path, (sample, target) = folder / f"{split}-worst-{number:02}.png", samples[index]
        if analysis.draw:
            Image.fromarray(analysis.draw(index, sample).permute(1, 2, 0).contiguous().numpy()).save(path)
        else:
            batch = (part[None].to(experiment.device) for part in (sample, target))
            pictures.save(path, experiment, *batch, experiment.model)
        picture = {"picture": path.name} if path.exists() else {}
        name = samples.names[index] if samples.names else index
        found.append({"sample": str(name), "index": index, **analysis.describe(index), **picture})
    return found


def _write(path: Path, found: dict) -> None:
    text = io.StringIO()
    for row in [["class", *columns] for columns in found["table"].values()][:1]:
        csv.writer(text, lineterminator="\n").writerow(row)
    rows = [[name, *row.values()] for name, row in found["table"].items()]
    csv.writer(text, lineterminator="\n").writerows(rows)
    for suffix, content in ((".json", json.dumps(found) + "\n"), ("-classes.csv", text.getvalue())):
        with checkpoint.replacing(path.with_name(path.name + suffix)) as file:
            file.write(content.encode())
