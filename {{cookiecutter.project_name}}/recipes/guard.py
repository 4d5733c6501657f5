"""What can end a run before its time: a signal, a loss that is no number, memory that does not suffice."""

import errno
import math
import signal
from contextlib import contextmanager
from pathlib import Path

import torch

from core import Ingredients, IngredientsError, located
from recipes import checkpoint, data


@contextmanager
def listening():
    """SIGTERM and SIGINT ask to save and end, SIGUSR1 to save and go on; the loop looks after every step.

    Gives `asked`: its `stop` is the number of the signal. A second signal to end acts at once.
    """
    asked = {"stop": 0, "save": False}

    def stop(number, frame):
        asked["stop"] = number
        signal.signal(number, before[number])

    def save(number, frame):
        asked["save"] = True

    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        handlers[signal.SIGUSR1] = save
    before = {}
    try:
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(device):
    """`is_bad(loss)`: whether a loss is no finite number.

    On an accelerator the answer is that for the loss before, so that the loop need not wait for this one.
    """
    if device.type == "cpu":
        return lambda loss: not math.isfinite(loss)
    held, copied = torch.zeros((), pin_memory=device.type == "cuda"), []

    def is_bad(loss) -> bool:
        for event in copied:
            event.synchronize()
        bad = not math.isfinite(held)
        held.copy_(loss.detach(), non_blocking=True)
        copied[:] = [torch.Event(device)]
        copied[0].record()
        return bad

    return is_bad


def refuse_loss(ingredients: Ingredients, folder: Path, batches, names: list | None, where: str):
    """Keep the batches that gave a loss that is no number, and say where to look. Raises IngredientsError.

    batches: the last (inputs, targets, order); names: of all samples.
    """
    state = {"inputs": [], "targets": [], "samples": []}
    for inputs, targets, order in batches:
        state["inputs"].append(data.moved(inputs, "cpu"))
        state["targets"].append(data.moved(targets, "cpu"))
        indices = [int(index[-1]) if isinstance(index, tuple) else int(index) for index in order]
        state["samples"].append([names[index] if names else index for index in indices])
    checkpoint.save(folder / "bad_batch.pt", state)
    broken = [f"{len(state['inputs'][-1])} samples"] if all(torch.isfinite(x).all() for x in state["inputs"]) else []
    seen = "all finite" if broken else "with values that are not finite: look into the data and preprocess"
    keys = ("training.optimizer.learning_rate", "training.optimizer.lr")  # the latter of torch's own
    key = next((key for key in keys if ingredients.where(key) is not None), "training.optimizer")
    message = f"the loss {where} is no finite number; lower the learning rate, or set training.scheme.clip_norm = 1.0"
    message += f"\nits batch ({seen}) and the names of its samples are in {folder / 'bad_batch.pt'}"
    raise located(ingredients, key, message)


@contextmanager
def explained(ingredients: Ingredients, folder: Path, track=None):
    """Say what to lower where the memory does not suffice, and how to go on where the disk is full.

    `track`: a tracker, which is closed at the end.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        message = f"the memory does not suffice ({str(error).splitlines()[0][:120]}); lower batch_size (and raise "
        message += "accumulate by as much), set precision = bf16, or name blocks in model.architecture.recompute"
        raise located(ingredients, "training.scheme.batch_size", message) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = "the last checkpoint is whole: make room, then go on by python train.py --resume"
        name = error.filename or folder
        raise IngredientsError(f"{name}: cannot be written ({error.strerror}); {message}") from error
    finally:
        if hasattr(track, "close"):
            track.close()
