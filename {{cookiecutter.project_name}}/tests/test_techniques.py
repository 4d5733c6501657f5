"""What can be turned on in the ingredients: that it does what it says, in a run of the recipe."""

import shutil
from pathlib import Path

import pytest
import torch

from core import IngredientsError, registry
from recipes import checkpoint, data, tune
from recipes.train import ranking
from tests.test_train import RESUME, figures, same, state

SHORT = {"training.scheme.epochs": "2"}


AUGMENT = {"training.augment.pixels": None}
NAMED = {
    "mixup": AUGMENT | {"training.augment.@augment": "mixup", "training.augment.classes": "3"},
    "cutmix": AUGMENT | {"training.augment.@augment": "cutmix", "training.augment.classes": "3"},
    "random_erasing": AUGMENT | {"training.augment.@augment": "random_erasing"},
    "sequence": AUGMENT
    | {
        "training.augment.@augment": "sequence",
        "training.augment.*.flip.@augment": "torchvision.transforms.v2.RandomHorizontalFlip",
        "training.augment.*.shift.@augment": "random_shift",
    },
    "RandAugment": AUGMENT | {"training.augment.@augment": "torchvision.transforms.v2.RandAugment"},
    "HuberLoss": {"training.loss.@loss": "torch.nn.HuberLoss", "training.loss.label_smoothing": None},
    "balanced weights": {"training.loss.class_weights": "[1, 2, 3]"},
    "muon": {"training.optimizer.@optimizer": "muon", "training.optimizer.momentum": "0.8"},
    "RMSprop": {
        "training.optimizer.@optimizer": "torch.optim.RMSprop",
        "training.optimizer.learning_rate": None,
        "training.optimizer.lr": "0.001",
    },
    "StepLR": {
        "training.schedule.@schedule": "torch.optim.lr_scheduler.StepLR",
        "training.schedule.warmup": None,
        "training.schedule.step_size": "1",
    },
    "plateau": {
        "training.schedule.@schedule": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "training.schedule.warmup": None,
    },
}


@pytest.mark.parametrize("name", NAMED)
def test_functions_by_name_change_the_run(train, name):
    assert figures(train(SHORT | NAMED[name])) != figures(train(SHORT))


@pytest.mark.parametrize("name", ["sequence", "RandAugment", "mixup"])
def test_augmentation_is_the_same_with_and_without_workers(train, name):
    one, other = (train(SHORT | NAMED[name] | {"training.scheme.workers": workers}) for workers in ("0", "2"))
    assert figures(one) == figures(other) and same(state(one)["model"], state(other)["model"])


def test_a_metric_of_ones_own_chooses_the_best_epoch(train, own):
    values = iter([0.3, 0.9, 0.1, 0.5, 0.5, 0.5])
    own.metric("odd")(lambda: lambda outputs, targets: next(values))
    changes = {"training.scheme.epochs": "4", "validation.metrics.odd.@metric": "odd", "training.scheme.best": "odd"}
    folder = train(changes)
    assert [line["odd"] for line in figures(folder)[:4]] == [0.3, 0.9, 0.1, 0.5]
    assert state(folder, "best.pt")["epoch"] == 2
    values = iter([0.3, 0.9, 0.1, 0.5, 0.5, 0.5])
    assert state(train(changes | {"training.scheme.best_is": "lowest"}), "best.pt")["epoch"] == 3
    with pytest.raises(IngredientsError, match="training.scheme.best = od\n.*Did you mean odd"):
        train(changes | {"training.scheme.best": "od"})


def test_the_smaller_loss_is_the_better_one(train):
    folder = train({"training.scheme.best": "loss"})
    losses = [line["loss"] for line in figures(folder) if "train_loss" in line]
    assert state(folder, "best.pt")["epoch"] == 1 + losses.index(min(losses))


def test_torchmetrics_by_name(train):
    pytest.importorskip("torchmetrics")
    section = {"@metric": "torchmetrics.F1Score", "task": "multiclass", "num_classes": "3", "average": "macro"}
    folder = train({f"validation.metrics.f1.{key}": value for key, value in section.items()})
    assert all(0 <= line["f1"] <= 1 for line in figures(folder) if "train_loss" in line)


def test_views_change_what_is_predicted(train):
    changes = {"testing.views.@views": "shift_views", "testing.views.pixels": "3"}
    one, other = figures(train()), figures(train(changes))
    assert one[:-2] == other[:-2] and one[-2]["loss"] != other[-2]["loss"]


def test_a_tracker_is_told_every_epoch_and_closed(train, own):
    told = []

    @own.tracker("list")
    def tracker():
        def track(folder, ingredients):
            def log(figures, step):
                told.append((step, sorted(figures)))

            log.close = lambda: told.append("closed")
            return log

        return track

    train(SHORT | {"training.tracker.@tracker": "list"})
    names = ["accuracy", "loss", "seconds", "train_loss"]
    assert told == [(1, names), (2, names), "closed"]


def test_weights_to_begin_with(train, capsys):
    first = train()
    shutil.copy("models/0.0.0/model.pth", "begin.pt")
    capsys.readouterr()
    begun = train({"training.scheme.epochs": "1", "model.architecture.weights": "begin.pt"})
    assert "entries of begin.pt; nothing newly initialized" in capsys.readouterr().out
    assert figures(begun)[0]["train_loss"] < figures(first)[0]["train_loss"] * 0.8
    with pytest.raises(IngredientsError, match="none.pt"):
        train({"model.architecture.weights": "none.pt"})


def test_frozen_epochs_leave_the_body_as_it_was(train):
    changes = {"training.scheme.epochs": "3", "training.scheme.frozen_epochs": "2"}
    folder = train(changes | {"training.model.save_all_checkpoints": "True"})
    one, two, three = (state(folder, f"epoch-00{epoch}.pt")["model"] for epoch in (1, 2, 3))
    *body, weight, _ = [key for key in one if "num_batches" not in key]
    assert all(torch.equal(one[key], two[key]) for key in body) and not torch.equal(one[weight], two[weight])
    assert not any(torch.equal(two[key], three[key]) for key in body)


def test_recomputing_changes_no_number(train):
    plain = train(SHORT)
    assert figures(train(SHORT | {"model.architecture.recompute": '["0", "3"]'})) == figures(plain)


def test_accumulation_is_as_one_large_batch(train):
    """But for batch norm, whose statistics are those of the part: so of a network without."""
    plain = {"model.architecture.backbone": "test_flat_images", "training.augment.pixels": "0"}
    if "test_flat_images" not in registry.backbone:
        registry.backbone.register("test_flat_images")(
            lambda in_channels, output_classes: torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(256 * in_channels, output_classes)
            )
        )
    whole = train(SHORT | plain | {"training.scheme.batch_size": "16"})
    parts = train(SHORT | plain | {"training.scheme.batch_size": "4", "training.scheme.accumulate": "4"})
    one, other = state(whole)["model"], state(parts)["model"]
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    assert abs(figures(whole)[0]["train_loss"] - figures(parts)[0]["train_loss"]) < 1e-5


def test_averaged_weights_are_measured_and_the_others_kept(train):
    for name in ("ema", "swa"):
        held = state(train({f"training.scheme.{name}": "0.5"}))
        assert not same(held["model"], held["training"])
        kept = checkpoint.load(Path("models/0.0.0/model.pth"))
        assert kept.keys() & {"training", "average", "optimizer"} == set()


def test_an_average_of_decay_0_would_be_the_weights(train):
    """EMA by its definition: after one step average = weights; the recurrence is torch's."""
    held = state(train({"training.scheme.ema": "0.000001"}))
    keys = [key for key in held["model"] if held["model"][key].is_floating_point()]
    assert all(torch.allclose(held["model"][key], held["training"][key], atol=1e-4) for key in keys)


def test_precision_of_16_bits_trains(train):
    for precision in ("bf16", "fp16", "auto"):
        assert figures(train({"training.scheme.precision": precision}))[-2]["accuracy"] > 0.8


def test_half_an_epoch(train):
    folder = train({"training.scheme.epochs": "1.5", "training.scheme.balanced": "True"})
    assert [line["epoch"] for line in figures(folder) if "train_loss" in line] == [1, 2]


def test_balanced_draws_each_class_equally_often():
    targets = torch.tensor([0] * 90 + [1] * 10)
    samples = data.Samples(torch.zeros(100), targets, None, None, {})
    drawn = torch.cat([targets[data.orders(samples, 0, balanced=True)(epoch)] for epoch in range(50)])
    assert abs(drawn.float().mean() - 0.5) < 0.03
    assert data.orders(samples, 0)(3).sort().values.tolist() == list(range(100))


def test_learning_rate_that_is_looked_for(train):
    pytest.importorskip("matplotlib")
    folder = train(SHORT | {"training.optimizer.learning_rate": "auto"})
    found = state(folder)["found"]["learning_rate"]
    assert tune.LOWEST <= found <= tune.HIGHEST
    assert f"learning_rate = auto: {found}" in (folder / "log.txt").read_text()
    assert (folder / "learning_rate.png").read_bytes().startswith(b"\x89PNG")
    longer = {"training.scheme.epochs": "3", "training.optimizer.learning_rate": "auto"}
    assert state(train(longer | RESUME))["found"]["learning_rate"] == found


def test_batch_size_by_memory(train, monkeypatch):
    monkeypatch.setattr(tune, "free_memory", lambda device: 2**40)
    assert state(train(SHORT | {"training.scheme.batch_size": "auto"}))["found"]["batch_size"] == 2  # 20 steps an epoch
    monkeypatch.setattr(tune, "free_memory", lambda device: 1)
    assert state(train(SHORT | {"training.scheme.batch_size": "auto"}))["found"]["batch_size"] == 1


def test_schedule_free(train):
    pytest.importorskip("schedulefree")
    changes = {"training.optimizer.@optimizer": "schedule_free", "training.schedule.@schedule": "constant"}
    changes |= {"training.schedule.warmup": None, "training.optimizer.momentum": None}
    whole = train(changes)
    train(changes | {"training.scheme.epochs": "4", "project.name": "other"})
    resumed = train(changes | RESUME | {"project.name": "other"})
    assert figures(resumed)[-2:] == figures(whole)[-2:] and same(state(resumed)["model"], state(whole)["model"])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
@pytest.mark.slow
def test_compile_gives_nearly_the_same(train):
    plain, compiled = figures(train(SHORT)), figures(train(SHORT | {"training.scheme.compile": "True"}))
    assert abs(plain[0]["train_loss"] - compiled[0]["train_loss"]) < 1e-3


def test_ranking_takes_the_direction_of_the_metric(read):
    class Lower:
        higher_is_better = False

    from recipes import classification
    from recipes.settings import Scheme

    name, rank = ranking(read(), Scheme(best="error"), classification, {"error": Lower()})
    assert name == "error" and rank({"error": 1, "loss": 0}) > rank({"error": 2, "loss": 0})
