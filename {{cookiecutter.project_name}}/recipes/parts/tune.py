"""What `auto` chooses: the batch size by memory, the learning rate by a short trial."""

import copy
import math
import os
from contextlib import suppress
from itertools import chain, count, islice
from pathlib import Path

import torch

from core import SettingError
from recipes.parts.samples import epoch_sampler

TRIALS, LOWEST, HIGHEST = 100, 1e-5, 10.0  # steps of the trial, and the learning rates that it goes through


def batch_size(experiment, steps_per_epoch: int = 20) -> int:
    """The largest power of two whose activations take half of the free memory, with at least 20 steps an epoch.

    What a small batch keeps for its backward pass is counted; nothing is tried until it fails.
    """
    kept, samples = {}, experiment.training

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    size = min(8, len(samples))
    batch = next(experiment.read(samples, size)(torch.arange(size)))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _loss(experiment, *batch)
    fits = int(free_memory(experiment.device) / 2 / max(1, sum(kept.values()) / size))
    return 2 ** int(math.log2(max(1, min(fits, len(samples) // steps_per_epoch))))


def free_memory(device) -> int:  # bytes
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(ValueError, AttributeError, OSError):  # not on this system
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30


def _loss(experiment, inputs, targets):
    with experiment.autocast:
        losses = [loss_of for _, _, loss_of in experiment.phases]
        return sum(loss_of(experiment.model, inputs, targets, experiment.criterion) for loss_of in losses)


def learning_rate(experiment, batch_size: int, plot: Path) -> float:
    """Half the rate at which the loss has fallen by 90%, while the rate rises exponentially (Smith 2017, 1506.01186).

    A third of the rate with the lowest loss would be far too high where the loss hardly rises again.
    """
    if len(experiment.phases) > 1:
        raise SettingError("training.optimizer.learning_rate", "networks that take turns need a number")
    model, optimizer, scheme = experiment.model, experiment.phases[0][1], experiment.scheme
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    read = experiment.read(experiment.training, batch_size // scheme.accumulate)
    order_of = epoch_sampler(experiment.training, scheme.seed, scheme.balanced)
    whole = len(experiment.training) // batch_size * batch_size
    batches = chain.from_iterable(read(order_of(-epoch)[:whole]) for epoch in count(1))
    experiment.seed("trial")
    losses, smooth = {}, 0.0
    for step in range(TRIALS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (TRIALS - 1))
        for group, full in zip(optimizer.param_groups, before[1]["param_groups"], strict=True):
            group["lr"] = full["lr"] * rate
        now = 0.0
        for batch in islice(batches, scheme.accumulate):
            loss = _loss(experiment, *experiment.transform(*batch, 0.0)) / scheme.accumulate
            loss.backward()
            now += float(loss.detach())
        if scheme.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), scheme.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = 0.8 * smooth + 0.2 * now if losses else now
        if not smooth < min(losses.values(), default=math.inf) + 3 * abs(losses.get(LOWEST, smooth)):
            break
        losses[rate] = smooth
    model.load_state_dict(before[0])
    optimizer.load_state_dict(before[1])
    lowest = min(losses.values(), default=0.0)
    fallen = [rate for rate, loss in losses.items() if loss <= lowest + 0.1 * (losses[LOWEST] - lowest)]
    best = float(f"{min(fallen, default=LOWEST) / 2:.2g}")
    _draw(losses, best, plot)
    return best


def _draw(losses: dict, best: float, plot: Path) -> None:
    with suppress(ImportError):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot(xscale="log", xlabel=f"learning rate: {best}", ylabel="training loss, smoothed")
        axes.plot(list(losses), list(losses.values()))
        axes.axvline(best, linestyle="--", color="grey")
        figure.savefig(plot)
