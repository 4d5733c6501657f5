"""`--check`: all that can be known of an experiment without its data and without training it.

A loader that carries `check()` tells what it would give: as many samples, of the same shape, type and classes, none of
them read. The functions of recipes/train.py run on that, so what a training would refuse is refused here. The model
takes one step on PyTorch's meta device, which knows shapes alone. Nothing is written.
"""

import sys
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from core import Ingredients, IngredientsError, located, resolve
from core.declared import read_section
from core.ingredients import call_key, is_call
from core.values import BROKEN
from pantry import models
from pantry.optimizers import sgd
from pantry.schedules import one_cycle
from recipes import data, runs, techniques, train, tune
from recipes.settings import SECTIONS, Architecture, Saving, Scheme, check_callable, read_ingredients

UNKNOWN = ("not checked", "the data is not here yet")  # how such lines begin
SPLITS = TRAINING, VALIDATION, TESTING = [f"{split}.load_dataset" for split in ("training", "validation", "testing")]
SHAPES = (TRAINING, "training.preprocess", "training.augment", "model.architecture", "project.meta.task")


def check(file: str, overrides=(), checks=()) -> int:
    """Print what is wrong, or what was checked, and give the exit code. `checks`: take the ingredients, give a line."""
    held, problems, lines = [], [], []
    try:
        read_ingredients(file, overrides, checks=[lambda ingredients: held.append(ingredients) or []])
    except IngredientsError as error:
        if not held or not error.problems:  # no such file, or functions that cannot be registered: the rest is unknown
            raise
        problems += error.problems
    [ingredients] = held
    functions = SimpleNamespace(where=ingredients.where, of={})  # in place of resolved ingredients
    functions.at = functions.of.get
    for path in _paths(problems) + [path for path, value in _walk(ingredients) if value is BROKEN]:
        _drop(ingredients, path)  # so that the rest can be looked at
    for path, node in _walk(ingredients):
        if isinstance(node, Ingredients) and is_call(node):
            with _told(ingredients, path, problems):
                function = functions.of[path] = resolve(node)
                if path in SECTIONS:
                    check_callable(ingredients, path, function)
                if path.endswith(".preprocess"):  # which the loading calls
                    functions.of[path] = _told_as(ingredients, path, function)
    for path, look in [*_looks(ingredients), *(("", own) for own in checks)]:
        with _told(ingredients, path, problems):
            line = look(ingredients)
            lines += [line] if isinstance(line, str) else []
    if any(path.startswith(SHAPES) for path in _paths(problems)):
        lines.append("not checked before this is mended: shapes")
    else:
        lines += _check_shapes(ingredients, functions, problems)
    if problems:
        print(IngredientsError(sorted(set(problems), key=lambda problem: problem.place)), file=sys.stderr)
        lines = [line for line in lines if line.startswith("not ")]
    is_all = not any(line.startswith(UNKNOWN) for line in lines)
    last = [] if problems else ["ok" if is_all else "ok, but for what could not be checked"]
    print(*lines, *last, sep="\n", end="\n" if lines or last else "")
    return 1 if problems else 0


def _paths(problems: list) -> list[str]:
    return [problem.key.strip("-[]") for problem in problems]


def _walk(node: Ingredients, path: str = ""):
    for key, value in list(node.items()):
        yield (where := f"{path}.{key}".lstrip(".")), value
        if isinstance(value, Ingredients):
            yield from _walk(value, where)


def _drop(node: Ingredients, path: str) -> None:
    """Take out a setting, or the whole call that it is an argument of."""
    key, _, rest = path.partition(".")
    inner = node.get(key)
    if rest and isinstance(inner, Ingredients) and not is_call(inner):
        _drop(inner, rest)
    else:
        node.pop(key, None)


@contextmanager
def _told(ingredients: Ingredients, path: str, problems: list, before: str = ""):
    """What goes wrong inside becomes a problem, of the setting `path` where it names no other place."""
    section = ingredients.at(path)
    if isinstance(section, Ingredients) and is_call(section):
        path += f".{call_key(section)}"  # the line that names the function
    try:
        yield
    except IngredientsError as error:
        problems += error.problems or located(ingredients, path, str(error)).problems
    except Exception as error:  # a function of the user's own may raise anything
        trace = [frame for frame in traceback.extract_tb(error.__traceback__) if "custom_functions" in frame.filename]
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        if trace:
            reason = f"{type(error).__name__}: {reason} (custom_functions.py:{trace[-1].lineno})"
        problems += located(ingredients, path, before + reason).problems


def _looks(ingredients: Ingredients) -> list[tuple]:
    """(path, function) of what each setting can be refused for by itself: numbers, names, the device, folders."""
    scheme = read_section(ingredients, "training.scheme", Scheme)
    saving = read_section(ingredients, "training.model", Saving)
    looks = [
        ("training.scheme", lambda _: train.check_scheme(ingredients, scheme)),
        ("training.scheme.device", lambda _: techniques.choose_device(ingredients, scheme.device)),
        ("training.model.save_name", lambda _: train.weights_file(ingredients, saving) and None),
        ("training.model.runs", lambda _: runs.refuse_unwritable(runs.folder_of(ingredients, saving.runs))),
    ]
    metrics = dict.fromkeys(ingredients.at("validation.metrics", {}))
    ranking = lambda _: train.ranking(ingredients, scheme, train.load_task(ingredients), metrics) and None  # noqa: E731
    looks.append(("training.scheme.best", ranking))
    weights = ingredients.at("model.architecture.weights")
    if weights not in (None, "pretrained"):
        looks.append(("model.architecture.weights", lambda _: _check_file(str(weights))))
    if ingredients.at("model.architecture.backbone"):
        architecture = read_section(ingredients, "model.architecture", Architecture)
        looks.append(("model.architecture", lambda _: train.load_task(ingredients).check(ingredients, architecture)))
    return looks


def _check_file(file: str) -> None:
    if not Path(file).is_file():
        raise IngredientsError(f"there is no file {file}")


def _check_shapes(ingredients: Ingredients, functions: SimpleNamespace, problems: list) -> list[str]:
    """Put what the loaders tell in place of the data, and go on to a step of the optimizer; lines on what was used."""
    download, is_here, lines = functions.of.pop("project.data.download", None), True, []
    stands_in = None
    if download is not None:
        is_here = False
        with _told(ingredients, "project.data.download", problems):
            is_here = hasattr(download, "check") and download.check()
    for path in [path for path in SPLITS if path in functions.of]:
        loader, found = functions.of.pop(path), []
        if not hasattr(loader, "check"):
            lines.append(f"not checked: the shapes of [{path}], whose loader has no check()")
            continue
        with _told(ingredients, path, found):
            given = loader.check()
            functions.of[path] = lambda given=given: given
        problems += found if is_here else []
        if path == TRAINING and found and not is_here:
            lines.append(f"{UNKNOWN[1]}: colour images of 224 x 224 pixels stand for it; its classes are not checked")
            classes = ingredients.at("model.architecture.output_classes") or 10
            pixels = torch.zeros((), dtype=torch.uint8).expand(classes, 3, 224, 224)
            of_task = getattr(
                train.load_task(ingredients), "stand_in", lambda pixels, classes: (pixels, torch.arange(classes))
            )
            given = of_task(pixels, classes)
            functions.of[TRAINING] = stands_in = lambda given=given: given
    if stands_in:
        functions.of[VALIDATION] = stands_in
    found, is_known = [], not lines
    with _told(ingredients, TRAINING, found):
        if TRAINING in functions.of or ingredients.at(TRAINING) is None:
            lines += _run(ingredients, functions, found)[0 if is_known else 1 :]
        else:  # of what shape the data is stays unknown
            _optimizer(ingredients, functions, torch.nn.Linear(2, 2), found)
    for problem in found:
        if is_known or not problem.key.startswith(SHAPES):
            problems.append(problem)
        else:
            lines.append(f"not checked: shapes, since these do not fit: {problem.message}")
    return lines


def _run(ingredients: Ingredients, functions: SimpleNamespace, problems: list) -> list[str]:
    """Load, build and step as recipes/train.py does; lines that say with what. IngredientsError where that ends it."""
    scheme = read_section(ingredients, "training.scheme", Scheme)
    architecture, task = read_section(ingredients, "model.architecture", Architecture), train.load_task(ingredients)
    training, validation = train.load_training_data(ingredients, functions, replace(scheme, memory=0.0))
    inputs, targets = first_batch(training)
    classes = architecture.output_classes
    with _told(ingredients, TRAINING, problems):
        classes = task.check_data(ingredients, architecture, training)
    meta = train.describe(ingredients, training, classes)
    with _told(ingredients, VALIDATION, problems):
        task.check_other_data(ingredients, VALIDATION, validation, meta)
    if TESTING in functions.of:
        with _told(ingredients, TESTING, problems):
            preprocess = functions.at("testing.preprocess") or functions.at("training.preprocess") or data.scale
            task.check_other_data(ingredients, TESTING, data.load(TESTING, functions, preprocess, 0.0), meta)
    with _told(ingredients, "training.augment", problems):
        augment = functions.at("training.augment") or (lambda inputs, targets, generator: (inputs, targets))
        if one_by_one := getattr(augment, "per_sample", None):
            inputs, targets = first_batch(data.augmented(training, one_by_one, scheme.seed))
        inputs, targets = augment(inputs, targets, torch.Generator())
    for device in ("meta", "cpu"):  # a few models cannot be built without numbers; two samples cost little
        found, lines = [], []
        with _told(ingredients, "model.architecture.backbone", found), torch.device(device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "Using a target size")  # a loss that compares each sample with all others
            model = task.build_model(ingredients, architecture, list(inputs.shape[1:]), classes).to(device).train()
            parameters = sum(parameter.numel() for parameter in model.parameters())
            with _told(ingredients, "model.architecture.recompute", found):
                models.recompute(model, architecture.recompute)
            lines, before = [f"model: {architecture.backbone}, {parameters:,} parameters"], ""
            if torch.is_tensor(targets):
                outputs = model(data.moved(inputs, device))
                lines = [f"{lines[0]}, {meta['shape']} -> {list(outputs.shape[1:])}"]
                before = f"outputs {list(outputs.shape)} and targets {list(targets.shape)} do not fit: "
            with _told(ingredients, "training.loss", found, before):
                criterion = functions.at("training.loss") or task.default_loss()
                to_know = training.targets, classes, torch.device(device)
                criterion = train.prepared(ingredients, "training.loss", criterion, *to_know)
                loss = task.loss(model, data.moved(inputs, device), data.moved(targets, device), criterion)
                if loss.ndim != 0:
                    raise IngredientsError(f"gives {list(loss.shape)} for 2 samples; give one number, such as the mean")
                loss.backward()
            _optimizer(ingredients, functions, model, found)
        if not found:
            break
    problems += found
    counts = data.summary(training, validation, classes)
    if scheme.batch_size == "auto":
        return [f"data: {counts}", *lines]
    size = min(max(1, scheme.batch_size * scheme.accumulate), len(training))  # 0 is told already
    return [f"data: {counts}; {len(training) // size:,} steps an epoch", *lines]


def first_batch(samples: data.Samples) -> tuple:
    """(inputs, targets) of two samples."""
    return next(data.reader(samples, 2, torch.device("cpu"))(tune.first_indices(samples, min(2, len(samples)))))


def _optimizer(ingredients: Ingredients, functions: SimpleNamespace, model, problems: list) -> None:
    """Build the optimizer and let it step, and ask the schedule for its rates."""
    with _told(ingredients, "training.optimizer", problems):
        (functions.at("training.optimizer") or sgd())(model).step()
    with _told(ingredients, "training.schedule", problems):
        schedule = functions.at("training.schedule") or one_cycle()
        epochs = read_section(ingredients, "training.scheme", Scheme).epochs
        schedule = train.prepared(ingredients, "training.schedule", schedule, epochs, 10, [])
        if wrong := [f"{schedule(at)} at {at}" for at in (0.0, 0.5, 1.0) if not -1e9 < schedule(at) < 1e9]:
            raise ValueError(f"it gives {', '.join(wrong)} of training; a share of the learning rate is needed")


def _told_as(ingredients: Ingredients, path: str, function):
    """The function, whose errors are told as those of its section."""

    def call(*arguments):
        found = []
        with _told(ingredients, path, found):
            return function(*arguments)
        raise IngredientsError(found)

    return call
