"""Train what ingredients.ini describes: `python train.py [INGREDIENTS] [--section.key VALUE ...]`."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C prints no traceback of an import

import os  # noqa: E402
from contextlib import nullcontext, redirect_stdout  # noqa: E402

from recipes.parts.command import Command  # noqa: E402
from recipes.settings import call_functions  # noqa: E402


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--resume", nargs="?", const="", metavar="RUN", help="resume the newest run, or this one")
        command.add_argument("--quiet", action="store_true", help="print errors only; the run's log.txt has everything")
        arguments, ingredients = command.read()
        functions = call_functions(ingredients)
        if arguments.quiet:
            os.environ["TQDM_DISABLE"] = "1"
        from recipes.train import train  # torch is imported only now: a mistake in the file shows at once

        command.interruptible()
        with redirect_stdout(open(os.devnull, "w")) if arguments.quiet else nullcontext():
            train(ingredients, functions, arguments.resume)


if __name__ == "__main__":
    main()
