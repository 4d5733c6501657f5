"""Every declared setting acts, is refused at its place, or is reported as unused; every function runs or is refused.

A task is one row of TASKS. A new setting needs a row in VALUES.
"""

import hashlib
import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from core import IngredientsError, locate, registry
from core.arguments import declared_paths
from recipes.settings import SECTIONS, call_functions, import_functions, read_ingredients

from hooks.post_gen_project import ONLY_FOR

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
IMAGES = {
    "training.load_dataset.@load_dataset": "tiny_images",
    "training.load_dataset.source": "x",
    "testing.load_dataset.@load_dataset": "tiny_images",
    "training.preprocess.@preprocess": "as_floats",
    "testing.preprocess.@preprocess": "as_floats",
    "project.meta.n_classes": 3,
    "model.architecture.options": '{"widths": [4, 4], "grid": 1}',
    "model.architecture.output_classes": 3,
    "training.loss.@loss": "cross_entropy",
}
SHORT = {
    "project.name": "t",
    "training.scheme.epochs": 2,
    "training.scheme.batch_size": 8,
    "training.scheme.early_stop": False,
    "training.scheme.patience": 1,
    "training.scheme.best": "loss",
}


def ini(name: str, *dropped: str) -> str:
    """The text of a shipped ini without some sections."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    return "".join(section for section in sections if section.partition("]")[0][1:] not in dropped)


TASKS = {  # task -> (the text of its ini, what turns it to data that trains in a moment)
    "classification": (ini("ingredients.ini", "project.data", "project.data.download"), IMAGES),
}
# setting -> (another value, what else it needs to act); OWN_VALUES has those of a single task.
OWN_VALUES = {"classification": {}}
VALUES = {
    "model.version": ("9.9.9", {}),
    "model.architecture.backbone": ("resnet_small", {"model.architecture.options": "None"}),
    "model.architecture.options": ('{"widths": [8, 4], "grid": 1}', {}),
    "model.architecture.output_classes": ("None", {}),
    "model.architecture.weights": ("start.pt", {}),
    "model.architecture.recompute": ('["0"]', {}),
    "training.scheme.epochs": (3, {}),
    "training.scheme.batch_size": (4, {}),
    "training.scheme.evaluation_batch_size": (3, {}),
    "training.scheme.accumulate": (2, {}),
    "training.scheme.precision": ("bf16", {}),
    "training.scheme.clip_norm": (0.01, {}),
    "training.scheme.ema": (0.5, {}),
    "training.scheme.swa": (0.5, {}),
    "training.scheme.frozen_epochs": (1, {}),
    "training.scheme.body_rate": (0.1, {}),
    "training.scheme.first_size": (0.5, {}),
    "training.scheme.balanced": (True, {}),
    "training.scheme.compile": (True, {}),
    "training.scheme.deterministic": (False, {}),
    "training.scheme.best": ("accuracy", {}),
    "training.scheme.best_is": ("highest", {"training.scheme.best": "loss"}),
    "training.scheme.early_stop": (True, {"training.optimizer.learning_rate": 0.0, "training.scheme.epochs": 4}),
    "training.scheme.patience": (
        2,
        {"training.scheme.early_stop": True, "training.optimizer.learning_rate": 0.0, "training.scheme.epochs": 4},
    ),
    "training.scheme.resume": (True, {}),
    "training.scheme.validation_fraction": (0.5, {}),
    "training.scheme.fold": ("2/4", {}),
    "training.scheme.seed": (1, {}),
    "training.scheme.device": ("cuda:99", {}),
    "training.scheme.workers": (1, {"training.scheme.memory": 0}),
    "training.scheme.memory": (0, {}),
    "training.model.save_dir": ("elsewhere", {"training.model.save_name": "model.pth"}),
    "training.model.save_name": ("other.pth", {}),
    "training.model.save_all_checkpoints": (True, {}),
    "training.model.checkpoint_minutes": (0, {}),
    "training.model.runs": ("other-runs", {}),
    "testing.debug": (True, {}),
}
# These change how fast a run is, where its memory goes or when it is saved, but no number: they have to be read.
SAME_NUMBERS = {
    "model.architecture.output_classes",  # None: the number of classes in the data, which is what it was
    "model.architecture.recompute",
    "training.scheme.compile",
    "training.scheme.best",  # another metric may select the same epoch
    "training.scheme.best_is",
    "training.scheme.deterministic",  # a matter of GPUs
    "training.scheme.evaluation_batch_size",
    "training.scheme.memory",
    "training.scheme.resume",  # without a run to resume
    "training.scheme.workers",
    "training.model.checkpoint_minutes",
}
# Unused for as long as another setting is as it is: setting -> (value, the other).
UNUSED = {
    "training.scheme.patience": (3, {"training.scheme.early_stop": False}),
    "training.scheme.best_is": ("lowest", {"training.scheme.best": "None"}),
    "training.scheme.validation_fraction": (0.5, {"validation.load_dataset.@load_dataset": "tiny_images"}),
    "training.model.save_dir": ("elsewhere", {"training.model.save_name": "a/model.pth"}),
    "project.fact": (1, {}),
}


# ------------------------------------------------------------------------------------------------------- the tiny data


def tiny_images(**settings):
    """48 images (1, 8, 8) of 3 classes: plain, rows, columns."""
    random = torch.Generator().manual_seed(0)
    images, targets = torch.randint(0, 60, (48, 1, 8, 8), generator=random, dtype=torch.uint8), torch.arange(48) % 3
    images[targets == 1, :, ::2] += 160
    images[targets == 2, :, :, ::2] += 160
    return lambda: (images, targets)


def as_floats(**settings):
    return lambda image: image / 255


@pytest.fixture(scope="module", autouse=True)
def functions():
    """The pantry, and the functions above."""
    import_functions(PROJECT)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    registry.load_dataset.register("tiny_images")(tiny_images)
    registry.preprocess.register("as_floats")(as_floats)
    yield
    for functions, name in ((registry.load_dataset, "tiny_images"), (registry.preprocess, "as_floats")):
        del functions[name]
    torch.set_num_threads(before)


def run(task: str, changes: dict, folder: Path) -> tuple[dict, IngredientsError | None]:
    """(what a run left behind, None), or ({}, the error that refused it). Any other error is a fault."""
    from recipes.train import train

    text, tiny = TASKS[task]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "ingredients.ini").write_text(text, encoding="utf-8")
    merged = SHORT | tiny | changes
    overrides = [(path, str(value), True) for path, value in merged.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TQDM_DISABLE", "1")
        try:
            ingredients = read_ingredients("ingredients.ini", overrides)
        except IngredientsError as error:
            return {}, error
        try:
            train(ingredients, call_functions(ingredients))
        except IngredientsError as error:
            return {}, locate(error, ingredients)
    return left_behind(folder), None


def left_behind(folder: Path) -> dict:
    """Metrics, log, names of files and a digest of the weights; no times."""
    (run_folder,) = {path.parent for path in folder.rglob("metrics.jsonl")}
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    state = torch.load(run_folder / "checkpoints/last.pt", weights_only=True)
    digest = hashlib.sha256()
    for tensor in state["model"].values():
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    log = (run_folder / "log.txt").read_text()
    return {
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "weights": digest.hexdigest(),
        "files": sorted(name.replace(run_folder.name, "RUN") for name in names),
        "unused": log.partition("unused settings: ")[2].partition("\n")[0],
    }


def is_refused_at(error: IngredientsError, path: str) -> bool:
    """Whether each problem has a place, and one of them is of the setting (or of its section)."""
    assert all(problem.place for problem in error.problems) and error.problems, error
    return any(path.startswith(problem.key.strip("-[]")) for problem in error.problems)


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("task", TASKS)
def test_the_tiny_run_is_sound(task, tmp_path):
    left, refused = run(task, {}, tmp_path / "run")
    assert not refused and len(left["metrics"]) >= 3, refused


def test_every_declared_setting_has_a_row():
    assert set(VALUES) == set(declared_paths(SECTIONS))


@pytest.mark.parametrize("path", VALUES)
@pytest.mark.parametrize("task", TASKS)
def test_a_setting_acts_is_refused_or_is_reported(task, path, tmp_path):
    if path == "training.scheme.compile":
        pytest.skip("a minute of compilation; that it is read is plain")
    check_setting(task, path, tmp_path)


def check_setting(task: str, path: str, folder: Path) -> None:
    value, others = OWN_VALUES[task].get(path) or VALUES[path]
    if path == "model.architecture.weights":
        run(task, others, folder / "start")
        (start,) = (folder / "start").rglob("best.pt")
        value = str(shutil.copy(start, folder / "start.pt"))
    with reads() as read:
        after, refused = run(task, others | {path: value}, folder / "run")
    if refused:
        assert is_refused_at(refused, path), refused
        return
    if path in SAME_NUMBERS:
        assert path in read, f"{path} is never read"
        return
    before, wrong = run(task, others, folder / "run")
    assert not wrong, wrong
    assert after != before or path in after["unused"], f"{path} = {value} has no effect, and nothing says so"


class reads:
    """`with reads() as read`: the paths of the declared settings that something asks for."""

    def __enter__(self) -> set:
        self.patch, read = pytest.MonkeyPatch(), set()
        for section, kind in SECTIONS.items():
            if isinstance(kind, type):
                names = {item for item in kind.__dataclass_fields__}

                def spy(this, name, section=section, names=names):
                    if name in names:
                        read.add(f"{section}.{name}")
                    return object.__getattribute__(this, name)

                self.patch.setattr(kind, "__getattribute__", spy, raising=False)
        return read

    def __exit__(self, *error) -> None:
        self.patch.undo()


@pytest.mark.parametrize("path", UNUSED)
def test_a_setting_without_effect_is_reported(path, tmp_path):
    value, others = UNUSED[path]
    left, refused = run("classification", others | {path: value}, tmp_path / "run")
    assert not refused and path in left["unused"]
    left, _ = run("classification", {"training.scheme.early_stop": True}, tmp_path / "run")
    assert path not in left["unused"]


# ----------------------------------------------------------------------------------------------------------- functions

TORCH = {  # some of what stands on the shelves of installed packages
    "loss": [f"torch.nn.{name}" for name in dir(torch.nn) if name.endswith("Loss")],
    "optimizer": [f"torch.optim.{name}" for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"],
    "metric": [f"torchmetrics.{name}" for name in ("F1Score", "Accuracy", "MeanAbsoluteError", "AUROC")],
    "augment": [f"torchvision.transforms.v2.{name}" for name in ("RandAugment", "RandomHorizontalFlip", "AugMix")],
}
PLACES = {kind: path.replace("*", "own") for path, kind in SECTIONS.items() if isinstance(kind, str)}
PLACES |= {"load_dataset": "training.load_dataset", "preprocess": "training.preprocess"}


def arguments_of(function) -> dict:
    """A value for each argument without a default, by its annotation."""
    values = {int: 3, float: 0.5, str: "x", bool: True, list[int]: "[4, 4]", list[float]: "[0.5, 0.5]"}
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: values.get(p.annotation, "x")
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }


def check_function(task: str, kind: str, name: str, folder: Path) -> None:
    """It runs, or is refused: with the place of the section that names it."""
    section, function = PLACES[kind], registry[kind].get(name)
    changes = {f"{section}.{key}": value for key, value in arguments_of(function).items()}
    _, refused = run(task, {f"{section}.@{kind}": name, "testing.debug": True} | changes, folder / "run")
    if refused:
        assert all(problem.place for problem in refused.problems) and refused.problems, refused


def names_for(task: str, kind: str) -> list[str]:
    """Those that a project of the task has: shelves of other tasks are not rendered."""
    own = set(ONLY_FOR["task"][task])
    others = {file for files in ONLY_FOR["task"].values() for file in files} - own
    shelves = {name: f"{shelf.replace('.', '/')}.py" for name, shelf in registry[kind]._shelves.items()}
    return [*(name for name in registry[kind] if shelves.get(name) not in others), *TORCH.get(kind, ())]


@pytest.mark.filterwarnings("ignore")  # such as those of torch on arguments that are odd, but allowed
@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("task", TASKS)
def test_a_function_runs_or_is_refused(task, kind, tmp_path):
    faults = []
    for name in names_for(task, kind):
        try:
            check_function(task, kind, name, tmp_path)
        except Exception as error:
            faults.append(f"@{kind} = {name}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults)
