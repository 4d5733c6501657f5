"""Refactoring keeps the numbers: seeded losses and final weights of each shipped ini, to the last bit.

tests/pinned.json holds the numbers by machine, since another processor or another PyTorch rounds otherwise, and
training amplifies that: elsewhere only the training loss of the first epoch is compared, to 5 %.
After a change that is meant to change numbers, `python tests/test_pinned.py` measures all runs anew, or those that it
is given, and forgets what other machines had for them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "{{cookiecutter.project_name}}"
PINNED = Path(__file__).with_name("pinned.json")

DIGITS = {"project.data.source": "file:data/digits.tgz"}
SCENES = {"training.load_dataset.count": 24, "validation.load_dataset.count": 8, "testing.load_dataset.count": 8}
SHORT = {"training.scheme.epochs": 1}
# Everything that the loop can do, in two runs: what excludes one another cannot stand in one.
EVERYTHING = SHORT | {
    "training.scheme.epochs": 3,
    "training.scheme.accumulate": 2,
    "training.scheme.precision": "bf16",
    "training.scheme.clip_norm": 0.5,
    "training.scheme.ema": 0.9,
    "training.scheme.frozen_epochs": 1,
    "training.scheme.body_rate": 0.5,
    "training.scheme.first_size": 0.5,
    "training.scheme.balanced": True,
    "training.scheme.workers": 1,
    "training.scheme.memory": 0.0,
    "training.scheme.best": "loss",
    "training.scheme.early_stop": True,
    "model.architecture.recompute": '["0"]',
    "training.loss.class_weights": "balanced",
    "training.augment.@augment": "sequence",
    "training.augment.*.rotate.@augment": "torchvision.transforms.v2.RandomRotation",
    "training.augment.*.rotate.degrees": 10,
    "training.augment.*.flip.@augment": "random_flip",
    "training.augment.*.shift.@augment": "random_shift",
    "training.optimizer.@optimizer": "adamw",
    "training.optimizer.learning_rate": 0.01,
    "training.schedule.@schedule": "cosine",
    "testing.views.@views": "shift_views",
}
OTHERS = SHORT | {
    "training.scheme.epochs": 2,
    "training.scheme.swa": 0.5,
    "training.loss.@loss": "focal",
    "training.augment.@augment": "sequence",
    "training.augment.*.crop.@augment": "random_crop",
    "training.augment.*.crop.size": "[14, 14]",
    "training.augment.*.mixup.@augment": "mixup",
    "training.augment.*.mixup.classes": 10,
    "training.optimizer.@optimizer": "torch.optim.RMSprop",
    "training.optimizer.lr": 0.001,
    "training.schedule.@schedule": "torch.optim.lr_scheduler.CosineAnnealingLR",
}
RUNS = {  # name -> (ini, changes)
    "classification": ("ingredients.ini", DIGITS | {"training.scheme.epochs": 2}),
    "mnist": (
        "ingredients.mnist.ini",
        DIGITS
        | SHORT
        | {
            "training.load_dataset.source": "data/digits",
            "testing.preprocess.size": "[8, 8]",
            "model.architecture.options": '{"grid": 1}',
            "training.scheme.precision": "float32",
        },
    ),
    "detection": ("ingredients.detection.ini", DIGITS | SCENES | SHORT),
    "segmentation": (
        "ingredients.segmentation.ini",
        DIGITS | SCENES | SHORT | {"training.scheme.precision": "float32"},
    ),
    "tabular": ("ingredients.tabular.ini", {"training.scheme.epochs": 3}),
    "text": ("ingredients.text.ini", SHORT),
    "blank": ("ingredients.blank.ini", {"training.scheme.epochs": 2}),
    "everything": ("ingredients.ini", DIGITS | EVERYTHING),
    "others": ("ingredients.ini", DIGITS | OTHERS),
}


def machine() -> str:
    """What the last bits depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    names = [told.get(key, "") for key in ("model name", "cpu family", "model")]
    return " ".join([torch.__version__, torch.backends.cpu.get_cpu_capability(), *names])


def measure(name: str, folder: Path) -> dict:
    """Losses of each epoch and the test figures, and a digest of the best weights, of one run in a copy of it."""
    import torch

    ini, changes = RUNS[name]
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("runs", "models", "__pycache__", "digits", ".*"))
    if name == "blank":
        shutil.copy2(folder / "custom_functions.blank.py", folder / "custom_functions.py")
    changes = changes | {"training.model.report": name == "classification"}  # which changes no number, and takes time
    given = [text for path, value in changes.items() for text in ("--add", f"{path}={value}")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "train.py", ini, "--add", f"project.name={name}", *given]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    (metrics,) = folder.glob("runs/*/*/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [[line[key] for key in ("train_loss", "loss", "map") if key in line] for line in lines if "epoch" in line]
    state = torch.load(folder / "models/0.0.0/model.pth", weights_only=True)["model"]
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"losses": losses, "weights": digest.hexdigest()}


def measure_all(folder: Path, names=tuple(RUNS)) -> dict:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(lambda name: measure(name, folder / name), names), strict=True))


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory):
    name = "test_numbers_are_the_pinned_ones"
    asked = [item.callspec.params["name"] for item in request.session.items if item.originalname == name]
    return measure_all(tmp_path_factory.mktemp("pinned"), asked)


@pytest.mark.parametrize("name", RUNS)
def test_numbers_are_the_pinned_ones(measured, name):
    pinned = json.loads(PINNED.read_text())
    if name in pinned.get(machine(), {}):
        assert measured[name] == pinned[machine()][name]
    for known in (runs[name] for runs in pinned.values() if name in runs):
        assert measured[name]["losses"][0][0] == pytest.approx(known["losses"][0][0], rel=0.05)


if __name__ == "__main__":
    import tempfile

    names = sys.argv[1:] or list(RUNS)
    kept = json.loads(PINNED.read_text())
    for runs in kept.values():
        for name in names:
            runs.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch:
        kept.setdefault(machine(), {}).update(measure_all(Path(scratch), names))
    PINNED.write_text(json.dumps(kept, indent=1) + "\n")
