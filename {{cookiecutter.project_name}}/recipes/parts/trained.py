"""A trained model, opened as it was in its run."""

from pathlib import Path

from core import Ingredients, parse_string, resolve
from recipes.experiment import Experiment, build, configure
from recipes.parts import checkpoint
from recipes.parts.resume import find_checkpoint
from recipes.run import runs_folder
from recipes.settings import Saving, check_sections, declared_paths, import_functions, read_section


def find_trained(path: str | None, ingredients: Ingredients) -> Path:
    """The checkpoint of a run folder or file; of the newest run of `ingredients` without a path."""
    saving = read_section(ingredients, "training.model", Saving)
    return find_checkpoint(runs_folder(ingredients, saving.runs), path)


class Functions:
    """The functions that ingredients call, each made when it is asked for: a prediction needs few of them.

    `made` has them by the path of their section; None for one that is absent, or that --check has found wrong.
    """

    def __init__(self, ingredients: Ingredients):
        self.ingredients, self.made = ingredients, {}

    def at(self, path: str):
        if path not in self.made:
            section = self.ingredients.at(path)
            self.made[path] = None if section is None else resolve(section)
        return self.made[path]


def open_trained(path: str | None, ingredients: Ingredients, overrides=()) -> Experiment:
    """The experiment of a checkpoint, with its model. See `find_trained`.

    All is as it was in that run, its custom_functions.py too; `overrides` change the ingredients.
    """
    file = find_trained(path, ingredients)
    state = checkpoint.load(file)
    import_functions(file.parent.parent)
    ingredients = parse_string(state["meta"]["ingredients"], overrides, declared_paths(), [check_sections])
    experiment = build(configure(ingredients, Functions(ingredients)), meta=state["meta"])
    experiment.model.load_state_dict(state["model"])
    return experiment
