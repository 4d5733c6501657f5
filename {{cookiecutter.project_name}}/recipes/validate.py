"""Evaluate a trained model again.

python -m recipes.validate                       the newest run, on the validation data that selected it
python -m recipes.validate --on testing
python -m recipes.validate --run runs/digits/2026-01-31_12-00-00
python -m recipes.validate --run models/0.0.0/model.pth
"""

from core import Ingredients
from recipes.parts.command import Command


def check_run(arguments, ingredients: Ingredients) -> str:
    """For --check: the checkpoint that would be opened. Raises IngredientsError if there is none."""
    from recipes.parts.trained import find_trained

    return f"weights: {find_trained(arguments.run, ingredients)}"


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        command.add_argument("--on", choices=["training", "validation", "testing"], default="validation")
        arguments, ingredients = command.read(with_functions=False, checks=[check_run])
        from tqdm import tqdm

        from recipes.parts.trained import open_trained
        from recipes.run import format_metrics

        experiment = open_trained(arguments.run, ingredients, command.overrides)
        command.ingredients = experiment.ingredients
        progress = lambda batches, count, text: tqdm(batches, desc=text, leave=False, disable=None)  # noqa: E731
        metrics, count = experiment.evaluate_split(arguments.on, progress)
        print(f"{arguments.on}: {format_metrics(metrics)} ({count:,} samples)")


if __name__ == "__main__":
    main()
