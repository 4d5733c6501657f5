"""What can be turned on in the ingredients: that it does what it says, in a run of the recipe."""

import functools
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from core import IngredientsError
from recipes import classification
from recipes.experiment import select_by
from recipes.parts import checkpoint, samples, tune
from recipes.settings import Scheme
from tests.helpers import equal, metrics_of, state_of

RESUME = {"training.scheme.resume": "True"}
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
    assert metrics_of(train(SHORT | NAMED[name])) != metrics_of(train(SHORT))


def test_a_worker_that_is_killed_is_told_with_the_mend(train, own):
    @own.augment.register("too_large")
    def too_large():
        def augment(inputs, targets, generator):
            return inputs, targets

        def per_sample(sample, target):
            if torch.utils.data.get_worker_info():
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
            return sample, target

        augment.per_sample = per_sample
        return augment

    with pytest.raises(
        IngredientsError, match="(?s)training.scheme.workers.*DataLoader worker .* memory ran out.* lower it"
    ):
        train(SHORT | AUGMENT | {"training.augment.@augment": "too_large", "training.scheme.workers": "1"})


@pytest.mark.parametrize("name", ["sequence", "RandAugment", "mixup"])
def test_augmentation_is_the_same_with_and_without_workers(train, name):
    one, other = (train(SHORT | NAMED[name] | {"training.scheme.workers": workers}) for workers in ("0", "2"))
    assert metrics_of(one) == metrics_of(other) and equal(state_of(one)["model"], state_of(other)["model"])


def test_a_metric_of_ones_own_chooses_the_best_epoch(train, own):
    values = iter([0.3, 0.9, 0.1, 0.5, 0.5, 0.5])
    own.metric("odd")(lambda: lambda outputs, targets: next(values))
    changes = {"training.scheme.epochs": "4", "validation.metrics.odd.@metric": "odd", "training.scheme.best": "odd"}
    folder = train(changes)
    assert [line["odd"] for line in metrics_of(folder)[:4]] == [0.3, 0.9, 0.1, 0.5]
    assert state_of(folder, "best.pt")["epoch"] == 2
    values = iter([0.3, 0.9, 0.1, 0.5, 0.5, 0.5])
    assert state_of(train(changes | {"training.scheme.best_is": "lowest"}), "best.pt")["epoch"] == 3
    with pytest.raises(IngredientsError, match="training.scheme.best\n.*Did you mean odd"):
        train(changes | {"training.scheme.best": "od"})


def test_the_smaller_loss_is_the_better_one(train):
    folder = train({"training.scheme.best": "loss"})
    losses = [line["loss"] for line in metrics_of(folder) if "train_loss" in line]
    assert state_of(folder, "best.pt")["epoch"] == 1 + losses.index(min(losses))


def test_torchmetrics_by_name(train):
    pytest.importorskip("torchmetrics")
    section = {"@metric": "torchmetrics.F1Score", "task": "multiclass", "num_classes": "3", "average": "macro"}
    folder = train({f"validation.metrics.f1.{key}": value for key, value in section.items()})
    assert all(0 <= line["f1"] <= 1 for line in metrics_of(folder) if "train_loss" in line)


def test_views_change_what_is_predicted(train):
    changes = {"testing.views.@views": "shift_views", "testing.views.pixels": "3"}
    one, other = metrics_of(train()), metrics_of(train(changes))
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
    names = ["accuracy", "learning_rate", "loss", "memory", "samples_per_second", "seconds", "train_loss", "waiting"]
    assert told == [(1, names), (2, names), "closed"]


def test_weights_to_begin_with(train, capsys):
    first = train()
    shutil.copy("models/0.0.0/model.pth", "begin.pt")
    capsys.readouterr()
    begun = train({"training.scheme.epochs": "1", "model.architecture.weights": "begin.pt"})
    assert "entries of begin.pt; nothing newly initialized" in capsys.readouterr().out
    assert metrics_of(begun)[0]["train_loss"] < metrics_of(first)[0]["train_loss"] * 0.8
    with pytest.raises(IngredientsError, match="none.pt"):
        train({"model.architecture.weights": "none.pt"})


def test_frozen_epochs_leave_the_body_as_it_was(train):
    changes = {"training.scheme.epochs": "3", "training.scheme.frozen_epochs": "2"}
    folder = train(changes | {"training.model.save_all_checkpoints": "True"})
    one, two, three = (state_of(folder, f"epoch-00{epoch}.pt")["model"] for epoch in (1, 2, 3))
    *body, weight, _ = [key for key in one if "num_batches" not in key]
    assert all(torch.equal(one[key], two[key]) for key in body) and not torch.equal(one[weight], two[weight])
    assert not any(torch.equal(two[key], three[key]) for key in body)


def test_recomputing_changes_no_number(train):
    plain = train(SHORT)
    assert metrics_of(train(SHORT | {"model.architecture.recompute": '["0", "3"]'})) == metrics_of(plain)


def test_accumulation_is_as_one_large_batch(train, own):
    """But for batch norm, whose statistics are those of the part: so of a network without."""

    @own.backbone.register("flat_images")
    def flat(in_channels, output_classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256 * in_channels, output_classes))

    plain = {"model.architecture.backbone": "flat_images", "training.augment.pixels": "0"}
    whole = train(SHORT | plain | {"training.scheme.batch_size": "16"})
    parts = train(SHORT | plain | {"training.scheme.batch_size": "4", "training.scheme.accumulate": "4"})
    one, other = state_of(whole)["model"], state_of(parts)["model"]
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    assert abs(metrics_of(whole)[0]["train_loss"] - metrics_of(parts)[0]["train_loss"]) < 1e-5


def test_averaged_weights_are_measured_and_the_others_kept(train):
    for name in ("ema", "swa"):
        held = state_of(train({f"training.scheme.{name}": "0.5"}))
        assert not equal(held["model"], held["training"])
        kept = checkpoint.load(Path("models/0.0.0/model.pth"))
        assert kept.keys() & {"training", "optimizers"} == set()


def test_an_average_of_decay_0_would_be_the_weights(train):
    """EMA by its definition: after one step average = weights; the recurrence is torch's."""
    held = state_of(train({"training.scheme.ema": "0.000001"}))
    keys = [key for key in held["model"] if held["model"][key].is_floating_point()]
    assert all(torch.allclose(held["model"][key], held["training"][key], atol=1e-4) for key in keys)


def test_precision_of_16_bits_trains(train):
    for precision in ("bf16", "fp16"):
        first, second, *_ = metrics_of(train(SHORT | {"training.scheme.precision": precision}))
        assert second["train_loss"] < first["train_loss"]


def test_half_an_epoch(train):
    folder = train({"training.scheme.epochs": "1.5", "training.scheme.balanced": "True"})
    assert [line["epoch"] for line in metrics_of(folder) if "train_loss" in line] == [1, 2]


def test_balanced_draws_each_class_equally_often():
    targets = torch.tensor([0] * 90 + [1] * 10)
    split = samples.load(lambda: (torch.zeros(100, 1), targets), lambda sample: sample, memory=1.0)
    drawn = torch.cat([targets[samples.epoch_sampler(split, 0, balanced=True)(epoch)] for epoch in range(50)])
    assert abs(drawn.float().mean() - 0.5) < 0.03
    assert samples.epoch_sampler(split, 0)(3).sort().values.tolist() == list(range(100))


def test_learning_rate_that_is_looked_for(train):
    pytest.importorskip("matplotlib")
    folder = train(SHORT | {"training.optimizer.learning_rate": "auto"})
    found = state_of(folder)["autotuned"]["learning_rate"]
    assert tune.LOWEST <= found <= tune.HIGHEST
    assert f"learning_rate = auto: {found}" in (folder / "log.txt").read_text()
    assert (folder / "learning_rate.png").read_bytes().startswith(b"\x89PNG")
    longer = {"training.scheme.epochs": "3", "training.optimizer.learning_rate": "auto"}
    assert state_of(train(longer | RESUME))["autotuned"]["learning_rate"] == found


def test_the_rate_is_found_by_steps_of_training(train, own, monkeypatch):
    """Their batches are whole, augmented, accumulated and clipped; the run is that of this rate, set by hand."""
    monkeypatch.setattr(tune, "TRIALS", 40)
    sizes = set()
    own.augment("empty")(lambda: lambda inputs, targets, generator: (inputs * 0, targets))

    @own.loss.register("shifted")
    def shifted(by: float = 0.0):
        def loss(logits, targets):
            sizes.update([len(logits)] if logits.requires_grad else [])
            return torch.nn.functional.cross_entropy(logits, targets) - by

        return loss

    def run(rate, changes):
        own_loss = {"training.loss.@loss": "shifted", "training.loss.label_smoothing": None}
        of_five = {"training.scheme.batch_size": "5", "training.optimizer.learning_rate": str(rate)}
        return train(SHORT | own_loss | of_five | changes)

    def found(changes):
        return state_of(run("auto", changes))["autotuned"]["learning_rate"]

    rate = found({})
    assert found({"training.loss.by": "3.0"}) == rate  # a loss may be negative
    assert found({"training.scheme.clip_norm": "0.01"}) > 3 * rate
    assert found(AUGMENT | {"training.augment.@augment": "empty"}) != rate
    twice = {"training.scheme.accumulate": "2"}
    assert metrics_of(run("auto", twice)) == metrics_of(run(found(twice), twice))
    assert sizes == {5}


def test_batch_size_by_memory(train, monkeypatch):
    monkeypatch.setattr(tune, "free_memory", lambda device: 2**40)
    assert (
        state_of(train(SHORT | {"training.scheme.batch_size": "auto"}))["autotuned"]["batch_size"] == 2
    )  # 20 steps an epoch
    monkeypatch.setattr(tune, "free_memory", lambda device: 1)
    assert state_of(train(SHORT | {"training.scheme.batch_size": "auto"}))["autotuned"]["batch_size"] == 1


def test_schedule_free(train):
    pytest.importorskip("schedulefree")
    changes = {"training.optimizer.@optimizer": "schedule_free", "training.schedule.@schedule": "constant"}
    changes |= {"training.schedule.warmup": None, "training.optimizer.momentum": None}
    whole = train(changes)
    train(changes | {"training.scheme.epochs": "4", "project.name": "other"})
    resumed = train(changes | RESUME | {"project.name": "other"})
    assert metrics_of(resumed)[-2:] == metrics_of(whole)[-2:] and equal(
        state_of(resumed)["model"], state_of(whole)["model"]
    )


def test_compile_gives_nearly_the_same(train, monkeypatch):
    """With the backend that compiles nothing: torch's own takes minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, compiled = metrics_of(train(SHORT)), metrics_of(train(SHORT | {"training.scheme.compile": "True"}))
    assert abs(plain[0]["train_loss"] - compiled[0]["train_loss"]) < 1e-3


def test_the_best_epoch_takes_the_direction_of_the_metric():
    class Lower:
        higher_is_better = False

    name, rank = select_by(Scheme(best="error"), classification, {"error": Lower()})
    assert name == "error" and rank({"error": 1, "loss": 0}) > rank({"error": 2, "loss": 0})
