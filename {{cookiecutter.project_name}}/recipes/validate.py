"""Measure a trained model again.

python -m recipes.validate                       the newest run, on the validation data it was chosen by
python -m recipes.validate --on testing
python -m recipes.validate --run runs/digits/2026-01-31_12-00-00
python -m recipes.validate --run models/0.0.0/model.pth
"""

from core import Ingredients, located, parse_string
from core.declared import read_section
from recipes.command import Command
from recipes.settings import SECTIONS, Architecture, Saving, Scheme, call_functions, import_functions


def measure(ingredients: Ingredients, functions: Ingredients, model, split: str, meta: dict, debug=False) -> tuple:
    """(figures, number of samples) of a model on one split: training, validation or testing.

    `meta`: the classes and the shape that it was trained with; other data is refused.
    """
    from tqdm import tqdm

    from recipes import data, runs
    from recipes.techniques import arithmetic, choose_device
    from recipes.train import first_batch, load_task, load_training_data, metrics_of

    scheme, task = read_section(ingredients, "training.scheme", Scheme), load_task(ingredients)
    if split == "testing":
        if functions.at("testing.load_dataset") is None:
            raise located(ingredients, "testing.load_dataset", "missing; add the section, or measure on validation")
        preprocess = functions.at("testing.preprocess") or functions.at("training.preprocess") or data.scale
        samples = data.load("testing.load_dataset", functions, preprocess, scheme.memory)
    else:
        samples = load_training_data(ingredients, functions, scheme)[split == "validation"]
    task.check_other_data(ingredients, f"{split}.load_dataset", samples, meta)
    if samples.shape != meta["shape"]:
        tqdm.write(f"note: a sample of {split} is {samples.shape}, but the network was trained on {meta['shape']}")
    device = choose_device(ingredients, scheme.device)
    order = first_batch(samples, debug)
    count = len(samples if order is None else order)
    batches = data.reader(data.to_device(samples, device), 512, device, 0 if debug else scheme.workers)(order)
    metrics = metrics_of(functions, device)
    views = functions.at("testing.views") if split == "testing" else None
    with arithmetic(scheme.precision, device)[0]:
        return task.evaluate(model, runs.progress(batches, count, split), metrics, views), count


def open_model(path: str | None, ingredients: Ingredients, overrides=()):
    """(ingredients, functions, model, meta) of a checkpoint; of the newest run of `ingredients` without a path.

    All is as it was in that run, its custom_functions.py too; `overrides` change the ingredients.
    """
    from recipes import checkpoint, runs
    from recipes.techniques import choose_device
    from recipes.train import load_task

    saving = read_section(ingredients, "training.model", Saving)
    path = runs.find_checkpoint(runs.folder_of(ingredients, saving.runs), path)
    state = checkpoint.load(path)
    meta = state["meta"]
    import_functions(path.parent.parent)
    ingredients = parse_string(meta["ingredients"], overrides, SECTIONS)
    functions = call_functions(ingredients)
    architecture = read_section(ingredients, "model.architecture", Architecture)
    scheme = read_section(ingredients, "training.scheme", Scheme)
    model = load_task(ingredients).build_model(ingredients, architecture, meta["shape"], len(meta["classes"]))
    model.class_names = meta["classes"]
    model.load_state_dict(state["model"])
    return ingredients, functions, model.to(choose_device(ingredients, scheme.device)), meta


def check_run(arguments, ingredients: Ingredients) -> str:
    """For --check: the checkpoint that would be opened. Raises IngredientsError where there is none."""
    from recipes import runs

    saving = read_section(ingredients, "training.model", Saving)
    return f"weights: {runs.find_checkpoint(runs.folder_of(ingredients, saving.runs), arguments.run)}"


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        command.add_argument("--on", choices=["training", "validation", "testing"], default="validation")
        arguments, ingredients = command.read(with_functions=False, checks=[check_run])
        ingredients, functions, model, meta = open_model(arguments.run, ingredients, command.overrides)
        figures, count = measure(ingredients, functions, model, arguments.on, meta)
        said = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(f"{arguments.on}: {said} ({count:,} samples)")


if __name__ == "__main__":
    main()
