"""Train what ingredients.ini describes: `python train.py [INGREDIENTS] [--section.key VALUE ...]`."""

from recipes.command import Command
from recipes.settings import call_functions


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        _, ingredients = command.read()
        functions = call_functions(ingredients)
        from recipes.train import train  # torch is imported only now: a mistake in the file shows at once

        train(ingredients, functions)


if __name__ == "__main__":
    main()
