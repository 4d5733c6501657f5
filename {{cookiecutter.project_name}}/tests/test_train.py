"""The recipe, on tiny data: what it writes, what each setting changes, and what it refuses."""

import dataclasses
import json
import traceback
from pathlib import Path

import pytest
import torch

from core import IngredientsError, registry, resolve
from recipes import checkpoint, data, runs
from recipes.settings import SECTIONS
from recipes.train import train as train_recipe


def figures(folder):
    """The lines of metrics.jsonl, less the time they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def state(folder, name="last.pt"):
    return checkpoint.load(folder / "checkpoints" / name)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_run_folder(train, tmp_path, capsys):
    folder = train()
    assert folder.parent == Path("runs/tiny")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "ingredients.ini",
        "custom_functions.py",
        "environment.json",
        "metrics.jsonl",
        "metrics.csv",
        "batch.png",
        "predictions.png",
        "log.txt",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
    }
    *lines, tested, last = figures(folder)
    assert [line.get("epoch") for line in lines] == [*range(1, 9)] and last == {"finished": 8}
    assert lines[-1]["accuracy"] == 1.0 and tested["split"] == "testing" and tested["accuracy"] >= 0.9
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"run: {folder}" and said == (folder / "log.txt").read_text()
    assert (tmp_path / "models" / "0.0.0" / "model.pth").is_file()
    best = checkpoint.load(tmp_path / "models" / "0.0.0" / "model.pth")
    assert same(best["model"], state(folder, "best.pt")["model"]) and "optimizer" not in best


def test_same_ingredients_same_numbers(train):
    one, other = train(), train()
    assert one != other and figures(one) == figures(other) and same(state(one)["model"], state(other)["model"])


def test_the_written_ingredients_do_the_run_again(train, read):
    from recipes.settings import read_ingredients

    one = train()
    ingredients = read_ingredients(one / "ingredients.ini")
    assert figures(train_recipe(ingredients, resolve(ingredients))) == figures(one)


def test_interrupted_and_resumed_ends_as_uninterrupted(train, read):
    whole = train()
    ingredients = read({"training.scheme.resume": "True", "project.name": "other"})
    functions = resolve(ingredients)
    criterion, calls = functions.training.loss, []

    def stop_in_epoch_3(logits, targets):
        calls.append(1)
        if len(calls) == 15:  # 6 steps an epoch
            raise KeyboardInterrupt
        return criterion(logits, targets)

    functions.training["loss"] = stop_in_epoch_3
    with pytest.raises(KeyboardInterrupt):
        train_recipe(ingredients, functions)
    folder = train_recipe(ingredients, resolve(ingredients))
    assert len(list(folder.parent.iterdir())) == 1
    assert figures(folder) == figures(whole)
    for name in ("last.pt", "best.pt"):
        one, other = state(folder, name), state(whole, name)
        for unlike in ("meta", "history"):  # the name of the project, the seconds
            one.pop(unlike), other.pop(unlike)
        assert same(one, other)


def test_resume_says_what_differs_and_refuses_another_model(train, capsys):
    folder = train()
    assert train({"training.scheme.resume": "True"}) == folder
    assert "is finished after epoch 8; raise epochs" in capsys.readouterr().out
    assert train({"training.scheme.resume": "True", "training.scheme.epochs": "9"}) == folder
    assert "changed since: training.scheme.epochs: 8 -> 9" in capsys.readouterr().out
    assert len(figures(folder)) == 8 + 1 + 2 * 2
    with pytest.raises(IngredientsError, match=r"training.scheme.resume = True\n.*trained otherwise .*resnet18"):
        train({"training.scheme.resume": "True", "model.architecture.backbone": "resnet18"})
    with pytest.raises(IngredientsError, match="training.scheme.resume"):
        train({"training.scheme.resume": "True", "project.meta.n_classes": "4"})


def test_debug_runs_one_batch_and_keeps_nothing(train, tmp_path):
    before = train()
    folder = train({"testing.debug": "True", "training.model.save_name": str(tmp_path / "debug.pth")})
    assert folder.name == "debug" and not (tmp_path / "debug.pth").exists()
    assert [line.get("epoch") for line in figures(folder)] == [1, 1, None] and runs.newest(folder.parent) == before
    assert train({"testing.debug": "True"}) == folder


def test_early_stop(train):
    flat = {"training.optimizer.learning_rate": "0.0", "training.scheme.epochs": "9", "training.scheme.patience": "2"}
    # Nothing is learned, but the statistics of the norms go on; a constant output gives constant figures.
    folder = train(flat | {"training.scheme.early_stop": "True", "model.architecture.backbone": "test_constant"})
    assert [line["epoch"] for line in figures(folder)[:-2]] == [1, 2, 3]
    assert "early stop: no better accuracy for 2 epochs" in (folder / "log.txt").read_text()


if "test_constant" not in registry.create("backbone"):

    @registry.backbone.register("test_constant")
    def test_constant_backbone(in_channels, output_classes):
        class Constant(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.bias = torch.nn.Parameter(torch.zeros(output_classes))

            def forward(self, inputs):
                return self.bias.expand(len(inputs), -1)

        return Constant()

    test_constant_backbone.__test__ = False


# Another value for every setting, for the tests below. A new setting fails the first of them until it stands here.
CHANGES = {
    "model.version": "9.9.9",
    "model.architecture.backbone": "mobilenet_v3_small",
    "model.architecture.options": '{"widths": [8]}',
    "model.architecture.output_classes": "4",
    "model.architecture.weights": "weights.pt",
    "model.architecture.recompute": '["0"]',
    "training.scheme.epochs": "2",
    "training.scheme.batch_size": "12",
    "training.scheme.accumulate": "2",
    "training.scheme.precision": "bf16",
    "training.scheme.clip_norm": "0.1",
    "training.scheme.ema": "0.9",
    "training.scheme.swa": "0.5",
    "training.scheme.frozen_epochs": "2",
    "training.scheme.body_rate": "0.1",
    "training.scheme.first_size": "0.5",
    "training.scheme.balanced": "True",
    "training.scheme.compile": "True",
    "training.scheme.deterministic": "False",
    "training.scheme.best": "loss",
    "training.scheme.best_is": "lowest",
    "training.scheme.early_stop": "True",
    "training.scheme.patience": "1",
    "training.scheme.resume": "True",
    "training.scheme.validation_fraction": "0.4",
    "training.scheme.seed": "1",
    "training.scheme.device": "meta-device",
    "training.scheme.workers": "1",
    "training.scheme.memory": "0.0",
    "training.model.save_dir": "elsewhere",
    "training.model.save_name": "other.pth",
    "training.model.save_all_checkpoints": "True",
    "training.model.runs": "journal",
    "training.model.checkpoint_minutes": "0.0",
    "testing.debug": "True",
}


def test_every_setting_is_in_the_table():
    declared = {
        f"{path}.{item.name}"
        for path, kind in SECTIONS.items()
        if isinstance(kind, type)
        for item in dataclasses.fields(kind)
    }
    assert declared == set(CHANGES)


@pytest.mark.parametrize(
    "name",
    ["epochs", "batch_size", "validation_fraction", "seed", "accumulate", "precision", "clip_norm", "ema", "swa"]
    + ["frozen_epochs", "body_rate", "first_size", "balanced"],
)
def test_setting_changes_the_figures(train, name):
    path = f"training.scheme.{name}"
    assert figures(train()) != figures(train({path: CHANGES[path]}))


def test_settings_that_change_what_is_written(train, tmp_path):
    train({"model.version": "9.9.9", "training.model.save_all_checkpoints": "True"})
    [folder] = (tmp_path / "runs/tiny").iterdir()
    assert (tmp_path / "models/9.9.9/model-last.pth").is_file()
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"last.pt", "previous.pt", "best.pt", *(f"epoch-{epoch:03}.pt" for epoch in range(1, 9))}
    changes = {"training.model.save_dir": "elsewhere", "training.model.save_name": "other.pth"}
    assert train(changes | {"training.model.runs": "journal"}).parent == Path("journal/tiny")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"other.pth", "other-last.pth"}


def test_data_that_does_not_fit_is_read_as_needed_to_the_same_numbers(train):
    kept = train()
    for workers in ("0", "2"):
        read = train({"training.scheme.memory": "0.0", "training.scheme.workers": workers})
        assert figures(read) == figures(kept)
    from_disk = train({"training.load_dataset.memory": "0.0", "testing.load_dataset.memory": "0.0"})
    assert figures(from_disk) == figures(kept)


def test_workers_read_the_samples(train, monkeypatch):
    seen = []
    loader = torch.utils.data.DataLoader
    monkeypatch.setattr(
        torch.utils.data, "DataLoader", lambda *a, **k: seen.append(k["num_workers"]) or loader(*a, **k)
    )
    train({"training.scheme.memory": "0.0", "training.scheme.workers": "1", "training.scheme.epochs": "1"})
    assert 1 in seen


@pytest.mark.parametrize("section", ["augment", "loss", "optimizer", "schedule"])
def test_function_sections_change_the_figures_and_have_defaults(train, read, section):
    ingredients = read()
    del ingredients["training"][section]
    without = train_recipe(ingredients, resolve(ingredients))
    other = {"augment": "random_flip", "loss": None, "optimizer": "adamw", "schedule": "constant"}[section]
    changed = {f"training.{section}.@{section}": other} if other else {"training.loss.label_smoothing": "0.3"}
    runs_made = [figures(folder) for folder in (without, train(), train(changed))]
    assert runs_made[1] != runs_made[2] and (section == "schedule" or runs_made[0] != runs_made[1])


def test_validation_set_of_its_own(train, archive, tmp_path):
    train()
    changes = {
        "validation.load_dataset.@load_dataset": "load_image_folder",
        "validation.load_dataset.source": f"{tmp_path}/data/tiny",
        "validation.load_dataset.split": "testing",
    }
    log = (train(changes) / "log.txt").read_text()
    assert "60 training and 15 validation samples" in log


def test_test_data_is_measured_once_and_not_before_the_end(train, read):
    ingredients = read()
    functions = resolve(ingredients)
    load, calls = functions.testing.load_dataset, []

    def watched():
        calls.append([path.name for path in Path("runs/tiny").glob("*/checkpoints/*")])
        return load()

    functions.testing["load_dataset"] = watched
    train_recipe(ingredients, functions)
    assert len(calls) == 1 and set(calls[0]) == {"last.pt", "previous.pt", "best.pt"}
    del ingredients["testing"]["load_dataset"]
    assert "split" not in figures(train_recipe(ingredients, resolve(ingredients)))[-2]


RESUME = {"training.scheme.resume": "True"}


@pytest.mark.parametrize("stopped_at", ["link", "record", "finish"])
def test_stopped_between_two_writes_and_resumed_ends_as_uninterrupted(train, monkeypatch, stopped_at):
    """Killed after last.pt is written, before best.pt or metrics.jsonl are; or after the last epoch."""
    from recipes import train as recipe

    whole = train({"project.name": "whole"})
    module = {"link": checkpoint, "record": runs, "finish": recipe}[stopped_at]
    original, calls = getattr(module, stopped_at), []

    def stop(*arguments, **figures):
        calls.append(1)
        if len(calls) == (1 if stopped_at == "finish" else 3):
            raise KeyboardInterrupt
        return original(*arguments, **figures)

    with monkeypatch.context() as patch:
        patch.setattr(module, stopped_at, stop)
        with pytest.raises(KeyboardInterrupt):
            train()
    folder = train(RESUME)
    assert figures(folder) == figures(whole)
    assert same(state(folder, "best.pt")["model"], state(whole, "best.pt")["model"])


def test_a_longer_run_stopped_at_its_end_is_finished_by_resuming(train, monkeypatch):
    """The end of the shorter run, and a line that was cut short, do not pass for the end of the longer one."""
    from recipes import train as recipe

    folder, longer = train(), RESUME | {"training.scheme.epochs": "9"}

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(longer)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"split": "tes')
    assert train(longer) == folder
    assert [line["finished"] for line in figures(folder) if "finished" in line] == [8, 9]
    assert checkpoint.load(Path("models/0.0.0/model-last.pth"))["epoch"] == 9


def test_a_run_that_stopped_early_is_over(train):
    changes = {"training.scheme.early_stop": "True", "training.scheme.patience": "1", "training.scheme.epochs": "20"}
    folder = train(changes)
    before = figures(folder)
    assert len(before) < 20 and train(changes | RESUME) == folder and figures(folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"training.optimizer.@optimizer": "adamw"},
        {"training.scheme.seed": "7"},
        {"training.scheme.validation_fraction": "0.5"},
        {"training.load_dataset.channels": "3"},
    ],
)
def test_resume_refuses_what_the_weights_depend_on(train, changes):
    folder = train({"training.scheme.epochs": "1"})
    with pytest.raises(IngredientsError, match="training.scheme.resume = True\n.*trained otherwise"):
        train(RESUME | changes)
    assert len(figures(folder)) == 3


def test_debug_says_how_many_samples_it_measured(train, capsys):
    train({"testing.debug": "True"})
    assert "on 15 test samples" in capsys.readouterr().out
    samples = data.Samples(torch.zeros(1000), None, None, None, {})
    from recipes.train import first_batch

    assert len(first_batch(samples, True)) == 512 and first_batch(samples, False) is None


# ------------------------------------------------------------------------------------------------------ refused


def refused(train, changes, match):
    """The run is refused with a text, and leaves neither a run nor weights behind."""
    with pytest.raises(IngredientsError, match=match) as caught:
        train(changes)
    assert not Path("runs").exists() and not Path("models").exists()
    return str(caught.value)


def test_output_classes_that_do_not_fit(train):
    text = refused(train, {"project.meta.n_classes": "4"}, "the data has 3 classes")
    assert "ingredients.ini:" in text and "write 3" in text and "class-0, class-1, class-2" in text
    refused(train, {"model.architecture.output_classes": "2"}, r"command line: model.architecture.output_classes = 2")


def test_misspelt_backbone(train):
    text = refused(train, {"model.architecture.backbone": "resnet81"}, 'no backbone "resnet81". Did you mean resnet18')
    assert not Path("data").exists(), "refused before data is touched"
    assert "model.architecture.backbone = resnet81" in text
    refused(train, {"model.architecture.backbone": "smal_cnn"}, "Did you mean small_cnn")


def test_backbone_that_cannot_take_the_images(train):
    refused(
        train, {"model.architecture.backbone": "alexnet"}, "cannot take samples of .* change their size by preprocess"
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"training.scheme.device": "meta-device"}, "training.scheme.device = meta-device\n.*write auto or cpu"),
        ({"training.scheme.epochs": "0"}, "training.scheme.epochs = 0\n.*write more than 0"),
        ({"training.scheme.validation_fraction": "1.5"}, "validation_fraction = 1.5\n.*write a number between 0 and 1"),
        ({"training.scheme.validation_fraction": "0.001"}, "leaves a side empty"),
        ({"project.meta.task": "clasification"}, "no such task. Did you mean classification"),
        ({"project.meta.task": "train"}, "no such task"),
        ({"project.name": "../elsewhere"}, "project.name = ../elsewhere\n.*no slash"),
        ({"training.scheme.workers": "-1"}, "write 0 or more"),
        ({"training.optimizer.learning_rate": "-1"}, "learning_rate = -1: write 0 or more"),
        ({"training.model.save_name": "."}, "training.model.save_name = .\n.*name a file"),
        ({"training.model.runs": __file__}, "is a file; name a folder"),
        ({"training.scheme.epchs": "1"}, "no such setting. Did you mean epochs"),
        ({"trainig.scheme.epochs": "1"}, r"no recipe reads this section. Did you mean \[training.scheme\]"),
        ({"training.model.@optimizer": "sgd"}, "no recipe calls a function here"),
        ({"training.loss.@loss": "cross_entropi"}, "Did you mean cross_entropy"),
        ({"training.loss.label_smoothing": "2"}, r"label_smoothing = 2: write a number from 0"),
        ({"training.augment.@augment": "random_flip", "training.augment.probability": "2"}, "from 0 to 1"),
        (
            {"training.optimizer.learning_rate": "1e20"},
            "training.optimizer.learning_rate = 1e20\n.*the loss of epoch 1, step",
        ),
    ],
)
def test_refused(train, changes, match):
    with pytest.raises(IngredientsError, match=match):
        train(changes)
    assert not list(Path().glob("runs/*/*/checkpoints/*.pt")) and not Path("models").exists()


def test_files_that_are_no_images_and_empty_classes(train, archive, tmp_path):
    train({"training.scheme.epochs": "1"})
    (tmp_path / "data/tiny/training/class-9").mkdir()
    with pytest.raises(IngredientsError, match="class-9: there is no image in this class folder"):
        train()
    (tmp_path / "data/tiny/training/class-9").rmdir()
    (tmp_path / "data/tiny/training/class-1/broken.png").write_text("no image")
    with pytest.raises(IngredientsError, match="broken.png: this is no image"):
        train()
    assert len(list((tmp_path / "runs/tiny").iterdir())) == 1


def test_damaged_checkpoint_is_refused(train):
    folder = train()
    path = folder / "checkpoints/best.pt"
    good = path.read_bytes()
    for position in range(0, len(good), len(good) // 50):
        damaged = bytearray(good)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(IngredientsError, match="best.pt: is damaged"):
            checkpoint.load(path)
    path.write_bytes(good)
    checkpoint.load(path)
    assert torch.load(path, weights_only=True)["epoch"], "torch reads the file without our help"
    with pytest.raises(IngredientsError, match="cannot be read"):
        checkpoint.load(folder / "none.pt")


def test_interrupted_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"x": 1})
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"x": 2})
    assert checkpoint.load(path) == {"x": 1} and [file.name for file in tmp_path.iterdir()] == ["a.pt"]


# ---------------------------------------------------------------------------------------------- what users write


def test_a_traceback_out_of_a_users_loss_is_short_and_all_project_code(read, monkeypatch):
    import train as entry

    ingredients = read()
    functions = resolve(ingredients)

    def broken(logits, targets):
        return logits.no_such_attribute

    functions.training["loss"] = broken
    monkeypatch.setattr("recipes.command.read_ingredients", lambda *_: ingredients)
    monkeypatch.setattr("train.call_functions", lambda _: functions)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(AttributeError) as caught:
        entry.main()
    frames = traceback.extract_tb(caught.value.__traceback__)[1:]  # without this test's own
    here = str(Path(__file__).parent.parent)
    assert len(frames) <= 5, "with the script's own <module> at most six"
    assert all(frame.filename.startswith(here) for frame in frames), [frame.filename for frame in frames]


def test_loader_of_arrays_as_in_the_articles(read):
    """`loader() -> X, y` of numpy arrays, a preprocess on (H, W) arrays, and no section that the articles lack."""
    import numpy as np

    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = (random.integers(0, 100, (60, 8, 8)) + 150 * (np.arange(8)[None, None] // 3 == y[:, None, None])).clip(0, 255)
    seen = []

    def preprocess(input):
        seen.append((type(input), input.shape))
        return input / 255.0

    ingredients = read()
    keep = {"load_dataset", "preprocess", "scheme", "model"}
    for name in set(ingredients.training) - keep:
        del ingredients.training[name]
    del ingredients["testing"], ingredients["project"]["data"]["download"]
    functions = resolve(ingredients)
    functions.training["load_dataset"] = lambda: (X.astype(np.uint8), y)
    functions.training["preprocess"] = preprocess
    folder = train_recipe(ingredients, functions)
    assert seen[0] == (np.ndarray, (8, 8)) and figures(folder)[-2]["accuracy"] > 0.8
    assert state(folder)["meta"]["form"]["kind"] == "array"
    functions.training["load_dataset"] = lambda: (X.astype(np.uint8), y[:10])
    with pytest.raises(IngredientsError, match="60 samples, but 10 targets"):
        train_recipe(ingredients, functions)
    functions.training["load_dataset"] = lambda: 7
    with pytest.raises(IngredientsError, match=r"gave int; give \(X, y\)"):
        train_recipe(ingredients, functions)
    functions.training["load_dataset"] = lambda: (X.astype(np.uint8), y)
    functions.training["preprocess"] = lambda input: input
    with pytest.raises(IngredientsError, match="preprocess gave torch.uint8, but a model takes floats"):
        train_recipe(ingredients, functions)


def test_split_is_stratified_and_seeded():
    targets = torch.arange(300) % 3
    samples = data.Samples(torch.arange(300.0), targets, None, None, {})
    training, validation = data.split_off(None, samples, 0.2, seed=3)
    assert validation.targets.bincount().tolist() == [20, 20, 20]
    assert sorted(training.inputs.tolist() + validation.inputs.tolist()) == list(range(300))
    assert torch.equal(data.split_off(None, samples, 0.2, seed=3)[1].inputs, validation.inputs)
    assert not torch.equal(data.split_off(None, samples, 0.2, seed=4)[1].inputs, validation.inputs)


def test_scripts_measure_and_predict(train, overrides, archive, tmp_path, capsys, monkeypatch):
    from recipes import predict, validate

    folder = train()
    ini = str(folder / "ingredients.ini")

    def run(script, *arguments):
        monkeypatch.setattr("sys.argv", ["script", *arguments])
        capsys.readouterr()
        script.main()
        return capsys.readouterr().out

    best = state(folder, "best.pt")["figures"]
    said = run(validate, ini)
    assert said.strip() == f"validation: loss {best['loss']:.4f}, accuracy {best['accuracy']:.4f} (12 samples)"
    assert "(15 samples)" in run(validate, ini, "--on", "testing", "--run", str(folder))
    assert "(48 samples)" in run(validate, ini, "--on", "training", "--run", "models/0.0.0/model.pth")
    images = [str(tmp_path / f"data/tiny/testing/class-{label}/0.png") for label in range(3)]
    lines = run(predict, *images, "--ingredients", ini).splitlines()
    assert [line.split()[1] for line in lines] == ["class-0", "class-1", "class-2"]
    assert all(1 / 3 < float(line.split()[2]) <= 1 for line in lines)
    for wrong in (str(tmp_path / "none.png"), ini):
        with pytest.raises(SystemExit) as caught:
            run(predict, images[0], wrong, "--ingredients", ini)
        told = capsys.readouterr()
        assert caught.value.code == 1 and wrong in told.err and told.out == ""
    with pytest.raises(SystemExit):
        run(validate, ini, "--run", "runs/tiny/none")
    assert "there is no such checkpoint" in capsys.readouterr().err


def test_predict_applies_the_preprocess_of_testing(train, tmp_path, monkeypatch, capsys):
    """An image of another size, and in colour, is brought to what the network was trained with."""
    from PIL import Image

    from recipes import predict

    folder = train({"testing.preprocess.size": "[8, 8]"})
    Image.new("L", (8, 8), 90).save(tmp_path / "small.png")
    Image.new("RGB", (32, 48), (90, 90, 90)).save(tmp_path / "large.png")
    images = [str(tmp_path / "small.png"), str(tmp_path / "large.png")]
    monkeypatch.setattr("sys.argv", ["predict", *images, "--ingredients", str(folder / "ingredients.ini")])
    capsys.readouterr()
    predict.main()
    small, large = capsys.readouterr().out.splitlines()
    assert small.split()[1:] == large.split()[1:]


def test_predict_sees_images_as_the_loader_gave_them(train, tmp_path, monkeypatch, capsys):
    """The size that the loader brings images to holds for predict as well, whatever preprocess does."""
    from PIL import Image

    from recipes import predict

    sizes = {"training.load_dataset.image_size": "[16, 16]", "testing.load_dataset.image_size": "[16, 16]"}
    plain = {"training.preprocess.@preprocess": "divide_by_255", "testing.preprocess.@preprocess": "divide_by_255"}
    unsized = {"training.preprocess.size": None, "testing.preprocess.size": None}
    folder = train(sizes | plain | unsized)
    images = sorted((tmp_path / "data/tiny/testing").glob("*/*.png"))
    Image.open(images[0]).resize((40, 40), Image.Resampling.NEAREST).save(images[0])
    ini = ["--ingredients", str(folder / "ingredients.ini")]
    monkeypatch.setattr("sys.argv", ["predict", *map(str, images), *ini])
    capsys.readouterr()
    predict.main()
    right = [line.split()[1] == Path(line.split()[0]).parent.name for line in capsys.readouterr().out.splitlines()]
    tested = next(line for line in figures(folder) if line.get("split") == "testing")
    assert sum(right) / len(right) == tested["accuracy"] > 0.9


def test_other_classes_in_validation_or_testing_are_refused(train, tmp_path):
    train({"training.scheme.epochs": "1"})
    other = tmp_path / "data/other/testing"
    (tmp_path / "data/tiny/testing").rename(tmp_path / "data/gone")
    other.parent.mkdir()
    (tmp_path / "data/gone").rename(other)
    (other / "class-0").rename(other / "zebra")
    section = {"@load_dataset": "load_image_folder", "source": str(other.parent), "split": "testing"}
    with pytest.raises(IngredientsError, match="its classes are class-1, class-2, zebra, but training has class-0"):
        train({f"validation.load_dataset.{key}": value for key, value in section.items()})


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
    """A map-style data set of PIL images, its targets a list."""

    def __init__(self):
        from PIL import Image

        X, y = arrays()
        self.items, self.y = (
            [(Image.fromarray(image), int(label)) for image, label in zip(X, y, strict=True)],
            y.tolist(),
        )

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


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
def test_loaders_of_all_kinds_train_without_a_preprocess(read, load):
    folder = train_recipe(*functions_with(read, load))
    assert figures(folder)[-2]["accuracy"] == 1.0
    assert state(folder)["meta"]["form"]["channels"] == 3


@pytest.mark.parametrize(
    ("load", "match"),
    [
        (lambda: {"X": 1}, r"gave dict; give \(X, y\)"),
        (lambda: (1, 2, 3), "gave tuple"),
        (lambda: list(arrays()), "an item of the data set is ndarray; a pair"),
        (lambda: (arrays()[0], ["a"] * 30), "y holds str; numbers are needed"),
        (lambda: (arrays()[0], arrays()[1] + 1), "the classes in y go from 1 to 3; classes count from 0"),
        (lambda: (arrays()[0], arrays()[1] / 2), "class indices"),
        (lambda: (arrays()[0][:0], arrays()[1][:0]), "gave no samples"),
        (lambda: (torch.from_numpy(arrays()[0]), arrays()[1]), "a tensor has its channels first"),
    ],
)
def test_loaders_that_cannot_be_used_are_refused(read, load, match):
    with pytest.raises(IngredientsError, match=match):
        train_recipe(*functions_with(read, load))
    assert not Path("runs").exists()


def test_preprocess_that_gives_nothing_is_refused(read):
    with pytest.raises(IngredientsError, match="preprocess gave None"):
        train_recipe(*functions_with(read, arrays, preprocess=lambda sample: None))


def test_factories_that_give_nothing_are_refused(read):
    from recipes.settings import call_functions

    name = "test_nothing"
    if name not in registry.preprocess:
        registry.preprocess.register(name)(lambda: None)
    ingredients = read({"training.preprocess.@preprocess": name, "training.preprocess.size": None})
    with pytest.raises(IngredientsError, match="test_nothing gave back NoneType; a factory returns the function"):
        call_functions(ingredients)


def test_backbone_of_ones_own_takes_any_samples(read):
    if "test_flat" not in registry.backbone:

        @registry.backbone.register("test_flat")
        def flat(in_channels, output_classes):
            return torch.nn.Linear(in_channels, output_classes)

    ingredients, functions = functions_with(read, lambda: (torch.eye(3).repeat(20, 1), torch.arange(60) % 3))
    ingredients["model"]["architecture"]["backbone"] = "test_flat"
    del ingredients["training"]["augment"], functions["training"]["augment"]
    assert figures(train_recipe(ingredients, functions))[-2]["accuracy"] == 1.0


def test_empty_ingredients_are_told_what_is_missing(tmp_path):
    from recipes.settings import read_ingredients

    (tmp_path / "empty.ini").write_text("")
    with pytest.raises(IngredientsError, match=r"empty.ini: model.architecture.backbone\n    missing: text is needed"):
        read_ingredients(tmp_path / "empty.ini")


def test_a_saved_run_uses_its_own_functions(tmp_path):
    """A custom_functions.py beside the file goes before the project's; in a process of its own, which has none yet."""
    import subprocess
    import sys

    (tmp_path / "custom_functions.py").write_text("MARK = 'mine'\n")
    code = "import sys; from pathlib import Path; from recipes.settings import import_functions;"
    code += f"import_functions(Path({str(tmp_path)!r})); print(sys.modules['custom_functions'].MARK)"
    here = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "mine"


def test_validate_takes_declared_settings_that_the_file_lacks(train, capsys, monkeypatch):
    from recipes import validate

    folder = train({"training.scheme.epochs": "1"})
    device = ["--training.scheme.device", "cpu", "--training.scheme.memory", "0.0"]
    monkeypatch.setattr("sys.argv", ["validate", str(folder / "ingredients.ini"), *device])
    capsys.readouterr()
    validate.main()
    assert "(12 samples)" in capsys.readouterr().out


def test_a_folder_for_the_weights_that_cannot_be_made_is_refused_before_training(train, tmp_path):
    (tmp_path / "file").write_text("")
    message = r"(?s)training.model.save_name = .*file is a file; name another folder"
    refused(train, {"training.model.save_name": f"{tmp_path}/file/model.pth"}, message)
    assert not (tmp_path / "runs").exists()
