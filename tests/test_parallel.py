"""Several processes train one model as one does. Long: `python -m pytest -m long tests/test_parallel.py`."""

import faulthandler
import os
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from core import resolve
from recipes.parts import checkpoint
from recipes.settings import read_ingredients
from recipes.train import train as recipe
from tests.helpers import metrics_of
from tests.test_interruptions import SERVER

SERVER.set_forkserver_preload(
    ["recipes.train", "recipes.classification", "torchvision", "torchmetrics", "torch.distributed.fsdp"]
)

FUNCTIONS = '''
import torch
from core import registry


@registry.backbone.register("plain")
def plain(in_channels, output_classes):
    """No batch norm, which would see other batches in each process."""
    layers = [torch.nn.Conv2d(in_channels, 6, 3, 2), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(torch.nn.Sequential(*layers), torch.nn.Linear(6 * 49, output_classes))


@registry.metric.register("own")
def own():
    """Of all samples at once, and of their order."""
    return lambda outputs, targets: (outputs.float().std() + targets * torch.arange(len(targets))).sum()
'''

# Nothing is drawn for a batch; neither batches nor validation data can be divided equally
PLAIN = {
    "model.architecture.backbone": "plain",
    "training.augment.@augment": "random_shift",
    "training.augment.pixels": "0",
    "training.scheme.batch_size": "9",
    "training.scheme.epochs": "3",
    "training.scheme.clip_norm": "1.0",
    "training.scheme.evaluation_batch_size": "4",
    "validation.metrics.own.@metric": "own",
    "validation.metrics.f1.@metric": "torchmetrics.F1Score",
    "validation.metrics.f1.task": "multiclass",
    "validation.metrics.f1.num_classes": "3",
    "validation.metrics.f1.average": "macro",
}


def work(folder, ini, resume, environment):
    """One of the processes, as torchrun starts it."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(f"{ini}-{environment.get('RANK')}.log", "w", buffering=1)  # noqa: SIM115
    faulthandler.dump_traceback_later(100, exit=True)
    torch.set_num_threads(1)
    ingredients = read_ingredients(ini)
    recipe(ingredients, resolve(ingredients), resume)


class Launched:
    """Processes that train together; without a size one alone, as without torchrun."""

    store, starts = None, 0

    def __init__(self, ini, size=0, resume=None):
        self.ini, environments = ini, [{}]
        if size:
            Launched.store = Launched.store or dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            Launched.starts += 1
            shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": self.store.port, "GROUP_RANK": 0, "WORLD_SIZE": size}
            shared |= {"LOCAL_WORLD_SIZE": size, "TORCHELASTIC_USE_AGENT_STORE": True}
            shared |= {"TORCHELASTIC_RESTART_COUNT": Launched.starts}
            environments = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
            Launched.store.delete_key("autotrain/run")
        self.processes = []
        for environment in environments:
            environment = {key: str(value) for key, value in environment.items()}
            self.processes.append(SERVER.Process(target=work, args=(os.getcwd(), str(ini), resume, environment)))
            self.processes[-1].start()

    def codes(self):
        """Of all, when they have ended; if one fails the others are ended, as torchrun does."""
        while any(process.is_alive() for process in self.processes):
            time.sleep(0.02)
            if any(process.exitcode for process in self.processes):
                for process in self.processes:
                    process.join(2)
                    process.terminate()
        return [process.exitcode for process in self.processes]

    def said(self):
        return "\n".join(path.read_text() for path in sorted(Path().glob(f"{self.ini}-*.log")))


@pytest.fixture
def write(read, own, tmp_path):
    own.backbone.register("plain")(lambda: None)
    own.metric.register("own")(lambda: None)
    (tmp_path / "custom_functions.py").write_text(FUNCTIONS)

    def write(name, changes=None):
        ingredients = read(PLAIN | {"project.name": name} | (changes or {}))
        Path(f"{name}.ini").write_text(str(ingredients), encoding="utf-8")
        return f"{name}.ini"

    return write


def trained(ini, size=0, resume=None):
    launched = Launched(ini, size, resume)
    assert not any(launched.codes()), launched.said()
    [folder] = Path(f"runs/{ini.removesuffix('.ini')}").iterdir()
    return folder


def close(one, other, most=1e-5):
    return [line.keys() for line in one] == [line.keys() for line in other] and all(
        abs(line[key] - value) <= most * max(1, abs(value))
        for line, expected in zip(one, other, strict=True)
        for key, value in expected.items()
        if not isinstance(value, str)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.scheme.accumulate": "2", "training.scheme.batch_size": "8", "training.scheme.ema": "0.9"},
        {"training.parallel.strategy": "fsdp"},
    ],
    ids=["ddp", "accumulate and ema", "fsdp"],
)
def test_two_processes_have_the_losses_of_one(write, changes):
    one, two = (trained(write(name, changes), size) for name, size in (("one", 0), ("two", 2)))
    assert close(metrics_of(one), metrics_of(two)), (metrics_of(one), metrics_of(two))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    best, whole = (checkpoint.load(folder / "checkpoints/best.pt") for folder in (two, one))
    for key, tensor in best["model"].items():
        assert torch.allclose(tensor, whole["model"][key], atol=1e-5)
