"""Cross-validation: train on all parts of the training data but one, evaluate on that one, for each part.

python -m recipes.crossvalidate                          5 runs of ingredients.ini
python -m recipes.crossvalidate other.ini --folds 10 --training.scheme.epochs 5

Prints the metrics of each fold's best epoch, their mean and standard deviation. Each fold selects its epoch on the part
that it is evaluated on, so the mean is a little too good: compare it with other cross-validations.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from core import IngredientsError
from recipes.parts.command import Command
from recipes.run import format_metrics, runs_folder
from recipes.settings import Saving, read_section


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--folds", type=int, default=5, help="parts of the training data; default: 5")
        arguments, ingredients = command.read()
        if arguments.folds < 2:
            raise IngredientsError(f"--folds {arguments.folds}: expected 2 or more")
        parent = runs_folder(ingredients, read_section(ingredients, "training.model", Saving).runs)
        parent /= time.strftime("crossvalidation_%Y-%m-%d_%H-%M-%S")
        results = []
        for fold in range(1, arguments.folds + 1):
            folder = parent / f"fold-{fold}"
            part = f"{fold}/{arguments.folds}"
            metrics = train_fold(arguments.ingredients, command.overrides, part, folder)
            print(f"fold {part}  {format_metrics(metrics)}", flush=True)
            results.append(metrics)
        print(summarize(results))
        print(f"runs: {parent}")


def train_fold(file: str, overrides: list[tuple], fold: str, folder: Path) -> dict[str, float]:
    """Train in a process of its own; returns the metrics of the best epoch. Exits as the training does if it fails."""
    changes = {path: value for path, value, _ in overrides} | {
        "training.scheme.fold": fold,
        "training.model.runs": folder,
        "training.model.save_name": folder / "model.pth",
    }
    command = [sys.executable, "train.py", file, "--quiet"]
    command += [text for path, value in changes.items() for text in ("--add", f"{path}={value}")]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)
    from recipes.parts import checkpoint

    return checkpoint.load(folder / "model.pth")["best"]


def summarize(results: list[dict[str, float]]) -> str:
    """The mean and the standard deviation of each metric, on one line."""
    lines = []
    for name in (name for name in results[0] if "." not in name):
        values = [metrics[name] for metrics in results]
        lines.append(f"{name} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}")
    return "mean      " + ", ".join(lines)


if __name__ == "__main__":
    main()
