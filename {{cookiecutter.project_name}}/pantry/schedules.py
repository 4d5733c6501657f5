"""Learning rate schedules: `factor(progress) -> share of the optimizer's learning rate`, progress in [0, 1).

A schedule is a function of progress and keeps no state. One that needs to know more of the run may carry
`factor.prepare(epochs, steps_per_epoch, history) -> factor`; history is the list of each epoch's metrics so far.
"""

import math
from typing import Annotated

from core import registry

Share = Annotated[float, "[0, 1)"]


@registry.schedule.register("one_cycle")
def one_cycle(warmup: Share = 0.2, start: Share = 0.04):
    """Rise linearly from `start` to the full rate over the first `warmup` of training, then fall linearly to 0.

    After Smith and Topin 2018, "Super-convergence", arXiv:1708.07120.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return start + (1 - start) * progress / warmup
        return (1 - progress) / (1 - warmup)

    return factor


@registry.schedule.register("cosine")
def cosine(warmup: Share = 0.05, end: Share = 0.0):
    """Rise linearly over the first `warmup` of training, then fall along half a cosine to `end` of the rate.

    After Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983, without restarts.
    """
    return _with_warmup(warmup, lambda share: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * share)))


@registry.schedule.register("linear")
def linear(warmup: Share = 0.05, end: Share = 0.0):
    """Rise linearly over the first `warmup` of training, then fall linearly to `end` of the rate.

    The usual schedule of transformers (Devlin et al. 2019, "BERT", arXiv:1810.04805).
    """
    return _with_warmup(warmup, lambda share: end + (1 - end) * (1 - share))


@registry.schedule.register("constant")
def constant(warmup: Share = 0.0):
    """Rise linearly over the first `warmup` of training (Goyal et al. 2017, arXiv:1706.02677), then stay."""
    return _with_warmup(warmup, lambda share: 1.0)


@registry.schedule.register("step")
def step(milestones: Annotated[list[float], "[0, 1)"] = (0.5, 0.75), gamma: float = 0.1):
    """Multiply the rate by `gamma` at each milestone, a share of training.

    The defaults are those of He et al. 2016 (arXiv:1512.03385) on CIFAR-10. For milestones in epochs use
    torch.optim.lr_scheduler.MultiStepLR.
    """
    return lambda progress: gamma ** sum(progress >= share for share in milestones)


def _with_warmup(warmup: float, decay):
    """Rise linearly from 0 to 1, then follow `decay(share of the rest)`."""

    def factor(progress: float) -> float:
        return progress / warmup if progress < warmup else decay((progress - warmup) / (1 - warmup))

    return factor
