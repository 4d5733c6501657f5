"""Say what the trained model makes of images, or of what else the task takes: files of rows, texts.

python -m recipes.predict a.png b.jpg                    with the best weights of the newest run
python -m recipes.predict a.png --run models/0.0.0/model.pth
"""

from pathlib import Path

from core import Ingredients, IngredientsError, Place, Problem
from recipes.command import Command
from recipes.validate import check_run, open_model


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("images", nargs="+", metavar="INPUT")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        arguments, ingredients = command.read(with_functions=False, checks=[check_run, check_images])
        from recipes import data
        from recipes.train import load_task

        ingredients, functions, model, meta = open_model(arguments.run, ingredients, command.overrides)
        preprocess = functions.at("testing.preprocess") or functions.at("training.preprocess") or data.scale
        device, task = next(model.parameters()).device, load_task(ingredients)
        read, samples = getattr(task, "read_sample", read_sample), []
        for path in arguments.images:  # all are read before the first answer
            found = read(path, meta["form"])
            samples += found.items() if isinstance(found, dict) else [(path, found)]
        width = max(len(path) for path, _ in samples)
        for path, sample in samples:
            inputs = data.as_input(preprocess(sample))[None].to(device)
            try:
                [said] = task.predict(model, inputs, meta["classes"], functions.at("testing.views"))
            except RuntimeError as error:
                shapes = f"{list(inputs.shape[1:])} after preprocess, but {meta['shape']} in training"
                raise IngredientsError(f"{path}: {shapes}; resize in [testing.preprocess]") from error
            print(f"{path:<{width}}  {said}")


def check_images(arguments, ingredients: Ingredients) -> str:
    """For --check. Raises IngredientsError with all images that are not there; what else a task reads is its own."""
    from recipes.train import load_task

    if hasattr(load_task(ingredients), "read_sample"):
        return f"to predict: {len(arguments.images)}"
    missing = [path for path in arguments.images if not Path(path).is_file()]
    if missing:
        raise IngredientsError([Problem(Place("command line"), path, "", "there is no such file") for path in missing])
    return f"images: {len(arguments.images)}"


def read_sample(path: str, form: dict):
    """An image file in the form that the training loader gave, before preprocess (see `_form` in recipes/data.py)."""
    from pantry.data import decode_image

    image = decode_image(path, form["channels"], form["size"])
    if form["float"]:
        image = image / 255 if form["divided"] else image.float()
    if form["kind"] == "image":
        from PIL import Image

        return Image.fromarray((image[0] if form["channels"] == 1 else image.permute(1, 2, 0)).numpy())
    if form["axes"] == 2:
        image = image[0]
    elif form["channels_last"]:
        image = image.permute(1, 2, 0)
    return image.numpy() if form["kind"] == "array" else image


if __name__ == "__main__":
    main()
