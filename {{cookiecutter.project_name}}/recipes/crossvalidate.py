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
from recipes.run import runs_folder
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
            metrics = train_fold(arguments.ingredients, sys.argv[1:], f"{fold}/{arguments.folds}", folder)
            print(f"fold {fold}/{arguments.folds}  {format_row(metrics)}", flush=True)
            results.append(metrics)
        print(summarize(results))
        print(f"runs: {parent}")


def train_fold(file: str, argv: list[str], fold: str, folder: Path) -> dict[str, float]:
    """Train in a process of its own; returns the metrics of the best epoch. Exits as the training does if it fails."""
    own = {
        "training.scheme.fold": fold,
        "training.model.runs": folder,
        "training.model.save_name": folder / "model.pth",
    }
    overrides = [text for text in without_folds(argv) if text != file]
    command = [sys.executable, "train.py", file, "--quiet", *overrides]
    command += [text for path, value in own.items() for text in ("--add", f"{path}={value}")]
    if code := subprocess.run(command).returncode:
        raise SystemExit(code)
    from recipes.parts import checkpoint

    return checkpoint.load(folder / "model.pth")["best"]


def without_folds(argv: list[str]) -> list[str]:
    """The command line without `--folds N`, for train.py."""
    kept, tokens = [], iter(argv)
    for token in tokens:
        if token == "--folds":
            next(tokens, None)
        elif not token.startswith("--folds="):
            kept.append(token)
    return kept


def format_row(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "." not in name)


def summarize(results: list[dict[str, float]]) -> str:
    """The mean and the standard deviation of each metric, on one line."""
    names = [name for name in results[0] if "." not in name]
    columns = {name: [metrics[name] for metrics in results] for name in names}
    pairs = {name: (statistics.mean(values), statistics.stdev(values)) for name, values in columns.items()}
    return "mean      " + "  ".join(
        f"{name} {mean:.4f} +- {deviation:.4f}" for name, (mean, deviation) in pairs.items()
    )


if __name__ == "__main__":
    main()
