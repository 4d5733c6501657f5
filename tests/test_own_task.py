"""docs/own_task.md, done word for word: its three files make a new task of the digits project."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "{{cookiecutter.project_name}}"
GUIDE = (ROOT / "docs" / "own_task.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/]+\.\w+)`, [^`]*:\n\n```\w+\n(.*?)^```$", GUIDE, re.M | re.S))
FIXED = ["core", "train.py", "recipes/train.py"]  # what a task of one's own leaves as it is


@pytest.fixture(scope="module")
def project(template, tmp_path_factory):
    """The project with the files of the guide in it, trained; `said` is what that printed."""
    project = shutil.copytree(template / FOLDER, tmp_path_factory.mktemp("own") / "project")
    for name, text in FILES.items():
        (project / name).write_text(text, encoding="utf-8")
    return project


def run(project, user_env, *command):
    done = subprocess.run([sys.executable, *command], cwd=project, env=user_env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_guide_is_a_task_functions_and_settings():
    keypoints = ["recipes/keypoints.py", "custom_functions.py", "keypoints.ini"]
    assert list(FILES) == [*keypoints, "label_digits.py", "multilabel.ini", "recipes/gan.py", "gan.ini"]
    assert not any(name.startswith(tuple(FIXED)) for name in FILES)


@pytest.mark.parametrize("task", ["text", "blank", "keypoints", "multilabel", "gan"])
def test_no_task_of_its_own_takes_more_than_80_lines(task):
    text = FILES.get(f"recipes/{task}.py") or (ROOT / FOLDER / "recipes" / f"{task}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80


def test_lint(project, user_env):
    for command in (["check"], ["format", "--check"]):
        run(project, user_env, "-m", "ruff", *command, "--no-cache", *[name for name in FILES if name.endswith(".py")])


def test_it_trains_is_measured_again_and_predicts(project, user_env):
    said = run(project, user_env, "train.py", "keypoints.ini")
    (metrics,) = project.glob("runs/keypoints/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert min(line["error"] for line in lines if "train_loss" in line) < 1  # pixel
    tested = re.search(r"on 297 test samples: (loss [\d.]+, error [\d.]+)", said)[1]
    again = run(project, user_env, "-m", "recipes.validate", "keypoints.ini", "--on", "testing")
    assert again.startswith(f"testing: {tested} (297 samples)\n")
    for picture in ("batch.png", "predictions.png"):
        assert (metrics.parent / picture).is_file()
    assert "ok" in run(project, user_env, "train.py", "keypoints.ini", "--check").splitlines()[-1]
    from PIL import Image

    canvas = Image.new("L", (32, 32))
    canvas.paste(Image.open(next(project.glob("data/digits/testing/0/*.png"))), (20, 3))  # middle: 23.5, 6.5
    canvas.save(project / "zero.png")
    said = run(project, user_env, "-m", "recipes.predict", "zero.png", "--ingredients", "keypoints.ini")
    x, y = re.fullmatch(r"zero\.png  ([\d.]+)  ([\d.]+)\n", said).groups()
    assert abs(float(x) - 23.5) < 2 and abs(float(y) - 6.5) < 2


def test_several_labels(project, user_env):
    run(project, user_env, "train.py", "--testing.debug", "True", "--project.name", "unpack")
    run(project, user_env, "label_digits.py")
    run(project, user_env, "train.py", "multilabel.ini", "--training.model.report", "False")
    (metrics,) = project.glob("runs/multilabel/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert max(line["map"] for line in lines if "train_loss" in line) > 0.97
    image = "data/digits/testing/8/" + sorted(path.name for path in (project / "data/digits/testing/8").iterdir())[0]
    said = run(project, user_env, "-m", "recipes.predict", image, "--ingredients", "multilabel.ini")
    assert re.fullmatch(rf"{image}((, |  )(even|round|large) [01]\.\d+)+\n", said)


def test_a_gan_trains_and_draws(project, user_env):
    run(project, user_env, "train.py", "gan.ini", "--training.scheme.epochs", "8")
    (metrics,) = project.glob("runs/gan/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "train_loss" in line]
    assert losses[-1] < losses[0] / 3 and (metrics.parent / "predictions.png").is_file()
