"""The learning rate over time: `schedule(progress) -> share of the optimizer's rate`, progress from 0 to 1.

A schedule is a function of progress and carries no state, so a resumed run needs only its step. One that has to know
more gives `schedule.prepare(epochs, steps_per_epoch, history) -> schedule`; history holds the figures of each epoch so
far, a list that grows during the run.

All of torch.optim.lr_scheduler is here by its name: `@schedule = torch.optim.lr_scheduler.StepLR`, with torch's own
arguments. It moves once an epoch, CyclicLR and OneCycleLR once a step, as torch's documentation has it; `every = step`
or `every = epoch` says otherwise. Rates (eta_min, min_lr, base_lr, max_lr) are shares of the optimizer's rate. The
recipe fills in total_steps, and T_max where it is not given; momentum is not cycled. ReduceLROnPlateau looks at
`figure = loss` of the validation data, or at another one of metrics.jsonl.
"""

import math
from typing import Literal

from core import IngredientsError, registry
from core.adopt import adopt, attempt, refuse
from core.errors import suggest

registry.create("schedule")


@registry.schedule.register("one_cycle")
def one_cycle(warmup: float = 0.2, start: float = 0.04):
    """Rise in a line from `start` to the full rate over the share `warmup` of training, then fall in a line to 0.

    After Smith and Topin 2018, "Super-convergence", arXiv:1708.07120.
    """
    _refuse_unless_share(warmup=warmup, start=start)

    def factor(progress: float) -> float:
        if progress < warmup:
            return start + (1 - start) * progress / warmup
        return (1 - progress) / (1 - warmup)

    return factor


@registry.schedule.register("cosine")
def cosine(warmup: float = 0.05, end: float = 0.0):
    """Rise in a line over the share `warmup`, then fall along half a cosine to the share `end` of the rate.

    After Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983, without restarts.
    """
    _refuse_unless_share(warmup=warmup, end=end)
    return _warmed(warmup, lambda share: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share)))


@registry.schedule.register("linear")
def linear(warmup: float = 0.05, end: float = 0.0):
    """Rise in a line over the share `warmup`, then fall in a line to the share `end` of the rate.

    The usual one for transformers (Devlin et al. 2019, "BERT", arXiv:1810.04805).
    """
    _refuse_unless_share(warmup=warmup, end=end)
    return _warmed(warmup, lambda share: end + (1 - end) * (1 - share))


@registry.schedule.register("constant")
def constant(warmup: float = 0.0):
    """Rise in a line over the share `warmup` (Goyal et al. 2017, arXiv:1706.02677), then the same rate throughout."""
    _refuse_unless_share(warmup=warmup)
    return _warmed(warmup, lambda share: 1.0)


@registry.schedule.register("step")
def step(milestones: list[float] = (0.5, 0.75), gamma: float = 0.1):
    """The full rate, times `gamma` from each milestone on; milestones are shares of training, so they move with epochs.

    The defaults are those of He et al. 2016 (arXiv:1512.03385) on CIFAR-10. For milestones in epochs there is
    torch.optim.lr_scheduler.MultiStepLR.
    """
    _refuse_unless_share(**{f"milestones[{index}]": share for index, share in enumerate(milestones)})
    return lambda progress: gamma ** sum(progress >= share for share in milestones)


def _warmed(warmup: float, fall):
    """From 0 to 1 in a line over the share `warmup`, then `fall(share of the rest that is done)`."""

    def factor(progress: float) -> float:
        return progress / warmup if progress < warmup else fall((progress - warmup) / (1 - warmup))

    return factor


_EACH_STEP = ("CyclicLR", "OneCycleLR")
_FILLED_IN = ("optimizer", "last_epoch", "total_steps", "epochs", "steps_per_epoch")
_MOMENTUM = ("cycle_momentum", "base_momentum", "max_momentum")  # a schedule is of the rate alone


def _of_torch(cls):
    """A class of torch.optim.lr_scheduler as a function of ours, run on an optimizer of its own with the rate 1."""
    import torch.optim.lr_scheduler as schedulers

    if not (isinstance(cls, type) and issubclass(cls, schedulers.LRScheduler)) or cls in schedulers.LRScheduler.__mro__:
        return refuse(f"torch.optim.lr_scheduler.{cls.__name__} is no schedule")
    if cls.__name__ in ("LambdaLR", "MultiplicativeLR"):
        return refuse(
            "it takes a Python function; register it as a schedule of your own: progress -> share of the rate"
        )
    if cls.__name__ in ("ChainedScheduler", "SequentialLR"):
        return refuse(
            "it takes other schedulers; register their like as a schedule of your own: progress -> share of the rate"
        )
    plateau = cls is schedulers.ReduceLROnPlateau
    usual = "step" if cls.__name__ in _EACH_STEP else "epoch"

    def factory(figure="loss", every=usual, **settings):
        # A setting that it refuses shows before training.
        attempt(lambda: _begin(cls, settings, 1009)[1].step(*[0.0] * plateau))

        def prepare(epochs: float, steps_per_epoch: int, history: list[dict]):
            steps = max(1, round(epochs * steps_per_epoch))
            length = 1 if every == "step" else steps_per_epoch  # of one move, in steps
            optimizer, scheduler = attempt(lambda: _begin(cls, settings, math.ceil(steps / length)))
            factors = [optimizer.param_groups[0]["lr"]]

            def factor(progress: float) -> float:
                index = round(progress * steps) // length
                while len(factors) <= index:  # one move; many where a run goes on
                    scheduler.step(*[_figure(history[len(factors) - 1], figure)] if plateau else ())
                    factors.append(optimizer.param_groups[0]["lr"])
                return factors[index]

            return factor

        def unprepared(progress: float) -> float:
            raise RuntimeError("call schedule.prepare(epochs, steps_per_epoch, history) first")

        unprepared.prepare = prepare
        return unprepared

    added = {"figure": (str, "loss")} if plateau else {"every": (Literal["epoch", "step"], usual)}
    defaults = {"T_max": None} if cls.__name__ == "CosineAnnealingLR" else {}
    defaults |= {"max_lr": 1.0} if cls.__name__ in _EACH_STEP else {}
    return adopt(factory, cls, without=[*_FILLED_IN, *_MOMENTUM], defaults=defaults, **added)


registry.schedule.module("torch.optim.lr_scheduler", _of_torch)


def _begin(cls, settings: dict, moves: int) -> tuple:
    """(optimizer, scheduler) at the start of a run of that many moves."""
    import torch

    name, settings = cls.__name__, dict(settings)
    if name in _EACH_STEP:
        settings |= {"cycle_momentum": False, "max_lr": settings.get("max_lr", 1.0)}
    if name == "OneCycleLR":
        settings["total_steps"] = moves
    if name == "CosineAnnealingLR" and settings.get("T_max") is None:
        settings["T_max"] = moves
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = cls(optimizer, **settings)
    optimizer.step()  # torch warns where the scheduler moves first
    return optimizer, scheduler


def _figure(figures: dict, name: str) -> float:
    if name not in figures:
        raise IngredientsError(f"training.schedule: there is no figure {name}. {suggest(name, figures)}")
    return figures[name]


def _refuse_unless_share(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: write a share of training, from 0 up to, but not including, 1")
