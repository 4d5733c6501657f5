"""What to report when training fails: a loss that diverged, too little memory, a full disk."""

import errno
from pathlib import Path

import torch

from core import IngredientsError, SettingError
from recipes.parts import checkpoint
from recipes.parts.samples import to_device

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def refuse_loss(folder: Path, state, recent, order: torch.Tensor, batch_size: int):
    """Keep the batches that led to a loss that is not finite, and raise an error that says where to look.

    recent: (inputs, targets, step of the epoch, from 1) of the last batches; order: the indices of the epoch
    """
    samples, kept = state.experiment.training, {"inputs": [], "targets": [], "samples": []}
    for inputs, targets, step in recent:
        indices = [int(index) % len(samples) for index in order[(step - 1) * batch_size : step * batch_size]]
        kept["inputs"].append(to_device(inputs, "cpu"))
        kept["targets"].append(to_device(targets, "cpu"))
        kept["samples"].append([samples.names[index] if samples.names else index for index in indices])
    checkpoint.save(folder / "bad_batch.pt", kept)
    finite = all(torch.isfinite(inputs).all() for inputs in kept["inputs"])
    seen = "all values finite" if finite else "with values that are not finite: check the data and preprocess"
    optimizer = state.experiment.ingredients.at("training.optimizer", {})
    key = next((f".{key}" for key in ("learning_rate", "lr") if key in optimizer), "")  # the latter of torch's own
    message = f"the loss of epoch {state.epoch + 1}, step {state.step} is not finite; lower the learning rate, or set "
    message += f"training.scheme.clip_norm = 1.0\nthe batch ({seen}) and its samples are in {folder / 'bad_batch.pt'}"
    raise SettingError(f"training.optimizer{key}", message)


def translate(error: Exception) -> Exception:
    """The error to raise in its place: what to lower if memory ran out, how to continue if the disk is full."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        message = f"out of memory ({str(error).splitlines()[0][:120]}); lower batch_size (and raise accumulate as much)"
        message += ", set precision = bf16, or name blocks in model.architecture.recompute"
        return SettingError("training.scheme.batch_size", message)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS and error.filename:  # without: standard output
        message = "the last checkpoint is intact: free some space, then run python train.py --resume"
        return IngredientsError(f"{error.filename}: cannot be written ({error.strerror}); {message}")
    return error
