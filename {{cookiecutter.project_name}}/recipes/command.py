"""The command line that all scripts share: an ini file, overrides by path, and errors without a traceback."""

import argparse
import itertools
import sys
from dataclasses import MISSING, fields

from core import Ingredients, IngredientsError, parse
from core.arguments import Signature, describe
from recipes.settings import SECTIONS, read_ingredients


class Command:
    """`with Command(__doc__) as command:` ends the program with exit code 1 and a clear text on a mistake of the user.

    A context manager, so that it adds no frame to the traceback of an error in the user's own code.
    """

    def __init__(self, description: str, argv: list[str] | None = None):
        self.overrides, self.rest = _split_overrides(list(sys.argv[1:] if argv is None else argv))
        self.traceback = "--traceback" in self.rest
        told = help_text(SECTIONS) if {"-h", "--help"} & {*self.rest} else ""  # which takes a while
        self.parser = argparse.ArgumentParser(
            description=description,
            epilog="settings, each also as --section.key VALUE:\n\n" + told,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            usage="%(prog)s [options] [--section.key VALUE ...]",
        )
        self.add_argument = self.parser.add_argument
        one = self.parser.add_mutually_exclusive_group()
        one.add_argument("--check", action="store_true", help="find what is wrong without data and training, and stop")
        one.add_argument("--print", action="store_true", help="print the ingredients as they hold, and stop")
        one.add_argument("--explain", metavar="PATH", help="say where a setting comes from and goes to, and stop")
        self.add_argument("--add", metavar="PATH=VALUE", help="add a setting that the file does not have")
        self.add_argument("--traceback", action="store_true", help="show where in the code a mistake was found")

    def read(self, with_functions: bool = True, checks=()) -> tuple[argparse.Namespace, Ingredients]:
        """(arguments, ingredients) of the file that the argument `ingredients` names; or the answer, and the end.

        `with_functions`: check what the file calls too; False where a run brings the functions of its own.
        `checks`: this script's own for --check: (arguments, ingredients) -> a line, or IngredientsError.
        """
        arguments = self.parser.parse_args(self.rest)
        file = arguments.ingredients
        if arguments.check:
            from recipes.check import check

            raise SystemExit(
                check(file, self.overrides, [lambda found, own=own: own(arguments, found) for own in checks])
            )
        overrides = self.overrides
        ingredients = read_ingredients(file, overrides) if with_functions else parse(file, overrides, SECTIONS)
        if arguments.explain is None and not arguments.print:
            return arguments, ingredients
        from recipes.explain import explain, printed

        path = arguments.explain
        print(printed(ingredients, file).rstrip("\n") if path is None else explain(ingredients, path))
        raise SystemExit(0)

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None  # 128 + SIGINT, as shells count
        if isinstance(error, IngredientsError) and not self.traceback:
            print(f"{error}", file=sys.stderr)
            raise SystemExit(1) from None


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
                raise SystemExit(f"--add {path}: write --add {path or 'section.key'}=VALUE")
            overrides.append((path, value, True))
        elif token == "--explain":  # its path looks like an override where somebody writes --training...
            rest += [token, *(path.removeprefix("--") for path in itertools.islice(tokens, 1))]
        elif token.startswith("--") and "." in token.partition("=")[0]:
            path, equals, value = token[2:].partition("=")
            value = value if equals else next(tokens, None)
            if value is None:
                raise SystemExit(f"{token}: a value is missing; write {token} VALUE")
            overrides.append((path, value, False))
        else:
            rest.append(token)
    return overrides, rest
