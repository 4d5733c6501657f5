"""All of torch.optim.lr_scheduler by name, with its own arguments: `@schedule = torch.optim.lr_scheduler.StepLR`.

They step once per epoch, CyclicLR and OneCycleLR once per batch, as in torch's documentation, unless `every = step` or
`every = epoch` is set. Rates (eta_min, min_lr, base_lr, max_lr) are shares of the optimizer's learning rate.
total_steps, and T_max unless given, follow from the length of the run; momentum is not cycled. ReduceLROnPlateau
watches the validation loss, or any other metric in metrics.jsonl by `figure = accuracy`.
"""

import math
from typing import Literal

from core import SettingError, registry
from core.errors import suggest
from pantry._adopt import adopt, attempt, refuse

_PER_STEP = ("CyclicLR", "OneCycleLR")
_FILLED_IN = ("optimizer", "last_epoch", "total_steps", "epochs", "steps_per_epoch")
_MOMENTUM = ("cycle_momentum", "base_momentum", "max_momentum")  # a schedule changes the learning rate only
_REGISTER = "; register a schedule of your own: progress -> share of the learning rate"
_REFUSED = dict.fromkeys(("LambdaLR", "MultiplicativeLR"), f"takes a Python function{_REGISTER}")
_REFUSED |= dict.fromkeys(("ChainedScheduler", "SequentialLR"), f"takes other schedulers{_REGISTER}")


def _adopt_scheduler(cls):
    """A class of torch.optim.lr_scheduler as a registered function."""
    import torch.optim.lr_scheduler as schedulers

    if not (isinstance(cls, type) and issubclass(cls, schedulers.LRScheduler)) or cls in schedulers.LRScheduler.__mro__:
        return refuse(f"torch.optim.lr_scheduler.{cls.__name__} is not a scheduler")
    if cls.__name__ in _REFUSED:
        return refuse(f"torch.optim.lr_scheduler.{cls.__name__} {_REFUSED[cls.__name__]}")
    plateau = cls is schedulers.ReduceLROnPlateau
    default = "step" if cls.__name__ in _PER_STEP else "epoch"

    def factory(figure="loss", every=default, **settings):
        attempt(lambda: _start(cls, settings, 1009)[1].step(*[0.0] * plateau))  # a bad setting: before training

        def prepare(epochs: float, steps_per_epoch: int, history: list[dict]):
            steps = max(1, round(epochs * steps_per_epoch))
            length = 1 if every == "step" else steps_per_epoch  # of one move, in steps
            optimizer, scheduler = attempt(lambda: _start(cls, settings, math.ceil(steps / length)))
            factors = [optimizer.param_groups[0]["lr"]]

            def factor(progress: float) -> float:
                index = round(progress * steps) // length
                while len(factors) <= index:  # one move; many after a resume
                    scheduler.step(*[_metric(history[len(factors) - 1], figure)] if plateau else ())
                    factors.append(optimizer.param_groups[0]["lr"])
                return factors[index]

            return factor

        def unprepared(progress: float) -> float:
            raise RuntimeError("call schedule.prepare(epochs, steps_per_epoch, history) first")

        unprepared.prepare = prepare
        return unprepared

    added = {"figure": (str, "loss")} if plateau else {"every": (Literal["epoch", "step"], default)}
    defaults = {"T_max": None} if cls.__name__ == "CosineAnnealingLR" else {}
    defaults |= {"max_lr": 1.0} if cls.__name__ in _PER_STEP else {}
    return adopt(factory, cls, without=[*_FILLED_IN, *_MOMENTUM], defaults=defaults, **added)


registry.schedule.module("torch.optim.lr_scheduler", _adopt_scheduler)


def _start(cls, settings: dict, moves: int) -> tuple:
    """(optimizer, scheduler) of a run of that many moves; the optimizer is a dummy with a learning rate of 1."""
    import torch

    name, settings = cls.__name__, dict(settings)
    if name in _PER_STEP:
        settings |= {"cycle_momentum": False, "max_lr": settings.get("max_lr", 1.0)}
    if name == "OneCycleLR":
        settings["total_steps"] = moves
    if name == "CosineAnnealingLR" and settings.get("T_max") is None:
        settings["T_max"] = moves
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = cls(optimizer, **settings)
    optimizer.step()  # torch warns if the scheduler steps first
    return optimizer, scheduler


def _metric(metrics: dict, name: str) -> float:
    if name not in metrics:
        raise SettingError("training.schedule", f"there is no metric {name}. {suggest(name, metrics)}")
    return metrics[name]
