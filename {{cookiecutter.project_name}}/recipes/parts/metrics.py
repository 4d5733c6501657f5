"""Metrics of the ingredients as objects with `update(outputs, targets)`, `compute()`, `reset()` and `to(device)`."""

from types import SimpleNamespace

from recipes.contracts import Metric


def as_metric(thing):
    """The metric itself, or one made of a function. Raises ValueError if it is neither."""
    if isinstance(thing, Metric):
        return thing
    if not callable(thing):
        message = "expected a function (outputs, targets) -> number, or an object with update and compute"
        raise ValueError(f"{message}, got {thing!r}")
    import torch

    seen = []
    metric = SimpleNamespace(reset=seen.clear, higher_is_better=getattr(thing, "higher_is_better", None))
    metric.update = lambda outputs, targets: seen.append((outputs.detach(), targets))
    metric.compute = lambda: thing(*(torch.cat(part) for part in zip(*seen, strict=True)))
    metric.to = lambda device: metric  # it holds tensors where the outputs are
    return metric
