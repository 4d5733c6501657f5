"""What a step is made of beside the step itself: device, seeds, arithmetic, averages, and what is switched on."""

import ctypes
import os
import sys
from contextlib import nullcontext

import torch

from core import Ingredients, located
from recipes.settings import Scheme


def choose_device(ingredients: Ingredients, name: str) -> torch.device:
    if name == "auto":
        # check_available: without it torch names cuda on a machine that has no GPU
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        message = f"cannot be used here ({str(error).splitlines()[0]}); write auto or cpu"
        raise located(ingredients, "training.scheme.device", message) from None
    return torch.device(name)


def seeder(device, deterministic: bool):
    """`seed_all(seed)` for the generators that layers such as dropout draw from."""
    if device.type == "cpu":
        return torch.default_generator.manual_seed  # a tenth of the time of torch.manual_seed
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.manual_seed


def keep_freed_memory() -> None:
    """Let glibc hand freed memory out again, not give it back after each step: a fifth of a step's time on CPUs."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its largest
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def arithmetic(precision: str, device):
    """(context for the forward pass, scaler of the loss) of a precision."""
    if precision == "auto":
        cpu = getattr(torch.cpu, "get_capabilities", dict)()  # of PyTorch 2.11 and newer
        fast = cpu.get("amx_bf16") if device.type == "cpu" else device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "float32"
    if precision == "float32":
        return nullcontext(), torch.amp.GradScaler(device.type, enabled=False)
    kind = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, kind), torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def average_of(model, scheme: Scheme):
    """The average of the weights that is measured in place of them; None where it is off."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    if scheme.ema:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(scheme.ema))
    return AveragedModel(model) if scheme.swa else None


def measured_of(model, average):
    return model if average is None or not average.n_averaged else average.module


def tricks(functions: Ingredients, scheme: Scheme, model, optimizer, scaler, average) -> tuple[list, list, list]:
    """What is on: functions of a batch, before a step, and after one. What is off is not there."""
    changes, before_step, after_step = [], [], []
    if scheme.first_size < 1:
        changes.append(growing(scheme.first_size))
    if augment := functions.at("training.augment"):
        changes.append(lambda inputs, targets, generator, progress: augment(inputs, targets, generator))
    if scheme.clip_norm is not None:
        before_step.append(lambda: scaler.unscale_(optimizer))
        before_step.append(lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), scheme.clip_norm))
    if average is not None:
        start = 1 - scheme.swa if scheme.swa else 0.0
        after_step.append(lambda progress: progress < start or average.update_parameters(model))
    return changes, before_step, after_step


def growing(first_size: float):
    """Images grow from this share of their size to all of it at half of training (Tan and Le 2021, 2104.00298)."""

    def change(inputs, targets, generator, progress):
        share = min(1.0, first_size + (1 - first_size) * 2 * progress)
        size = [max(1, round(length * share)) for length in inputs.shape[-2:]]
        return torch.nn.functional.interpolate(inputs, size, mode="bilinear", antialias=True), targets

    return change
