"""Evaluate a trained model: metrics with 95 % intervals, a table by class, calibration, the worst samples.

python -m recipes.validate                       the newest run, on the validation data that selected it
python -m recipes.validate --on testing
python -m recipes.validate --on ~/new-photos     on labelled data of your own, laid out as the training data
python -m recipes.validate --run runs/digits/2026-01-31_12-00-00
python -m recipes.validate --run models/0.0.0/model.pth
python -m recipes.validate --thresholds          choose a threshold for each class, and keep them with the weights

Writes JSON, CSV and PNG files into RUN/evaluation/; see recipes/parts/evaluation.py.
"""

from pathlib import Path

from core import Ingredients, IngredientsError, resolve
from recipes.parts.command import Command

SHOWN = 25  # lines of a table in the terminal


def check_run(arguments, ingredients: Ingredients) -> str:
    """For --check: the checkpoint that would be opened. Raises IngredientsError if there is none."""
    from recipes.parts.trained import find_trained

    return f"weights: {find_trained(arguments.run, ingredients)}"


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        on = "validation (default), testing, training, or a folder of labelled data"
        command.add_argument("--on", metavar="SPLIT", default="validation", help=on)
        command.add_argument("--thresholds", action="store_true", help="choose those of the best F1 on this data")
        arguments, ingredients = command.read(with_functions=False, checks=[check_run])
        from tqdm import tqdm

        from recipes.parts.evaluation import evaluate_run
        from recipes.parts.trained import find_trained, open_trained

        file = find_trained(arguments.run, ingredients)
        experiment = open_trained(arguments.run, ingredients, command.overrides)
        command.ingredients = experiment.ingredients
        split, samples = arguments.on, None
        if split not in ("validation", "testing", "training"):
            split, samples = load_folder(experiment, split)
        of_run = file.name == "best.pt" and file.parent.name == "checkpoints"
        folder = file.parent.parent / "evaluation" if of_run else file.with_name(f"{file.stem}-evaluation")
        progress = lambda batches, count, text: tqdm(batches, desc=text, leave=False, disable=None)  # noqa: E731
        found = evaluate_run(experiment, split, folder, progress, samples, arguments.thresholds)
        print("\n".join(describe(found)))
        print(f"written: {folder}/{split}.json")
        if arguments.thresholds:
            keep_thresholds(file, found["thresholds"], experiment)


def load_folder(experiment, source: str) -> tuple:
    """(name, samples) of labelled data: that of the validation or training section, with another source."""
    names = ("validation.load_dataset", "training.load_dataset")
    section = next(name for name in names if experiment.ingredients.at(name) is not None)
    settings = dict(experiment.ingredients.at(section))
    if "source" not in settings or not Path(source).expanduser().exists():
        reason = "there is no such folder" if "source" in settings else f"[{section}] has no source to replace"
        raise IngredientsError(f"--on {source}: {reason}; expected validation, testing, training, or a folder")
    settings |= {"source": str(Path(source).expanduser())} | ({"split": "training"} if "split" in settings else {})
    experiment.functions.made["testing.load_dataset"] = resolve(Ingredients(settings))
    return f"folder-{Path(source).resolve().stem}", experiment.load_checked("testing")


def describe(found: dict) -> list[str]:
    """The lines that are printed."""
    from recipes.run import format_metrics

    lines = [f"{found['split']}: {format_metrics(found['metrics'])} ({found['samples']:,} samples)"]
    for name, (low, high) in found["intervals"].items():
        lines.append(f"    {name:<16} {found['metrics'][name]:.4f}   95 %: {low:.4f} to {high:.4f}")
    for table in ("table", "thresholds"):
        rows = list(found.get(table, {}).items())[:SHOWN]
        if rows:
            width = max(len(name) for name, _ in rows)
            lines += ["", f"{'':<{width}}" + "".join(f"{column:>11}" for column in rows[0][1])]
            lines += [
                f"{name:<{width}}"
                + "".join(f"{value:>11,}" if isinstance(value, int) else f"{value:>11.4f}" for value in row.values())
                for name, row in rows
            ]
    return lines


def keep_thresholds(file: Path, thresholds: dict, experiment) -> None:
    """Write them into the checkpoint, and into the others of the run and the released ones that have its weights."""
    import torch

    from recipes.parts import checkpoint
    from recipes.run import weights_files

    if not thresholds:
        raise IngredientsError("--thresholds: this task has none")
    state = checkpoint.load(file)
    for path in dict.fromkeys(
        [file, file.with_name("best.pt"), file.with_name("last.pt"), *weights_files(experiment.saving)]
    ):
        other = checkpoint.load(path) if path.is_file() else {"model": {}}
        if other["model"].keys() == state["model"].keys() and all(
            torch.equal(value, state["model"][name]) for name, value in other["model"].items()
        ):
            other["meta"]["thresholds"] = {name: row["threshold"] for name, row in thresholds.items()}
            checkpoint.save(path, other)
            print(f"thresholds: {path}")


if __name__ == "__main__":
    main()
