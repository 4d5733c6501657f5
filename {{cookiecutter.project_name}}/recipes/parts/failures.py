"""What goes wrong while a run trains: the loss is not finite, memory runs out, the disk is full."""

import errno

import torch

from core import IngredientsError, SettingError
from recipes.parts import checkpoint
from recipes.parts.workers import to_device

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def translate(error: Exception) -> IngredientsError | None:
    """An error that says what to lower or to free; None for one of another kind."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        message = f"out of memory ({str(error).splitlines()[0][:120]}); lower batch_size (and raise accumulate "
        message += "as much), set precision = bf16, or name blocks in model.architecture.recompute"
        return SettingError("training.scheme.batch_size", message)
    if str(error).startswith("DataLoader worker"):  # it was killed
        message = f"{str(error).split('. ')[0]}: memory ran out, most likely; lower it, or batch_size"
        return SettingError("training.scheme.workers", message)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS and error.filename:  # else: standard output
        message = "the last checkpoint is intact: free some space, then run python train.py --resume"
        return IngredientsError(f"{error.filename}: cannot be written ({error.strerror}); {message}")
    return None


def refuse_loss(recent, folder, state, order: torch.Tensor, batch_size: int) -> None:
    """Keep the batches that led to a loss that is not finite, and raise an error that says where to look.

    recent: (inputs, targets, step of the epoch, from 1) of each; order: the indices of the epoch
    """
    experiment, kept = state.experiment, {"inputs": [], "targets": [], "samples": []}
    samples = experiment.training
    for inputs, targets, step in recent:
        indices = [int(index) % len(samples) for index in order[(step - 1) * batch_size : step * batch_size]]
        kept["inputs"].append(to_device(inputs, "cpu"))
        kept["targets"].append(to_device(targets, "cpu"))
        kept["samples"].append([samples.names[index] if samples.names else index for index in indices])
    checkpoint.save(folder / "bad_batch.pt", kept)
    finite = all(torch.isfinite(inputs).all() for inputs in kept["inputs"])
    seen = "all values finite" if finite else "with values that are not finite: check the data and preprocess"
    optimizer = experiment.ingredients.at("training.optimizer", {})
    key = next((f".{key}" for key in ("learning_rate", "lr") if key in optimizer), "")  # the latter of torch's own
    steps = " or ".join(str(step) for *_, step in recent)
    message = f"the loss of epoch {state.epoch + 1}, step {steps} is not finite; lower the learning rate, or "
    message += "set training.scheme.clip_norm = 1.0\n"
    message += f"the batch ({seen}) and its samples are in {folder / 'bad_batch.pt'}"
    raise SettingError(f"training.optimizer{key}", message)
