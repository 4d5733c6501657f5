"""The loop, on tiny data: what a run writes, that it can be repeated and resumed; and what a trained model predicts."""

import json
from pathlib import Path

import pytest
import torch

from core import IngredientsError, resolve
from recipes import predict, validate
from recipes.parts import checkpoint, trained
from recipes.settings import read_ingredients
from recipes.train import train as recipe
from tests.helpers import equal, metrics_of, state_of

RESUME = {"training.scheme.resume": "True"}


def test_run_folder(train, tmp_path, capsys):
    folder = train()
    assert folder.parent == Path("runs/tiny")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "ingredients.ini",
        "custom_functions.py",
        "environment.json",
        "defaults.json",
        "metrics.jsonl",
        "metrics.csv",
        "batch.png",
        "predictions.png",
        "log.txt",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
    }
    *lines, tested, last = metrics_of(folder)
    assert [line.get("epoch") for line in lines] == [*range(1, 9)] and last == {"finished": 8}
    assert lines[-1]["accuracy"] == 1.0 and tested["split"] == "testing" and tested["accuracy"] >= 0.9
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"run: {folder}" and printed == (folder / "log.txt").read_text()
    best = checkpoint.load(tmp_path / "models/0.0.0/model.pth")
    assert equal(best["model"], state_of(folder, "best.pt")["model"]) and "optimizers" not in best


def test_the_same_ingredients_give_the_same_numbers(train):
    one, other = train(), train()
    written = read_ingredients(one / "ingredients.ini")
    third = recipe(written, resolve(written))
    assert len({one, other, third}) == 3
    for folder in (other, third):
        assert metrics_of(folder) == metrics_of(one) and equal(state_of(folder), state_of(one))


def test_interrupted_and_resumed_ends_as_uninterrupted(train, read):
    whole = train()
    ingredients = read({"project.name": "other"})
    functions = resolve(ingredients)
    criterion, calls = functions.training.loss, []

    def stop_in_epoch_3(logits, targets):
        calls.append(1)
        if len(calls) == 15:  # 6 steps an epoch
            raise KeyboardInterrupt
        return criterion(logits, targets)

    functions.training["loss"] = stop_in_epoch_3
    with pytest.raises(KeyboardInterrupt):
        recipe(ingredients, functions)
    folder = recipe(ingredients, resolve(ingredients), resume="")
    assert len(list(folder.parent.iterdir())) == 1
    assert metrics_of(folder) == metrics_of(whole)
    for name in ("last.pt", "best.pt"):
        assert equal(state_of(folder, name), state_of(whole, name))


def test_resume_reports_what_changed(train, capsys):
    folder = train()
    assert train(RESUME) == folder
    assert "is finished after epoch 8; raise epochs" in capsys.readouterr().out
    assert train(RESUME | {"training.scheme.epochs": "9"}) == folder
    assert "changed since: training.scheme.epochs: 8 -> 9" in capsys.readouterr().out
    assert [line.get("epoch", line.get("finished")) for line in metrics_of(folder)][-3:] == [9, 9, 9]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.architecture.backbone", "resnet18"),
        ("training.optimizer.@optimizer", "adamw"),
        ("training.load_dataset.channels", "3"),
        ("training.scheme.seed", "7"),
        ("training.scheme.validation_fraction", "0.5"),
    ],
)
def test_resume_refuses_what_the_weights_depend_on(train, path, value):
    folder = train({"training.scheme.epochs": "1"})
    with pytest.raises(IngredientsError, match=rf"training.scheme.resume\n.*cannot resume {folder}.*{path}.*{value}"):
        train(RESUME | {path: value})
    assert len(metrics_of(folder)) == 3


def test_debug_runs_one_batch_and_keeps_nothing(train, tmp_path):
    before = train({"training.scheme.epochs": "1"})
    folder = train({"testing.debug": "True", "training.model.save_name": str(tmp_path / "debug.pth")})
    assert folder.name == "debug" and not (tmp_path / "debug.pth").exists()
    assert [line.get("epoch") for line in metrics_of(folder)] == [1, 1, None]
    assert trained.newest(folder.parent) == before


def test_early_stop(train):
    flat = {"training.optimizer.learning_rate": "0.0", "training.augment.pixels": "0", "training.scheme.patience": "2"}
    # Nothing is learned, so that validation gets no better once the statistics of the norms have settled.
    folder = train(flat | {"training.scheme.early_stop": "True", "training.scheme.epochs": "200"})
    epochs = [line["epoch"] for line in metrics_of(folder) if "train_loss" in line]
    assert len(epochs) < 200 and "early stop: no better accuracy for 2 epochs" in (folder / "log.txt").read_text()
    assert train(flat | RESUME | {"training.scheme.early_stop": "True", "training.scheme.epochs": "200"}) == folder


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("augment", {"training.augment.@augment": "random_flip"}),
        ("loss", {"training.loss.label_smoothing": "0.3"}),
        ("optimizer", {"training.optimizer.@optimizer": "adamw"}),
        ("schedule", {"training.schedule.@schedule": "constant"}),
    ],
)
def test_another_function_changes_the_numbers_and_none_is_required(train, read, section, changes):
    short = {"training.scheme.epochs": "2"}
    ingredients = read(short)
    del ingredients["training"][section]
    recipe(ingredients, resolve(ingredients))
    assert metrics_of(train(short | changes)) != metrics_of(train(short))


def test_functions_of_ones_own(train, own):
    """As in custom_functions.py: each is a function that returns what the recipe calls."""
    called = set()

    @own.preprocess.register("halved")
    def halved():
        return lambda image: called.add("preprocess") or image.repeat(1, 2, 2) / 510

    @own.loss.register("sharp")
    def sharp(factor: float):
        criterion = torch.nn.CrossEntropyLoss()
        return lambda logits, targets: called.add("loss") or criterion(factor * logits, targets)

    @own.metric.register("share_of_class_0")
    def share():
        return lambda outputs, targets: float((targets == 0).float().mean())

    changes = {
        "training.preprocess.@preprocess": "halved",
        "training.preprocess.size": None,
        "testing.preprocess.@preprocess": "halved",
        "testing.preprocess.size": None,
        "training.loss.@loss": "sharp",
        "training.loss.factor": "2",
        "validation.metrics.share.@metric": "share_of_class_0",
    }
    folder = train(changes)
    assert called == {"preprocess", "loss"}
    assert metrics_of(folder)[0]["share"] == pytest.approx(1 / 3) and metrics_of(folder)[-2]["accuracy"] > 0.8


def test_mistakes_are_refused_before_anything_is_written(train):
    for changes, message in (
        ({"model.architecture.backbone": "resnet81"}, "backbone.*\n.*Did you mean resnet18"),
        ({"training.scheme.epchs": "1"}, "Did you mean epochs"),
        ({"training.loss.@loss": "cross_entropi"}, "Did you mean cross_entropy"),
        ({"project.meta.n_classes": "4"}, "output_classes\n.*3 classes"),
    ):
        with pytest.raises(IngredientsError, match=message):
            train(changes)
    assert not Path("runs").exists() and not Path("models").exists()


def test_scripts_measure_and_predict(train, tmp_path, capsys, monkeypatch):
    folder = train()
    ini = str(folder / "ingredients.ini")

    def run(script, *arguments):
        monkeypatch.setattr("sys.argv", ["script", *arguments])
        capsys.readouterr()
        script.main()
        return capsys.readouterr().out

    best = state_of(folder, "best.pt")["best"]
    printed = run(validate, ini)
    metrics = f"loss {best['loss']:.4f}, accuracy {best['accuracy']:.4f}"
    assert printed.startswith(f"validation: {metrics} (12 samples)\n")
    assert "(15 samples)" in run(validate, ini, "--on", "testing", "--run", str(folder))
    assert "(48 samples)" in run(validate, ini, "--on", "training", "--run", "models/0.0.0/model.pth")
    images = [str(tmp_path / f"data/tiny/testing/class-{label}/0.png") for label in range(3)]
    lines = run(predict, *images, "--ingredients", ini).splitlines()
    assert [line.split()[1] for line in lines] == ["class-0", "class-1", "class-2"]
    assert all(1 / 3 < float(line.split()[2]) <= 1 for line in lines)
    with pytest.raises(SystemExit) as caught:
        run(predict, images[0], "none.png", "--ingredients", ini)
    printed = capsys.readouterr()
    assert caught.value.code == 1 and "none.png" in printed.err and "class-0" in printed.out  # the rest goes on
