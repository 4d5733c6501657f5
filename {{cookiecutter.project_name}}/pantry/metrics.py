"""Metrics of torchmetrics by name: `@metric = torchmetrics.F1Score`.

A metric has `update(outputs, targets)`, `compute()`, `reset()`, `to(device)`, and may have `higher_is_better`.
A function `(outputs, targets) -> number` is a metric too: it is called once, with all outputs and targets.
"""

from core import SettingError, registry
from pantry._adopt import adopt, attempt, refuse


def _adopt_metric(cls):
    """A class of torchmetrics as a registered function."""
    import torch
    import torchmetrics

    if not (isinstance(cls, type) and issubclass(cls, torchmetrics.Metric)) or cls is torchmetrics.Metric:
        return refuse(f"{cls.__name__} is not a metric")

    def factory(**settings):
        metric = attempt(lambda: cls(**settings))
        update = metric.update

        def checked_update(outputs, targets):
            try:
                update(outputs, targets)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                shapes = f"outputs {list(outputs.shape)} and targets {list(targets.shape)}"
                reason = " ".join(str(error).split()).partition(". ")[0]
                raise SettingError("validation.metrics", f"{cls.__name__} cannot take {shapes}: {reason}") from error

        metric.update = checked_update
        return metric

    return adopt(factory, cls)


registry.metric.module("torchmetrics", _adopt_metric)
registry.metric.module("torchmetrics.classification", _adopt_metric)
registry.metric.module("torchmetrics.regression", _adopt_metric)
