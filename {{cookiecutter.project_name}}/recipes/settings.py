"""The settings that the recipes read: name, type, default, meaning. Their sections accept no others.

Imports nothing of torch, so that a misspelt setting is reported at once.
"""

import importlib
import os
import sys
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Literal

from core import Ingredients, IngredientsError, Place, Problem, SettingError, parse, registry, resolve
from core.arguments import adapt, signature_of
from core.errors import suggest
from core.ingredients import call_key
from core.registry import check_functions
from core.values import BROKEN

FREE = "project"  # the section that may contain facts that no code reads
SWEEP = "sweep"  # the section with the paths of settings below it, read by recipes/parts/space.py
# Of an epoch, beside its metrics; waiting: for data, as a share of the seconds; memory: the most so far, in GB.
MEASURED = ("seconds", "samples_per_second", "waiting", "memory")


def setting(default, doc: str):
    """A field of a declared section: its meaning and unit in one line."""
    return field(default=default, metadata={"doc": doc})


# Numbers, and where they must lie.
Count, CountFrom0 = Annotated[int, "[1, inf)"], Annotated[int, "[0, inf)"]
Positive, Amount = Annotated[float, "(0, inf)"], Annotated[float, "[0, inf)"]
Share, ShareTo1, Part = Annotated[float, "[0, 1)"], Annotated[float, "(0, 1]"], Annotated[float, "(0, 1)"]


@dataclass(frozen=True)
class Model:
    version: str | int | float = setting("0.0.0", "of the model; part of the path of its file")


@dataclass(frozen=True)
class Architecture:
    backbone: str = setting(MISSING, "a registered backbone, or a model of torchvision for this task")
    options: dict | None = setting(None, 'arguments of the backbone, such as {"dropout": 0.3}')
    output_classes: int | None = setting(None, "size of the head; None: the number of classes in the data")
    weights: str | None = setting(None, "to start from: pretrained, a file, URL#sha256=..., or hf:organization/name")
    recompute: list[str] = setting((), "blocks, such as layer3, whose activations are recomputed to save memory")


@dataclass(frozen=True)
class Scheme:
    epochs: Positive = setting(10, "passes over the training data; 0.5 is half a pass")
    batch_size: Count | Literal["auto"] = setting(128, "samples; auto: as many as fit in half of the memory")
    # A larger one is rarely faster, and runs out of memory where training does not.
    evaluation_batch_size: Count | None = setting(None, "samples per batch in evaluation; None: batch_size")
    accumulate: Count = setting(1, "batches whose gradients are accumulated for one step")
    precision: Literal["float32", "bf16", "fp16", "auto"] = setting(
        "float32", "of the forward pass; auto: bf16 if fast"
    )
    clip_norm: Positive | None = setting(None, "maximum norm of the gradients of a step")
    ema: Share = setting(0.0, "decay of an exponential moving average of the weights, as 0.999; 0: off")
    swa: Share = setting(0.0, "share of training, at its end, in which weights are averaged evenly; 0: off")
    frozen_epochs: CountFrom0 = setting(0, "first epochs in which only the head is trained")
    frozen_norms: bool | Literal["auto"] = setting(
        "auto", "keep the norms of the body; auto: if weights are loaded and samples few"
    )
    body_rate: Amount = setting(1.0, "learning rate of the body, as a share of that of the head")
    first_size: ShareTo1 = setting(1.0, "share of their size that images start with; 1 from half of training")
    balanced: bool = setting(False, "draw samples so that all classes are equally frequent")
    compile: bool = setting(False, "compile the model with torch.compile: a minute once, then faster steps on GPUs")
    deterministic: bool = setting(True, "the same numbers each time on a GPU as well, at some cost in speed")
    best: str | None = setting(None, "metric that selects the best epoch: accuracy, loss, one of [validation.metrics]")
    best_is: Literal["highest", "lowest"] | None = setting(None, "None: lowest for losses and errors, else highest")
    early_stop: bool = setting(False, "stop when validation has not improved for `patience` epochs")
    patience: Count = setting(5, "epochs without improvement that early_stop allows")
    resume: bool = setting(False, "resume the newest run of this project; False: start a new one")
    validation_fraction: Part = setting(0.2, "share of the data held back if no section loads validation")
    fold: str | None = setting(None, "as 2/5: hold back the second of five parts instead; see recipes/crossvalidate.py")
    seed: int = setting(0, "of the split, the initial weights, the order and the augmentation")
    device: str = setting("auto", "auto: the accelerator if there is one, else cpu; or cpu, cuda, cuda:1, mps")
    workers: CountFrom0 | Literal["auto"] = setting("auto", "processes that read samples; auto: as many as help")
    memory: Amount = setting(4.0, "GB of samples to keep in memory; a larger set is read each epoch")


@dataclass(frozen=True)
class Parallel:
    strategy: Literal["ddp", "fsdp"] = setting("ddp", "under torchrun; fsdp shards what ddp copies to each process")
    sync_batch_norm: bool = setting(False, "batch norms of the whole batch instead of a process's part; on GPUs alone")
    find_unused_parameters: bool = setting(False, "for networks that leave some parameters out of some steps")
    timeout: Positive = setting(10.0, "minutes after which a process that does not answer is taken for lost")


@dataclass(frozen=True)
class Saving:
    save_dir: str = setting("models", "folder of save_name, if that names none")
    save_name: str = setting("model.pth", "file for the best weights; the last ones are saved beside it as NAME-last")
    save_all_checkpoints: bool = setting(False, "keep the checkpoint of every epoch, not only best and last")
    checkpoint_minutes: Amount = setting(10.0, "between checkpoints within an epoch, which ends with one")
    runs: str = setting("runs", "folder in which each run gets a folder")
    run_name: str | None = setting(None, "of the run's folder; None: the time")
    report: bool = setting(True, "write report.html after each epoch, in another process; see recipes/report.py")


@dataclass(frozen=True)
class Testing:
    debug: bool = setting(False, "run one batch of everything, in this process, and keep nothing")


@dataclass(frozen=True)
class Sweep:
    trials: Count | None = setting(None, "settings to try; None: 20, or all combinations of a grid")
    seeds: Count = setting(1, "trainings of each trial, with different seeds; their mean counts")
    sampler: str | None = setting(None, "tpe, random, cmaes, gp, ... of Optuna, or grid; None: tpe, or grid if any is")
    sampler_options: dict | None = setting(None, 'arguments of the sampler, such as {"n_startup_trials": 20}')
    pruner: str = setting("median", "median, hyperband, ... of Optuna, stops bad trials early; nop: none is stopped")
    pruner_options: dict | None = setting(None, 'arguments of the pruner, such as {"n_warmup_steps": 5}')
    seed: int = setting(0, "of the sampler")
    timeout: Positive | None = setting(None, "minutes after which no trial starts")
    storage: str | None = setting(None, "URL of a database; None: a file in the folder of the sweep")
    name: str | None = setting(None, "of the sweep, so of its folder; None: that of the ini file")


# Path of a section -> its dataclass, or the name of the registry whose functions it calls. A last part * is any name.
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
    "training.parallel": Parallel,
    "training.model": Saving,
    "training.tracker": "tracker",
    "validation.load_dataset": "load_dataset",
    "validation.metrics.*": "metric",
    "testing": Testing,
    "testing.views": "views",
    "testing.load_dataset": "load_dataset",
    "testing.preprocess": "preprocess",
    "sweep.study": Sweep,
    "testing.postprocess": "postprocess",
}


def read_ingredients(file: str | Path, overrides=(), checks=()) -> Ingredients:
    """The ingredients of a file, checked as a whole: language, settings, functions and their arguments.

    The functions are those of the custom_functions.py beside the file (as in a run folder), else of the project's.
    `checks`: as of `parse`; they come first.
    """
    checks = [check_sections, *checks, partial(_check_functions, Path(file).parent)]
    return parse(file, overrides, declared_paths(), checks)


def _check_functions(folder: Path, ingredients: Ingredients) -> list[Problem]:
    try:
        import_functions(folder)
    except SyntaxError as error:
        place = Place(os.path.relpath(error.filename or "?"), error.lineno or 0)
        return [Problem(place, (error.text or "").strip(), "", f"{error.msg}; Python cannot read this file")]
    except IngredientsError:  # such as a name that is taken; it names its place
        raise
    except Exception as error:  # the file may run anything; an error elsewhere is a bug of the project
        frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename.endswith("custom_functions.py")]
        if not frames:
            raise
        place = Place(os.path.relpath(frames[-1].filename), frames[-1].lineno or 0)
        return [Problem(place, frames[-1].line or "", "", f"{type(error).__name__}: {error}")]
    return check_functions(ingredients)


def import_functions(folder: Path) -> None:
    """Register the pantry's functions, then yours: of custom_functions.py in `folder`, else of the project's."""
    for name in ("backbone", *(kind for kind in SECTIONS.values() if isinstance(kind, str))):
        registry.create(name)
    importlib.import_module("pantry")
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("custom_functions")
    except ModuleNotFoundError as error:
        if error.name != "custom_functions":  # a project without functions of its own is fine
            raise
    finally:
        sys.path.remove(str(folder))


def call_functions(ingredients: Ingredients) -> Ingredients:
    """The ingredients with their functions called; each section of SECTIONS gives what the recipe can call."""
    functions = resolve(ingredients)
    for path, kind in SECTIONS.items():
        if isinstance(kind, str) and ingredients.at(path) is not None:
            check_callable(path, functions.at(path))
    return functions


def check_callable(path: str, function) -> None:
    """Refuse what the factory of a section returned if it cannot be called."""
    if not callable(function):
        message = f"returned {type(function).__name__}; a registered function returns the function to call"
        raise SettingError(path, message)


def read_section(ingredients: Ingredients, path: str, declared: type):
    """The declared section at `path` as an instance of its dataclass; absent settings take their defaults."""
    section, hints = ingredients.at(path, {}), signature_of(declared).hints
    return declared(**{name: adapt(section[name], hint) for name, hint in hints.items() if name in section})


def declared_paths(declared: dict = SECTIONS) -> list[str]:
    """The dotted paths of all declared settings."""
    return [f"{path}.{item.name}" for path, kind in declared.items() if isinstance(kind, type) for item in fields(kind)]


def kind_of(path: str, declared: dict = SECTIONS):
    """What is declared at a path: a dataclass, the name of a registry, or None."""
    return declared.get(path) or declared.get(path.rpartition(".")[0] + ".*")


def check_sections(ingredients: Ingredients, declared: dict = SECTIONS) -> list[Problem]:
    """The problems of all sections: unknown sections and settings, values or functions of the wrong kind."""
    above = {path[:at] for path in declared for at, letter in enumerate(path) if letter == "."}
    absent = [path for path in declared if ingredients.at(path) is None and path[-1] != "*"]
    todo = [("", ingredients), *((path, Ingredients()) for path in absent if isinstance(declared[path], type))]
    problems = []
    for path, node in todo:  # which grows on the way
        kind, called, message = kind_of(path, declared), call_key(node), None
        is_free = path.partition(".")[0] in ("", FREE, SWEEP)
        inside = {key: value for key, value in node.items() if isinstance(value, Ingredients)}
        own = node.copy({key: value for key, value in node.items() if key not in inside})
        if isinstance(kind, str):
            if called != f"@{kind}":
                message = f"this section calls a function: write @{kind} = name"
                node.update({called: BROKEN} if called else ())  # so that a wrong registry is reported once
        elif called and not is_free:
            slots = [slot for slot, other in declared.items() if other == called[1:]]
            message = f"no recipe calls a function here. {_nearest(path, slots)}"
        elif isinstance(kind, type):
            problems += signature_of(kind).check(own, path, "setting")
        elif path in above and not is_free:
            problems += [Problem(None, f"{path}.{key}", "", f"[{path}] has no settings of its own") for key in own]
        elif not is_free and (own or not any(value.where() == node.where() for value in inside.values())):
            advice = f"{_nearest(path, [*declared, *above])} Facts of your own belong below [{FREE}]"
            message = f"no recipe reads this section. {advice}"
        if message:
            problems.append(Problem(None, f"{path}.{called}" if called else f"[{path}]", "", message))
        if not called and not isinstance(kind, str):
            todo += [(f"{path}.{key}".lstrip("."), value) for key, value in inside.items()]
    return problems


def _nearest(path: str, names: list[str]) -> str:
    """The sections that were probably meant; if [above] is none of theirs, a star is taken to be the last part."""
    above, _, last = path.rpartition(".")
    if not any(name.startswith(f"{above}.") for name in names):
        names = [name[:-1] + last if name[-1] == "*" and name.count(".") == path.count(".") else name for name in names]
    return suggest(path, names, "[{}]")
