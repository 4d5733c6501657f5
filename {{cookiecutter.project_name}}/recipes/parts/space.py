"""What a sweep varies, and what Optuna proposes.

Each section below [sweep] has the path of a section, and says what values its settings may have:

    [sweep.training.optimizer]
    optimizer = choice adamw sgd       the function itself; its registry without the @, which would call one here
    learning_rate = log 1e-4 1e-1      evenly distributed on a logarithmic scale
"""

import itertools
import warnings
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from core import Ingredients, IngredientsError, Problem, SettingError
from core.errors import suggest
from core.ingredients import call_key
from core.registry import need
from core.values import as_written, brackets, evaluate, no_reference
from recipes.parts.origins import settings
from recipes.settings import FREE, SWEEP, Sweep, read_ingredients

FORMS = "log LOW HIGH, float LOW HIGH [STEP], int LOW HIGH [STEP], int log LOW HIGH, choice A B ... or grid A B ..."
OWN = ("project.name", "training.model.", "training.scheme.seed", "training.scheme.best", "training.scheme.resume")
PACKAGES = {"cmaes": "cmaes", "gp": "scipy", "qmc": "scipy"}  # sampler -> what it needs besides


def check_space(ingredients: Ingredients, file: Path, given: dict[str, str]) -> dict[str, BaseDistribution]:
    """Path of a setting -> its values. Refuses, all at once, what cannot be read and what the settings would refuse."""
    space, problems = {}, {}
    for section, key in settings(ingredients):
        if section.partition(".")[0] == SWEEP and section != f"{SWEEP}.study":
            try:
                path = _path_of(ingredients, section.removeprefix(SWEEP)[1:], key)
                space[path] = _read_values(str(ingredients.at(section)[key]))
            except ValueError as error:
                problems[section, key] = Problem(None, f"{section}.{key}", "", str(error))
    if not space and not problems:
        message = "nothing to vary; write for example [sweep.training.optimizer] with learning_rate = log 1e-3 1"
        problems["", ""] = Problem(None, f"[{SWEEP}]", "", message)
    space = dict(sorted(space.items(), key=lambda item: ".@" not in item[0]))  # another function drops arguments
    tried = {path: _all_values(values) or (values.low, values.high) for path, values in space.items()}
    calls = {path: tried.pop(path) for path in list(tried) if ".@" in path}  # arguments have to fit all functions
    last = max(map(len, tried.values()), default=1)
    for *names, number in itertools.product(*calls.values(), range(last)):
        point = dict(zip(calls, names, strict=True))
        point |= {path: as_text(values[min(number, len(values) - 1)]) for path, values in tried.items()}
        try:
            read_ingredients(file, [(path, text, True) for path, text in (given | point).items()])
        except IngredientsError as error:
            for found in error.problems:
                path, once = found.key.strip("-"), (found.key, found.message)
                if path in space:
                    found = Problem(None, key_of(path), "", f"{point[path]}: {found.message}")
                problems.setdefault(once, found)
    if problems:
        raise IngredientsError(list(problems.values()))
    return space


def _path_of(ingredients: Ingredients, section: str, key: str) -> str:
    """The path of a setting that may be varied; that of the function if the key is its registry."""
    node = ingredients.at(section) if section else None
    if not isinstance(node, Ingredients):
        raise ValueError(f"the file has no section [{section}]" if section else "write the section of the setting too")
    path = f"{section}.@{key}" if f"@{key}" == call_key(node) and key not in node else f"{section}.{key}"
    if path.startswith(OWN):
        raise ValueError("a sweep sets this itself, or compares by it")
    if path.startswith(f"{FREE}.") and key not in node and not call_key(node):
        raise ValueError(f"nothing refers to it. {suggest(key, node)}")
    return path


def _read_values(text: str) -> BaseDistribution:
    words = []
    for word in text.split():  # a list or quoted text may contain spaces
        is_open = words and (brackets(words[-1]) > 0 or words[-1].count('"') % 2)
        words[-1:] = [f"{words[-1]} {word}"] if is_open else [*words[-1:], word]
    kind, *words = words or [""]
    values = [evaluate(word, no_reference) for word in words]
    if kind in ("choice", "grid") and words and len(set(words)) == len(words):
        return CategoricalDistribution(words)  # as the file would have them
    is_log, number = kind == "log" or values[:1] == ["log"], (int,) if kind == "int" else (int, float)
    values = values[kind == "int" and is_log :]
    is_right = kind in ("log", "float", "int") and len(values) in ((2,) if is_log else (2, 3))
    if not is_right or not all(type(value) in number for value in values):
        raise ValueError(f"expected {FORMS}")
    step = {"step": values[2]} if values[2:] else {}
    return (IntDistribution if kind == "int" else FloatDistribution)(*values[:2], log=is_log, **step)


def key_of(path: str) -> str:
    """The path of the values of a setting."""
    return f"{SWEEP}.{path.replace('@', '')}"


def as_text(value) -> str:
    """A proposed value as a file has it; what was to choose from is so already."""
    return value if isinstance(value, str) else as_written(value)


def propose(trial, path: str, values: BaseDistribution) -> str:
    """The value of a setting in a trial, as a file has it."""
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(path, values.choices)
    suggest_number = trial.suggest_int if isinstance(values, IntDistribution) else trial.suggest_float
    return as_text(suggest_number(path, values.low, values.high, step=values.step, log=values.log))


def _all_values(values: BaseDistribution) -> tuple:
    """Those of a grid; none of a range of real numbers, or a logarithmic one."""
    if isinstance(values, CategoricalDistribution):
        return values.choices
    is_grid = isinstance(values, IntDistribution) and not values.log
    return tuple(range(values.low, values.high + 1, values.step)) if is_grid else ()


def proposer(sweep: Sweep, space: dict[str, BaseDistribution], ingredients: Ingredients) -> tuple:
    """(sampler of a trial by its number, pruner, number of trials). Each trial has a seed, so restarts do not count."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = _by_name("pruner", sweep.pruner, sweep.pruner_options)
    is_grid = any(str(ingredients.at(key_of(path))).startswith("grid") for path in space)
    if (sweep.sampler or ("grid" if is_grid else "tpe")) != "grid":
        # A sequence of quasi-random numbers is one for all trials.
        name, moves = sweep.sampler or "tpe", sweep.sampler != "qmc"

        def sampler(number: int):
            return _by_name("sampler", name, {"seed": sweep.seed + number * moves} | (sweep.sampler_options or {}))

        sampler(0)
        return sampler, pruner, sweep.trials or 20
    if endless := [path for path, values in space.items() if not _all_values(values)]:
        message = "a grid needs values: grid, choice or int LOW HIGH"
        raise IngredientsError([Problem(None, key_of(path), "", message) for path in endless])
    points = [dict(zip(space, point, strict=True)) for point in itertools.product(*map(_all_values, space.values()))]
    fixed, random = optuna.samplers.PartialFixedSampler, optuna.samplers.RandomSampler()
    return lambda number: fixed(points[number], random), pruner, min(sweep.trials or len(points), len(points))


def _by_name(kind: str, name: str, options: dict | None):
    """A sampler or pruner of Optuna, by the name of its class in small letters and without that ending."""
    classes = vars(optuna.samplers if kind == "sampler" else optuna.pruners)
    known = {key.lower().removesuffix(kind): each for key, each in classes.items() if key.lower().endswith(kind)}
    try:
        if name not in known:
            raise ValueError(f"there is no such {kind}. {suggest(name, known)}")
        need(PACKAGES.get(name, "optuna"))
        return known[name](**(options or {}))
    except (ValueError, TypeError) as error:
        raise SettingError(f"{SWEEP}.study.{kind}", str(error)) from error
