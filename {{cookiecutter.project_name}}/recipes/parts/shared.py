"""An experiment of several processes that train one model: how its methods differ from those of one process."""

import math
import os
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from recipes.experiment import Experiment
from recipes.parts import samples as data
from recipes.parts.calling import Metrics
from recipes.parts.workers import to_device


def environ(name: str) -> int:
    return int(os.environ[name])


def broadcast(value):
    """The value that the first process has, in all of them."""
    told = [value]
    dist.broadcast_object_list(told)
    return told[0]


class SharedExperiment(Experiment):
    """An experiment of several processes, by the methods in which it differs from one."""

    is_split = False  # whether each process evaluates a part of the samples

    @contextmanager
    def local_first(self, name: str):
        """Enter in the first process of this host; in its others once that has left."""
        key = f"{self.start}/{os.environ['GROUP_RANK']}/{name}"
        if environ("LOCAL_RANK"):
            self.store.wait([key], timedelta(days=1))  # a download may take its time
        yield
        if not environ("LOCAL_RANK"):
            self.store.set(key, "done")

    def load(self, split: str):
        """Decoded once on a host: what its first process keeps in memory it writes to a file, which the others map."""
        file, scheme = Path(tempfile.gettempdir(), f"{self.start}-{split}.pt"), self.scheme
        with self.local_first(split):
            if environ("LOCAL_RANK"):
                self.scheme = replace(scheme, memory=0.0)
            samples = super().load(split)
            self.scheme = scheme
            if samples is not None and samples.kept and environ("LOCAL_WORLD_SIZE") > 1:
                torch.save([*samples.kept, samples.targets], file)
        if environ("LOCAL_RANK") and file.exists():
            *kept, targets = torch.load(file, mmap=True)
            samples = replace(samples, kept=tuple(kept), targets=targets)
        if self.store.add(f"{file.name}/{os.environ['GROUP_RANK']}", 1) == environ("LOCAL_WORLD_SIZE"):
            file.unlink(missing_ok=True)  # all have it
        return samples

    @cached_property
    def workers(self) -> int:
        count = super().workers
        return math.ceil(count / environ("LOCAL_WORLD_SIZE")) if self.scheme.workers == "auto" else count

    def seed(self, purpose: str, *key: int) -> None:
        super().seed(purpose, *key, *[self.rank] * (purpose == "step" and self.rank > 0))

    def once(self, function, run, *facts):
        result = function(run, *facts) if self.rank == 0 else None
        result, run.folder, run.state = broadcast([result, run.folder, run.state])
        return result

    def wrap(self, model, batch_size: int):
        """The model whose backward pass averages the gradients."""
        self.scale_losses(batch_size)
        self.try_evaluation()
        if self.settings.sync_batch_norm:
            model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        unused = self.settings.find_unused_parameters or self.scheme.frozen_epochs > 0
        return Wrapped(model, find_unused_parameters=unused)

    def scale_losses(self, batch_size: int) -> None:
        """Let each process count by its samples, if they do not have equally many."""
        if batch_size % self.size:
            mine = len(torch.arange(batch_size).tensor_split(self.size)[self.rank])
            scale = partial(_scaled, mine * self.size / batch_size)
            self.phases = [(*rest, partial(scale, loss)) for *rest, loss in self.phases]

    def last_syncs(self, parts, model):
        """The parts of a batch, whose gradients are averaged with those of the last one."""
        for part in parts:
            with nullcontext() if part is parts[-1] else model.no_sync():
                yield part

    def share(self, order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
        """This process's part of each batch: every n-th sample, which of tar shards lie in files of its own."""
        return [batch[self.rank :: self.size] for batch in order.split(batch_size)]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value / self.size

    def even(self, model) -> None:
        """Give all processes the buffers of the first one: batch norms have seen other samples in each."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def try_evaluation(self) -> None:
        """Split evaluations if the task's gathers what processes find, which a trial on two samples shows."""
        tried, count = SharedMetrics(), min(2, len(self.validation))
        batches = data.reader(self.validation, count, self.device)(torch.arange(count))
        self.task.evaluate(self.model.eval(), batches, tried)
        self.is_split = tried.is_complete

    def some(self, samples) -> list[torch.Tensor] | torch.Tensor | None:
        order = super().some(samples)
        count = len(samples if order is None else order)
        self.metrics.is_split = self.is_split and count >= self.size
        if not self.metrics.is_split:
            return order
        rounds = min(math.ceil(count / self.evaluation_batch_size), count // self.size)  # as many in each process
        return list(torch.arange(count).tensor_split(rounds * self.size)[self.rank :: self.size])

    def alone(self, _, best: dict) -> Experiment:
        """Leave the other processes; the experiment for what the first one does after training."""
        dist.destroy_process_group()
        known = {name: value for name, value in vars(self).items() if name in Experiment.__dataclass_fields__}
        return Experiment(**known | {"metrics": Metrics(self.metrics)})

    def evaluate(self, model, batches, views=None) -> dict[str, float]:
        return broadcast(super().evaluate(model, batches, views))


def _scaled(weight: float, loss, *facts):
    return loss(*facts) * weight


class Wrapped(DistributedDataParallel):
    """With the attributes of the model that it wraps, for which losses may ask."""

    def __getattr__(self, name: str):
        module = super().__getattr__("module")
        return module if name == "module" else getattr(module, name)


class SharedMetrics(Metrics):
    """Metrics that are given what all processes found, so that their values are those of one process."""

    is_split = is_complete = False  # whether processes evaluate parts of the samples; whether these are put together

    def __init__(self, metrics=()):
        super().__init__(metrics)
        self.parts = []
        for metric in self.values():
            for module in metric.modules() if isinstance(metric, torch.nn.Module) else ():
                module.distributed_available_fn = bool  # False: a metric of torchmetrics need not sync by itself

    def gathered(self, parts) -> list:
        self.is_complete = True
        if not self.is_split:
            return parts
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, to_device(list(parts), "cpu"))
        return [part for row in zip_longest(*found) for part in row if part is not None]

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        if self.is_split and not self.is_complete:
            self.parts.append((outputs, targets))
        else:
            super().update(outputs, targets)

    def compute(self) -> dict[str, float]:
        parts, self.parts = self.parts, []
        for outputs, targets in self.gathered(parts) if parts else ():
            super().update(outputs, targets)
        self.is_complete = False
        return super().compute()
