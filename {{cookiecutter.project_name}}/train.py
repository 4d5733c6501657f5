"""Train what ingredients.ini describes: `python train.py [INGREDIENTS] [--section.key VALUE ...]`."""

from core.command import Command
from recipes.settings import SECTIONS, call_functions, read_ingredients


def main() -> None:
    with Command(__doc__, SECTIONS) as command:

        def add_arguments(parser):
            parser.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")

        arguments = command.parse(add_arguments)
        ingredients = read_ingredients(arguments.ingredients, command.overrides)
        command.answer(arguments, ingredients)
        functions = call_functions(ingredients)
        from recipes.train import train  # torch is imported only now: a mistake in the file shows at once

        train(ingredients, functions)


if __name__ == "__main__":
    main()
