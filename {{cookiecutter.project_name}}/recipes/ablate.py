"""Ablate: train as it is, and once without each optional ingredient, to learn what each contributes.

python -m recipes.ablate --check                 what would be trained, and whether it can be
python -m recipes.ablate other.ini --seeds 5 --training.scheme.epochs 10
python -m recipes.ablate --only augment optimizer.weight_decay

Continues where it stopped when called again; other ingredients get a folder of their own. A contribution is the metric
of the best epoch less that without the ingredient, for the same seed; it is within noise if it is at most twice its
standard deviation over the seeds.
"""

import csv
import hashlib
import importlib
import inspect
import os
import shutil
import statistics
import sys
from argparse import Namespace
from contextlib import redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from core import Ingredients, IngredientsError, parse_string, registry
from core.errors import shortened, suggest
from core.values import as_written
from recipes.parts import records
from recipes.parts.command import Command
from recipes.parts.origins import sections

# What is optional, with the value that means off: settings of [training.scheme], and arguments of functions.
SCHEME = {"clip_norm": None, "ema": 0, "swa": 0, "frozen_epochs": 0, "body_rate": 1, "first_size": 1, "balanced": False}
ARGUMENTS = {"label_smoothing": 0, "class_weights": None, "weight_decay": 0}


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--seeds", type=int, default=3, help="how often each is trained; default: 3")
        command.add_argument("--only", nargs="+", metavar="NAME", help="ingredients, by the names of --check")
        arguments, ingredients = command.read(checks=[describe])
        variants = plan(arguments, ingredients)
        train_all(arguments, ingredients, variants)


def describe(arguments, ingredients: Ingredients) -> str:
    """For --check: what would be trained."""
    variants = plan(arguments, ingredients)
    lines = [f"{len(variants)} variants, {arguments.seeds} seeds: {len(variants) * arguments.seeds} runs"]
    changes = {name: records.differences(ingredients, variant) for name, variant in variants.items()}
    lines += [shortened(f"{name}: {'; '.join(changed)}") for name, changed in changes.items() if changed]
    return "\n".join(lines)


def plan(arguments, ingredients: Ingredients) -> dict[str, Ingredients]:
    """The variants by name. Raises IngredientsError if one of them cannot be trained."""
    if arguments.seeds < 1:
        raise IngredientsError(f"--seeds {arguments.seeds}: expected 1 or more")
    optional, variants = find_optional(ingredients), {"as-it-is": ingredients}
    for name in arguments.only or optional:
        if name not in optional:
            raise IngredientsError(f"--only {name}: no such ingredient here. {suggest(name, optional)}")
        variants[f"without-{name}"] = without(ingredients, *optional[name])
    with TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        for name, variant in variants.items():
            file = Path(folder, f"{name}.ini")
            file.write_text(str(variant), encoding="utf-8")
            if importlib.import_module("recipes.check").answer("check", Namespace(ingredients=file)):
                raise IngredientsError(f"{name} cannot be trained; name others by --only")
    return variants


def find_optional(ingredients: Ingredients) -> dict[str, tuple]:
    """Name -> (path, the value that switches it off), or (path of a section to remove, None)."""
    off = {f"training.scheme.{name}": value for name, value in SCHEME.items()} | {"model.architecture.weights": None}
    found = {path: value for path, value in off.items() if ingredients.at(path, value) != value}
    if ingredients.at("training.scheme.frozen_norms", bool(ingredients.at("model.architecture.weights"))):
        found["training.scheme.frozen_norms"] = False
    options = ingredients.at("model.architecture.options") or {}
    if drops := {key: 0 for key, value in options.items() if value and ("drop" in key or "stochastic" in key)}:
        found["model.architecture.options"] = options | drops
    if ingredients.at("training.schedule.@schedule") != "constant":
        found["training.schedule.@schedule"] = "constant"
    for path in sections(ingredients):
        node, kind = ingredients.at(path), path.removeprefix("training.").split(".")[0]
        function = node.get(f"@{kind}")
        if function and (kind == "augment" or (kind == "loss" and function != "cross_entropy")):  # the default
            found[path] = None
        if function and kind in ("augment", "loss", "optimizer"):
            parameters = inspect.signature(registry[kind].get(function)).parameters
            values = {key: node.get(key, parameters[key].default) for key in ARGUMENTS if key in parameters}
            found |= {f"{path}.{key}": ARGUMENTS[key] for key in values if values[key] != ARGUMENTS[key]}
    short = {path: path.removeprefix("training.").removeprefix("scheme.").replace(".*", "") for path in found}
    return {short[path].removesuffix(".@schedule"): (path, value) for path, value in found.items()}


def without(ingredients: Ingredients, path: str, off) -> Ingredients:
    """The ingredients with the setting or section at `path` switched off."""
    blocks = str(ingredients).split("\n\n")  # of a section each
    kept = [block for block in blocks if not block.startswith((f"[{path}]", f"[{path}."))]
    return parse_string("\n\n".join(kept), [(path, as_written(off), True)] if kept == blocks else [])


def train_all(arguments, ingredients: Ingredients, variants: dict) -> None:
    """Train what is not finished yet, and report. Other ingredients or functions get another folder."""
    from recipes.experiment import load_task
    from recipes.parts.trained import runs_of

    functions = Path(getattr(sys.modules.get("custom_functions"), "__file__", os.devnull)).read_bytes()
    mark = hashlib.sha256(str(ingredients).encode() + functions).hexdigest()[:6]
    folder = runs_of(ingredients) / f"ablation_{Path(arguments.ingredients).stem}_{mark}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "custom_functions.py").write_bytes(functions)
    metric, results, failed = ingredients.at("training.scheme.best") or load_task(ingredients).BEST, {}, []
    first = ingredients.at("training.scheme.seed", 0)
    for seed in range(first, first + arguments.seeds):
        for name, variant in variants.items():
            (folder / f"{name}.ini").write_text(str(variant), encoding="utf-8")
            if run := train(folder, name, seed):
                results.setdefault(name, {})[seed] = run
                print(f"{run.folder.name}: {metric} {run.best[metric]:.4f}", flush=True)
            else:
                failed.append(f"{name}-seed-{seed}")
    report(folder, results, metric)
    if failed:
        raise IngredientsError(f"failed: {', '.join(failed)}")


def train(folder: Path, name: str, seed: int) -> records.Record | None:
    """A trial: as it is if it is finished, resumed, or anew; None if it fails."""
    trial = folder / f"{name}-seed-{seed}"
    with suppress(IngredientsError):  # nothing there, or damaged
        if (run := records.read_run(trial)).finished:
            return run
    arguments = (
        folder / f"{name}.ini",
        folder.parent,
        f"{folder.name}/{trial.name}",
        {"training.scheme.seed": str(seed)},
    )
    if (trial / "checkpoints/last.pt").is_file() and (run := records.train(*arguments, "--resume", str(trial))):
        return run
    shutil.rmtree(trial, ignore_errors=True)
    return records.train(*arguments)


def report(folder: Path, results: dict, metric: str) -> None:
    """Print what each ingredient contributes, the most useful first; ablation.csv has the same."""
    lowest = records.is_lowest(metric, [run for runs in results.values() for run in runs.values()])
    values = {name: {seed: run.best[metric] for seed, run in runs.items()} for name, runs in results.items()}
    rows, with_all = [], values.pop("as-it-is", {})
    for name, found in values.items():
        if gains := [with_all[seed] - value for seed, value in found.items() if seed in with_all]:
            deviation = statistics.stdev(gains) if len(gains) > 1 else float("inf")
            rows.append((name, statistics.fmean(found.values()), statistics.fmean(gains), deviation, len(gains)))
    rows.sort(key=lambda row: row[2], reverse=not lowest)
    if rows:
        print(f"{'as-it-is':<32}  {metric} {statistics.fmean(with_all.values()):.4f}")
    for name, value, gain, deviation, _ in rows:
        noise = "  within noise" * (abs(gain) <= 2 * deviation)
        print(f"{name:<32}  {metric} {value:.4f}  contributes {gain:+.4f} +- {deviation:.4f}{noise}")
    with open(folder / "ablation.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("variant", metric, "contributes", "deviation", "seeds"), *rows])
    print(f"runs: {folder}")


if __name__ == "__main__":
    main()
