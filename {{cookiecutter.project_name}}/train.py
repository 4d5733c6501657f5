"""Train what ingredients.ini describes: `python train.py [INGREDIENTS] [--section.key VALUE ...]`."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C prints no traceback of an import

import os  # noqa: E402
from contextlib import nullcontext, redirect_stdout  # noqa: E402

from core import Ingredients  # noqa: E402
from recipes.parts.command import Command  # noqa: E402
from recipes.settings import call_functions  # noqa: E402


def check_resume(arguments, ingredients: Ingredients) -> str:
    """For --check: the run that would be resumed. Raises IngredientsError if there is none."""
    if arguments.resume is None:
        return ""
    from recipes.parts.trained import find_run, runs_of

    return f"resume: {find_run(runs_of(ingredients), arguments.resume) or 'there is no run yet'}"


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--resume", nargs="?", const="", metavar="RUN", help="resume the newest run, or this one")
        command.add_argument("--quiet", action="store_true", help="print errors only; the run's log.txt has everything")
        arguments, ingredients = command.read(checks=[check_resume])
        functions = call_functions(ingredients)
        if arguments.quiet:
            os.environ["TQDM_DISABLE"] = "1"
        from recipes.train import train  # torch is imported only now: a mistake in the file shows at once

        command.interruptible()
        with redirect_stdout(open(os.devnull, "w")) if arguments.quiet else nullcontext():
            train(ingredients, functions, arguments.resume)


if __name__ == "__main__":
    main()
