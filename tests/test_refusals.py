"""What a run refuses: each mistake is reported at its setting, and nothing is left behind. One process for all."""

import traceback
from pathlib import Path

import pytest
import torch
from core import IngredientsError, locate, resolve
from recipes.settings import call_functions, read_ingredients
from recipes.train import train as recipe
from tests.helpers import metrics_of

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"


def refusal(read, changes=None, prepare=lambda functions: None):
    """How a run with these changes is refused, as the command line prints it."""
    with pytest.raises(IngredientsError) as caught:
        ingredients = read(changes)
        functions = resolve(ingredients)
        prepare(functions)
        recipe(ingredients, functions)
    try:
        return str(locate(caught.value, ingredients))
    except UnboundLocalError:  # refused before there were any
        return str(caught.value)


# changes -> parts of the message: the setting, its value, and what tells how to mend it
REFUSED = [
    ({"training.scheme.device": "meta-device"}, "training.scheme.device = meta-device", "cpu"),
    ({"training.scheme.epochs": "0"}, "training.scheme.epochs = 0", "(0, inf)"),
    ({"training.scheme.validation_fraction": "1.5"}, "validation_fraction = 1.5", "(0, 1)"),
    ({"training.scheme.validation_fraction": "0.001"}, "validation_fraction = 0.001", "empty"),
    ({"training.scheme.accumulate": "100"}, "training.scheme.accumulate = 100", "48"),
    ({"training.scheme.workers": "-1"}, "training.scheme.workers = -1", "[0, inf)"),
    ({"training.scheme.epchs": "1"}, "training.scheme.epchs = 1", "Did you mean epochs"),
    ({"trainig.scheme.epochs": "1"}, "trainig.scheme", "Did you mean [training.scheme]"),
    ({"project.meta.task": "clasification"}, "project.meta.task = clasification", "Did you mean classification"),
    ({"project.meta.task": "train"}, "project.meta.task = train", "no such task"),
    ({"project.name": "../elsewhere"}, "project.name = ../elsewhere", "no slash"),
    ({"project.name": "x" * 300}, "project.name", "at most 200"),
    ({"project.meta.n_classes": "4"}, "output_classes = ${project.meta.n_classes}", "class-0, class-1, class-2"),
    ({"model.architecture.output_classes": "2"}, "command line: model.architecture.output_classes = 2", "3"),
    ({"model.architecture.backbone": "resnet81"}, "backbone = resnet81", "Did you mean resnet18"),
    ({"model.architecture.backbone": "smal_cnn"}, "backbone = smal_cnn", "Did you mean small_cnn"),
    ({"model.architecture.backbone": "alexnet"}, "backbone = alexnet", "[1, 16, 16]"),
    ({"training.optimizer.learning_rate": "-1"}, "learning_rate = -1", ""),
    ({"training.optimizer.learning_rate": "1e20"}, "learning_rate = 1e20", "epoch 1, step"),
    ({"training.model.save_name": "."}, "training.model.save_name = .", "name a file"),
    (
        {"training.model.save_name": "/dev/null/model.pth"},
        "training.model.save_name = /dev/null/model.pth",
        "/dev/null",
    ),
    ({"training.model.runs": __file__}, f"training.model.runs = {__file__}", "is a file"),
    ({"training.model.@optimizer": "sgd"}, "training.model", "calls a function"),
    ({"training.loss.@loss": "cross_entropi"}, "training.loss", "Did you mean cross_entropy"),
    ({"training.loss.label_smoothing": "2"}, "label_smoothing = 2", ""),
    ({"training.augment.@augment": "random_flip", "training.augment.probability": "2"}, "probability = 2", ""),
]


@pytest.mark.parametrize(("changes", "subject", "mend"), REFUSED)
def test_refused(read, changes, subject, mend):
    text = refusal(read, changes)
    assert subject in text and mend in text
    assert not list(Path().glob("runs/*/*/checkpoints/*.pt")) and not list(Path().glob("models/*/*"))


def test_empty_ingredients_are_told_what_is_missing(tmp_path):
    (tmp_path / "empty.ini").write_text("")
    with pytest.raises(IngredientsError, match=r"empty.ini: model.architecture.backbone\n +missing"):
        read_ingredients(tmp_path / "empty.ini")


def test_classes_that_are_empty_images_that_are_none_and_other_classes(read, train, tmp_path):
    train({"training.scheme.epochs": "1"})
    tiny = tmp_path / "data/tiny"
    (tiny / "training/class-9").mkdir()
    assert "class-9: there is no image in this class folder" in refusal(read)
    (tiny / "training/class-9").rmdir()
    (tiny / "training/class-1/broken.png").write_text("no image")
    assert "broken.png: not an image" in refusal(read) or "broken.png: this is no image" in refusal(read)
    (tiny / "training/class-1/broken.png").unlink()
    other = tmp_path / "data/other"
    other.mkdir()
    (tiny / "testing").rename(other / "testing")
    (other / "testing/class-0").rename(other / "testing/zebra")
    section = {"@load_dataset": "load_image_folder", "source": str(other), "split": "testing"}
    text = refusal(read, {f"validation.load_dataset.{key}": value for key, value in section.items()})
    assert "validation.load_dataset" in text and "zebra" in text and "class-0" in text
    assert len(list((tmp_path / "runs/tiny").iterdir())) == 1


def test_factories_that_return_nothing(read, own):
    own.preprocess.register("nothing")(lambda: None)
    changes = {"training.preprocess.@preprocess": "nothing", "training.preprocess.size": None}
    with pytest.raises(IngredientsError, match="training.preprocess\n.*NoneType"):
        call_functions(read(changes))


def test_a_traceback_out_of_a_users_loss_is_short_and_all_project_code(read, monkeypatch):
    import train as entry

    ingredients = read()
    functions = resolve(ingredients)

    def broken(logits, targets):
        return logits.no_such_attribute

    functions.training["loss"] = broken
    monkeypatch.setattr("recipes.parts.command.read_ingredients", lambda *_: ingredients)
    monkeypatch.setattr("train.call_functions", lambda _: functions)
    monkeypatch.setattr("sys.argv", ["train.py", str(PROJECT / "ingredients.ini")])
    with pytest.raises(AttributeError) as caught:
        entry.main()
    frames = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)[1:]]  # without this test's
    assert len(frames) <= 5, "with the script's own <module> at most six"
    assert all(name.startswith(str(PROJECT)) for name in frames[:-1]) and frames[-1] == __file__


# ------------------------------------------------------------------------------------- loaders of all kinds


def functions_with(read, load, preprocess=None):
    """The ingredients and functions of a run with another loader, and without testing."""
    ingredients = read()
    del ingredients["testing"], ingredients["project"]["data"]["download"]
    if preprocess is None:
        del ingredients["training"]["preprocess"]
    functions = resolve(ingredients)
    functions.training["load_dataset"] = load
    if preprocess is not None:
        functions.training["preprocess"] = preprocess
    return ingredients, functions


def arrays():
    """Images (30, 8, 8, 3) in bytes, and their classes."""
    import numpy as np

    y = np.arange(30) % 3
    X = np.zeros((30, 8, 8, 3), np.uint8)
    X[np.arange(30), :, :, y] = 200
    return X, y


class Pairs:
    """A map-style data set of PIL images."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        from PIL import Image

        X, y = arrays()
        return Image.fromarray(X[index]), int(y[index])


def read_only():
    X, y = arrays()
    X.flags.writeable = False
    return X, y


@pytest.mark.parametrize(
    "load",
    [
        arrays,
        read_only,
        Pairs,
        lambda: (torch.from_numpy(arrays()[0]).permute(0, 3, 1, 2), torch.from_numpy(arrays()[1]).int()),
        lambda: (arrays()[0] / 255, arrays()[1].tolist()),
        lambda: (arrays()[0].astype("float64").transpose(0, 3, 1, 2) / 255, arrays()[1].astype("int32")),
        lambda: list(zip(arrays()[0], arrays()[1].tolist(), strict=True)),
    ],
)
def test_loaders_of_all_kinds_train_without_a_preprocess(read, one_thread, load):
    folder = recipe(*functions_with(read, load))
    *_, last, _ = metrics_of(folder)
    assert last["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: {"X": 1}, "dict"),
        (lambda: (arrays()[0], arrays()[1] + 1), "1 to 3"),
        (lambda: (arrays()[0], arrays()[1] / 2), "class"),
    ],
)
def test_loaders_that_cannot_be_used_are_refused_at_their_section(read, load, message):
    ingredients, functions = functions_with(read, load)
    with pytest.raises(IngredientsError, match=f"training.load_dataset\n.*{message}"):
        recipe(ingredients, functions)
    assert not Path("runs").exists()


def test_loader_and_preprocess_of_arrays_as_in_the_articles(read, one_thread):
    """`loader() -> X, y` of numpy arrays, and a preprocess on (H, W) arrays."""
    import numpy as np

    seen = []

    def preprocess(input):
        seen.append((type(input), input.shape))
        return input / 255.0

    y = np.arange(30) % 3
    X = np.broadcast_to((80 * y[:, None, None]).astype(np.uint8), (30, 8, 8))
    folder = recipe(*functions_with(read, lambda: (X, y), preprocess))
    assert seen[0] == (np.ndarray, (8, 8)) and metrics_of(folder)[-2]["accuracy"] > 0.6


def test_a_backbone_of_ones_own_takes_any_samples(read, own, one_thread):
    @own.backbone.register("flat")
    def flat(in_channels, output_classes):
        return torch.nn.Linear(in_channels, output_classes)

    ingredients, functions = functions_with(read, lambda: (torch.eye(3).repeat(20, 1), torch.arange(60) % 3))
    ingredients["model"]["architecture"]["backbone"] = "flat"
    del ingredients["training"]["augment"], functions["training"]["augment"]
    assert metrics_of(recipe(ingredients, functions))[-2]["accuracy"] == 1.0


# ---------------------------------------------------------------------------- what would be lost after training


@pytest.mark.parametrize("name", ["table.csv", "model.pth"])
def test_weights_replace_no_file_but_weights(read, train, tmp_path, name):
    """Neither the file that is named nor the one of the last weights beside it."""
    file = tmp_path / ("table.csv" if name == "table.csv" else "model-last.pth")
    file.write_text("a,b\n" * 100)
    text = refusal(read, {"training.model.save_name": str(tmp_path / name)})
    assert "training.model.save_name" in text and str(file) in text and file.read_text() == "a,b\n" * 100
    file.write_text("")
    for _ in range(2):  # empty, then weights
        train({"training.model.save_name": str(tmp_path / name), "training.scheme.epochs": "0.1"})
        assert file.stat().st_size > 1000


def test_folders_that_cannot_be_created_are_refused_before_training(read):
    for key, name in (("save_name", "/proc/x/model.pth"), ("runs", "/proc/x")):
        assert f"training.model.{key} = {name}" in refusal(read, {f"training.model.{key}": name})
    assert not list(Path().glob("runs/*/*/checkpoints/*.pt"))


def test_test_data_is_checked_before_training_and_a_failing_test_loses_no_weights(read, train, tmp_path):
    train({"training.scheme.epochs": "0.1"})  # unpacks the data
    run, weights = "runs/*/*/checkpoints/last.pt", tmp_path / "weights.pth"
    changes = {"training.scheme.epochs": "0.1", "training.model.save_name": str(weights)}
    assert "testing.load_dataset" in refusal(read, changes | {"testing.load_dataset.source": f"{tmp_path}/nowhere"})
    folder = tmp_path / "data/tiny/testing"
    (folder / "class-0").rename(folder / "zebra")
    text = refusal(read, changes)
    assert "testing.load_dataset" in text and "zebra" in text and len(list(Path().glob(run))) == 1
    (folder / "zebra").rename(folder / "class-0")
    image = folder / "class-1/0.png"
    image.write_bytes(image.read_bytes()[:-30])  # its header is whole
    assert "0.png" in refusal(read, changes) and len(list(Path().glob(run))) == 1

    def fails():
        raise OSError("the disk is gone")

    def prepare(functions):
        fails.check = functions.testing["load_dataset"].check
        functions.testing["load_dataset"] = fails

    image.unlink()
    with pytest.raises(OSError, match="the disk is gone"):
        refusal(read, changes, prepare)
    assert weights.exists() and weights.with_stem("weights-last").exists()


# --------------------------------------------------------------------------------------- functions of one's own


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda loss: None, "loss mine returned NoneType"),
        (lambda loss: loss.mean().item(), "loss mine returned float"),
        (lambda loss: loss, "loss mine returned a tensor of shape [8]"),
        (lambda loss: loss.mean().detach(), "loss mine returned a tensor of shape [] without gradient"),
    ],
)
def test_losses_that_return_no_scalar_with_a_gradient(read, own, returns, message):
    @own.loss.register("mine")
    def mine():
        return lambda outputs, targets: returns(torch.nn.functional.cross_entropy(outputs, targets, reduction="none"))

    text = refusal(read, {"training.loss.@loss": "mine", "training.loss.label_smoothing": None})
    assert "training.loss" in text and message in text and "expected a scalar" in text


@pytest.mark.parametrize("returned", [None, "network"])
def test_backbones_that_are_no_module(read, own, returned):
    own.backbone.register("mine")(lambda in_channels, output_classes: returned)
    text = refusal(read, {"model.architecture.backbone": "mine"})
    assert "backbone = mine" in text and f"mine returned {type(returned).__name__}" in text


@pytest.mark.parametrize("name", ["epoch", "train_loss", "seconds", "waiting", "split", "loss", "accuracy"])
def test_metrics_named_as_what_a_run_reports(read, own, name):
    own.metric.register("mine")(lambda: lambda outputs, targets: 0.0)
    assert f"validation.metrics.{name}" in refusal(read, {f"validation.metrics.{name}.@metric": "mine"})


def test_an_oserror_of_ones_own_is_not_put_down_to_standard_output():
    import errno

    from recipes.parts.command import Command

    with pytest.raises(OSError, match="x"), Command("", []):
        raise OSError(errno.ENOSPC, "x")


# -------------------------------------------------------------------------------------------------------- tables


def table(tmp_path, monkeypatch, changes=None):
    monkeypatch.chdir(tmp_path)
    changes = {"project.root": str(PROJECT), "training.model.save_name": "model.pth"} | (changes or {})
    changes |= {"training.model.save_dir": "models"}
    return read_ingredients(PROJECT / "ingredients.tabular.ini", [(path, text, True) for path, text in changes.items()])


@pytest.mark.parametrize(
    ("changes", "subject", "mend"),
    [
        ({"training.scheme.best": "f1"}, "training.scheme.best = f1", "loss, mae, r2"),
        ({"training.scheme.best": "acuracy"}, "training.scheme.best = acuracy", "Available: loss, mae, r2"),
        ({"testing.load_dataset.testing_share": "0"}, "testing.load_dataset", "no samples"),
    ],
)
def test_refused_in_tables(tmp_path, monkeypatch, changes, subject, mend):
    text = refusal(lambda _: table(tmp_path, monkeypatch, changes))
    assert subject in text and mend in text and not list(tmp_path.glob("runs/*/*/checkpoints/*.pt"))


def test_a_fold_leaves_the_validation_section_unused(tmp_path, monkeypatch):
    from recipes.parts.origins import unused_settings

    section = {"@load_dataset": "load_csv", "source": str(PROJECT / "data/diabetes.csv"), "target": "progression"}
    changes = {f"validation.load_dataset.{key}": value for key, value in section.items()}
    ingredients = table(tmp_path, monkeypatch, changes | {"training.scheme.fold": "1/5"})
    assert "validation.load_dataset.@load_dataset (fold is set)" in unused_settings(ingredients)
