"""What goes wrong while a run trains: the loss is not finite, memory runs out, the disk is full."""

import errno

import torch

from core import IngredientsError, SettingError
from recipes.parts import checkpoint
from recipes.parts.samples import split
from recipes.parts.workers import to_device

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def translate(error: Exception) -> IngredientsError | None:
    """An error that says what to lower or to free; None for one of another kind."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        message = f"out of memory ({str(error).splitlines()[0][:120]}); lower batch_size (and raise accumulate "
        message += "as much), set precision = bf16, or name blocks in model.architecture.recompute"
        return SettingError("training.scheme.batch_size", message)
    if "find_unused_parameters" in str(error):
        message = "some parameters got no gradient in a step; set it to True, or leave them out of the network"
        return SettingError("training.parallel.find_unused_parameters", message)
    if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
        return IngredientsError("another of the processes that train together ended, or does not answer any more")
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
    batches = split(len(order), batch_size, experiment.share(order, batch_size))
    for inputs, targets, step in recent:
        indices = [int(index) % len(samples) for index in batches[step - 1]]
        kept["inputs"].append(to_device(inputs, "cpu"))
        kept["targets"].append(to_device(targets, "cpu"))
        kept["samples"].append([samples.names[index] if samples.names else index for index in indices])
    file = folder / (f"bad_batch-{experiment.rank}.pt" if experiment.rank else "bad_batch.pt")
    checkpoint.save(file, kept)
    finite = torch.stack([torch.isfinite(inputs).all() for inputs in kept["inputs"]]).all()
    finite = experiment.mean(finite.float().to(experiment.device)) == 1  # of all processes
    seen = "all values finite" if finite else "with values that are not finite: check the data and preprocess"
    optimizer = experiment.ingredients.at("training.optimizer", {})
    key = next((f".{key}" for key in ("learning_rate", "lr") if key in optimizer), "")  # the latter of torch's own
    steps = " or ".join(str(step) for *_, step in recent)
    message = f"the loss of epoch {state.epoch + 1}, step {steps} is not finite; lower the learning rate, or "
    message += "set training.scheme.clip_norm = 1.0\n"
    message += f"the batch ({seen}) and its samples are in {file}"
    raise SettingError(f"training.optimizer{key}", message)
