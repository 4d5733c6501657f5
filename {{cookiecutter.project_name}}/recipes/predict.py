"""Predict what the task takes: images, files of rows, texts.

python -m recipes.predict a.png b.jpg                    with the best weights of the newest run
python -m recipes.predict photos "*.png"                 the images of a folder; of a pattern
python -m recipes.predict a.png --run models/0.0.0/model.pth
"""

import glob
from pathlib import Path

from core import Ingredients, IngredientsError, Place, Problem
from core.errors import escaped
from recipes.parts.command import Command


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("inputs", nargs="+", metavar="INPUT")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        arguments, ingredients = command.read(with_functions=False, checks=[check_inputs])
        from recipes.parts.predictor import as_text, open_predictor

        predictor = open_predictor(arguments.run, ingredients, command.overrides)
        command.ingredients = predictor.ingredients
        samples, problems = [], []
        for path in find_inputs(arguments.inputs, predictor.task):  # all are read before the first answer
            try:
                samples += predictor.read(path)
            except IngredientsError as error:
                problems.append(str(error))
        width = max((len(name) for name, _ in samples), default=0)
        for name, sample in samples:
            try:
                [prediction] = predictor([predictor.prepare(sample)])
            except IngredientsError as error:
                raise error if error.problems else IngredientsError(f"{name}: {error}") from error
            print(escaped(f"{name:<{width}}  {as_text(prediction)}"))
        if problems:
            raise IngredientsError("\n".join(problems))


def find_inputs(names: list[str], task) -> list[str]:
    """The files that the arguments name: files, folders of images and patterns; a task may read something else.

    Raises IngredientsError with all that are not there.
    """
    from pantry.images import find_files
    from recipes.parts.calling import carried

    if carried(task, "READS"):
        return names
    paths, problems = [], []
    for name in names:
        matches = [name] if Path(name).exists() else sorted(glob.glob(name))
        inside = {path: find_files(Path(path)) for path in matches if Path(path).is_dir()}
        found = [file for path in matches for file in inside.get(path, [path])]
        paths += map(str, found)
        if not found:
            message = "there is no image in this folder" if inside else "there is no such file or folder"
            problems.append(Problem(Place("command line"), name, "", message))
    if problems:
        raise IngredientsError(problems)
    return paths


def check_inputs(arguments, ingredients: Ingredients) -> str:
    """For --check: the checkpoint that would be opened, and how much there is to predict."""
    from recipes.experiment import load_task
    from recipes.parts.trained import find_trained

    paths = find_inputs(arguments.inputs, load_task(ingredients))
    return f"weights: {find_trained(arguments.run, ingredients)}\ninputs: {len(paths)}"


if __name__ == "__main__":
    main()
