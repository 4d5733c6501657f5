"""Stopped at the worst moments, a run ends as one that was never stopped; a checkpoint is whole, or it is not used."""

from pathlib import Path

import pytest
import torch
from core import IngredientsError, SettingError
from recipes import run as runs
from recipes import train as recipe
from recipes.parts import checkpoint
from tests.helpers import equal, metrics_of, state_of

RESUME = {"training.scheme.resume": "True"}
SHORT = {"training.scheme.epochs": "4"}


@pytest.mark.parametrize(
    ("owner", "name", "call"), [(checkpoint, "link", 3), (runs.Run, "record", 3), (recipe, "finish", 1)]
)
def test_stopped_between_two_writes_and_resumed_ends_as_uninterrupted(train, monkeypatch, owner, name, call):
    """Killed after last.pt is written, before best.pt or metrics.jsonl are; or after the last epoch."""
    whole = train(SHORT | {"project.name": "whole"})
    original, calls = getattr(owner, name), []

    def stop(*arguments, **values):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments, **values)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT)
    folder = train(SHORT | RESUME)
    assert metrics_of(folder) == metrics_of(whole)
    for file in ("last.pt", "best.pt"):
        assert equal(state_of(folder, file), state_of(whole, file))


def test_a_longer_run_stopped_at_its_end_is_finished_by_resuming(train, monkeypatch):
    """The end of the shorter run, and a line that was cut short, do not pass for the end of the longer one."""
    folder, longer = train(SHORT), RESUME | {"training.scheme.epochs": "5"}

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(longer)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"split": "tes')
    assert train(longer) == folder
    assert [line["finished"] for line in metrics_of(folder) if "finished" in line] == [4, 5]
    assert checkpoint.load(Path("models/0.0.0/model-last.pth"))["epoch"] == 5


def test_a_run_that_stopped_early_is_over(train):
    changes = {"training.scheme.early_stop": "True", "training.scheme.patience": "1", "training.scheme.epochs": "20"}
    folder = train(changes)
    before = metrics_of(folder)
    assert len(before) < 20 and train(changes | RESUME) == folder and metrics_of(folder) == before


@pytest.mark.parametrize("key", ["optimizers", "n_averaged"])
def test_a_checkpoint_of_another_version_is_refused_in_one_line(train, key):
    changes = SHORT | {"training.scheme.ema": "0.9"}
    last = train(changes) / "checkpoints/last.pt"
    state = checkpoint.load(last)
    checkpoint.save(last, {("former" if name == key else name): value for name, value in state.items()})
    with pytest.raises(SettingError, match=f"cannot resume|does not fit.*{key}") as caught:
        train(changes | RESUME | {"training.scheme.epochs": "5"})
    [problem] = caught.value.problems
    assert problem.key == "training.scheme.resume" and key in problem.message and "\n" not in problem.message


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save(path, {"epoch": 3, "weights": torch.rand(1000)})
    return path


def test_a_checkpoint_of_which_one_bit_changed_is_refused(saved):
    good = saved.read_bytes()
    for position in range(0, len(good), len(good) // 50):
        damaged = bytearray(good)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(IngredientsError, match="best.pt: damaged"):
            checkpoint.load(saved)
    saved.write_bytes(good)
    assert checkpoint.load(saved)["epoch"] == 3
    assert torch.load(saved, weights_only=True)["epoch"] == 3, "torch reads the file without our help"
    with pytest.raises(IngredientsError, match="none.pt: cannot be read"):
        checkpoint.load(saved.with_name("none.pt"))


def test_an_interrupted_write_leaves_the_file_as_it_was(saved, monkeypatch):
    def full(descriptor):
        raise OSError("disk full")

    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(saved, {"epoch": 4})
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]
