"""The command line that all scripts share: an ini file, overrides by path, and errors without a traceback."""

import sys

from .errors import IngredientsError


class Command:
    """`with Command(...) as command:` ends the program with exit code 1 and a clear text on a mistake of the user.

    A context manager, so that it adds no frame to the traceback of an error in the user's own code.
    """

    def __init__(self, description: str, declared: dict, argv: list[str] | None = None):
        self.description, self.declared = description, declared
        self.argv = list(sys.argv[1:] if argv is None else argv)
        self.overrides, self.rest = _split_overrides(self.argv)
        self.traceback = "--traceback" in self.rest

    def parse(self, add_arguments=None):
        """The arguments that are not overrides; `add_arguments(parser)` declares those of the script."""
        import argparse

        from .settings import help_text

        parser = argparse.ArgumentParser(
            description=self.description,
            epilog="settings, each also as --section.key VALUE:\n\n" + help_text(self.declared),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            usage="%(prog)s [options] [--section.key VALUE ...]",
        )
        if add_arguments:
            add_arguments(parser)
        parser.add_argument("--add", metavar="PATH=VALUE", help="add a setting that the file does not have")
        parser.add_argument("--print", action="store_true", help="print the ingredients as they hold, and stop")
        parser.add_argument("--explain", metavar="PATH", help="say where a setting comes from and goes to, and stop")
        parser.add_argument("--traceback", action="store_true", help="show where in the code a mistake was found")
        return parser.parse_args(self.rest)

    def answer(self, arguments, ingredients) -> None:
        """Do what --print and --explain ask, and end the program; nothing where neither was given."""
        if not (arguments.explain or arguments.print):
            return
        from .explain import explain, resolved_text

        if arguments.explain:
            print(explain(ingredients, arguments.explain, self.declared))
        else:
            with open(arguments.ingredients, encoding="utf-8-sig") as file:
                text = file.read()
            has_base = "[META]" in text  # what came from other files has no line of its own in this one
            print(resolved_text(ingredients, str(ingredients) if has_base else text, self.declared), end="")
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


def _split_overrides(argv: list[str]) -> tuple[list, list]:
    """`--a.b.c value`, `--a.b.c=value` and `--add a.b=value` out of the arguments; the rest as it was."""
    overrides, rest, tokens = [], [], iter(argv)
    for token in tokens:
        if token == "--add" or token.startswith("--add="):
            path, equals, value = (next(tokens, "") if token == "--add" else token[6:]).partition("=")
            if not path or not equals:
                raise SystemExit(f"--add {path}: write --add {path or 'section.key'}=VALUE")
            overrides.append((path, value, True))
        elif token.startswith("--") and "." in token.partition("=")[0]:
            path, equals, value = token[2:].partition("=")
            value = value if equals else next(tokens, None)
            if value is None:
                raise SystemExit(f"{token}: a value is missing; write {token} VALUE")
            overrides.append((path, value, False))
        else:
            rest.append(token)
    return overrides, rest
