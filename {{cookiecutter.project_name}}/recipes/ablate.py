"""Ablate: train as it is, and once without each optional ingredient, to learn what each contributes.

python -m recipes.ablate --dry-run               what would be trained
python -m recipes.ablate other.ini --seeds 5 --training.scheme.epochs 10
python -m recipes.ablate --only augment optimizer.weight_decay

Continues where it stopped when called again; other ingredients get a folder of their own. A contribution is the metric
of the best epoch less that without the ingredient, for the same seed; it is within noise if it is at most twice its
standard deviation over the seeds.
"""

import csv
import hashlib
import inspect
import os
import statistics
import sys
from pathlib import Path

from core import Ingredients, IngredientsError, parse_string, registry
from core.errors import escaped, shortened, suggest
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
        command.add_argument("--only", nargs="+", metavar="NAME", help="ingredients, by the names of --dry-run")
        command.add_argument("--dry-run", action="store_true", help="print what would be trained, and exit")
        arguments, ingredients = command.read()
        optional, first = find_optional(ingredients), ingredients.at("training.scheme.seed", 0)
        variants = {"as-it-is": ()}
        for name in arguments.only or optional:
            if name not in optional:
                raise IngredientsError(f"--only {name}: no such ingredient here. {suggest(name, optional)}")
            variants[f"without-{name}"] = optional[name]
            changes = records.differences(ingredients, without(ingredients, first, *optional[name]))
            print(escaped(shortened(f"without {name}: {'; '.join(changes)}")))
        print(f"{len(variants)} variants, {arguments.seeds} seeds: {len(variants) * arguments.seeds} runs", flush=True)
        if not arguments.dry_run:
            from recipes.parts.trained import runs_of

            folder = runs_of(ingredients) / f"ablation_{Path(arguments.ingredients).stem}"
            train_all(folder, ingredients, variants, range(first, first + arguments.seeds))


def find_optional(ingredients: Ingredients) -> dict[str, tuple]:
    """Name -> (path, the value that switches it off), or (path of a section to remove, None)."""
    off = {f"training.scheme.{name}": value for name, value in SCHEME.items()} | {"model.architecture.weights": None}
    found = {path: value for path, value in off.items() if ingredients.at(path, value) != value}
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


def without(ingredients: Ingredients, seed: int, path: str = "-", off=None) -> Ingredients:
    """The ingredients with another seed, and with the setting or section at `path` switched off."""
    blocks = str(ingredients).split("\n\n")  # of a section each
    kept = [block for block in blocks if not block.startswith((f"[{path}]", f"[{path}."))]
    setting = [(path, as_written(off), True)] if path != "-" and kept == blocks else []
    return parse_string("\n\n".join(kept), [("training.scheme.seed", str(seed), True), *setting])


def train_all(folder: Path, ingredients: Ingredients, variants: dict, seeds: range) -> None:
    """Train what is not finished yet, and report. Other ingredients or functions get another folder."""
    from recipes.experiment import load_task

    functions = Path(getattr(sys.modules.get("custom_functions"), "__file__", os.devnull)).read_bytes()
    folder = folder.with_name(f"{folder.name}_{hashlib.sha256(str(ingredients).encode() + functions).hexdigest()[:6]}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "custom_functions.py").write_bytes(functions)
    metric, results, failed = ingredients.at("training.scheme.best") or load_task(ingredients).BEST, {}, []
    for name, seed in [(name, seed) for seed in seeds for name in variants]:
        trial = folder / f"{name}-seed-{seed}"
        if best := train(trial, without(ingredients, seed, *variants[name])):
            results.setdefault(name, {})[seed] = best[metric]
            print(f"{trial.name}: {metric} {best[metric]:.4f}", flush=True)
        else:
            failed.append(trial.name)
    report(folder, results, metric)
    if failed:
        raise IngredientsError(f"failed: {', '.join(failed)}")


def train(trial: Path, variant: Ingredients) -> dict:
    """The metrics of the best epoch of a trial, which is kept if it is finished; {} if it fails."""
    file, weights = trial.with_name(f"{trial.name}.ini"), trial / "model.pth"  # which is written at the end
    file.write_text(str(variant), encoding="utf-8")
    for options in () if weights.is_file() else (["--resume"], []):  # or anew if its checkpoints are damaged
        was_begun = trial.is_dir()
        code = records.train(file, trial, {}, *options)
        if code > 128:  # by a signal
            raise SystemExit(code)
        if not code or not was_begun:
            break
    return records.read_run(records.find_runs(trial)[-1]).best if weights.is_file() else {}


def report(folder: Path, results: dict, metric: str) -> None:
    """Print what each ingredient contributes, the most useful first; ablation.csv has the same."""
    rows, with_all = [], results.pop("as-it-is", {})
    for name, values in results.items():
        if gains := [with_all[seed] - value for seed, value in values.items() if seed in with_all]:
            deviation = statistics.stdev(gains) if len(gains) > 1 else float("inf")
            rows.append((name, statistics.fmean(values.values()), statistics.fmean(gains), deviation, len(gains)))
    rows.sort(key=lambda row: row[2], reverse=not records.LOWEST.search(metric))
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
