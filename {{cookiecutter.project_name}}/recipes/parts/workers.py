"""Samples that are not kept in memory: augmented one by one, read by processes, whose number changes nothing."""

import atexit
import ctypes
import os
import signal
import sys
import time
from dataclasses import replace

import torch

from core import IngredientsError
from pantry.images import processors
from recipes.parts.calling import blame


def choose_workers(samples) -> int:
    """As many processes as help to read samples: one for each processor, or none if a sample takes no time.

    samples: None if they are not known yet, then as if they took time
    """
    if samples is None:
        return processors()
    started, count = time.perf_counter(), min(len(samples), 4)
    for index in range(count):
        samples[index]
    # Below a millisecond a sample, it takes as long to hand it over as to read it.
    return processors() if time.perf_counter() - started > 1e-3 * count else 0


def augmented(samples, per_sample, seed: int):
    """The samples, augmented one by one; one is tried, so that a misfit shows before training."""
    found = replace(samples, per_sample=per_sample, seed=seed)
    with blame("training.augment", samples.first):
        sample, _ = found[0]
        if not isinstance(sample, torch.Tensor) or sample.ndim != samples.first.ndim:
            became = list(sample.shape) if isinstance(sample, torch.Tensor) else f"a {type(sample).__name__}"
            raise IngredientsError(f"turns {samples.shape} into {became}")
    return found


def worker_reader(samples, batches_of, device, workers: int):
    """`read(order=None) -> batches (inputs, targets)` on the device, of samples that are not kept in memory.

    batches_of: `batches_of(order)`, a list of the indices of each batch
    """
    plan = []  # the indices of each batch of an epoch; it stays one list, so that workers can stay
    loader = data_loader(samples, plan, device, workers)

    def read(order: torch.Tensor | list | None = None):
        plan[:] = [part.tolist() for part in batches_of(order)]
        for batch in loader:
            if isinstance(batch, IngredientsError):
                try:
                    raise batch
                finally:
                    del batch  # or error and frame hold each other, and the workers are not told to end
            inputs, targets = batch
            yield to_device(inputs, device), to_device(targets, device)

    return read


def to_device(batch, device):
    """Inputs or targets on the device: a tensor, or a list or dict of such."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, list | tuple):
        return [to_device(one, device) for one in batch]
    return {key: to_device(one, device) for key, one in batch.items()} if isinstance(batch, dict) else batch


def data_loader(samples, plan: list, device, workers: int) -> torch.utils.data.DataLoader:
    """Batches of the samples whose indices are in `plan`, which may change between epochs."""
    settings = {"batch_size": None, "sampler": plan, "pin_memory": device.type == "cuda"}
    if workers:
        settings |= {"num_workers": workers, "persistent_workers": True, "worker_init_fn": end_with_parent}
        atexit.register(kill_workers)
        if "fork" in torch.multiprocessing.get_all_start_methods():
            settings["multiprocessing_context"] = "fork"  # nested functions cannot be sent to other processes
    return torch.utils.data.DataLoader(Batches(samples), **settings)


class Batches(torch.utils.data.Dataset):
    """`batches[indices]`: a batch of the samples, or the IngredientsError that one of them raised.

    One raised in a worker would reach the user as a RuntimeError whose message is a traceback.
    """

    def __init__(self, samples):
        self.samples, self.collate = samples, samples.collate or torch.utils.data.default_collate

    def __getitem__(self, indices: list[int]):
        try:
            return self.collate([self.samples[index] for index in indices])
        except IngredientsError as error:
            return error


def kill_workers() -> None:
    """At exit after an error, whose traceback holds the loader: torch sends them SIGTERM, which they ignore."""
    if sys.platform != "win32":  # torch's handler would raise over a worker that is killed
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in torch.multiprocessing.active_children():
        if process.daemon:
            process.kill()


def end_with_parent(worker: int) -> None:
    """For workers of a DataLoader: the kernel ends them when their parent ends, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent answers them, also if they go to the whole group
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != torch.multiprocessing.parent_process().pid:  # it ended before
            os.kill(os.getpid(), signal.SIGKILL)
