"""The metrics of [validation.metrics]."""

from types import SimpleNamespace

import torch

from recipes.contracts import Metric
from recipes.parts.blame import blame


class Metrics(dict):
    """Metrics by name, updated and computed together."""

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add a batch."""
        for name, metric in self.items():
            with blame(f"validation.metrics.{name}", outputs, targets):
                metric.update(outputs, targets)

    def compute(self) -> dict[str, float]:
        """The values, and a new start; NAME_0, NAME_1, ... of a metric with several, such as one for each class."""
        computed = {}
        for name, metric in self.items():
            with blame(f"validation.metrics.{name}"):
                values = torch.as_tensor(metric.compute(), dtype=torch.float64).flatten().tolist()
            computed |= {name: values[0]} if len(values) == 1 else {f"{name}_{i}": v for i, v in enumerate(values)}
            metric.reset()
        return computed


def as_metric(thing):
    """The metric itself, or one made of a function. Raises ValueError if it is neither."""
    if isinstance(thing, Metric):
        return thing
    if not callable(thing):
        message = "expected a function (outputs, targets) -> number, or an object with update and compute"
        raise ValueError(f"{message}, got {thing!r}")
    seen = []
    metric = SimpleNamespace(reset=seen.clear, higher_is_better=getattr(thing, "higher_is_better", None))
    metric.update = lambda outputs, targets: seen.append((outputs.detach(), targets))
    metric.compute = lambda: thing(*(torch.cat(part) for part in zip(*seen, strict=True)))
    metric.to = lambda device: metric  # it holds tensors where the outputs are
    return metric
