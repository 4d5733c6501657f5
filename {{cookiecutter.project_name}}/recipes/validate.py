"""Measure a trained model again.

python -m recipes.validate                       the newest run, on the validation data it was chosen by
python -m recipes.validate --on testing
python -m recipes.validate --run runs/digits/2026-01-31_12-00-00
python -m recipes.validate --run models/0.0.0/model.pth
"""

from pathlib import Path

from core import Ingredients, IngredientsError, parse_string, resolve
from core.command import Command
from core.settings import read_section
from recipes.settings import SECTIONS, Architecture, Saving, Scheme, read_ingredients


def measure(
    ingredients: Ingredients, functions: Ingredients, model, split: str, debug: bool = False
) -> tuple[dict, int]:
    """(figures, number of samples) of a model on one split: training, validation or testing."""
    from recipes import data
    from recipes.train import choose_device, first_batch, load_task, load_training_data, progress

    scheme = read_section(ingredients, "training.scheme", Scheme)
    if split == "testing":
        if functions.at("testing.load_dataset") is None:
            raise IngredientsError("there is no [testing.load_dataset]; add one, or measure on validation")
        preprocess = functions.at("testing.preprocess") or functions.at("training.preprocess") or data.scale
        samples = data.load("testing.load_dataset", functions, preprocess, scheme.memory)
    else:
        samples = load_training_data(ingredients, functions, scheme)[split == "validation"]
    device = choose_device(ingredients, scheme.device)
    samples = data.to_device(samples, device)
    batches = data.batches(samples, first_batch(samples, debug), 512, device, 0 if debug else scheme.workers)
    return load_task(ingredients).evaluate(model, progress(batches, None, split)), len(samples)


def open_model(path: str | None, ingredients: Ingredients, overrides=()):
    """(ingredients, functions, model, meta) of a checkpoint; of the newest run of `ingredients` without a path."""
    from recipes import checkpoint, runs
    from recipes.train import choose_device, load_task

    saving = read_section(ingredients, "training.model", Saving)
    parent = Path(saving.runs) / str(ingredients.at("project.name", "project"))
    state = checkpoint.load(runs.find_checkpoint(parent, path))
    meta = state["meta"]
    ingredients = parse_string(meta["ingredients"], overrides)
    functions = resolve(ingredients)
    import torch

    architecture = read_section(ingredients, "model.architecture", Architecture)
    scheme = read_section(ingredients, "training.scheme", Scheme)
    task = load_task(ingredients)
    model = task.build_model(ingredients, architecture, torch.zeros(meta["shape"]), len(meta["classes"]))
    model.load_state_dict(state["model"])
    return ingredients, functions, model.to(choose_device(ingredients, scheme.device)), meta


def main() -> None:
    with Command(__doc__, SECTIONS) as command:

        def add_arguments(parser):
            parser.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
            parser.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
            parser.add_argument("--on", choices=["training", "validation", "testing"], default="validation")

        arguments = command.parse(add_arguments)
        ingredients = read_ingredients(arguments.ingredients, command.overrides)
        ingredients, functions, model, _ = open_model(arguments.run, ingredients, command.overrides)
        figures, count = measure(ingredients, functions, model, arguments.on)
        said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{arguments.on}: {said} ({count:,} samples)")


if __name__ == "__main__":
    main()
