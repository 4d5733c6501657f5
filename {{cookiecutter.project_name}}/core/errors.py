"""The one error of the language, and the search for the name that was meant."""

from typing import NamedTuple


class Place(NamedTuple):
    """Where a value was written: a file and a line (from 1), or the command line (line 0)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(NamedTuple):
    """One mistake: its place, the dotted key and the value as written (either may be empty), and what to do."""

    place: Place
    key: str
    raw: str
    message: str

    def __str__(self) -> str:
        subject = f"{self.key} = {_short(self.raw)}" if self.raw else self.key
        head = f"{self.place}: {subject}" if subject else f"{self.place}:"
        return head + "\n    " + self.message.replace("\n", "\n    ")


class IngredientsError(Exception):
    """All the problems that were found, each with its place; or one message that stands alone.

    `problems` holds the located ones, so that a program can read file, line, key and message.
    """

    def __init__(self, problems: "list[Problem] | str"):
        self.problems = [] if isinstance(problems, str) else list(problems)
        super().__init__(problems)

    def __str__(self) -> str:
        if not self.problems:
            return str(self.args[0])
        return "\n".join(str(problem) for problem in self.problems)


def _short(raw: str, width: int = 120) -> str:
    line = " ".join(raw.split("\n"))
    return line if len(line) <= width else line[: width - 1] + "…"


def nearest(name: str, names, most: int = 3) -> list[str]:
    """The names most like `name`, best first; those that end in the same word come before others."""
    from difflib import SequenceMatcher, get_close_matches

    names = [other for other in dict.fromkeys(names) if abs(len(other) - len(name)) <= max(8, len(name))][:20_000]
    lowered = name.lower()
    same = [other for other in names if other.lower() == lowered]
    last = lowered.replace(":", ".").rpartition(".")[2]
    ending = [other for other in names if "." in other and other.lower().rpartition(".")[2] == last]
    ending.sort(key=lambda other: -SequenceMatcher(None, lowered, other.lower()).ratio())
    return list(dict.fromkeys(same + ending + get_close_matches(name, names, n=most, cutoff=0.6)))[:most]


def suggest(name: str, names, quote: str = "{}") -> str:
    """`Did you mean x?`, or the names that exist when none is near."""
    names = list(names)
    found = nearest(name, names)
    if found:
        from difflib import SequenceMatcher

        near = SequenceMatcher(None, name.lower(), found[0].lower()).ratio() > 0.85  # then a second only distracts
        return "Did you mean " + " or ".join(quote.format(other) for other in found[: 1 if near else 2]) + "?"
    if not names:
        return "There are none."
    shown = ", ".join(quote.format(other) for other in names[:12])
    return f"There is {shown}" + (f" and {len(names) - 12} more." if len(names) > 12 else ".")
