"""What `auto` means: the batch size by memory, the learning rate by a short trial."""

import copy
import math
import os
from pathlib import Path

import torch

from recipes import data

TRIALS, LOWEST, HIGHEST = 100, 1e-5, 10.0  # steps of the trial, and the rates that it goes through


def batch_size(loss_of, samples, device, steps_per_epoch: int = 20) -> int:
    """The largest power of two whose activations take half of the free memory, with at least 20 steps an epoch.

    `loss_of(inputs, targets)`. What one batch keeps for its backward pass is counted, not tried until it breaks.
    """
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    count = min(8, len(samples))
    inputs, targets = next(iter(data.reader(samples, count, device)(first_indices(samples, count))))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(inputs, targets)
    fits = int(free_memory(device) / 2 / max(1, sum(kept.values()) / count))
    return 2 ** int(math.log2(max(1, min(fits, len(samples) // steps_per_epoch))))


def free_memory(device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError, OSError):  # not on this system
        return 4 * 2**30


def first_indices(samples, count: int):
    """As an order of `data.reader`."""
    one_by_one = isinstance(samples.dataset, data.Augmented)
    return [(0, index) for index in range(count)] if one_by_one else torch.arange(count)


def learning_rate(model, optimizer, loss_of, batches, plot: Path) -> float:
    """A tenth of the rate at which the loss is least, while the rate rises exponentially (Smith 2017, 1506.01186).

    Model and optimizer are as before at the end. The trial is drawn to `plot` where matplotlib is installed.
    """
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    full_rates = [group["lr"] for group in optimizer.param_groups]
    rates, losses, smooth = [], [], None
    for index, (inputs, targets) in zip(range(TRIALS), batches, strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (index / (TRIALS - 1))
        for group, full_rate in zip(optimizer.param_groups, full_rates, strict=True):
            group["lr"] = full_rate * rate
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        now = float(loss.detach())
        smooth = now if smooth is None else 0.8 * smooth + 0.2 * now
        if not math.isfinite(smooth) or (losses and smooth > 4 * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
    model.load_state_dict(before[0])
    optimizer.load_state_dict(before[1])
    found = rates[losses.index(min(losses))] / 10 if losses else LOWEST
    found = float(f"{found:.2g}")
    _draw(rates, losses, found, plot)
    return found


def _draw(rates: list, losses: list, found: float, plot: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.plot(rates, losses)
    axes.axvline(found, linestyle="--", color="grey")
    axes.set_title(f"learning_rate = {found}")
    figure.savefig(plot)
