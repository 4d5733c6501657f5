"""The learning rate over time: `factor(progress) -> share of the optimizer's rate`, progress from 0 to 1.

A schedule is a function of progress and carries no state, so a resumed run needs only its step.
"""

from core import registry

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
def cosine(warmup: float = 0.05):
    """Rise in a line over the share `warmup`, then fall along half a cosine to 0 (Loshchilov and Hutter 2017)."""
    import math

    _refuse_unless_share(warmup=warmup)

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    return factor


@registry.schedule.register("constant")
def constant():
    """The same rate throughout."""
    return lambda progress: 1.0


def _refuse_unless_share(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: write a share of training, from 0 up to, but not including, 1")
