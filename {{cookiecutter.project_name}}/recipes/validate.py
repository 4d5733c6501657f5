"""Evaluate a trained model: metrics with 95 % intervals, a table by class, calibration, the worst samples.

python -m recipes.validate                       the newest run, on the validation data that selected it
python -m recipes.validate --on testing
python -m recipes.validate --on ~/new-photos     labelled data, laid out as that of training
python -m recipes.validate --run models/0.0.0/model.pth
python -m recipes.validate --thresholds          choose a threshold for each class, and keep it with the weights

Writes JSON, CSV and PNG files into RUN/evaluation/; recipes/parts/evaluation.py lists what they hold.
"""

from pathlib import Path

from core import Ingredients, IngredientsError, resolve
from core.errors import escaped
from recipes.parts.command import Command

MOST = 20  # lines of a table
SPLITS = ("validation", "testing", "training")


def check_on(arguments, ingredients: Ingredients) -> None:
    """Refuse arguments that name no data, or data that thresholds cannot be chosen on."""
    split = arguments.on
    if arguments.thresholds and split in ("testing", "training"):
        raise IngredientsError(f"--on {split}: thresholds are chosen on data of neither training nor testing")
    if split not in SPLITS and not Path(split).expanduser().exists():
        message = "there is no such folder; expected validation, testing, training, or a folder"
        raise IngredientsError(f"--on {split}: {message}")


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        on = "validation (default), testing, training, or a folder of labelled data"
        command.add_argument("--on", metavar="SPLIT", default="validation", help=on)
        command.add_argument("--thresholds", action="store_true", help="choose those of the highest F1")
        arguments, ingredients = command.read(with_functions=False, checks=[check_on])
        check_on(arguments, ingredients)
        from tqdm import tqdm

        from recipes.parts.evaluation import evaluate_run
        from recipes.parts.trained import find_trained, open_trained

        file = find_trained(arguments.run, ingredients)
        experiment = open_trained(str(file), ingredients, command.overrides)
        command.ingredients = experiment.ingredients
        split, samples = arguments.on, None
        if split not in SPLITS:
            split, samples = load_folder(experiment, split)
        of_run = file.name == "best.pt" and file.parent.name == "checkpoints"
        folder = file.parent.parent / "evaluation" if of_run else file.with_name(f"{file.stem}-evaluation")
        progress = lambda batches, count, text: tqdm(batches, desc=text, leave=False, disable=None)  # noqa: E731
        found = evaluate_run(experiment, split, folder, progress, samples, arguments.thresholds)
        print(escaped("\n".join([*describe(found), f"written: {folder / split}.json"])))
        if arguments.thresholds:
            keep_thresholds(file, found["thresholds"], experiment)


def load_folder(experiment, source: str) -> tuple:
    """(name, samples) of labelled data, which takes the place of test data."""
    import torch

    from pantry.images import ImageFolder

    names = [f"{split}.load_dataset" for split in ("testing", "validation", "training")]
    section = next(name for name in names if experiment.ingredients.at(name) is not None)
    settings, path = dict(experiment.ingredients.at(section)), Path(source).expanduser()
    if "source" not in settings:
        raise IngredientsError(f"--on {source}: [{section}] has no source to replace; expected {', '.join(SPLITS)}")
    table = {"split": "all", "like": experiment.ingredients.at("training.load_dataset.source")}
    known = table if settings["@load_dataset"] == "load_csv" else {"split": "training"} if "split" in settings else {}
    settings |= {"source": str(path)} | known
    loader, classes = resolve(Ingredients(settings)), experiment.meta["classes"]

    def load():
        data = loader()
        if isinstance(data, ImageFolder) and data.targets.ndim == 1 and {*data.classes} < {*classes}:
            data.targets = torch.tensor([classes.index(name) for name in data.classes])[data.targets]
            data.classes = classes  # it lacks some
        return data

    experiment.functions.made["testing.load_dataset"] = load
    return f"folder-{path.resolve().stem}", experiment.load_checked("testing")


def describe(found: dict) -> list[str]:
    """The lines that are printed."""
    from recipes.run import format_metrics

    lines = [f"{found['split']}: {format_metrics(found['metrics'])} ({found['samples']:,} samples)"]
    values, limits = found["metrics"], found["intervals"].items()
    limits = {name: {"value": values[name], "from": low, "to": high} for name, (low, high) in limits}
    for title, table in (("95 %", limits), ("class", found["table"]), ("class", found.get("thresholds", {}))):
        width = max(map(len, [title, *table]))
        for row in list(table.values())[:1]:
            lines += ["", f"{title:<{width}}" + "".join(f"{column:>11}" for column in row)]
        for name, row in list(table.items())[:MOST]:
            cells = [f"{value:>11,}" if isinstance(value, int) else f" {value:>10.4f}" for value in row.values()]
            lines.append(f"{name:<{width}}" + "".join(cells))
    if "calibration" in found:
        lines += ["", f"expected calibration error: {found['calibration']['ece']:.4f}"]
    speed = found["images_per_second"]
    lines.append(f"samples per second: {speed['all']:,.0f}, and {speed['model']:,.0f} without reading them")
    for worst in found["worst"][:5]:
        facts = [f"{key} {worst[key]:.4g}" if isinstance(worst[key], float) else f"{key} {worst[key]}" for key in worst]
        lines.append(f"worst: {worst['sample']} ({', '.join(facts[2 : len(facts) - ('picture' in worst)])})")
    return lines


def keep_thresholds(file: Path, thresholds: dict, experiment) -> None:
    """Write them into the checkpoint, and into those of the run and its released ones that have the same weights."""
    import torch

    from recipes.parts import checkpoint
    from recipes.run import weights_files

    weights = checkpoint.load(file)["model"]
    others = (file.with_name("best.pt"), file.with_name("last.pt"), *weights_files(experiment.saving))
    for path in dict.fromkeys([file, *others]):
        state = checkpoint.load(path) if path.is_file() else {"model": {}}
        if all(name in state["model"] and torch.equal(state["model"][name], weights[name]) for name in weights):
            chosen = {name: row["threshold"] for name, row in thresholds.items()}
            state["meta"]["thresholds"] = state["meta"].get("thresholds", {}) | chosen  # a class may have no samples
            checkpoint.save(path, state)
            print(f"thresholds kept: {path}")


if __name__ == "__main__":
    main()
