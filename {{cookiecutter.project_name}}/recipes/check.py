"""`--check`: all that can be known of an experiment without its data and without training it.

A loader that carries `check()` tells what it would give: as many samples, of the same shape, type and classes, none of
them read. The functions of recipes/train.py run on that, so what a training would refuse is refused here. The model
takes one step on PyTorch's meta device, which knows shapes alone. Nothing is written.
"""

import os
import sys
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import replace

import torch

from core import Ingredients, IngredientsError, located, resolve
from core.ingredients import is_call
from core.settings import read_section
from core.values import BROKEN
from pantry.optimizers import sgd
from pantry.schedules import one_cycle
from recipes import data, runs, train
from recipes.settings import SECTIONS, Architecture, Saving, Scheme, check_callable, read_ingredients

TRAINING, VALIDATION, TESTING = (f"{split}.load_dataset" for split in ("training", "validation", "testing"))
# What has to be right before shapes mean anything.
SHAPES = ("training.load_dataset", "training.preprocess", "training.augment", "model.architecture", "project.meta.task")


class Functions(dict):
    """What each section gives to call, by its path; recipes take it in place of resolved ingredients."""

    at = dict.get

    def __init__(self, ingredients: Ingredients):
        self.where = ingredients.where


def check(file: str, overrides=(), checks=()) -> int:
    """Print what is wrong, or what was checked, and give the exit code. `checks`: take the ingredients, give a line."""
    held, problems, lines = [], [], []
    try:
        read_ingredients(file, overrides, checks=[lambda ingredients: held.append(ingredients) or []])
    except IngredientsError as error:
        if not held:  # there is no such file: nothing else can be known
            raise
        problems += error.problems
    [ingredients] = held
    functions = Functions(ingredients)
    for path in _wrong(problems) + [path for path, value in _walk(ingredients) if value is BROKEN]:
        _drop(ingredients, path)  # so that the rest can be looked at
    for path, node in _walk(ingredients):
        if isinstance(node, Ingredients) and is_call(node):
            with _told(ingredients, path, problems):
                functions[path] = resolve(node)
                if path in SECTIONS:
                    check_callable(ingredients, path, functions[path])
    _check_settings(ingredients, problems)
    for own in checks:
        with _told(ingredients, "", problems):
            lines.append(own(ingredients))
    if any(path.startswith(SHAPES) for path in _wrong(problems)):
        lines.append("not checked: shapes, before this is mended")
    else:
        _check_shapes(ingredients, functions, lines, problems)
    if problems:
        print(IngredientsError(sorted(set(problems), key=lambda problem: problem.place)), file=sys.stderr)
    print("\n".join(lines + ([] if problems else ["ok"])))
    return 1 if problems else 0


def _wrong(problems: list) -> list[str]:
    return [problem.key.strip("-[]") for problem in problems]


def _drop(node: Ingredients, path: str) -> None:
    """Take out a setting, or the whole call that it is an argument of."""
    key, _, rest = path.partition(".")
    inner = node.get(key)
    if rest and isinstance(inner, Ingredients) and not is_call(inner):
        _drop(inner, rest)
    else:
        node.pop(key, None)


def _walk(node: Ingredients, path: str = ""):
    for key, value in list(node.items()):
        yield (where := f"{path}.{key}".lstrip(".")), value
        if isinstance(value, Ingredients):
            yield from _walk(value, where)


@contextmanager
def _at(ingredients: Ingredients, path: str):
    """What goes wrong inside is an error of the setting `path`, where it names no other place."""
    try:
        yield
    except IngredientsError as error:
        raise error if error.problems else located(ingredients, path, str(error)) from error
    except Exception as error:  # a function of the user's own may raise anything
        frames = [
            (os.path.relpath(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)
        ]
        own = [f" ({file}:{line})" for file, line in frames if not file.startswith(("..", "recipes", ".venv"))]
        message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}{''.join(own[-1:])}"
        raise located(ingredients, path, message) from error


@contextmanager
def _told(ingredients: Ingredients, path: str, problems: list):
    try:
        with _at(ingredients, path):
            yield
    except IngredientsError as error:
        problems += error.problems


def _check_settings(ingredients: Ingredients, problems: list) -> None:
    """Numbers that no training can use, a device that is not here, folders that cannot be written, a wrong name."""
    scheme = read_section(ingredients, "training.scheme", Scheme)
    saving = read_section(ingredients, "training.model", Saving)
    with _told(ingredients, "training.scheme", problems):
        train.check_scheme(ingredients, scheme)
    with _told(ingredients, "training.scheme.device", problems):
        train.choose_device(ingredients, scheme.device)
    with _told(ingredients, "model.architecture", problems):
        task = train.load_task(ingredients)
        if ingredients.at("model.architecture.backbone"):
            task.check(ingredients, read_section(ingredients, "model.architecture", Architecture))
    for key in ("save_name", "runs"):
        with _told(ingredients, f"training.model.{key}", problems):
            of_weights = key == "save_name"
            path = (
                train.weights_file(ingredients, saving).parent
                if of_weights
                else runs.folder_of(ingredients, saving.runs)
            )
            path = path.absolute()
            there = next(above for above in (path, *path.parents) if above.exists())
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                reason = "no folder that you may write into" if there.is_dir() else "a file"
                raise located(ingredients, f"training.model.{key}", f"{there} is {reason}; name another folder")


def _check_shapes(ingredients: Ingredients, functions: Functions, lines: list, problems: list) -> None:
    """From the first sample to a step of the optimizer, with what the loaders tell instead of the data."""
    download, is_here = functions.pop("project.data.download", None), True
    if download is not None:
        is_here = False
        with _told(ingredients, "project.data.download", problems):
            is_here = hasattr(download, "check") and download.check()
    for path in [path for path in (TRAINING, VALIDATION, TESTING) if path in functions]:
        loader, found = functions.pop(path), []
        if not hasattr(loader, "check"):
            lines.append(f"not checked: shapes of [{path}], whose loader has no check()")
            continue
        with _told(ingredients, path, found):
            given = loader.check()
            functions[path] = lambda given=given: given
        problems += found if is_here else []
        if path == TRAINING and found and not is_here:
            y = torch.arange(ingredients.at("model.architecture.output_classes") or 10)
            X = torch.zeros((), dtype=torch.uint8).expand(len(y), 3, 224, 224)
            functions[TRAINING] = functions[VALIDATION] = lambda: (X, y)
            lines.append("the data is not here yet; shapes are those of colour images of 224 x 224 pixels")
    found = []
    with _told(ingredients, TRAINING, found):
        if TRAINING in functions or ingredients.at(TRAINING) is None:
            lines += _run(ingredients, functions)
        else:  # of what shape the data is stays unknown
            _optimizer(ingredients, functions, torch.nn.Linear(2, 2))
    if not is_here and found and all(problem.key.startswith(SHAPES) for problem in found):
        lines.append(f"not checked: shapes, for these do not fit: {found[0].message}")
    else:
        problems += found


def _optimizer(ingredients: Ingredients, functions: Functions, model):
    """The model's optimizer, and a look at the schedule."""
    schedule = functions.at("training.schedule") or one_cycle()
    with _at(ingredients, "training.schedule"):
        if wrong := [f"{schedule(at)} at {at}" for at in (0.0, 0.5, 1.0) if not -1e9 < schedule(at) < 1e9]:
            raise ValueError(f"the schedule gives {', '.join(wrong)}; a share of the learning rate is needed")
    with _at(ingredients, "training.optimizer"):
        return (functions.at("training.optimizer") or sgd())(model)


def _run(ingredients: Ingredients, functions: Functions) -> list[str]:
    """Load, build and step as recipes/train.py does; lines that say with what. IngredientsError where it would fail."""
    scheme = replace(
        read_section(ingredients, "training.scheme", Scheme), memory=0.0
    )  # nothing is preprocessed to keep
    architecture, task = read_section(ingredients, "model.architecture", Architecture), train.load_task(ingredients)
    training, validation = train.load_training_data(ingredients, functions, scheme)
    classes = task.check_data(ingredients, architecture, training)
    meta = train.describe(ingredients, training, classes)
    task.check_other_data(ingredients, VALIDATION, validation, meta)
    if TESTING in functions:
        preprocess = functions.at("testing.preprocess") or functions.at("training.preprocess") or data.scale
        task.check_other_data(ingredients, TESTING, data.load(TESTING, functions, preprocess, 0.0), meta)
    count = min(len(training), 3 if classes == 2 else 2)  # else (N, classes) could pass for (N, N)
    inputs, targets = next(data.batches(training, torch.arange(count), count, "cpu"))
    if augment := functions.at("training.augment"):
        with _at(ingredients, "training.augment"):
            inputs, targets = augment(inputs, targets, torch.Generator())
    step = (ingredients, functions, task, architecture, classes, inputs, targets)
    try:
        said = _step(*step, "meta")
    except IngredientsError:  # some models cannot be built without numbers; two samples cost little
        said = _step(*step, "cpu")
    steps = len(training) // min(scheme.batch_size, len(training))
    counts = f"{len(training):,} training and {len(validation):,} validation samples, {classes} classes"
    return [f"data: {counts}; {steps:,} steps an epoch", f"model: {architecture.backbone}, {said}"]


def _step(ingredients, functions, task, architecture, classes, inputs, targets, device: str) -> str:
    with warnings.catch_warnings(), torch.device(device), _at(ingredients, "model.architecture.backbone"):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Using a target size")  # a loss that compares each sample with all others
        model = task.build_model(ingredients, architecture, list(inputs.shape[1:]), classes).to(device).train()
        inputs, targets = inputs.to(device), targets.to(device)
        outputs = model(inputs)
        optimizer = _optimizer(ingredients, functions, model)
        with _at(ingredients, "training.loss"):
            loss = task.loss(model, inputs, targets, functions.at("training.loss") or task.default_loss())
            if loss.ndim != 0:
                raise ValueError(f"gives {list(loss.shape)} for a batch; one number is needed, such as its mean")
            loss.backward()
        optimizer.step()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{parameters:,} parameters, {list(inputs.shape[1:])} -> {list(outputs.shape[1:])}"
