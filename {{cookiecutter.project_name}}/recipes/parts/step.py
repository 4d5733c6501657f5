"""Parts of a training step: device, seeding, mixed precision, averaged weights, the watch for a loss that diverges."""

import ctypes
import math
import os
import signal
import sys
from collections import deque
from contextlib import nullcontext
from itertools import pairwise

import torch

from core import SettingError
from recipes.settings import Scheme


def choose_device(name: str) -> torch.device:
    """The device of that name; auto: the accelerator if there is one, else the CPU."""
    if name == "auto":
        # check_available: without it torch names cuda on a machine that has no GPU
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        message = f"not available ({str(error).splitlines()[0]}); set it to auto or cpu"
        raise SettingError("training.scheme.device", message) from None


def seeder(device, deterministic: bool):
    """`seed_all(seed)` for the generators that layers such as dropout draw from."""
    if device.type == "cpu":
        return torch.default_generator.manual_seed  # a tenth of the time of torch.manual_seed
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.manual_seed


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it after each step: a fifth of a step's time on CPUs."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        try:
            libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        except AttributeError:  # another C library
            return


def end_with_parent(worker: int) -> None:
    """For workers of a DataLoader: the kernel ends them when their parent ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != torch.multiprocessing.parent_process().pid:  # it ended before
            os.kill(os.getpid(), signal.SIGKILL)


def build_amp(precision: str, device) -> tuple:
    """(autocast context of the forward pass, scaler of the loss)."""
    if precision == "auto":
        if device.type == "cpu":
            fast = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16")  # PyTorch 2.11 and newer
        else:
            fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "float32"
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    if precision == "float32":
        return nullcontext(), scaler
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16), scaler


def build_ema(model, scheme: Scheme):
    """The averaged weights, exponentially (ema) or evenly (swa), that are evaluated; None if both are off."""
    if not (scheme.ema or scheme.swa):
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(scheme.ema) if scheme.ema else None)


def resize_progressively(inputs, first_size: float, progress: float):
    """Images that grow from this share of their size to all of it at half of training (Tan and Le 2021, 2104.00298)."""
    share = min(1.0, first_size + (1 - first_size) * 2 * progress)
    size = [max(1, round(length * share)) for length in inputs.shape[-2:]]
    return torch.nn.functional.interpolate(inputs, size, mode="bilinear", antialias=True)


def microbatches(inputs, targets, count: int):
    """A step's batch in `count` parts of (nearly) equal size, whose gradients are accumulated."""
    if count == 1:
        return ((inputs, targets),)
    cuts = [len(inputs) * part // count for part in range(count + 1)]
    return [(inputs[start:end], targets[start:end]) for start, end in pairwise(cuts)]


class LossWatch:
    """`diverged(loss_sum, batch)`: whether the sum of the losses is not finite any more.

    On an accelerator the answer is that of the step before, so that the loop need not wait for this one. `recent` holds
    the batches that may have caused it.
    """

    def __init__(self, device):
        self.device, self.copied = device, None
        self.recent = deque(maxlen=1 if device.type == "cpu" else 2)  # more would push the data out of the cache
        self.held = torch.zeros((), pin_memory=device.type == "cuda")

    def diverged(self, loss_sum, batch) -> bool:
        self.recent.append(batch)
        if self.device.type == "cpu":
            return not math.isfinite(loss_sum)
        if self.copied is not None:
            self.copied.synchronize()
        bad = not math.isfinite(self.held)
        self.held.copy_(loss_sum.detach(), non_blocking=True)
        self.copied = torch.Event(self.device)
        self.copied.record()
        return bad
