"""The command line that all scripts share: an ini file, overrides by path, and errors without a traceback."""

import argparse
import errno
import importlib
import importlib.util
import itertools
import os
import signal
import sys
import time
from pathlib import Path
from traceback import extract_tb

from core import Ingredients, IngredientsError, locate, parse
from core.errors import escaped, suggest
from recipes.settings import check_sections, declared_paths, read_ingredients

# Options that answer and exit: name -> (the script that answers, its argument, help). A script may be deleted.
ANSWERS = {
    "check": ("recipes.check", None, "find what is wrong, without data and without training"),
    "print": ("recipes.explain", None, "print the ingredients with all references resolved"),
    "explain": ("recipes.explain", "PATH", "print where a setting comes from and what reads it"),
    "list": ("recipes.explain", "REGISTRY", "print the functions of a registry, such as loss, and their arguments"),
}
STDOUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF, errno.EINVAL)


class Command:
    """`with Command(__doc__) as command:` exits with code 1 and a clear message on a mistake of the user.

    A context manager, so that it adds no frame to the traceback of an error in the user's own code.
    """

    def __init__(self, description: str, argv: list[str] | None = None):
        self.overrides, self.rest = split_overrides(sys.argv[1:] if argv is None else argv)
        self.ingredients = None
        self.parser = argparse.ArgumentParser(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            usage="%(prog)s [options] [--section.key VALUE ...]",
        )
        self.add_argument = self.parser.add_argument
        one = self.parser.add_mutually_exclusive_group()
        for name, (script, metavar, text) in ANSWERS.items():
            if importlib.util.find_spec(script):
                kind = {"action": "store_true"} if metavar is None else {"metavar": metavar}
                kind |= {"nargs": "?", "const": ""} if name == "list" else {}
                one.add_argument(f"--{name}", help=f"{text}, and exit", **kind)
        self.add_argument("--add", metavar="PATH=VALUE", help="add a setting that the file does not have")
        self.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")

    def read(self, with_functions: bool = True, checks=()) -> tuple[argparse.Namespace, Ingredients]:
        """(arguments, ingredients) of the file that the argument `ingredients` names; or the answer, and the exit.

        `with_functions`: check what the file calls too; False if a run brings the functions of its own.
        `checks`: this script's own for --check: (arguments, ingredients) -> a line, or IngredientsError.
        """
        if {"-h", "--help"} & {*self.rest}:  # not left to argparse, which takes no notice of a write that fails
            if importlib.util.find_spec("recipes.explain"):
                self.parser.epilog = importlib.import_module("recipes.explain").all_settings()
            print(self.parser.format_help(), end="")
            raise SystemExit(0)
        arguments, unknown = self.parser.parse_known_args(self.rest)
        if unknown:
            names = [name for name in self.parser._option_string_actions if name[:2] == "--"]
            nearest = f"\n    {suggest(unknown[0].partition('=')[0], names)}" if unknown[0][:1] == "-" else ""
            self.parser.error(escaped(f"unrecognized arguments: {' '.join(unknown)}{nearest}"))
        file, home = arguments.ingredients, Path(__file__).resolve().parents[2]
        if (home / file).is_file() and not Path(file).exists() and vars(arguments).get("list") is None:
            raise IngredientsError(f"{file}: no such file here; run it in the project's folder, {home}")
        for name, (script, _, _) in ANSWERS.items():
            if vars(arguments).get(name) not in (None, False):
                raise SystemExit(importlib.import_module(script).answer(name, arguments, self.overrides, checks))
        if with_functions:
            self.ingredients = read_ingredients(arguments.ingredients, self.overrides)
        else:
            self.ingredients = parse(arguments.ingredients, self.overrides, declared_paths(), [check_sections])
        return arguments, self.ingredients

    def __enter__(self) -> "Command":
        # Ctrl-C while modules are imported: some of them would print a traceback of their own, or go on.
        self.before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        if sys.stderr is None:  # closed; progress bars would raise
            sys.stderr = open(os.devnull, "w")
        if sys.stdout is None:
            raise SystemExit("standard output is closed; > /dev/null discards what is printed")
        return self

    def interruptible(self) -> None:
        """From now on Ctrl-C raises KeyboardInterrupt, so that whatever is under way is cleaned up."""
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, kind, error, traceback) -> None:
        signal.signal(signal.SIGINT, self.before)
        try:
            sys.stdout.flush()
        except OSError as unwritten:
            error = unwritten
        if error is not None and (code := self.report(error)):
            raise SystemExit(code) from None

    def report(self, error) -> int:
        """Print what is wrong and can be mended; returns the exit code, 0 for any other error."""
        code = 1
        if isinstance(error, KeyboardInterrupt):
            message, code = "interrupted", 128 + signal.SIGINT  # as shells count
        elif _is_of_recipes(error, last=True) and error.filename is None and error.errno in STDOUT_ERRORS:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its exit
            message = f"cannot write to standard output: {error.strerror}"
            if error.errno == errno.EPIPE:  # as of `| head -1`
                return 128 + 13  # SIGPIPE, which Windows does not have
        elif isinstance(error, ModuleNotFoundError) and str(error.name).startswith(("pantry.", "recipes.")):
            message = f"{error.name.replace('.', '/')}.py is missing, and this needs it ({error})"
        elif _is_of_recipes(error) and error.filename and "--traceback" not in self.rest:
            message = f"{os.fsdecode(error.filename)}: {error.strerror}"
        elif isinstance(error, IngredientsError) and "--traceback" not in self.rest:
            message = error if self.ingredients is None else locate(error, self.ingredients)
        else:
            return 0
        if os.environ.get("RANK", "0") != "0":  # the first of torchrun's processes tells, and its end ends the others
            time.sleep(5)
        print(message, file=sys.stderr)
        return code


def _is_of_recipes(error, last: bool = False) -> bool:
    """Whether a recipe, and no code of the user, could not read or write. last: it itself, and no function it called"""
    files = [frame.filename for frame in extract_tb(error.__traceback__)]
    recipes = os.path.dirname(os.path.dirname(__file__))
    own = any("custom_functions" in file for file in files) or (last and not files[-1].startswith(recipes))
    return isinstance(error, OSError) and not own


def split_overrides(argv: list[str]) -> tuple[list, list]:
    """`--a.b.c value`, `--a.b.c=value` and `--add a.b=value` out of the arguments; the rest as it was."""
    overrides, rest, tokens = [], [], iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=")
        if token == "--explain":  # its path looks like an override if somebody writes --training...
            rest += [token, *(path.removeprefix("--") for path in itertools.islice(tokens, 1))]
        elif name == "--add":
            path, equals, value = (value if equals else next(tokens, "")).partition("=")
            if "." not in path or not equals:
                wanted = path if "." in path else "section.key"
                raise SystemExit(escaped(f"--add {path}: expected --add {wanted}=VALUE"))
            overrides.append((path, value, True))
        elif name.startswith("--") and "." in name:
            value = value if equals else next(tokens, "--")
            if not equals and value.startswith("--"):  # the next option
                raise SystemExit(escaped(f"{token}: a value is missing; expected {token} VALUE"))
            overrides.append((name[2:], value, False))
        else:
            rest.append(token)
    return overrides, rest
