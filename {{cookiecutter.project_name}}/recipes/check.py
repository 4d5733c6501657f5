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
from core.errors import escaped
from core.ingredients import call_key
from core.values import BROKEN
from pantry.images import NotHere
from recipes.experiment import Experiment, build, choose_device, configure
from recipes.parts.calling import carried, check_loss
from recipes.parts.origins import sections, settings
from recipes.parts.samples import reader
from recipes.parts.trained import Functions, find_trained
from recipes.parts.workers import to_device
from recipes.run import Run
from recipes.settings import SECTIONS, check_callable, kind_of, read_ingredients

DOWNLOAD = "project.data.download"
SPLITS = TRAINING, VALIDATION, TESTING = [f"{split}.load_dataset" for split in ("training", "validation", "testing")]
SHAPES = (TRAINING, "training.preprocess", "testing.preprocess", "training.augment", "training.scheme.first_size")
SHAPES += ("model.architecture", "project.meta.task")


class Findings:
    """Problems collected where training would stop at the first one, and lines on what was checked."""

    def __init__(self):
        self.problems, self.lines = [], []

    @contextmanager
    def blame(self, path: str):
        """What goes wrong inside becomes a problem, of the setting or section `path` if it names no other."""
        try:
            yield
        except IngredientsError as error:
            self.problems += error.problems or SettingError(path, str(error)).problems
        except Exception as error:  # a function of the user's own may raise anything
            frames = traceback.extract_tb(error.__traceback__)
            frames = [frame for frame in frames if "custom_functions" in frame.filename]
            reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
            if frames:
                reason = f"{type(error).__name__}: {reason} (custom_functions.py:{frames[-1].lineno})"
            self.problems += SettingError(path, reason).problems


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
    broken = take_out_mistakes(ingredients, findings.problems)
    if "run" in vars(arguments):
        checks = [*checks, check_run]
    for own in checks:
        with findings.blame(""):
            findings.lines += filter(None, [own(arguments, ingredients)])
    functions = Functions(ingredients)
    for path in [path for path in sections(ingredients) if call_key(ingredients.at(path))]:
        functions.made.setdefault(path)  # None, unless it can be made
        with findings.blame(path):
            functions.made[path] = resolve(ingredients.at(path))
            if path in SECTIONS:
                check_callable(path, functions.made[path])
    if any(path.startswith(SHAPES) for path in broken):
        findings.lines.append("not checked before this is mended: shapes")
    else:
        with findings.blame("project.meta.task"):
            check_experiment(ingredients, functions, findings)
    lines = findings.lines
    if findings.problems:
        problems = locate(IngredientsError(findings.problems), ingredients).problems
        # Once each: all splits may read one source.
        told = {found.message if found.key in SPLITS else found: found for found in sorted(problems, reverse=True)}
        print(IngredientsError(sorted(told.values())), file=sys.stderr)
        lines = [line for line in lines if line.startswith("not ")]
    elif any(line.startswith("not checked") for line in lines):
        lines.append("ok, except for what could not be checked")
    else:
        lines.append("ok")
    print("".join(f"{escaped(line)}\n" for line in lines), end="")
    return 1 if findings.problems else 0


def check_run(arguments, ingredients: Ingredients) -> str:
    """The checkpoint that would be opened."""
    return f"weights: {find_trained(arguments.run, ingredients)}"


def take_out_mistakes(ingredients: Ingredients, problems: list) -> list[str]:
    """Take settings that are wrong, and calls with an argument that is, out of the ingredients; their paths."""
    broken = [problem.key.strip("-") for problem in problems]
    broken += [f"{section}.{key}" for section, key in settings(ingredients) if ingredients.at(section)[key] is BROKEN]
    calling = [path for path in sections(ingredients) if isinstance(kind_of(path), str)]
    broken += [path for path in calling if not call_key(ingredients.at(path))]
    for path in broken:
        parts, above = path.split("."), ingredients
        while len(parts) > 1 and isinstance(above.get(parts[0]), Ingredients) and not call_key(above[parts[0]]):
            above = above[parts.pop(0)]
        above.pop(parts[0], None)
    return broken


def check_experiment(ingredients: Ingredients, functions: Functions, findings: Findings) -> None:
    """Build the experiment, and let it take a step; on the CPU if the meta device will not do."""
    experiment = configure(ingredients, functions, "meta", findings.blame)
    with findings.blame("training.scheme.device"):
        choose_device(experiment.scheme.device)
    with findings.blame("training.model"):
        Run(experiment)  # refuses folders and files that cannot be written
    is_known = stand_in(experiment, findings)
    if functions.at(TRAINING) is None and ingredients.at(TRAINING) is not None:
        return  # of what shape the data is stays unknown
    found = try_on("meta", experiment)
    if found.problems:  # perhaps of a model that cannot be built without numbers; two samples cost little
        found = try_on("cpu", experiment)
    for problem in found.problems:
        if is_known or not problem.key.startswith(SHAPES):
            findings.problems.append(problem)
        else:
            findings.lines.append(f"not checked: shapes, since these do not fit: {problem.message}")
    findings.lines += found.lines[0 if is_known else 1 :]


def stand_in(experiment: Experiment, findings: Findings) -> bool:
    """Put what the loaders' `check` returns in place of the data; whether the shapes are those of the data."""
    made, is_here = experiment.functions.made, True
    if download := made.get(DOWNLOAD):
        made[DOWNLOAD], is_here = None, False
        with findings.blame(DOWNLOAD):
            check = carried(download, "check")
            is_here = check and check()
    for path in [path for path in SPLITS if made.get(path)]:
        loader, made[path], found = made[path], None, Findings()
        check = carried(loader, "check")
        if check is None:
            findings.lines.append(f"not checked: the shapes of [{path}], whose loader has no check()")
            continue
        with found.blame(path):
            try:
                loaded = check()
                made[path] = lambda loaded=loaded: loaded
            except NotHere as error:
                if download is None and (typed := on_command_line(experiment.ingredients, f"{path}.source")):
                    findings.problems += SettingError(typed, str(error)).problems
                    return True
                is_here = is_here and download is not None  # which has put it elsewhere
                raise
        if is_here:
            findings.problems += found.problems
        elif path == TRAINING and found.problems:
            place = experiment.ingredients.at(f"{TRAINING}.source")
            line = f"not checked, the data is not here yet ({place}): its classes; images (3, 224, 224) stand in for it"
            findings.lines.append(line)
            classes, make = experiment.architecture.output_classes or 10, carried(experiment.task, "stand_in")
            images = torch.zeros((), dtype=torch.uint8).expand(classes, 3, 224, 224)
            loaded = make(images, classes) if make else (images, torch.arange(classes))
            made[TRAINING] = made[VALIDATION] = lambda loaded=loaded: loaded
            made[TESTING] = None
            return False
    return True


def on_command_line(ingredients: Ingredients, path: str) -> str:
    """The setting of the command line that has the value of this one, or gives it by a reference; "" if none does."""
    paths = [f"{section}.{key}" for section, key in settings(ingredients)]
    typed = [other for other in paths if ingredients.at(other) == ingredients.at(path)]
    return next((other for other in typed if not ingredients.where(other).line), "")


def try_on(device: str, experiment: Experiment) -> Findings:
    """Build the experiment on a device and let it take one step."""
    found = Findings()
    scheme = replace(experiment.scheme, memory=0.0, workers=0, compile=False, device=device)
    experiment = replace(experiment, scheme=scheme, device=torch.device(device), fetch=False, notes=[])
    with warnings.catch_warnings(), found.blame(TRAINING):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Using a target size")  # a loss that compares each sample with all others
        build(experiment, blame=found.blame)
        if experiment.notes:
            found.lines += [f"data: {experiment.notes[0]}", *experiment.notes[1:]]
        if experiment.phases and not any(problem.key.startswith(SHAPES) for problem in found.problems):
            take_step(experiment, found)
    return found


def take_step(experiment: Experiment, found: Findings) -> None:
    """One step on two samples; a line about the model."""
    model, samples, device = experiment.model.train(), experiment.training, experiment.device
    inputs, targets = next(reader(samples, 2, torch.device("cpu"))(torch.arange(min(2, len(samples)))))
    with found.blame("training.augment"):
        inputs, targets = experiment.transform(inputs, targets, 1.0)
    inputs, targets = to_device(inputs, device), to_device(targets, device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shapes = f", {experiment.meta['shape']} -> {list(model(inputs).shape[1:])}" if torch.is_tensor(targets) else ""
    found.lines.append(f"model: {experiment.architecture.backbone}, {parameters:,} parameters{shapes}")
    with found.blame("training.loss"):
        for _, _, loss_of in experiment.phases:
            loss = loss_of(model, inputs, targets, experiment.criterion)
            check_loss(loss, experiment)
            loss.backward()
    with found.blame("training.optimizer"):
        for optimizer in experiment.optimizers.values():
            optimizer.step()
    with found.blame("training.schedule"):
        schedule = experiment.schedule(10, [])
        if wrong := [f"{schedule(at)} at {at}" for at in (0.0, 0.5, 1.0) if not -1e9 < schedule(at) < 1e9]:
            raise IngredientsError(f"returns {', '.join(wrong)} of training, expected a factor of the learning rate")
