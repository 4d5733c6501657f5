"""Name the class of images.

python -m recipes.predict a.png b.jpg                    with the best weights of the newest run
python -m recipes.predict a.png --run models/0.0.0/model.pth
"""

from core.command import Command
from recipes.settings import SECTIONS, read_ingredients


def main() -> None:
    with Command(__doc__, SECTIONS) as command:

        def add_arguments(parser):
            parser.add_argument("images", nargs="+", metavar="IMAGE")
            parser.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
            parser.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")

        arguments = command.parse(add_arguments)
        ingredients = read_ingredients(arguments.ingredients, command.overrides)
        from recipes import data
        from recipes.train import load_task
        from recipes.validate import open_model

        ingredients, functions, model, meta = open_model(arguments.run, ingredients, command.overrides)
        preprocess = functions.at("testing.preprocess") or functions.at("training.preprocess") or data.scale
        device = next(model.parameters()).device
        samples = [read_sample(path, meta["form"]) for path in arguments.images]  # all are read before the first answer
        width = max(map(len, arguments.images))
        for path, sample in zip(arguments.images, samples, strict=True):
            inputs = data.as_input(preprocess(sample))[None].to(device)
            [(name, confidence)] = load_task(ingredients).predict(model, inputs, meta["classes"])
            print(f"{path:<{width}}  {name}  {confidence:.4f}")


def read_sample(path: str, form: dict):
    """An image file in the form that the training loader gave: a tensor (C, H, W), or an array (H, W) or (H, W, C)."""
    from pathlib import Path

    from pantry.data import decode_image

    image = decode_image(Path(path), form["channels"])
    if form["axes"] == 2:
        image = image[0]
    elif form["array"]:
        image = image.permute(1, 2, 0)
    return image.numpy() if form["array"] else image


if __name__ == "__main__":
    main()
