"""Evaluate a model in depth: metrics with confidence intervals, a table by class, calibration, the worst samples.

`evaluate_run` writes <split>.json, <split>-classes.csv and <split>-worst-01.png, ... into a folder. The JSON file holds

    samples, metrics, intervals   300, {"accuracy": 0.97}, {"accuracy": [0.95, 0.99]}: 95 %, by resampling the samples
    table                         by class, such as {"dog": {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 20}}
    confusion                     {"classes": [...], "counts": [[...]]}: a row for each true class
    calibration                   {"ece": 0.02, "bins": [{"confidence": 0.95, "accuracy": 0.93, "count": 80}, ...]}
    curves                        by class: {"threshold": [...], "precision": [...], "recall": [...]}
    worst                         [{"sample": its file, "picture": "validation-worst-01.png", "loss": 4.2, ...}, ...]
    images_per_second             {"model": 9000, "all": 4000}: with the metrics; with reading the samples, too

as far as the task allows. What differs by task is in evaluation_<name>.py, the task's EVALUATION or its own name.
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

from recipes.parts import checkpoint, pictures
from recipes.parts.calling import Metrics, carried

WORST, RESAMPLES, BINS = 12, 1000, 15


@dataclass
class Analysis:
    """What evaluation_<name>.py makes of the outputs: `analyse(experiment, kept, metrics) -> Analysis`.

    statistic: indices (N,) of resampled samples -> {name of a metric: its value}
    ranking: (N,), the higher the worse is a sample; describe: index -> facts about it
    draw: (index, input) -> image (3, H, W), in place of the task's `draw`
    ranked: () -> {class: (scores (n,), whether each is right (n,), how many there are to find)}
    facts: confusion, calibration, curves
    """

    statistic: Callable | None = None
    ranking: numpy.ndarray | None = None
    describe: Callable = lambda index: {}
    draw: Callable | None = None
    ranked: Callable = dict
    table: dict[str, dict] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)


class Outputs:
    """A metric without a value: it keeps what `evaluate` of the task gives to metrics."""

    def __init__(self, model):
        self.seen = []

    def update(self, outputs, targets) -> None:
        self.seen.append([part.cpu() if torch.is_tensor(part) else part for part in (outputs, targets)])

    def end_batch(self, targets) -> None: ...

    def compute(self) -> tuple:
        return ()

    def reset(self) -> None: ...

    def joined(self) -> tuple:
        """(outputs, targets) of all samples."""
        return tuple(torch.cat(part) for part in zip(*self.seen, strict=True))


def evaluate_run(experiment, split: str, folder: Path, progress, samples=None, with_thresholds=False) -> dict:
    """Evaluate the model on a split, or on `samples` of it; returns what the JSON file holds.

    progress: `progress(batches, count, text) -> batches`
    with_thresholds: the best threshold of each class as well, if the task has any
    """
    started, seconds = time.perf_counter(), []
    samples = experiment.load_checked(split) if samples is None else samples
    order = experiment.some(samples)
    count = len(samples if order is None else order)
    part = find_part(experiment.task)
    kept = (carried(part, "Outputs") or Outputs)(experiment.model)
    batches = experiment.read(samples, experiment.evaluation_batch_size)(order)
    batches = _timed(progress(batches, count, split), kept, seconds)
    views = experiment.functions.at("testing.views") if split == "testing" else None
    watched = replace(experiment, metrics=Metrics({**experiment.metrics, "": kept}))
    metrics = watched.evaluate(experiment.model, batches, views)
    speed = {"model": count / sum(seconds), "all": count / (time.perf_counter() - started)}
    analysis = part.analyse(experiment, kept, metrics) if part else Analysis()
    drawn = bootstrap(analysis.statistic, count) | bootstrap(_own(experiment.metrics, kept), count, RESAMPLES // 5)
    found = {"split": split, "samples": count, "metrics": metrics}
    found["intervals"] = {name: drawn[name] for name in metrics if name in drawn}
    found |= {"table": analysis.table, **analysis.facts}
    if with_thresholds:
        found["thresholds"] = {name: best_threshold(*ranked) for name, ranked in analysis.ranked().items() if ranked[2]}
    Path(folder).mkdir(parents=True, exist_ok=True)
    found["worst"] = save_worst(experiment, samples, analysis, Path(folder), split)
    found["images_per_second"] = {name: round(value, 1) for name, value in speed.items()}
    _write(Path(folder), split, found)
    return found


def find_part(task):
    """The module evaluation_<name>.py of a task; None if there is none, not even that of tasks without their own."""
    name = carried(task, "EVALUATION") or task.__name__.rpartition(".")[2]
    paths = [f"recipes.parts.evaluation_{name}" for name in (name, "own")]
    return next((importlib.import_module(path) for path in paths if importlib.util.find_spec(path)), None)


def _timed(batches, kept, seconds: list):
    """The batches; `seconds` gets the time that each of them took after it was read."""
    for inputs, targets in batches:
        started = time.perf_counter()
        yield inputs, targets
        kept.end_batch(targets)
        seconds.append(time.perf_counter() - started)


def _own(metrics: Metrics, kept: Outputs):
    """The statistic of [validation.metrics], if the outputs were kept."""
    if not metrics or not kept.seen:
        return None
    outputs, targets = kept.joined()

    def statistic(indices) -> dict:
        metrics.update(outputs[indices], targets[indices])
        return metrics.compute()

    return statistic


def bootstrap(statistic, count: int, times: int = RESAMPLES) -> dict[str, list[float]]:
    """95 % intervals (Efron's percentiles) of a statistic of `count` samples: {name: [low, high]}."""
    random = numpy.random.default_rng(0)
    times = min(times, max(200, 2 * 10**7 // count)) if statistic else 0  # of a million samples 200 take a while
    drawn = [statistic(random.integers(count, size=count)) for _ in range(times)]
    values = {name: [one.get(name, numpy.nan) for one in drawn] for one in drawn for name in one}
    return {name: numpy.nanpercentile(each, (2.5, 97.5)).tolist() for name, each in values.items()}


def calibration(confidence: numpy.ndarray, right: numpy.ndarray) -> dict:
    """The expected calibration error (Guo et al. 2017, arXiv:1706.04599) over 15 bins of equal width, and the bins."""
    places = numpy.clip(numpy.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins, error = [], 0.0
    for place in range(BINS):
        inside = places == place
        each = {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())} if inside.any() else {}
        bins.append({"low": place / BINS, "high": (place + 1) / BINS, "count": int(inside.sum()), **each})
        error += abs(each["confidence"] - each["accuracy"]) * inside.mean() if each else 0.0
    return {"ece": float(error), "bins": bins}


def by_class(right, found, there) -> dict[str, numpy.ndarray]:
    """Precision, recall and F1 of counts (K,): right ones, predicted ones, and those that there are."""
    right, found, there = (numpy.asarray(part, dtype=float) for part in (right, found, there))
    ratios = {"precision": (right, found), "recall": (right, there), "f1": (2 * right, found + there)}
    return {name: above / numpy.maximum(below, 1) for name, (above, below) in ratios.items()}


def as_table(classes: list[str], columns: dict) -> dict[str, dict]:
    """Columns of K numbers as a row for each class."""
    columns = {name: numpy.asarray(values).tolist() for name, values in columns.items()}
    return {name: {key: values[row] for key, values in columns.items()} for row, name in enumerate(classes)}


def precision_recall(scores, right, positives: int) -> dict[str, numpy.ndarray]:
    """Precision and recall at each threshold, the highest first."""
    order = numpy.argsort(-scores, kind="stable")
    ends = numpy.flatnonzero(numpy.diff(scores[order], append=-numpy.inf))  # equal scores pass together
    hits = numpy.cumsum(right[order])[ends]
    return {"threshold": scores[order][ends], "precision": hits / (ends + 1), "recall": hits / max(positives, 1)}


def thinned(curve: dict, most: int = 200) -> dict[str, list]:
    """A curve of at most so many points, for a file."""
    chosen = numpy.unique(numpy.linspace(0, len(curve["recall"]) - 1, most).astype(int)) if len(curve["recall"]) else []
    return {name: [round(value, 5) for value in values[chosen].tolist()] for name, values in curve.items()}


def best_threshold(scores, right, positives: int) -> dict[str, float]:
    """The threshold of the highest F1, half way to the next lower score; with precision, recall and F1."""
    curve = precision_recall(scores, right, positives)
    total = curve["precision"] + curve["recall"]
    f1 = 2 * curve["precision"] * curve["recall"] / numpy.maximum(total, 1e-12)
    best = int(f1.argmax()) if len(f1) else None
    if best is None:
        return {"threshold": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    lower = curve["threshold"][best + 1] if best + 1 < len(f1) else 0.0
    values = {name: float(values[best]) for name, values in curve.items()} | {"f1": float(f1[best])}
    return values | {"threshold": (values["threshold"] + float(lower)) / 2}


def save_worst(experiment, samples, analysis: Analysis, folder: Path, split: str) -> list[dict]:
    """Pictures of the worst samples, and what is known of them."""
    for path in folder.glob(f"{split}-worst-*.png"):
        path.unlink()
    ranking = numpy.zeros(0) if analysis.ranking is None else analysis.ranking
    worst = []
    for number, index in enumerate(numpy.argsort(-ranking, kind="stable")[:WORST].tolist(), 1):
        name, path = samples.names[index] if samples.names else str(index), folder / f"{split}-worst-{number:02}.png"
        sample, target = samples[index]
        with experiment.autocast:
            if analysis.draw:
                pictures.write(path, analysis.draw(index, sample))
            else:
                inputs = sample[None].to(experiment.device)
                targets = target[None].to(experiment.device)
                pictures.save(path, experiment, inputs, targets, experiment.model)
        picture = {"picture": path.name} if path.exists() else {}
        worst.append({"sample": str(name), "index": index, **analysis.describe(index), **picture})
    return worst


def _write(folder: Path, split: str, found: dict) -> None:
    with checkpoint.replacing(folder / f"{split}.json") as file:
        file.write((json.dumps(found) + "\n").encode())
    if found["table"]:
        text = io.StringIO()
        rows = [{"class": name, **row} for name, row in found["table"].items()]
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with checkpoint.replacing(folder / f"{split}-classes.csv") as file:
            file.write(text.getvalue().encode())
