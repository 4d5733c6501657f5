"""Metrics of torchmetrics by name: `@metric = torchmetrics.F1Score`.

A metric has `update(outputs, targets)`, `compute()`, `reset()`, `to(device)`, and may have `higher_is_better`.
A function `(outputs, targets) -> number` is a metric too: it is called once, with all outputs and targets.
"""

from core import registry
from pantry._adopt import adopt, attempt, refuse


def _adopt_metric(cls):
    """A class of torchmetrics as a registered function."""
    import torchmetrics

    if not (isinstance(cls, type) and issubclass(cls, torchmetrics.Metric)) or cls is torchmetrics.Metric:
        return refuse(f"{cls.__name__} is not a metric")
    return adopt(lambda **settings: attempt(lambda: cls(**settings)), cls)


registry.metric.module("torchmetrics", _adopt_metric)
registry.metric.module("torchmetrics.classification", _adopt_metric)
registry.metric.module("torchmetrics.regression", _adopt_metric)
