"""Several processes that train one model: how they find each other, write one run, and stop. Under torchrun alone.

    torchrun --nproc-per-node 2 train.py

Each process trains on its part of each batch, and DistributedDataParallel averages the gradients. The order of samples
is that of one process, and so are the losses, unless something is drawn at random for a batch or a batch norm sees it.
"""

import math
import os
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist

from core import SettingError
from recipes.experiment import Experiment
from recipes.parts.calling import blame, carried
from recipes.parts.shared import SharedExperiment, SharedMetrics, broadcast, environ
from recipes.run import Run
from recipes.settings import Parallel, read_section

RUN = "autotrain/run"  # the folder of the run, in the store of torchrun, which survives a restart of the processes


def join(experiment: Experiment) -> tuple["SharedExperiment", "SharedRun"]:
    """Join the processes that torchrun has started: the experiment and the run as they share it."""
    settings = read_section(experiment.ingredients, "training.parallel", Parallel)
    refuse(experiment, settings)
    if experiment.device.type != "cpu":
        torch.accelerator.set_device_index(environ("LOCAL_RANK"))
    jobs, start = meet()
    store = dist.PrefixStore(start, jobs)
    backend = "cpu:gloo" if experiment.device.type == "cpu" else f"cpu:gloo,{experiment.device.type}:nccl"
    facts = {"store": store, "rank": environ("RANK"), "world_size": environ("WORLD_SIZE")}
    dist.init_process_group(backend, timeout=timedelta(minutes=settings.timeout), **facts)
    kind = SharedExperiment
    if settings.strategy == "fsdp":
        from recipes.parts.sharded import ShardedExperiment as kind
    shared = kind(**vars(experiment))
    shared.settings, shared.rank, shared.size = settings, dist.get_rank(), dist.get_world_size()
    shared.metrics = SharedMetrics(experiment.metrics)
    shared.store, shared.start = store, start
    folder = broadcast(jobs.get(RUN).decode() if jobs.check([RUN]) else None)
    if download := experiment.functions.at("project.data.download"):
        with shared.local_first("download"), blame("project.data.download"):
            download()
    return shared, SharedRun(shared, folder)


def meet() -> tuple[dist.Store, str]:
    """The store of torchrun, and the name of this start of the processes.

    The store still has the addresses that processes had before a restart, and gloo would connect to those. So each
    process asks the first one for a new name, below which addresses go; it tells the name until all have answered.
    """
    rank, size, own = environ("RANK"), environ("WORLD_SIZE"), uuid.uuid4().hex
    settings = {"is_master": rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"}
    store = dist.TCPStore(os.environ["MASTER_ADDR"], environ("MASTER_PORT"), wait_for_workers=False, **settings)
    if rank:
        store.set(f"asks/{rank}", own)
        own = store.get(f"start/{own}").decode()  # waits for it
        store.set(f"{own}/{rank}", "")
    while rank == 0 and not store.check([f"{own}/{other}" for other in range(1, size)]):
        for asks in (f"asks/{other}" for other in range(1, size)):
            if store.check([asks]):
                store.set(f"start/{store.get(asks).decode()}", own)
        time.sleep(0.02)
    return store, own


def refuse(experiment: Experiment, settings: Parallel) -> None:
    """Refuse what is not made for several processes."""
    scheme, device, size = experiment.scheme, experiment.device, environ("WORLD_SIZE")
    wrong = {}
    if carried(experiment.task, "LOSSES"):
        wrong["project.meta.task"] = "networks that take turns need one process"
    for path in ("training.scheme.batch_size", "training.optimizer.learning_rate"):
        if experiment.ingredients.at(path) == "auto":
            wrong[path] = "let one process choose it, and write it here"
    if scheme.batch_size != "auto" and scheme.batch_size * scheme.accumulate < size:
        wrong["training.scheme.batch_size"] = f"{size} processes divide a batch; raise it"
    devices = math.inf if device.type == "cpu" else torch.accelerator.device_count()
    if device.index is not None or environ("LOCAL_RANK") >= devices:
        wrong["training.scheme.device"] = "each process needs one of its own: set it to auto, start one for each GPU"
    if settings.sync_batch_norm and device.type == "cpu":
        wrong["training.parallel.sync_batch_norm"] = "needs GPUs"
    for key in ("ema", "swa", "frozen_epochs", "compile") if settings.strategy == "fsdp" else ():
        if vars(scheme)[key]:
            wrong[f"training.scheme.{key}"] = "needs strategy = ddp"
    for path, reason in wrong.items():
        raise SettingError(path, f"under torchrun: {reason}")


class SharedRun(Run):
    """A run of which the first process writes; all save and stop after the same step."""

    def __init__(self, experiment: SharedExperiment, interrupted: str | None):
        super().__init__(experiment)
        self.experiment, self.interrupted = experiment, interrupted
        if experiment.rank:
            self.log = self.record = self.report = self.name_checkpoint = lambda *_, **__: None
            self.hidden = True

    def create(self, ingredients) -> None:
        self.experiment.once(Run.create, self, ingredients)

    def measure(self, *facts) -> dict[str, float]:
        self.samples *= self.experiment.size
        return super().measure(*facts)

    def save(self, state) -> None:
        if self.experiment.rank == 0:
            super().save(state)
            self.experiment.store.underlying_store.set(RUN, str(self.folder))
        else:
            state.state_dict()  # of which it may have a part
            self.saved_at = time.monotonic()

    def _is_save_due(self) -> bool:
        return self.agree(super()._is_save_due())

    def exit_if_requested(self, after: str) -> None:
        self.agree()
        super().exit_if_requested(after)

    def agree(self, due: bool = False) -> bool:
        """Let all processes do what one of them was asked to; returns whether to save."""
        if not dist.is_initialized():  # any more
            return due
        asked = torch.tensor([due, self.asked_to_save, (self.asked_to_stop or [0])[0]])
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        due, self.asked_to_save, code = asked.tolist()
        if code and not self.asked_to_stop:
            self.asked_to_stop = code, "another process"
        return bool(due)
