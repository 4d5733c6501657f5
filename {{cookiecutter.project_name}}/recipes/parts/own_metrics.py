"""The metrics of [validation.metrics]: objects with update and compute, or functions that become such."""

from types import SimpleNamespace

import torch

from core import SettingError
from recipes.parts.calling import Metrics, carried
from recipes.settings import MEASURED

NAMES = ("epoch", "train_loss", *MEASURED, "split", "finished")  # of what a run reports besides metrics


def build_metrics(made: dict, names, device) -> Metrics:
    """Those of the section, by name. names: of the task's metrics"""
    if taken := sorted(made.keys() & {*names, *NAMES}):
        raise SettingError(f"validation.metrics.{taken[0]}", "a run reports this already; choose another name")
    return Metrics({name: as_metric(metric).to(device) for name, metric in made.items()})


def as_metric(thing):
    """The metric itself, or one made of a function. Raises ValueError if it is neither."""
    if all(carried(thing, name) for name in ("update", "compute", "reset", "to")):
        return thing
    if not callable(thing):
        message = "expected a function (outputs, targets) -> number, or an object with update and compute"
        raise ValueError(f"{message}, got {thing!r}")
    seen = []
    metric = SimpleNamespace(reset=seen.clear, higher_is_better=carried(thing, "higher_is_better"))
    metric.update = lambda outputs, targets: seen.append((outputs.detach(), targets))
    metric.compute = lambda: thing(*(torch.cat(part) for part in zip(*seen, strict=True)))
    metric.to = lambda device: metric  # it holds tensors where the outputs are
    return metric
