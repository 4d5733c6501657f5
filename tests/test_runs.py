"""What a run writes, reads and measures, and how often."""

import json
from pathlib import Path

import torch
from tests.helpers import equal, metrics_of, state_of

SHORT = {"training.scheme.epochs": "2"}


def test_settings_that_change_what_is_written(train, tmp_path):
    train(SHORT | {"model.version": "9.9.9", "training.model.save_all_checkpoints": "True"})
    [folder] = (tmp_path / "runs/tiny").iterdir()
    assert (tmp_path / "models/9.9.9/model-last.pth").is_file()
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"last.pt", "previous.pt", "best.pt", "epoch-001.pt", "epoch-002.pt"}
    changes = {"training.model.save_dir": "elsewhere", "training.model.save_name": "other.pth"}
    assert train(SHORT | changes | {"training.model.runs": "journal"}).parent == Path("journal/tiny")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"other.pth", "other-last.pth"}


def test_data_that_does_not_fit_is_read_as_needed_to_the_same_numbers(train, monkeypatch):
    started, loader = [], torch.utils.data.DataLoader
    monkeypatch.setattr(
        torch.utils.data, "DataLoader", lambda *a, **k: started.append(k.get("num_workers", 0)) or loader(*a, **k)
    )
    kept = metrics_of(train(SHORT))
    assert not started
    for workers in ("0", "2"):
        read = {"training.scheme.memory": "0.0", "training.scheme.workers": workers}
        assert metrics_of(train(SHORT | read)) == kept and started.pop() == int(workers)


def test_evaluation_has_a_batch_size_of_its_own(train, monkeypatch):
    from recipes import classification

    seen, evaluate = [], classification.evaluate

    def watched(model, batches, *rest):
        return evaluate(model, (seen.append(len(inputs)) or (inputs, targets) for inputs, targets in batches), *rest)

    monkeypatch.setattr(classification, "evaluate", watched)
    train({"training.scheme.epochs": "1"})
    assert max(seen) == 8  # that of training
    seen.clear()
    train({"training.scheme.epochs": "1", "training.scheme.evaluation_batch_size": "3"})
    assert max(seen) == 3


def test_deterministic(monkeypatch):
    """It acts on GPUs alone; asked for one here, it is not needed."""
    from recipes.experiment import seeder

    asked = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: asked.append(mode))
    seeder(torch.device("cuda"), deterministic=False)
    assert asked == []
    seeder(torch.device("cuda"), deterministic=True)
    assert asked == [True]


def test_checkpoints_within_an_epoch(train, monkeypatch):
    from recipes.run import Run

    steps, save = [], Run.save
    monkeypatch.setattr(Run, "save", lambda run, state: steps.append(state.step) or save(run, state))
    train({"training.scheme.epochs": "1"})
    assert steps == [0]
    train({"training.scheme.epochs": "1", "training.model.checkpoint_minutes": "0.0"})
    assert {1, 2, 3, 4, 5} <= set(steps)


def test_debug_measures_one_batch(train, capsys):
    folder = train({"testing.debug": "True"})
    assert "on 8 test samples" in capsys.readouterr().out and state_of(folder)["history"][0]["train_loss"] > 0


def test_validation_set_of_its_own(train, tmp_path):
    changes = {
        "validation.load_dataset.@load_dataset": "load_image_folder",
        "validation.load_dataset.source": f"{tmp_path}/data/tiny",
        "validation.load_dataset.split": "testing",
    }
    assert "60 training and 15 validation samples" in (train(SHORT | changes) / "log.txt").read_text()


def test_test_data_is_measured_once_and_not_before_the_end(read, one_thread):
    from core import resolve
    from recipes.train import train as recipe

    ingredients = read(SHORT)
    functions = resolve(ingredients)
    load, calls = functions.testing.load_dataset, []

    def watched():
        calls.append([path.name for path in Path("runs/tiny").glob("*/checkpoints/*")])
        return load()

    watched.check = load.check  # looks at the files alone, before training
    functions.testing["load_dataset"] = watched
    recipe(ingredients, functions)
    assert len(calls) == 1 and set(calls[0]) == {"last.pt", "previous.pt", "best.pt"}
    del ingredients["testing"]["load_dataset"]
    assert "split" not in metrics_of(recipe(ingredients, resolve(ingredients)))[-2]


def test_what_stands_in_the_run_folder_is_what_was_asked(train):
    """So that `python train.py RUN/ingredients.ini` repeats it; and the environment is there for whoever asks why."""
    one, other = train(SHORT | {"training.scheme.seed": "5"}), train(SHORT)
    assert "seed = 5" in (one / "ingredients.ini").read_text()
    assert json.loads((one / "environment.json").read_text()).keys() == {"python", "platform", "git", "packages"}
    assert not equal(state_of(one)["model"], state_of(other)["model"])
