"""Interrupted anywhere and resumed, a run ends with the same bytes as one that was never interrupted."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from core import IngredientsError, resolve
from recipes.parts import checkpoint
from recipes.settings import read_ingredients
from recipes.train import train as recipe
from tests.helpers import equal, metrics_of, state_of

# Processes of their own, forked from one that has imported torch already: a start takes no time
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["recipes.train", "recipes.classification", "recipes.validate", "torchvision"])


def work(folder, ini, resume, log):
    os.chdir(folder)
    sys.stdout = sys.stderr = open(log, "w", buffering=1)  # noqa: SIM115
    torch.set_num_threads(1)
    ingredients = read_ingredients(ini)
    recipe(ingredients, resolve(ingredients), resume)


# Everything that has a state or draws random numbers, at once
BUSY = {
    "training.scheme.ema": "0.9",
    "training.scheme.accumulate": "2",
    "training.scheme.batch_size": "4",
    "training.scheme.precision": "bf16",
    "training.scheme.clip_norm": "1.0",
    "training.scheme.epochs": "12",
    "training.model.checkpoint_minutes": "0.0",
    "training.augment.@augment": "random_shift",
    "training.augment.pixels": "1",
    "training.loss.label_smoothing": "0.1",
}


def start(ini, resume=None):
    """A training process of its own in the current folder."""
    process = SERVER.Process(target=work, args=(os.getcwd(), str(ini), resume, f"{ini}.log"))
    process.start()
    return process


def finish(process, ini):
    """Its exit code, and what it said."""
    process.join()
    return process.exitcode, Path(f"{ini}.log").read_text()


def wait_for(process, name, seconds):
    """Wait until the run has a checkpoint, and then so many seconds more."""
    while process.is_alive() and not list(Path("runs").glob(f"{name}/*/checkpoints/last.pt")):
        time.sleep(0.002)
    time.sleep(seconds)


def write(read, changes, name):
    path = Path(f"{name}.ini")
    path.write_text(str(read(changes | {"project.name": name})), encoding="utf-8")
    return path


def killed_as_often(read, changes, kills, name, seed=0):
    """Train with so many kills at random times, compare with a run without; the number of kills that hit a run."""
    draw, hits, code = random.Random(seed), 0, None
    whole = whole_run(read, changes, f"{name}-whole")
    ini = write(read, changes, name)
    while code != 0:
        process = start(ini, resume="")
        if hits < kills:
            wait_for(process, name, draw.uniform(0, 0.6))
            process.kill()
        code, said = finish(process, ini)
        assert code in (0, -signal.SIGKILL), said
        hits += code != 0
    [folder] = Path(f"runs/{name}").iterdir()
    assert metrics_of(folder) == metrics_of(whole)
    assert equal(state_of(folder), state_of(whole))
    best, best_whole = (checkpoint.load(path / "checkpoints/best.pt")["model"] for path in (folder, whole))
    assert equal(best, best_whole)
    return hits


def whole_run(read, changes, name):
    ini = write(read, changes, name)
    code, said = finish(start(ini), ini)
    assert code == 0, said
    [folder] = Path(f"runs/{name}").iterdir()
    return folder


def test_killed_a_few_times(read):
    assert killed_as_often(read, BUSY, kills=3, name="few") > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_ends(read, number):
    whole = whole_run(read, BUSY, "whole")
    ini = write(read, BUSY, "asked")
    process = start(ini)
    wait_for(process, "asked", 0.05)
    os.kill(process.pid, number)
    code, said = finish(process, ini)
    assert code == 128 + number and f"{number.name}: saved after" in said, said
    code, said = finish(start(ini, resume=""), ini)
    assert code == 0 and "resume runs/asked/" in said, said
    [folder] = Path("runs/asked").iterdir()
    assert metrics_of(folder) == metrics_of(whole) and equal(state_of(folder), state_of(whole))


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(read, train, capsys):
    changes = {"training.scheme.epochs": "3"}
    whole = train(changes | {"project.name": "whole"})
    folder = train(changes)
    path = folder / "checkpoints/last.pt"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.unlink()  # best.pt may be the same file
    path.write_bytes(damaged)
    capsys.readouterr()
    assert train(changes | {"training.scheme.resume": "True"}) == folder
    said = capsys.readouterr().out
    assert "last.pt: damaged" in said and "the one before" in said and "after epoch 2" in said
    assert equal(state_of(folder), state_of(whole))


def test_a_loss_that_is_no_number_stops_within_one_step(read, tmp_path):
    """The batch and the names of its samples are kept, and the checkpoints before stay good."""
    ingredients = read({"training.model.checkpoint_minutes": "0.0"})
    functions = resolve(ingredients)
    criterion, calls = functions.training.loss, []

    def poisoned(logits, targets):
        calls.append(1)
        return criterion(logits, targets) * (float("nan") if len(calls) == 9 else 1)

    functions.training["loss"] = poisoned
    with pytest.raises(IngredientsError, match="epoch 2, step 3 is not finite; lower the learning rate"):
        recipe(ingredients, functions)
    assert len(calls) == 9
    [folder] = Path("runs/tiny").iterdir()
    state = checkpoint.load(folder / "checkpoints/last.pt")
    assert (state["epoch"], state["step"]) == (1, 2)
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    bad = checkpoint.load(folder / "bad_batch.pt")
    assert bad["inputs"][-1].shape == (8, 1, 16, 16) and all(Path(name).is_file() for name in bad["samples"][-1])
