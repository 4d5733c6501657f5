"""recipes/rerun.py and recipes/ablate.py: runs that a command makes, here without a process for each."""

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from core import IngredientsError, parse_string, resolve
from recipes import ablate, rerun
from recipes.parts import checkpoint, records
from recipes.parts.command import split_overrides
from recipes.settings import Scheme, read_ingredients

INI = Path(ablate.__file__).parents[1] / "ingredients.ini"
SHORT = {"training.scheme.epochs": "2", "training.optimizer.learning_rate": "0.01"}


@pytest.fixture
def trained(monkeypatch, one_thread):
    """train.py, in this process; the folders that it trained into."""
    from recipes.train import train as recipe

    folders = []

    def call(arguments):
        overrides, (file, *options) = split_overrides(arguments)
        ingredients = read_ingredients(file, overrides)
        folders.append(ingredients.at("training.model.run_name").rpartition("/")[2])
        try:
            recipe(ingredients, resolve(ingredients), options[1] if options else None)
        except IngredientsError as error:
            return print(error) or 1
        return 0

    monkeypatch.setattr(records, "call", call)
    return folders


@pytest.fixture
def ask(overrides, monkeypatch, capsys, trained):
    """ask(module, arguments, changes) -> (exit code, what it printed)."""

    def ask(module, *argv, changes=None):
        added = [f"--add={path}={text}" for path, text in (overrides | (changes or {})).items() if text is not None]
        monkeypatch.setattr("sys.argv", [module.__name__, *argv, *added])
        capsys.readouterr()
        code = 0
        try:
            module.main()
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return ask


# --------------------------------------------------------------------------------------------------------------- rerun


def test_a_rerun_has_the_same_numbers_and_leaves_the_model_file_alone(train, ask):
    folder = train(SHORT)
    weights = hashlib.sha256(Path("models/0.0.0/model.pth").read_bytes()).digest()
    code, said = ask(rerun, "--ingredients", str(INI))  # the newest run
    assert code == 0 and "the same: metrics of 2 epoch(s), of the test data, weights" in said, said
    assert hashlib.sha256(Path("models/0.0.0/model.pth").read_bytes()).digest() == weights
    [again] = folder.parent.glob("rerun_*/*")
    assert f"rerun: {again}" in said and (again / "model.pth").is_file()


def test_a_rerun_finds_what_differs_and_says_what_changed(train, ask, own):
    factor = [1.0]

    @own.loss("mine")
    def mine():
        return lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets) * factor[0]

    changes = SHORT | {"training.loss.@loss": "mine", "training.loss.label_smoothing": None}
    folder = train(changes)
    run = ["--ingredients", str(INI), str(folder)]
    assert ask(rerun, *run)[0] == 0
    state = checkpoint.load(folder / "checkpoints/last.pt")
    name = next(iter(state["model"]))
    state["model"][name].view(-1)[-1] += 2**-20
    checkpoint.save(folder / "checkpoints/last.pt", state)
    code, said = ask(rerun, *run)
    assert code == 1 and f"last weights: {name} differs by up to 9.54e-07; environment.json and" in said

    factor[0] = 1.01
    code, said = ask(rerun, *run)
    assert code == 1 and "epoch 1: train_loss differs by up to 0.0" in said and "environment.json" in said


def test_a_run_that_was_stopped_is_compared_as_far_as_it_came(train, ask, monkeypatch):
    from recipes.run import Run

    exit_if_requested = Run.exit_if_requested
    monkeypatch.setattr(Run, "exit_if_requested", lambda run, after: after == "epoch 1" and exit(143))
    with pytest.raises(SystemExit):
        train(SHORT)
    monkeypatch.setattr(Run, "exit_if_requested", exit_if_requested)
    code, said = ask(rerun, "--ingredients", str(INI))
    assert code == 0 and "the same: metrics of 1 epoch(s), weights" in said, said
    assert ask(rerun, "nowhere", "--ingredients", str(INI))[1].startswith("nowhere: there is no such checkpoint")


# -------------------------------------------------------------------------------------------------------------- ablate

RICH = """[model.architecture]
weights = pretrained
options = {"dropout": 0.2, "width": 8}
[training.augment]
@augment = sequence
[training.augment.*.shift]
@augment = random_shift
[training.augment.*.erase]
@augment = random_erasing
[training.loss]
@loss = focal
class_weights = balanced
[training.optimizer]
@optimizer = adamw
weight_decay = 0.0
[training.schedule]
@schedule = constant
[training.scheme]
ema = 0.99
clip_norm = 1.0
body_rate = 1.0
"""


def test_the_optional_ingredients_of_a_file():
    found = ablate.find_optional(rich := parse_string(RICH))
    names = "model.architecture.weights augment augment.shift augment.erase loss loss.class_weights ema clip_norm"
    assert [*found] == [*names.split(), "frozen_norms", "model.architecture.options"]
    changed = {name: records.differences(rich, ablate.without(rich, *found[name])) for name in found}
    assert changed["ema"] == ["training.scheme.ema: 0.99 -> 0"]
    assert "training.augment.*.shift.@augment: random_shift -> absent" in changed["augment.shift"]
    assert not any("erase" in line for line in changed["augment.shift"])
    assert changed["frozen_norms"] == ["training.scheme.frozen_norms: absent -> False"]
    assert "-> {'dropout': 0, 'width': 8}" in changed["model.architecture.options"][0]
    assert sum("augment" in line for line in changed["augment"]) == 3
    assert "training.loss.class_weights: balanced -> None" in changed["loss.class_weights"]
    assert ablate.find_optional(parse_string("[a]\nb = 1\n")).keys() == {"schedule"}  # its default is one_cycle


def test_every_setting_of_the_scheme_is_optional_or_is_not():
    """A new one has to be put into one of the two."""
    kept = "epochs batch_size evaluation_batch_size accumulate precision compile deterministic best best_is early_stop"
    kept += " patience resume validation_fraction fold seed device workers memory frozen_norms"
    names = {item.name: item.default for item in dataclasses.fields(Scheme)}
    assert ablate.SCHEME.keys() == names.keys() - {*kept.split()}
    assert all(names[name] == off for name, off in ablate.SCHEME.items())


def test_an_ablation_says_what_each_contributes_and_continues(ask, trained, monkeypatch):
    only = ["--seeds", "2", "--only", "augment", "schedule"]
    code, said = ask(ablate, str(INI), *only, "--check", changes=SHORT)
    assert code == 0 and "6 runs" in said and "augment: training.augment.@augment: random_shift -> absent" in said, said
    assert not trained and not Path("runs").exists()

    call = records.call
    monkeypatch.setattr(records, "call", lambda a: 1 if any(s.endswith("augment-seed-1") for s in a) else call(a))
    code, said = ask(ablate, str(INI), *only, changes=SHORT)
    assert code == 1 and "failed: without-augment-seed-1" in said and len(trained) == 5
    monkeypatch.setattr(records, "call", call)
    code, said = ask(ablate, str(INI), *only, changes=SHORT)
    assert code == 0 and trained[5:] == ["without-augment-seed-1"], said

    [folder] = Path("runs/tiny").glob("ablation_ingredients_*")
    lines = [line.split() for line in said.splitlines() if re.match(r"\S+ +[\d.]+ +[+-]\d", line)]
    rows = {line[0]: line for line in lines}
    assert rows.keys() == {"as-it-is", "without-augment", "without-schedule"}, said
    assert {row[4] for row in rows.values()} == {"2"} and rows["as-it-is"][2] == "+0.0000"
    runs = {run.parent.name: records.read_run(run.parent) for run in folder.glob("*/checkpoints")}
    gains = [
        runs[f"as-it-is-seed-{seed}"].best["accuracy"] - runs[f"without-schedule-seed-{seed}"].best["accuracy"]
        for seed in (0, 1)
    ]
    assert float(rows["without-schedule"][2]) == pytest.approx(sum(gains) / 2, abs=1e-4)
    for name, run in runs.items():
        assert name.endswith(f"-seed-{run.settings['training.scheme.seed']}")

    code, said = ask(ablate, str(INI), "--seeds", "1", "--only", "augment", changes=SHORT | {"model.version": "2"})
    assert code == 0 and trained[6:] == ["as-it-is-seed-0", "without-augment-seed-0"]  # in a folder of its own
    assert f"runs: {folder}" not in said and len([*folder.parent.glob("ablation_*")]) == 2
    code, said = ask(ablate, str(INI), "--only", "augmint")
    assert code == 1 and "--only augmint: no such ingredient here. Did you mean augment?" in said


def test_a_trial_whose_checkpoints_are_damaged_is_named(ask, trained):
    command = [ablate, str(INI), "--seeds", "1", "--only", "augment"]
    assert ask(*command, changes=SHORT)[0] == 0
    [run] = Path("runs/tiny").glob("ablation_ingredients_*/without-augment-seed-0")
    (run / "metrics.jsonl").unlink()
    for name in ("last.pt", "previous.pt"):
        (run / "checkpoints" / name).write_bytes(b"damaged")
    code, said = ask(*command, changes=SHORT)
    assert code == 1 and "damaged" in said and "failed: without-augment-seed-0" in said, said
    (run / "checkpoints/last.pt").unlink()
    assert ask(*command, changes=SHORT)[0] == 0 and trained[2:] == ["without-augment-seed-0"] * 2


def test_a_variant_that_cannot_be_trained_is_refused_before_any_is(ask, trained, own):
    @own.loss("strict")
    def strict(label_smoothing=0.1):
        if not label_smoothing:
            raise ValueError("label_smoothing must be positive")
        return torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    changes = SHORT | {"training.loss.@loss": "strict", "training.loss.label_smoothing": "0.1"}
    for options in (["--check"], []):
        code, said = ask(ablate, str(INI), *options, changes=changes)
        assert code == 1 and "without-loss.label_smoothing cannot be trained" in said and not trained, said
    assert "--seeds 0: expected 1 or more" in ask(ablate, str(INI), "--seeds", "0")[1]


def test_the_direction_of_a_metric_is_that_of_the_selection():
    def run(*values, best=0, select=None):
        epochs = [{"epoch": number, "mine": value, "loss": 0.1} for number, value in enumerate(values)]
        settings = {"training.scheme.best": select}
        return records.Record(Path(), settings, epochs, epochs[best], {}, True)

    assert records.is_lowest("mine", [run(3.0, 1.0, best=1), run(3.0, 1.0, 2.0, best=1, select="mine")])
    assert not records.is_lowest("mine", [run(3.0, 1.0, best=0, select="mine"), run(3.0, select="mine")])
    assert records.is_lowest("loss", [run(1.0)]) and records.is_lowest("MeanSquaredError", [])


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_no_process_outlives_a_killed_ablation(tmp_path):
    """python -m pytest -m long tests/test_rerun.py"""
    folder = tmp_path / "project"
    shutil.copytree(INI.parent, folder, ignore=shutil.ignore_patterns("runs", "models", "__pycache__", "tests", ".*"))
    command = [sys.executable, "-m", "recipes.ablate", "--seeds", "1", "--only", "augment", "--project.name", "p"]
    begun = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while not [*folder.glob("runs/p/ablation_*/as-it-is-seed-0/checkpoints/last.pt")]:
        time.sleep(0.1)
    begun.kill()
    begun.wait()
    [metrics] = folder.glob("runs/p/ablation_*/as-it-is-seed-0/metrics.jsonl")
    time.sleep(0.5)
    size = metrics.stat().st_size
    time.sleep(3)
    assert metrics.stat().st_size == size
    done = subprocess.run([*command, "--seeds", "1"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "without-augment" in done.stdout, done.stderr
    assert "resume " in (metrics.parent / "log.txt").read_text()
