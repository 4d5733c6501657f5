"""Ablate: train as it is, and once without each optional ingredient, to learn what each contributes.

python -m recipes.ablate --check                 what would be trained, and whether it can be
python -m recipes.ablate other.ini --seeds 5 --training.scheme.epochs 10
python -m recipes.ablate --only augment optimizer.weight_decay

Continues where it stopped when called again; other ingredients get a folder of their own. A contribution is the metric
of the best epoch less that without the ingredient, for the same seed; it is within noise if it is at most twice its
standard deviation over the seeds.
"""

import hashlib
import importlib
import os
import statistics
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from core import Ingredients, IngredientsError, parse_string
from core.errors import escaped, shortened, suggest
from core.values import as_written
from recipes.parts import records
from recipes.parts.command import Command
from recipes.parts.origins import sections

# What is optional, with the value that means off: settings of [training.scheme], and of functions.
SCHEME = {"clip_norm": None, "ema": 0, "swa": 0, "frozen_epochs": 0, "body_rate": 1, "first_size": 1, "balanced": False}
OFF = SCHEME | {
    "weights": None,
    "@schedule": "constant",
    "label_smoothing": 0,
    "class_weights": None,
    "weight_decay": 0,
}


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--seeds", type=int, default=3, help="how often each is trained; default: 3")
        command.add_argument("--only", nargs="+", metavar="NAME", help="ingredients, by the names of --check")
        variants = {}
        arguments, ingredients = command.read(checks=[partial(plan, variants)])
        print(escaped(plan(variants, arguments, ingredients)), flush=True)
        train(arguments, ingredients, variants)


def plan(variants: dict[str, Ingredients], arguments, ingredients: Ingredients) -> str:
    """Fill in the variants by name, and say what they are. Raises IngredientsError if one cannot be trained."""
    optional, lines = find_optional(ingredients), []
    variants["as-it-is"] = ingredients
    for name in arguments.only or optional:
        if name not in optional:
            raise IngredientsError(f"--only {name}: no such ingredient here. {suggest(name, optional)}")
        variants[f"without-{name}"] = variant = without(ingredients, *optional[name])
        lines.append(shortened(f"without-{name}: {'; '.join(records.differences(ingredients, variant))}"))
    if arguments.seeds < 1:
        raise IngredientsError(f"--seeds {arguments.seeds}: expected 1 or more")
    check = importlib.import_module("recipes.check").answer
    with TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        for name, variant in variants.items():
            file = Path(folder, f"{name}.ini")
            file.write_text(str(variant), encoding="utf-8")
            if check("check", Namespace(ingredients=file)):
                raise IngredientsError(f"{name} cannot be trained; name others by --only")
    lines.append(f"{len(variants)} variants, {arguments.seeds} seeds: {len(variants) * arguments.seeds} runs")
    return "\n".join(lines)


def find_optional(ingredients: Ingredients) -> dict[str, tuple]:
    """Name -> (path, the value that switches it off), or (path of a section to remove, None)."""
    found = {}
    for path in [path for path in sections(ingredients) if path.startswith(("training.", "model."))]:
        node = ingredients.at(path)
        if "@augment" in node or node.get("@loss", "cross_entropy") != "cross_entropy":  # the default
            found[path] = None
        found |= {f"{path}.{key}": OFF[key] for key, value in node.items() if key in OFF and value != OFF[key]}
    # What is on by default, and arguments of the backbone.
    if ingredients.at("training.schedule") is None:
        found["training.schedule.@schedule"] = "constant"
    if ingredients.at("training.scheme.frozen_norms", ingredients.at("model.architecture.weights")):
        found["training.scheme.frozen_norms"] = False
    options = ingredients.at("model.architecture.options") or {}
    if drops := {key: 0 for key, value in options.items() if value and ("drop" in key or "stochastic" in key)}:
        found["model.architecture.options"] = options | drops
    short = {path: path.removeprefix("training.").removeprefix("scheme.").replace(".*", "") for path in found}
    return {short[path].removesuffix(".@schedule"): (path, value) for path, value in found.items()}


def without(ingredients: Ingredients, path: str, off) -> Ingredients:
    """The ingredients with the setting or section at `path` switched off."""
    blocks = str(ingredients).split("\n\n")  # of a section each
    kept = [block for block in blocks if not block.startswith((f"[{path}]", f"[{path}."))]
    return parse_string("\n\n".join(kept), [(path, as_written(off), True)] if kept == blocks else [])


def train(arguments, ingredients: Ingredients, variants: dict) -> None:
    """Train what is not finished yet, and report. Other ingredients or functions get another folder."""
    from recipes.experiment import load_task
    from recipes.parts.trained import runs_of

    functions = Path(getattr(sys.modules.get("custom_functions"), "__file__", os.devnull)).read_bytes()
    mark = hashlib.sha256(str(ingredients).encode() + functions).hexdigest()[:6]
    folder = runs_of(ingredients) / f"ablation_{Path(arguments.ingredients).stem}_{mark}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "custom_functions.py").write_bytes(functions)
    metric = ingredients.at("training.scheme.best") or load_task(ingredients).BEST
    first, runs = ingredients.at("training.scheme.seed", 0), {name: {} for name in variants}
    for seed in range(first, first + arguments.seeds):
        for name, variant in variants.items():
            file, trial = folder / f"{name}.ini", f"{name}-seed-{seed}"
            file.write_text(str(variant), encoding="utf-8")
            changes = {"training.scheme.seed": str(seed)}
            run = runs[name][seed] = records.train(file, folder.parent, f"{folder.name}/{trial}", changes)
            print(f"{trial}: {f'{metric} {run.best[metric]:.4f}' if run else 'failed'}", flush=True)
    report(runs, metric)
    print(f"runs: {folder}")
    if failed := [f"{name}-seed-{seed}" for name, found in runs.items() for seed, run in found.items() if not run]:
        raise IngredientsError(f"failed: {', '.join(failed)}")


def report(runs: dict[str, dict], metric: str) -> None:
    """Print what each ingredient contributes, the most useful first."""
    values = {name: {seed: run.best[metric] for seed, run in found.items() if run} for name, found in runs.items()}
    rows, with_all = [], values["as-it-is"]
    for name, found in values.items():
        if gains := [with_all[seed] - value for seed, value in found.items() if seed in with_all]:
            deviation = statistics.stdev(gains) if len(gains) > 1 else float("inf")
            rows.append((statistics.fmean(gains), name, statistics.fmean(found.values()), deviation, len(gains)))
    lowest = records.is_lowest(metric, [run for found in runs.values() for run in found.values() if run])
    lines = [("ingredients", metric, "contributes", "deviation", "seeds", "")]
    for gain, name, value, deviation, seeds in sorted(rows, reverse=not lowest):
        noise = "within noise" * (abs(gain) <= 2 * deviation and name != "as-it-is")
        lines.append((name, f"{value:.4f}", f"{gain:+.4f}", f"{deviation:.4f}", str(seeds), noise))
    print(records.table(zip(*lines, strict=True)))


if __name__ == "__main__":
    main()
