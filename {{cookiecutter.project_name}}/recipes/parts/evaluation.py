"""Evaluate a model in depth. `evaluate_run` writes <split>.json, <split>-classes.csv and pictures of the worst samples.

The JSON file holds `samples` (their number), `metrics` and, as far as the task allows, `intervals` of 95 %,
table        {"dog": {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 20}, ...}
confusion    {"classes": [...], "counts": [[...], ...]}: a row for each true class
calibration  {"ece": 0.02, "bins": [{"count": 8, "confidence": 0.63, "accuracy": 0.6}, ...]}
curves       {"dog": {"threshold": [...], "precision": [...], "recall": [...], "f1": [...]}, ...}; thresholds: the best
worst        [{"sample": its file, "picture": "validation-worst-01.png", "loss": 4.2, ...}, ...]
images_per_second  {"model": 9000.0, "all": 4000.0}: without and with the reading of samples
What differs by task is in evaluation_<name>.py; see EVALUATION in recipes/contracts.py.
"""

import csv
import importlib.util
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy
import torch
from PIL import Image

from core import IngredientsError
from recipes.parts import checkpoint, pictures
from recipes.parts.calling import Metrics, carried

WORST, RESAMPLES, BINS, POINTS = 12, 1000, 15, 200  # POINTS: of a curve


@dataclass
class Analysis:
    """What `analyse(experiment, kept, metrics)` of evaluation_<name>.py returns."""

    statistic: Callable = lambda indices: {}  # indices (N,) of a resample -> {name of a metric: value}
    table: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)  # confusion, calibration, ...
    ranked: Callable = dict  # () -> {class: (scores (n,), which are right (n,), how many there are to be found)}
    has_curves: bool = False  # of these
    badness: numpy.ndarray | tuple = ()  # of each sample (N,)
    describe: Callable = dict  # index of a sample -> facts about it
    draw: Callable | None = None  # (index, input) -> image (3, H, W); None: as the task draws predictions


class Kept(Metrics):
    """Metrics which keep what they are given, and may do more at the end of a batch."""

    def __init__(self, metrics: Metrics, model):
        super().__init__(metrics)
        self.seen = []

    def __bool__(self) -> bool:  # a task may leave out `update` if there are none
        return True

    def update(self, outputs, targets) -> None:
        super().update(outputs, targets)
        self.seen.append((outputs.cpu(), targets.cpu()))

    def end_batch(self, targets) -> None: ...


def evaluate_run(experiment, split: str, folder: Path, progress, samples=None, thresholds: bool = False) -> dict:
    """Evaluate the model on a split, or `samples` of it; returns what the JSON file holds. progress: that of Run."""
    started, seconds = time.perf_counter(), []
    samples = experiment.load_checked(split) if samples is None else samples
    order = experiment.some(samples)
    count = len(samples if order is None else order)
    part = find_part(experiment.task)
    kept = (carried(part, "Kept") or Kept)(experiment.metrics, experiment.model)
    batches = progress(experiment.read(samples, experiment.evaluation_batch_size)(order), count, split)
    views = None if split in ("training", "validation") else experiment.functions.at("testing.views")
    metrics = replace(experiment, metrics=kept).evaluate(experiment.model, _timed(batches, kept, seconds), views)
    speed = {"model": count / sum(seconds), "all": count / (time.perf_counter() - started)}

    analysis = part.analyse(experiment, kept, metrics) if part else Analysis()
    found = {"split": split, "samples": count, "metrics": metrics, "table": analysis.table, **analysis.facts}
    found["intervals"] = bootstrap(analysis.statistic, count)
    if experiment.metrics and type(kept) is Kept:
        found["intervals"] |= bootstrap(_statistic_of(experiment.metrics, kept, experiment.device), count)
    ranked = analysis.ranked() if thresholds or analysis.has_curves else {}
    curves = {name: precision_recall(*one) for name, one in ranked.items() if one[1].any()}
    if analysis.has_curves:
        found["curves"] = {name: {k: _thinned(v) for k, v in curve.items()} for name, curve in curves.items()}
    if thresholds and (not curves or math.isnan(metrics.get("loss", 0))):
        raise IngredientsError("--thresholds: this task has no scores of classes to choose thresholds for, or nan")
    if thresholds:
        best = {name: curve["f1"].argmax() for name, curve in curves.items()}
        found["thresholds"] = {name: {k: float(v[best[name]]) for k, v in curves[name].items()} for name in best}
    found["worst"] = _draw_worst(experiment, samples, analysis, Path(folder), split)
    found["images_per_second"] = {name: round(value, 1) for name, value in speed.items()}
    _write(Path(folder) / split, found)
    return found


def find_part(task):
    """evaluation_<name>.py of a task, else that of tasks which have none, evaluation_own.py, else None."""
    names = carried(task, "EVALUATION") or task.__name__.rpartition(".")[2], "own"
    paths = [f"recipes.parts.evaluation_{name}" for name in names]
    return next((importlib.import_module(path) for path in paths if importlib.util.find_spec(path)), None)


def _timed(batches, kept: Kept, seconds: list):
    for inputs, targets in batches:
        started = time.perf_counter()
        yield inputs, targets
        kept.end_batch(targets)
        seconds.append(time.perf_counter() - started)


def _statistic_of(metrics: Metrics, kept: Kept, device):
    outputs, targets = (torch.cat(part).to(device) for part in zip(*kept.seen, strict=True))

    def statistic(indices) -> dict:
        metrics.update(outputs[indices], targets[indices])
        return metrics.compute()

    return statistic


def bootstrap(statistic, count: int) -> dict[str, list[float]]:
    """95 % intervals of a statistic: percentiles of resamples, less their bias, which average precision has."""
    random, intervals = numpy.random.default_rng(0), {}
    times = min(RESAMPLES, max(200, 5_000_000 // count))  # of many samples, each takes long and they differ little
    drawn = [statistic(random.integers(count, size=count)) for _ in range(times)]
    for name, value in statistic(numpy.arange(count)).items():
        values = numpy.array([one[name] for one in drawn if not math.isnan(one.get(name, math.nan))])
        if len(values):
            low, high = (0, 1) if values.min() >= 0 and values.max() <= 1 else (None, None)  # of a share
            intervals[name] = (numpy.percentile(values, (2.5, 97.5)) - values.mean() + value).clip(low, high).tolist()
    return intervals


def calibration(confidence: numpy.ndarray, right: numpy.ndarray) -> dict:
    """The expected calibration error (Guo et al. 2017, arXiv:1706.04599), and its bins of equal width."""
    places = numpy.ceil(numpy.nan_to_num(confidence) * BINS).clip(1, BINS).astype(int) - 1
    counts, *sums = (numpy.bincount(places, weights, BINS) for weights in (None, confidence, right))
    rows = zip(counts.tolist(), *(total / counts.clip(1) for total in sums), strict=True)
    bins = [{"count": count, "confidence": float(mean), "accuracy": float(share)} for count, mean, share in rows]
    return {"ece": float(abs(sums[0] - sums[1]).sum() / max(len(right), 1)), "bins": bins}


def by_class(classes: list[str], right, found, there, **columns) -> dict[str, dict]:
    """A table of counts (K,): right ones, predicted ones, and those that there are; further columns come first."""
    columns |= {"precision": right / found.clip(1), "recall": right / there.clip(1)}
    columns |= {"f1": 2 * right / (found + there).clip(1), "support": there}
    return {name: {key: column[k].item() for key, column in columns.items()} for k, name in enumerate(classes)}


def precision_recall(scores, right, positives: int, weights=1) -> dict[str, numpy.ndarray]:
    """What each threshold gives, the highest first: half way between two scores. weights: how often each counts."""
    order = numpy.argsort(-scores, kind="stable")
    ends = numpy.flatnonzero(numpy.diff(scores[order], append=-numpy.inf))  # equal scores pass together
    hits, found = (numpy.cumsum((part * weights)[order])[ends] for part in (right, numpy.ones(len(right))))
    passed = numpy.append(scores[order][ends], 0.0)
    curve = {"threshold": (passed[:-1] + passed[1:]) / 2, "precision": hits / found.clip(1), "recall": hits / positives}
    return curve | {"f1": 2 * hits / (found + positives)}


def _thinned(values: numpy.ndarray) -> list[float]:
    return values[:: len(values) // POINTS + 1].round(5).tolist()


def _draw_worst(experiment, samples, analysis: Analysis, folder: Path, split: str) -> list[dict]:
    """Draw the worst samples; returns what is known of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{split}-worst-*.png"):
        path.unlink()
    worst = []
    for index in numpy.argsort(analysis.badness)[::-1][:WORST].tolist():
        if analysis.badness[index] > 0:
            path, (sample, target) = folder / f"{split}-worst-{len(worst) + 1:02}.png", samples[index]
            if analysis.draw:
                Image.fromarray(analysis.draw(index, sample).permute(1, 2, 0).contiguous().numpy()).save(path)
            else:
                batch = (part[None].to(experiment.device) for part in (sample, target))
                pictures.save(path, experiment, *batch, experiment.model)
            name = {"sample": str(samples.names[index] if samples.names else index), "index": index}
            worst.append(name | analysis.describe(index) | ({"picture": path.name} if path.exists() else {}))
    return worst


def _write(path: Path, found: dict) -> None:
    files, text = {f"{path.name}.json": json.dumps(found) + "\n"}, io.StringIO()
    if table := found["table"]:
        csv.writer(text, lineterminator="\n").writerow(["class", *next(iter(table.values()))])
        csv.writer(text, lineterminator="\n").writerows([name, *row.values()] for name, row in table.items())
        files[f"{path.name}-classes.csv"] = text.getvalue()
    for name, content in files.items():
        with checkpoint.replacing(path.with_name(name)) as file:
            file.write(content.encode(errors="surrogateescape"))  # the name of a class may be any bytes
