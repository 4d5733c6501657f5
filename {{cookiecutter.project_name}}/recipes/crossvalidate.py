"""Cross-validation: train on all parts of the training data but one, evaluate on that one, for each part.

python -m recipes.crossvalidate                          5 runs of ingredients.ini
python -m recipes.crossvalidate other.ini --folds 10 --training.scheme.epochs 5

Prints the metrics of each fold's best epoch, their mean and standard deviation. Each fold selects its epoch on the part
that it is evaluated on, so the mean is a little too good: compare it with other cross-validations.
"""

import statistics
import time

from core import IngredientsError
from recipes.parts.command import Command
from recipes.parts.records import find_runs, metrics_of, read_run, train
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
        for part in (f"{fold}/{arguments.folds}" for fold in range(1, arguments.folds + 1)):
            folder = parent / f"fold-{part.partition('/')[0]}"
            changes = {path: value for path, value, _ in command.overrides} | {"training.scheme.fold": part}
            if code := train(arguments.ingredients, folder, changes):
                raise SystemExit(code)
            results.append(metrics_of(read_run(find_runs(folder)[-1]).best))
            print(f"fold {part}  {format_metrics(results[-1])}", flush=True)
        print(summarize(results))
        print(f"runs: {parent}")


def summarize(results: list[dict[str, float]]) -> str:
    """The mean and the standard deviation of each metric, on one line."""
    lines = []
    for name in results[0]:
        values = [metrics[name] for metrics in results]
        lines.append(f"{name} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}")
    return "mean      " + ", ".join(lines)


if __name__ == "__main__":
    main()
