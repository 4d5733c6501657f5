"""What is measured beside the loss: an object with `update(outputs, targets)`, `compute()`, `reset()` and `to(device)`.

`higher_is_better`, where it has one, tells which of two epochs is the better one. torchmetrics is here by its names:
`@metric = torchmetrics.F1Score`. A function of yours, `(outputs, targets) -> number`, is a metric as well; it is given
all outputs (N, classes) and targets (N,) of the data at once.
"""

from types import SimpleNamespace

from core import registry
from core.adopt import adopt, attempt, refuse

registry.create("metric")


def as_metric(thing):
    """The metric itself, or one made of a function. Raises ValueError where it is neither."""
    if all(hasattr(thing, name) for name in ("update", "compute", "reset", "to")):
        return thing
    if not callable(thing):
        raise ValueError(
            f"a metric is a function (outputs, targets) -> number, or has update and compute; not {thing!r}"
        )
    import torch

    seen = []
    metric = SimpleNamespace(reset=seen.clear, higher_is_better=getattr(thing, "higher_is_better", None))
    metric.update = lambda outputs, targets: seen.append((outputs.detach(), targets))
    metric.compute = lambda: thing(*(torch.cat(part) for part in zip(*seen, strict=True)))
    metric.to = lambda device: metric  # what it keeps is where the outputs are
    return metric


def _of_torchmetrics(cls):
    """A class of torchmetrics as a function of ours."""
    import torchmetrics

    if not (isinstance(cls, type) and issubclass(cls, torchmetrics.Metric)) or cls is torchmetrics.Metric:
        return refuse(f"{cls.__name__} is no metric")

    def factory(**settings):
        return attempt(lambda: cls(**settings))

    return adopt(factory, cls)


registry.metric.module("torchmetrics", _of_torchmetrics)
registry.metric.module("torchmetrics.classification", _of_torchmetrics)
registry.metric.module("torchmetrics.regression", _of_torchmetrics)
