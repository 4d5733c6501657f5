"""Train what ingredients.ini describes: `python train.py [INGREDIENTS] [--section.key VALUE ...]`."""

import os
from contextlib import nullcontext, redirect_stdout

from recipes.command import Command
from recipes.settings import call_functions


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument(
            "--resume", nargs="?", const="", metavar="RUN", help="go on with the newest run, or this one"
        )
        command.add_argument(
            "--quiet", action="store_true", help="say nothing but errors; log.txt of the run has it all"
        )
        arguments, ingredients = command.read()
        functions = call_functions(ingredients)
        if arguments.quiet:
            os.environ["TQDM_DISABLE"] = "1"
        from recipes.train import train  # torch is imported only now: a mistake in the file shows at once

        with redirect_stdout(open(os.devnull, "w")) if arguments.quiet else nullcontext():
            train(ingredients, functions, arguments.resume)


if __name__ == "__main__":
    main()
