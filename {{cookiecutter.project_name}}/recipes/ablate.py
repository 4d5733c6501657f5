"""Ablate: train as it is, and once without each optional ingredient, to learn what each contributes.

python -m recipes.ablate --dry-run               what would be trained
python -m recipes.ablate other.ini --seeds 5 --training.scheme.epochs 10
python -m recipes.ablate --only augment optimizer.weight_decay

Continues where it stopped when called again. A contribution is the metric of the best epoch less that without the
ingredient, for the same seed; it is within noise if it is less than twice its standard deviation over the seeds.
"""

import csv
import inspect
import shutil
import statistics
import sys
from pathlib import Path

from core import Ingredients, IngredientsError, parse, parse_string, registry
from core.errors import escaped, shortened, suggest
from recipes.parts import records
from recipes.parts.command import Command
from recipes.parts.origins import sections

# Optional settings of [training.scheme], and arguments of functions, with the value that means off.
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
        trials = [(seed, name) for seed in range(first, first + arguments.seeds) for name in variants]
        print(f"{len(trials)} runs", flush=True)
        if not arguments.dry_run:
            from recipes.experiment import load_task
            from recipes.parts.trained import runs_of

            folder = runs_of(ingredients) / f"ablation_{Path(arguments.ingredients).stem}"
            metric = ingredients.at("training.scheme.best") or load_task(ingredients).BEST
            begin(folder, ingredients)
            results, failed = {name: {} for name in variants}, []
            for seed, name in trials:
                trial = folder / f"{name}-seed-{seed}"
                if best := train(trial, without(ingredients, seed, *variants[name])):
                    results[name][seed] = best[metric]
                    print(f"{trial.name}: {metric} {best[metric]:.4f}", flush=True)
                else:
                    failed.append(trial.name)
            report(folder, results, metric)
            if failed:
                raise IngredientsError(f"failed: {', '.join(failed)}")


def find_optional(ingredients: Ingredients) -> dict[str, tuple]:
    """Name -> (path, the value that switches it off; of a section None, which removes it)."""
    off = {f"training.scheme.{name}": value for name, value in SCHEME.items()} | {"model.architecture.weights": None}
    found = {path: value for path, value in off.items() if ingredients.at(path, value) != value}
    if ingredients.at("training.schedule.@schedule") != "constant":
        found["training.schedule"] = Ingredients({"@schedule": "constant"}, "training.schedule")
    for path in sections(ingredients):
        node, kind = ingredients.at(path), path.removeprefix("training.").split(".")[0]
        function = node.get(f"@{kind}")
        if function and (kind == "augment" or (kind == "loss" and function != "cross_entropy")):  # the default
            found[path] = None
        if function and kind in ("augment", "loss", "optimizer"):
            parameters = inspect.signature(registry[kind].get(function)).parameters
            values = {key: node.get(key, parameters[key].default) for key in ARGUMENTS if key in parameters}
            found |= {f"{path}.{key}": ARGUMENTS[key] for key in values if values[key] != ARGUMENTS[key]}
    names = {path: path.removeprefix("training.").removeprefix("scheme.").replace(".*", "") for path in found}
    return {names[path]: (path, value) for path, value in found.items()}


def without(ingredients: Ingredients, seed: int, path: str = "", off=None) -> Ingredients:
    """The ingredients with another seed, and with the setting or section at `path` switched off."""
    variant = parse_string(str(ingredients), [("training.scheme.seed", str(seed), True)])
    if path:
        section, _, key = path.rpartition(".")
        variant.at(section)[key] = off
        if off is None and isinstance(ingredients.at(path), Ingredients):
            del variant.at(section)[key]
    return parse_string(str(variant))


def begin(folder: Path, ingredients: Ingredients) -> None:
    """Keep ingredients and functions in the folder; refuse one that has others."""
    file, functions = folder / "ingredients.ini", folder / "custom_functions.py"
    used = Path(getattr(sys.modules.get("custom_functions"), "__file__", "none"))
    if file.is_file():
        changed = records.differences(parse(file), parse_string(str(ingredients)))
        changed += [functions.name] * (functions.is_file() and functions.read_bytes() != used.read_bytes())
        if changed:
            raise IngredientsError(f"{folder}: is of other ingredients ({'; '.join(changed)}); rename or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(str(ingredients), encoding="utf-8")
    if used.is_file():
        shutil.copy2(used, functions)


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
    rows, with_all = [], results["as-it-is"]
    for name, values in results.items():
        gains = [with_all[seed] - value for seed, value in values.items() if seed in with_all]
        if gains and values is not with_all:
            deviation = statistics.stdev(gains) if len(gains) > 1 else float("inf")
            rows.append((name, statistics.fmean(values.values()), statistics.fmean(gains), deviation, len(gains)))
    rows.sort(key=lambda row: row[2], reverse=not records.LOWEST.search(metric))
    for name, value, gain, deviation, _ in rows:
        noise = "  within noise" * (abs(gain) <= 2 * deviation)
        print(f"{name:<32}  {metric} {value:.4f}  contributes {gain:+.4f} +- {deviation:.4f}{noise}")
    with open(folder / "ablation.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("variant", metric, "contributes", "deviation", "seeds"), *rows])


if __name__ == "__main__":
    main()
