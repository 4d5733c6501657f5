"""Every setting that the recipes read: name, type, default, meaning. No other setting is accepted in these sections.

Imports nothing of torch, so that a misspelt setting is told at once.
"""

import importlib
from dataclasses import MISSING, dataclass
from pathlib import Path

from core import Ingredients, parse
from core.registry import check_functions
from core.settings import setting


@dataclass(frozen=True)
class Model:
    version: str | int | float = setting("0.0.0", "of the model; stands in the name of its file")


@dataclass(frozen=True)
class Architecture:
    backbone: str = setting(MISSING, "small_cnn, a backbone of yours, or a classification model of torchvision")
    output_classes: int | None = setting(None, "size of the head; None: as many as the data has classes")


@dataclass(frozen=True)
class Scheme:
    epochs: int = setting(10, "passes over the training data")
    batch_size: int = setting(128, "samples a step")
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
    "validation.load_dataset": "load_dataset",
    "testing": Testing,
    "testing.load_dataset": "load_dataset",
    "testing.preprocess": "preprocess",
}


def read_ingredients(file: str | Path, overrides=()) -> Ingredients:
    """The ingredients of a file, checked as a whole: language, settings, functions and their arguments."""
    return parse(file, overrides, SECTIONS, checks=[_check_functions])


def _check_functions(ingredients: Ingredients) -> list:
    importlib.import_module("pantry")  # its registries exist before yours are filled
    importlib.import_module("custom_functions")
    return check_functions(ingredients)
