"""The command line that all scripts share: an ini file, overrides by path, and errors without a traceback."""

import argparse
import importlib
import importlib.util
import itertools
import os
import re
import signal
import sys
from dataclasses import MISSING, fields

from core import Ingredients, IngredientsError, locate, parse
from core.arguments import Signature, describe
from core.errors import suggest
from recipes.settings import SECTIONS, read_ingredients

# Options that answer and exit: name -> (the script that answers, its argument, help). A script may be deleted.
ANSWERS = {
    "check": ("recipes.check", None, "find what is wrong, without data and without training"),
    "print": ("recipes.explain", None, "print the ingredients with all references resolved"),
    "explain": ("recipes.explain", "PATH", "print where a setting comes from and what reads it"),
    "list": ("recipes.explain", "REGISTRY", "print the functions of a registry, such as loss, and their arguments"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        unknown = re.search(r"unrecognized arguments: (--[^ =]+)", message)
        if unknown:
            message += (
                f"\n    {suggest(unknown[1], [name for name in self._option_string_actions if name[:2] == '--'])}"
            )
        super().error(message)


class Command:
    """`with Command(__doc__) as command:` exits with code 1 and a clear message on a mistake of the user.

    A context manager, so that it adds no frame to the traceback of an error in the user's own code.
    """

    def __init__(self, description: str, argv: list[str] | None = None):
        self.overrides, self.rest = _split_overrides(list(sys.argv[1:] if argv is None else argv))
        self.traceback, self.ingredients = "--traceback" in self.rest, None
        settings = help_text(SECTIONS) if {"-h", "--help"} & {*self.rest} else ""  # which takes a while
        self.parser = _Parser(
            description=description,
            epilog="settings, each also as --section.key VALUE:\n\n" + settings,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            usage="%(prog)s [options] [--section.key VALUE ...]",
        )
        self.add_argument = self.parser.add_argument
        one = self.parser.add_mutually_exclusive_group()
        for name, (script, metavar, text) in ANSWERS.items():
            if importlib.util.find_spec(script):
                kind = {"action": "store_true"} if metavar is None else {"metavar": metavar}
                one.add_argument(f"--{name}", help=f"{text}, and exit", **kind)
        self.add_argument("--add", metavar="PATH=VALUE", help="add a setting that the file does not have")
        self.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")

    def read(self, with_functions: bool = True, checks=()) -> tuple[argparse.Namespace, Ingredients]:
        """(arguments, ingredients) of the file that the argument `ingredients` names; or the answer, and the exit.

        `with_functions`: check what the file calls too; False if a run brings the functions of its own.
        `checks`: this script's own for --check: (arguments, ingredients) -> a line, or IngredientsError.
        """
        arguments = self.parser.parse_args(self.rest)
        for name, (script, metavar, _) in ANSWERS.items():
            asked = vars(arguments).get(name)
            if asked or (metavar and asked is not None):
                raise SystemExit(importlib.import_module(script).answer(name, arguments, self.overrides, checks))
        if with_functions:
            self.ingredients = read_ingredients(arguments.ingredients, self.overrides)
        else:
            self.ingredients = parse(arguments.ingredients, self.overrides, SECTIONS)
        return arguments, self.ingredients

    def __enter__(self) -> "Command":
        self.before = signal.signal(signal.SIGINT, _quit)
        return self

    def interruptible(self) -> None:
        """From now on Ctrl-C raises KeyboardInterrupt, so that whatever is under way is cleaned up."""
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, kind, error, traceback) -> None:
        signal.signal(signal.SIGINT, self.before)
        if kind is KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None  # as shells count
        broken = error if isinstance(error, OSError) and error.filename is None else None
        try:
            sys.stdout.flush()
        except OSError as unwritten:
            broken = unwritten
        if broken is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its exit
            if isinstance(broken, BrokenPipeError):  # as of `| head -1`
                raise SystemExit(128 + 13) from None  # SIGPIPE, which Windows does not have
            print(f"cannot write to standard output: {broken.strerror}", file=sys.stderr)
            raise SystemExit(1) from None
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(("pantry.", "recipes.")):
            print(f"{error.name.replace('.', '/')}.py is missing, and this needs it ({error})", file=sys.stderr)
            raise SystemExit(1) from None
        if isinstance(error, IngredientsError) and not self.traceback:
            print(error if self.ingredients is None else locate(error, self.ingredients), file=sys.stderr)
            raise SystemExit(1) from None


def _quit(number, frame) -> None:
    """Ctrl-C while modules are imported: some of them would print a traceback of their own, or go on."""
    os._exit(128 + number)


def help_text(declared: dict) -> str:
    """The declared settings, a line each: name, type, default, meaning."""
    lines = []
    for path, kind in declared.items():
        calls = f"  @{kind} = name of a function, and its arguments" if isinstance(kind, str) else ""
        lines.append(f"\n[{path}]{calls}")
        for item in () if calls else fields(kind):
            default = "" if item.default is MISSING else f" = {item.default}"
            words = describe(Signature(kind).hints[item.name])
            lines.append(f"  {item.name}{default}  ({words})\n      {item.metadata.get('doc', '')}")
    return "\n".join(lines).lstrip("\n")


def _split_overrides(argv: list[str]) -> tuple[list, list]:
    """`--a.b.c value`, `--a.b.c=value` and `--add a.b=value` out of the arguments; the rest as it was."""
    overrides, rest, tokens = [], [], iter(argv)
    for token in tokens:
        if token == "--add" or token.startswith("--add="):
            path, equals, value = (next(tokens, "") if token == "--add" else token[6:]).partition("=")
            if not path or not equals:
                raise SystemExit(f"--add {path}: expected --add {path or 'section.key'}=VALUE")
            overrides.append((path, value, True))
        elif token == "--explain":  # its path looks like an override if somebody writes --training...
            rest += [token, *(path.removeprefix("--") for path in itertools.islice(tokens, 1))]
        elif token.startswith("--") and "." in token.partition("=")[0]:
            path, equals, value = token[2:].partition("=")
            value = value if equals else next(tokens, None)
            if value is None:
                raise SystemExit(f"{token}: a value is missing; expected {token} VALUE")
            overrides.append((path, value, False))
        else:
            rest.append(token)
    return overrides, rest
