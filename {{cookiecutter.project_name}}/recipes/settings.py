"""Every setting that the recipes read: name, type, default, meaning. No other setting is accepted in these sections.

Imports nothing of torch, so that a misspelt setting is told at once.
"""

import importlib
import importlib.util
import os
import sys
from dataclasses import MISSING, dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Literal

from core import Ingredients, IngredientsError, Place, Problem, located, parse, resolve
from core.declared import setting
from core.registry import check_functions


@dataclass(frozen=True)
class Model:
    version: str | int | float = setting("0.0.0", "of the model; stands in the name of its file")


@dataclass(frozen=True)
class Architecture:
    backbone: str = setting(MISSING, "small_cnn, a backbone of yours, or a model of torchvision for this task")
    options: dict | None = setting(None, 'arguments of the backbone, such as {"dropout": 0.3}')
    output_classes: int | None = setting(None, "size of the head; None: as many as the data has classes")
    weights: str | None = setting(None, "to begin with: pretrained (torchvision's), or a .pt or .safetensors file")
    recompute: list[str] = setting((), "blocks, such as layer3, whose activations are computed again to save memory")


@dataclass(frozen=True)
class Scheme:
    epochs: float = setting(10, "passes over the training data; 0.5 is half a pass")
    batch_size: int | Literal["auto"] = setting(128, "samples at once; auto: as many as half of the free memory holds")
    accumulate: int = setting(1, "batches whose gradients make one step")
    precision: Literal["float32", "bf16", "fp16", "auto"] = setting(
        "float32", "of the arithmetic, weights stay float32; auto: bf16 where the processor is built for it"
    )
    clip_norm: float | None = setting(None, "longest gradient of a step; a longer one is scaled down to it")
    ema: float = setting(0.0, "decay, a step, of an average of the weights that is measured and kept, as 0.999; 0: off")
    swa: float = setting(0.0, "share of training, at its end, over which weights are averaged evenly; 0: off")
    frozen_epochs: int = setting(0, "first epochs in which the head alone is trained")
    body_rate: float = setting(1.0, "learning rate of the body, as a share of that of the head")
    first_size: float = setting(1.0, "share of height and width that images begin with; whole from half of training on")
    balanced: bool = setting(False, "draw samples so that all classes are equally frequent")
    compile: bool = setting(False, "let torch.compile fuse the model: a minute once, then faster steps on GPUs")
    deterministic: bool = setting(True, "the same numbers each time on a GPU as well, at some cost in speed")
    best: str | None = setting(None, "figure that tells the best epoch: accuracy, loss, or one of [validation.metrics]")
    best_is: Literal["highest", "lowest"] | None = setting(None, "None: lowest for losses and errors, else highest")
    early_stop: bool = setting(False, "end when validation has not improved for `patience` epochs")
    patience: int = setting(5, "epochs without improvement that early_stop allows")
    resume: bool = setting(False, "continue the newest run of this project where it stopped; False: a new run")
    validation_fraction: float = setting(0.2, "share of training held back where [validation.load_dataset] is absent")
    seed: int = setting(0, "of the split, the initial weights, the order and the augmentation")
    device: str = setting("auto", "auto: the accelerator if there is one, else cpu; or cpu, cuda, cuda:1, mps")
    workers: int = setting(0, "processes that read samples where the data does not fit in memory")
    memory: float = setting(4.0, "GB of preprocessed samples to keep; a larger data set is preprocessed as it is read")


@dataclass(frozen=True)
class Saving:
    save_dir: str = setting("models", "folder of save_name where that names no folder")
    save_name: str = setting("model.pth", "file for the best weights; the last ones stand beside it as NAME-last")
    save_all_checkpoints: bool = setting(False, "keep the checkpoint of every epoch, not only best and last")
    checkpoint_minutes: float = setting(10.0, "between checkpoints within an epoch; each epoch ends with one anyway")
    runs: str = setting("runs", "folder in which each run gets a folder")


@dataclass(frozen=True)
class Testing:
    debug: bool = setting(False, "run one batch of everything, in this process, and keep nothing")


# A section that calls a function names its registry instead.
SECTIONS = {
    "project.data.download": "download_function",
    "model": Model,
    "model.architecture": Architecture,
    "training.load_dataset": "load_dataset",
    "training.preprocess": "preprocess",
    "training.augment": "augment",
    "training.loss": "loss",
    "training.optimizer": "optimizer",
    "training.schedule": "schedule",
    "training.scheme": Scheme,
    "training.model": Saving,
    "training.tracker": "tracker",
    "validation.load_dataset": "load_dataset",
    "validation.metrics.*": "metric",
    "testing": Testing,
    "testing.views": "views",
    "testing.load_dataset": "load_dataset",
    "testing.preprocess": "preprocess",
}


def read_ingredients(file: str | Path, overrides=(), checks=()) -> Ingredients:
    """The ingredients of a file, checked as a whole: language, settings, functions and their arguments.

    The functions are those of the custom_functions.py beside the file (as in a run folder), else of the project's.
    `checks`: as of `parse`; they come first.
    """

    def check(ingredients: Ingredients) -> list:
        try:
            import_functions(Path(file).parent)
        except SyntaxError as error:
            place = Place(os.path.relpath(error.filename or "?"), error.lineno or 0)
            return [Problem(place, (error.text or "").strip(), "", f"{error.msg}; Python cannot read this file")]
        except IngredientsError:  # such as a name that is taken; it tells its place
            raise
        except Exception as error:  # the file may run anything; an error elsewhere is a fault of ours
            frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename.endswith(FUNCTIONS_FILE)]
            if not frames:
                raise
            place = Place(os.path.relpath(frames[-1].filename), frames[-1].lineno or 0)
            return [Problem(place, frames[-1].line or "", "", f"{type(error).__name__}: {error}")]
        return check_functions(ingredients)

    return parse(file, overrides, SECTIONS, checks=[*checks, check])


FUNCTIONS_FILE = "custom_functions.py"


def import_functions(folder: Path) -> None:
    """Register the pantry's functions, then yours: of custom_functions.py in `folder` where there is one."""
    importlib.import_module("pantry")  # its registries exist before yours are filled
    own = folder / FUNCTIONS_FILE
    if "custom_functions" in sys.modules or not own.is_file():
        if importlib.util.find_spec("custom_functions") is not None:  # a project without functions of its own is fine
            importlib.import_module("custom_functions")
        return
    spec = importlib.util.spec_from_file_location("custom_functions", own)
    sys.modules["custom_functions"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def call_functions(ingredients: Ingredients) -> Ingredients:
    """The ingredients with their functions called; each section of SECTIONS gives what the recipe can call."""
    functions = resolve(ingredients)
    for path, kind in SECTIONS.items():
        if isinstance(kind, str) and ingredients.at(path) is not None:
            check_callable(ingredients, path, functions.at(path))
    return functions


def check_callable(ingredients: Ingredients, path: str, function) -> None:
    """Refuse what the factory of a section gave back where it cannot be called."""
    if not callable(function):
        name = ingredients.at(path)[f"@{SECTIONS[path]}"]
        message = f"{name} gave back {type(function).__name__}; a factory returns the function to call"
        raise located(ingredients, path, message)
