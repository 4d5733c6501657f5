"""`--check`: all that can be known of an experiment without its data and without training it.

A loader that carries `check()` returns what it would load, without reading it. The experiment is built from that by
recipes/experiment.py, as for training but on PyTorch's meta device, which knows shapes alone, and takes one step. What
training would refuse is refused here, all at once. Nothing is written.
"""

import sys
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import replace

import torch

from core import Ingredients, IngredientsError, SettingError, locate, resolve
from core.ingredients import is_call
from core.values import BROKEN
from pantry.images import NotHere
from recipes.contracts import Checkable, StandsIn
from recipes.experiment import Experiment, build, configure, load_task
from recipes.parts.samples import reader, summary, to_device
from recipes.parts.step import choose_device
from recipes.run import runs_folder, weights_file
from recipes.settings import SECTIONS, check_callable, read_ingredients

SPLITS = TRAINING, VALIDATION, TESTING = [f"{split}.load_dataset" for split in ("training", "validation", "testing")]
SHAPES = (TRAINING, "training.preprocess", "training.augment", "model.architecture", "project.meta.task")


class Functions:
    """In place of resolved ingredients: the functions that could be made, by the paths of their sections."""

    def __init__(self):
        self.made = {}

    def at(self, path: str, default=None):
        inside = {key[len(path) + 1 :]: made for key, made in self.made.items() if key.startswith(f"{path}.")}
        return self.made.get(path, inside or default)


class Findings:
    """Problems collected where training would stop at the first one, and lines on what was checked."""

    def __init__(self):
        self.problems, self.lines = [], []

    @contextmanager
    def blame(self, path: str, prefix: str = ""):
        """What goes wrong inside becomes a problem, of the setting or section `path` if it names no other."""
        try:
            yield
        except IngredientsError as error:
            self.problems += error.problems or SettingError(path, f"{prefix}{error}").problems
        except Exception as error:  # a function of the user's own may raise anything
            frames = traceback.extract_tb(error.__traceback__)
            frames = [frame for frame in frames if "custom_functions" in frame.filename]
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            if frames:
                reason = f"{type(error).__name__}: {reason} (custom_functions.py:{frames[-1].lineno})"
            self.problems += SettingError(path, prefix + reason).problems


def answer(option: str, arguments, overrides=(), checks=()) -> int:
    """Print what is wrong, or what was checked; returns the exit code. `checks`: (arguments, ingredients) -> a line."""
    findings, held = Findings(), []
    try:
        read_ingredients(arguments.ingredients, overrides, checks=[lambda found: held.append(found) or []])
    except IngredientsError as error:
        if not held or not error.problems:  # no such file, or functions that cannot be registered: the rest is unknown
            raise
        findings.problems += error.problems
    [ingredients] = held
    broken = [problem.key.strip("-[]") for problem in findings.problems]
    for path in broken + [path for path, value in _walk(ingredients) if value is BROKEN]:
        _drop(ingredients, path)  # so that the rest can be checked
    functions = _make_functions(ingredients, findings)
    for own in checks:
        with findings.blame(""):
            findings.lines.append(own(arguments, ingredients))
    if any(path.startswith(SHAPES) for path in broken):
        findings.lines.append("not checked before this is mended: shapes")
    else:
        with findings.blame("project.meta.task"):
            _check_experiment(ingredients, functions, findings)
    return _report(ingredients, findings)


def _report(ingredients: Ingredients, findings: Findings) -> int:
    lines = findings.lines
    if findings.problems:
        problems = locate(IngredientsError(findings.problems), ingredients).problems
        problems = sorted(dict.fromkeys(problems), key=lambda problem: problem.place)
        print(IngredientsError(problems), file=sys.stderr)
        lines = [line for line in lines if line.startswith("not ")]
    else:
        everything = not any(line.startswith("not checked") for line in lines)
        lines = [*lines, "ok" if everything else "ok, except for what could not be checked"]
    print("".join(f"{line}\n" for line in lines), end="")
    return 1 if findings.problems else 0


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


def _make_functions(ingredients: Ingredients, findings: Findings) -> Functions:
    functions = Functions()
    for path, node in _walk(ingredients):
        if isinstance(node, Ingredients) and is_call(node):
            with findings.blame(path):
                functions.made[path] = resolve(node)
                if path in SECTIONS:
                    check_callable(path, functions.made[path])
    return functions


# ---------------------------------------------------------------------------------------------------------- the whole


def _check_experiment(ingredients: Ingredients, functions: Functions, findings: Findings) -> None:
    experiment = configure(ingredients, functions, "meta", findings.blame)
    with findings.blame("training.scheme.device"):
        choose_device(experiment.scheme.device)
    with findings.blame("training.model.save_name"):
        weights_file(experiment.saving)
    with findings.blame("training.model.runs"):
        runs_folder(ingredients, experiment.saving.runs)
    is_known = _stand_in(ingredients, functions, findings)
    if TRAINING not in functions.made and ingredients.at(TRAINING) is not None:
        return  # of what shape the data is stays unknown
    found = _try_on("meta", experiment)
    if found.problems:  # perhaps of a model that cannot be built without numbers; two samples cost little
        found = _try_on("cpu", experiment)
    for problem in found.problems:
        if is_known or not problem.key.startswith(SHAPES):
            findings.problems.append(problem)
        else:
            findings.lines.append(f"not checked: shapes, since these do not fit: {problem.message}")
    findings.lines += found.lines[0 if is_known else 1 :]


def _stand_in(ingredients: Ingredients, functions: Functions, findings: Findings) -> bool:
    """Put what the loaders' `check` returns in place of the data; whether the shapes are those of the data."""
    download, is_here, is_known = functions.made.pop("project.data.download", None), True, True
    if download is not None:
        is_here = False
        with findings.blame("project.data.download"):
            is_here = isinstance(download, Checkable) and download.check()
    for path in [path for path in SPLITS if path in functions.made]:
        loader, found = functions.made.pop(path), Findings()
        if not isinstance(loader, Checkable):
            findings.lines.append(f"not checked: the shapes of [{path}], whose loader has no check()")
            continue
        with found.blame(path):
            try:
                loaded = loader.check()
                functions.made[path] = lambda loaded=loaded: loaded
            except NotHere:
                is_here = is_here and download is not None  # which has put it elsewhere
                raise
        findings.problems += found.problems if is_here else []
        is_known = is_known and (path != TRAINING or is_here or not found.problems)
    if not is_known:
        place = ingredients.at(f"{TRAINING}.source", "")
        line = f"not checked, the data is not here yet ({place}): its classes; images (3, 224, 224) stand in for it"
        findings.lines.append(line)
        classes = ingredients.at("model.architecture.output_classes") or 10
        images = torch.zeros((), dtype=torch.uint8).expand(classes, 3, 224, 224)
        task = load_task(ingredients)
        loaded = task.stand_in(images, classes) if isinstance(task, StandsIn) else (images, torch.arange(classes))
        functions.made[TRAINING] = functions.made[VALIDATION] = lambda loaded=loaded: loaded
        functions.made.pop(TESTING, None)
    return is_known


def _try_on(device: str, experiment: Experiment) -> Findings:
    """Build the experiment on a device and let it take one step."""
    found = Findings()
    scheme = replace(experiment.scheme, memory=0.0, workers=0, compile=False, device=device)
    experiment = replace(experiment, scheme=scheme, device=torch.device(device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Using a target size")  # a loss that compares each sample with all others
        with found.blame(TRAINING):
            build(experiment, blame=found.blame)
            if experiment.training:
                found.lines.append(f"data: {summary(experiment.training, experiment.validation, experiment.outputs)}")
                found.lines += [experiment.splits] if experiment.splits else []
                _check_testing(experiment, found)
            if experiment.phases:
                _step(experiment, found)
    return found


def _check_testing(experiment: Experiment, found: Findings) -> None:
    if TESTING in experiment.functions.made:
        with found.blame(TESTING):
            if (samples := experiment.load("testing")) is not None:
                experiment.task.check_split(TESTING, samples, experiment.meta)


def _step(experiment: Experiment, found: Findings) -> None:
    """One step on two samples; a line about the model."""
    model = experiment.model.train()
    first = torch.arange(min(2, len(experiment.training)))
    inputs, targets = next(reader(experiment.training, 2, torch.device("cpu"))(first))
    with found.blame("training.augment"):
        inputs, targets = experiment.transform(inputs, targets, 1.0)
    inputs, targets, prefix = to_device(inputs, experiment.device), to_device(targets, experiment.device), ""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found.lines.append(f"model: {experiment.architecture.backbone}, {parameters:,} parameters")
    if torch.is_tensor(targets):
        outputs = model(inputs)
        found.lines[-1] += f", {experiment.meta['shape']} -> {list(outputs.shape[1:])}"
        prefix = f"outputs {list(outputs.shape)} and targets {list(targets.shape)} do not match: "
    if experiment.new_weights:
        found.lines.append(experiment.new_weights)
    with found.blame("training.loss", prefix):
        loss = sum(loss_of(model, inputs, targets, experiment.criterion) for _, _, loss_of in experiment.phases)
        if loss.ndim != 0:
            raise IngredientsError(f"returns {list(loss.shape)} for 2 samples, expected a scalar, such as the mean")
        loss.backward()
    with found.blame("training.optimizer"):
        for optimizer in experiment.optimizers.values():
            optimizer.step()
    with found.blame("training.schedule"):
        schedule = experiment.schedule(10, [])
        if wrong := [f"{schedule(at)} at {at}" for at in (0.0, 0.5, 1.0) if not -1e9 < schedule(at) < 1e9]:
            raise IngredientsError(f"returns {', '.join(wrong)} of training, expected a factor of the learning rate")
