"""recipes/rerun.py and recipes/ablate.py: runs that a command makes, here without a process for each."""

import csv
import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from core import IngredientsError, parse_string, resolve
from recipes import ablate, rerun
from recipes.parts import checkpoint, records
from recipes.settings import Scheme, read_ingredients

INI = Path(ablate.__file__).parents[1] / "ingredients.ini"
SHORT = {"training.scheme.epochs": "2", "training.optimizer.learning_rate": "0.01"}


@pytest.fixture
def trained(monkeypatch, one_thread):
    """records.train, in this process; the folders that it trained into."""
    from recipes.train import train as recipe

    folders = []

    def train(file, folder, changes, *options):
        changes = changes | {"training.model.runs": folder, "training.model.save_name": folder / "model.pth"}
        ingredients = read_ingredients(file, [(path, str(value), True) for path, value in changes.items()])
        folders.append(folder.name)
        try:
            recipe(ingredients, resolve(ingredients), "" if options else None)
        except IngredientsError as error:
            return print(error) or 1
        return 0

    monkeypatch.setattr(records, "train", train)
    monkeypatch.setattr(rerun, "train", train)
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
    [again] = folder.parent.glob("rerun_*/tiny/*")
    assert f"rerun: {again}" in said and (again.parents[1] / "model.pth").is_file()


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
    assert code == 1 and f"last weights: {name} differs by up to 9.54e-07\n" in said
    assert "the environment is the same" in said

    factor[0] = 1.01
    found = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(found | {"python": "3.0"}, indent=2) + "\n")
    code, said = ask(rerun, *run)
    assert code == 1 and "epoch 1: train_loss differs by up to 0.0" in said and '-  "python": "3.0",' in said


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
    names = "clip_norm ema model.architecture.weights augment augment.shift augment.erase loss loss.class_weights"
    assert [*found] == names.split()
    changed = {name: records.differences(rich, ablate.without(rich, 7, *found[name])) for name in found}
    assert changed["ema"] == ["training.scheme.seed: absent -> 7", "training.scheme.ema: 0.99 -> 0"] or changed["ema"]
    assert "training.augment.*.shift.@augment: random_shift -> absent" in changed["augment.shift"]
    assert not any("erase" in line for line in changed["augment.shift"])
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
    code, said = ask(ablate, str(INI), *only, "--dry-run", changes=SHORT)
    assert code == 0 and "6 runs" in said and "augment: training.augment.@augment: random_shift -> absent" in said
    assert not trained and not Path("runs").exists()

    train = records.train
    monkeypatch.setattr(records, "train", lambda *a: 1 if "augment-seed-1" in str(a[1]) else train(*a))
    code, said = ask(ablate, str(INI), *only, changes=SHORT)
    assert code == 1 and "failed: without-augment-seed-1" in said and len(trained) == 5
    monkeypatch.setattr(records, "train", train)
    code, said = ask(ablate, str(INI), *only, changes=SHORT)
    assert code == 0 and trained[5:] == ["without-augment-seed-1"], said

    [folder] = Path("runs/tiny").glob("ablation_ingredients_*")
    rows = {row["variant"]: row for row in csv.DictReader((folder / "ablation.csv").read_text().splitlines())}
    assert rows.keys() == {"without-augment", "without-schedule"} and {row["seeds"] for row in rows.values()} == {"2"}
    best = {run.parents[1].name: records.read_run(run).best["accuracy"] for run in records.find_runs(folder)}
    gains = [best[f"as-it-is-seed-{seed}"] - best[f"without-schedule-seed-{seed}"] for seed in (0, 1)]
    assert float(rows["without-schedule"]["contributes"]) == pytest.approx(sum(gains) / 2)
    for run in records.find_runs(folder):
        assert run.parents[1].name.endswith(f"-seed-{records.read_run(run).settings['training.scheme.seed']}")

    code, said = ask(ablate, str(INI), "--seeds", "1", "--only", "augment", changes=SHORT | {"model.version": "2"})
    assert code == 0 and trained[6:] == ["as-it-is-seed-0", "without-augment-seed-0"]  # in a folder of its own
    assert f"runs: {folder}" not in said and len([*folder.parent.glob("ablation_*")]) == 2
    code, said = ask(ablate, str(INI), "--only", "augmint")
    assert code == 1 and "--only augmint: no such ingredient here. Did you mean augment?" in said


def test_a_trial_whose_checkpoints_are_damaged_is_done_anew(ask, trained):
    command = [ablate, str(INI), "--seeds", "1", "--only", "augment"]
    assert ask(*command, changes=SHORT)[0] == 0
    [run] = Path("runs/tiny").glob("ablation_ingredients_*/without-augment-seed-0/tiny/*")
    (run.parents[1] / "model.pth").unlink()
    for name in ("last.pt", "previous.pt"):
        (run / "checkpoints" / name).write_bytes(b"damaged")
    code, said = ask(*command, changes=SHORT)
    assert code == 0 and "damaged" in said and "contributes" in said, said
    assert trained[2:] == ["without-augment-seed-0"] * 2
