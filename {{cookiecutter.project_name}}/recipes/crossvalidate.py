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
from recipes.parts.records import metrics_of, train


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--folds", type=int, default=5, help="parts of the training data; default: 5")
        arguments, ingredients = command.read()
        if arguments.folds < 2:
            raise IngredientsError(f"--folds {arguments.folds}: expected 2 or more")
        from recipes.parts.trained import runs_of

        parent, name = runs_of(ingredients), time.strftime("crossvalidation_%Y-%m-%d_%H-%M-%S")
        results, given = [], {path: text for path, text, _ in command.overrides}
        for fold in range(1, arguments.folds + 1):
            part = {"training.scheme.fold": f"{fold}/{arguments.folds}"}
            run = train(arguments.ingredients, parent, f"{name}/fold-{fold}", given | part)
            if run is None:
                raise SystemExit(1)
            results.append(metrics_of(run.best))
            shown = ", ".join(f"{metric} {value:.4f}" for metric, value in results[-1].items())
            print(f"fold {fold}/{arguments.folds}  {shown}", flush=True)
        print(summarize(results))
        print(f"runs: {parent / name}")


def summarize(results: list[dict[str, float]]) -> str:
    """The mean and the standard deviation of each metric, on one line."""
    lines = []
    for name in results[0]:
        values = [metrics[name] for metrics in results]
        lines.append(f"{name} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}")
    return "mean      " + ", ".join(lines)


if __name__ == "__main__":
    main()
