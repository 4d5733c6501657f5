"""recipes/crossvalidate.py: each sample is evaluated once, and the mean is that of the folds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from core import IngredientsError
from recipes.parts.samples import load, split_off

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"


def samples(targets):
    inputs = torch.arange(len(targets)).float()[:, None]
    return load(lambda: (inputs, targets), lambda sample: sample, memory=1.0)


def test_folds_are_stratified_and_share_no_sample():
    all_targets = [0] * 10 + [1] * 5 + [2] * 7
    parts = [split_off(samples(all_targets), 0.2, seed=0, fold=f"{part}/5") for part in range(1, 6)]
    held_back = [set(validation.kept[0][:, 0].int().tolist()) for _, validation in parts]
    assert set.union(*held_back) == set(range(22)) and sum(map(len, held_back)) == 22
    for training, validation in parts:
        assert len(training) + len(validation) == 22
        assert validation.targets.bincount(minlength=3)[0] == 2 and 1 <= validation.targets.eq(1).sum() <= 1
    again = split_off(samples(all_targets), 0.2, seed=0, fold="1/5")[1]
    assert torch.equal(again.targets, parts[0][1].targets)


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "a/b", "3"])
def test_a_fold_that_cannot_be_is_refused(fold):
    with pytest.raises(IngredientsError, match="training.scheme.fold"):
        split_off(samples([0, 1] * 5), 0.2, 0, fold)


def test_the_command_prints_each_fold_and_their_mean(tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("runs", "models", "__pycache__", "tests", ".*"))
    command = [sys.executable, "-m", "recipes.crossvalidate", "--folds", "3", "--project.name", "p"]
    command += ["--training.scheme.epochs", "1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    values = [float(re.fullmatch(rf"fold {fold}/3  loss .*, accuracy (\S+)", lines[fold - 1])[1]) for fold in (1, 2, 3)]
    mean, deviation = map(float, re.fullmatch(r"mean +loss .*, accuracy (\S+) \+- (\S+)", lines[3]).groups())
    assert mean == pytest.approx(sum(values) / 3, abs=1e-4) and deviation == pytest.approx(
        torch.tensor(values).std().item(), abs=1e-3
    )
    [parent] = folder.glob("runs/p/crossvalidation_*")
    assert sorted(path.name for path in parent.iterdir()) == ["fold-1", "fold-2", "fold-3"]
    assert not (folder / "models").exists()
