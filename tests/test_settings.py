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
from recipes.settings import MEASURED, SECTIONS, call_functions, declared_paths, import_functions, read_ingredients

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


def without(text: str, *dropped: str) -> str:
    """An ini without some sections."""
    sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    return "".join(section for section in sections if section.partition("]")[0][1:] not in dropped)


def ini(name: str) -> str:
    """A shipped ini without its download."""
    return without((PROJECT / name).read_text(encoding="utf-8"), "project.data.download")


def loaders(name: str, *splits: str) -> dict:
    return {f"{split}.load_dataset.@load_dataset": name for split in ("training", "testing", *splits)}


TASKS = {  # task -> (the text of its ini, what turns it to data that trains in a moment)
    "classification": (without(ini("ingredients.ini"), "project.data"), IMAGES),
    "multilabel": (
        without(ini("ingredients.ini"), "project.data", "training.loss"),
        {path: value for path, value in IMAGES.items() if path != "training.loss.@loss"}
        | loaders("tiny_labels")
        | {"project.meta.task": "multilabel"},
    ),
    "tabular": (
        ini("ingredients.tabular.ini"),
        loaders("tiny_rows") | {"model.architecture.options": '{"widths": [4]}'},
    ),
    "text": (
        ini("ingredients.text.ini"),
        loaders("tiny_texts", "validation")
        | {"project.meta.n_classes": 3, "model.architecture.options": '{"width": 4}'},
    ),
    "blank": (
        ini("ingredients.blank.ini"),
        loaders("tiny_rows") | {"model.architecture.backbone": "mlp", "model.architecture.options": '{"widths": [4]}'},
    ),
    "segmentation": (
        without(ini("ingredients.segmentation.ini"), "training.augment"),
        loaders("tiny_masks", "validation")
        | {"project.meta.n_classes": 3, "model.architecture.options": '{"widths": [4, 4]}'},
    ),
    "detection": (
        ini("ingredients.detection.ini"),
        loaders("tiny_boxes", "validation")
        | {
            "project.meta.n_classes": 2,
            "model.architecture.options": '{"body": "small", "width": 32}',
            "training.scheme.best": "map",
            "training.scheme.batch_size": 4,
        },
    ),
}
OF_IMAGES = ("classification", "multilabel", "segmentation", "detection")
# setting -> (another value, what else it needs to act); OWN_VALUES has those of a single task.
OWN_VALUES = {
    "classification": {},
    "multilabel": {"training.scheme.best": ("f1", {})},
    "tabular": {
        "model.architecture.backbone": ("resnet18", {"model.architecture.options": "None"}),
        "model.architecture.options": ('{"widths": [8]}', {}),
        "training.scheme.best": ("r2", {}),
    },
    "text": {
        "model.architecture.backbone": ("mlp", {"model.architecture.options": "None"}),
        "model.architecture.options": ('{"width": 8}', {}),
    },
    "blank": {
        "model.architecture.backbone": ("small_cnn", {"model.architecture.options": "None"}),
        "model.architecture.options": ('{"widths": [8]}', {}),
    },
    "segmentation": {
        "model.architecture.backbone": ("small_cnn", {"model.architecture.options": "None"}),
        "model.architecture.options": ('{"widths": [8, 4]}', {}),
        "training.scheme.best": ("dice", {}),
        # of a model with batch norms the loss falls even at a rate of 0
        "training.scheme.early_stop": (True, {"training.scheme.best_is": "highest", "training.scheme.epochs": 4}),
        "training.scheme.patience": (
            2,
            {"training.scheme.early_stop": True, "training.scheme.best_is": "highest", "training.scheme.epochs": 4},
        ),
    },
    "detection": {
        "model.architecture.backbone": ("retinanet", {}),
        "model.architecture.options": ('{"body": "small", "width": 64}', {}),
        "training.scheme.best": ("map50", {}),
        "training.scheme.best_is": ("lowest", {"training.scheme.best": "map50"}),
        "training.scheme.batch_size": (8, {}),
        "training.scheme.clip_norm": (1000.0, {}),
    },
}
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
    "training.scheme.frozen_norms": (True, {}),
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
    "training.parallel.strategy": ("fsdp", {}),  # unused by one process; for several see test_parallel.py
    "training.parallel.sync_batch_norm": (True, {}),
    "training.parallel.find_unused_parameters": (True, {}),
    "training.parallel.timeout": (5, {}),
    "training.model.save_dir": ("elsewhere", {"training.model.save_name": "model.pth"}),
    "training.model.save_name": ("other.pth", {}),
    "training.model.save_all_checkpoints": (True, {}),
    "training.model.checkpoint_minutes": (0, {}),
    "training.model.runs": ("other-runs", {}),
    "training.model.run_name": ("baseline", {}),
    "training.model.report": (False, {}),
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
    "training.model.report",
    "training.model.run_name",
}
# What no task has a part in, and is tested with classification alone.
GENERAL = {path for path in VALUES if path.startswith(("model.version", "training.model.", "training.parallel."))}
GENERAL |= {f"training.scheme.{name}" for name in ("compile", "deterministic", "device", "resume", "seed")}
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


def tiny_labels(**settings):
    images, targets = tiny_images()()
    return lambda: (images, torch.stack([targets == 1, targets == 2, targets != 0], 1).long())


def tiny_rows(**settings):
    X = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
    return lambda: (X, X[:, 0] * X[:, 1])


def tiny_texts(**settings):
    X = torch.randint(1, 257, (48, 12), generator=torch.Generator().manual_seed(0))
    X[:, 3] = 1 + torch.arange(48) % 3
    return lambda: (X, torch.arange(48) % 3)


def tiny_masks(**settings):
    X = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return lambda: (X, (X[:, 0] > 100).byte() + (X[:, 0] > 200).byte())


class Boxes(torch.utils.data.Dataset):
    """16 images (3, 48, 48), each with a square."""

    classes = ["red", "green"]

    def __len__(self):
        return 16

    def __getitem__(self, index: int):
        from torchvision import tv_tensors

        image, (left, label) = torch.zeros(3, 48, 48, dtype=torch.uint8), (index, index % 2)
        image[label, 8:30, left : left + 20] = 255
        boxes = tv_tensors.BoundingBoxes([[left, 8, left + 20, 30]], format="XYXY", canvas_size=(48, 48))
        return tv_tensors.Image(image), {"boxes": boxes.float(), "labels": torch.tensor([label])}

    @staticmethod
    def collate(pairs):
        images, targets = zip(*pairs, strict=True)
        return torch.stack(images), list(targets)


def tiny_boxes(**settings):
    return Boxes


TINY = (tiny_images, tiny_labels, tiny_rows, tiny_texts, tiny_masks, tiny_boxes)


def as_floats(**settings):
    return lambda image: image / 255


@pytest.fixture(scope="module", autouse=True)
def functions():
    """The pantry, and the functions above."""
    import_functions(PROJECT)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for function in TINY:
        registry.load_dataset.register(function.__name__)(function)
    registry.preprocess.register("as_floats")(as_floats)
    yield
    for function in TINY:
        del registry.load_dataset[function.__name__]
    del registry.preprocess["as_floats"]
    torch.set_num_threads(before)


def run(task: str, changes: dict, folder: Path, *dropped: str) -> tuple[dict, IngredientsError | None]:
    """(what a run left behind, None), or ({}, the error that refused it). Any other error is a fault.

    `dropped`: sections to leave out of the ini
    """
    from recipes.train import train

    text, tiny = TASKS[task]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "ingredients.ini").write_text(without(text, *dropped), encoding="utf-8")
    merged = {path: value for path, value in (SHORT | tiny).items() if not path.startswith(dropped or " ")} | changes
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
        "metrics": [{key: value for key, value in line.items() if key not in MEASURED} for line in lines],
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
    paths = {path for path in declared_paths(SECTIONS) if not path.startswith("sweep.")}  # see test_sweep.py
    assert set(VALUES) == paths


@pytest.mark.parametrize(
    "task, path", [(task, path) for task in TASKS for path in VALUES if task == "classification" or path not in GENERAL]
)
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


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("path", ["training.scheme.batch_size", "training.optimizer.learning_rate"])
def test_auto_acts_or_is_refused(task, path, tmp_path):
    _, refused = run(task, {path: "auto"}, tmp_path / "run")
    assert not refused or is_refused_at(refused, path), refused


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
OF_A_TASK = ("augment", "loss", "metric", "preprocess", "views")  # the others are tested with classification alone


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
    changes |= {f"{section}.@{kind}": name, "testing.debug": True}
    _, refused = run(task, changes, folder / "run", *([] if kind == "load_dataset" else [section]))
    if refused:
        assert all(problem.place for problem in refused.problems) and refused.problems, refused
    else:
        assert kind not in ("augment", "views") or task in OF_IMAGES, "takes rows for images"


def names_for(task: str, kind: str) -> list[str]:
    """Those that a project of the task has: shelves of other tasks are not rendered."""
    task = "classification" if task == "multilabel" else task
    own = {*ONLY_FOR["task"][task], *ONLY_FOR["data"].get(f"{task}-digits", ())}
    others = {file for files_of in ONLY_FOR.values() for files in files_of.values() for file in files} - own
    modules = {name: found if isinstance(found, str) else found.__module__ for name, found in registry[kind].items()}
    own = [name for name, module in modules.items() if f"{module.replace('.', '/')}.py" not in others]
    return [*own, *TORCH.get(kind, ())]


@pytest.mark.filterwarnings("ignore")  # such as those of torch on arguments that are odd, but allowed
@pytest.mark.parametrize(
    "task, kind", [(task, kind) for task in TASKS for kind in PLACES if task == "classification" or kind in OF_A_TASK]
)
def test_a_function_runs_or_is_refused(task, kind, tmp_path):
    faults = []
    for name in names_for(task, kind):
        try:
            check_function(task, kind, name, tmp_path)
        except Exception as error:
            faults.append(f"@{kind} = {name}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults)


# ------------------------------------------------------------------------------------ refused before training, in place

TOO_SMALL = {"@augment": "torchvision.transforms.v2.Resize", "size": "[3, 3]"}


@pytest.mark.parametrize(
    ("task", "changes", "path", "told"),
    [
        ("classification", {"training.scheme.first_size": 0.2}, "training.scheme.first_size", "[2, 1, 2, 2]"),
        ("classification", {"training.scheme.device": "meta"}, "training.scheme.device", "cpu"),
        ("classification", {f"training.augment.{key}": v for key, v in TOO_SMALL.items()}, "training.augment", "3, 3"),
        (
            "classification",
            {"training.augment.@augment": "random_crop", "training.augment.size": "[2, 2]"},
            "training.augment",
            "2, 2",
        ),
        (
            "classification",
            {"training.augment.@augment": "torchvision.transforms.v2.FiveCrop", "training.augment.size": 4},
            "training.augment",
            "tuple",
        ),
        ("text", {"testing.preprocess.@preprocess": "as_floats"}, "testing.preprocess", "int64"),
        ("tabular", {"training.preprocess.@preprocess": "resize_and_scale"}, "training.preprocess", "[3]"),
        ("blank", {"testing.preprocess.@preprocess": "resize_and_scale"}, "testing.preprocess", "[3]"),
        ("tabular", {"training.preprocess.@preprocess": "takes_nothing"}, "training.preprocess", "cannot"),
    ],
)
def test_what_the_network_cannot_take_is_refused_before_training(task, changes, path, told, tmp_path, monkeypatch):
    registry.preprocess.register("takes_nothing")(lambda: takes_nothing)
    deep = {"model.architecture.options": "None"} if task == "classification" else {}
    try:
        _, refused = run(task, deep | changes, tmp_path / "run", *({path} & {"training.augment"}))
    finally:
        del registry.preprocess["takes_nothing"]
    assert refused and is_refused_at(refused, path) and told in str(refused), refused
    assert not (tmp_path / "run" / "runs").exists(), "refused after training"


def takes_nothing(sample):
    raise ValueError("cannot")
