"""The exceptions of the language, and the names nearest to one that does not exist."""

import os
from collections import namedtuple  # typing.NamedTuple would cost 5 ms of import

MAX_PROBLEMS = 500  # of one file; nobody reads on


class Place(namedtuple("Place", "file line raw", defaults=(0, ""))):
    """Where a value was written: a file and a line (from 1), or the command line (line 0); and its text there."""

    def __str__(self) -> str:
        file = self.file.removeprefix(os.getcwd() + os.sep)
        return f"{file}:{self.line}" if self.line else file


class Problem(namedtuple("Problem", "place key raw message")):
    """One mistake: its place (None: not yet located), dotted key, value as written (either may be "") and the fix."""

    def __str__(self) -> str:
        subject = shortened(self.key) + (f" = {shortened(self.raw)}" if self.raw else "")
        head = f"{self.place}: {subject}".rstrip() if self.place else subject
        return escaped(f"{head}\n{self.message}".replace("\n", "\n    "))


class IngredientsError(Exception):
    """All problems that were found, each with its place, in `problems`; or a single message."""

    def __init__(self, problems: list[Problem] | str):
        self.problems = [] if isinstance(problems, str) else list(problems)
        super().__init__(problems)

    def __str__(self) -> str:
        more = ["… and more"] if len(self.problems) > MAX_PROBLEMS else []
        return "\n".join([*map(str, self.problems[:MAX_PROBLEMS]), *more]) or escaped(str(self.args[0]))


class SettingError(IngredientsError):
    """One setting that is refused: its dotted path and what to write. `locate` adds file, line and value."""

    def __init__(self, path: str, message: str):
        super().__init__([Problem(None, path, "", message)])

    def __reduce__(self):
        return SettingError, (self.problems[0].key, self.problems[0].message)


def note(problems: list, message: str, key: str, place: Place | None = None) -> None:
    """Append a problem. Raises IngredientsError once there are more than anybody would read."""
    problems.append(Problem(place, key, place.raw if place else "", message))
    if len(problems) > MAX_PROBLEMS:
        raise IngredientsError(problems)


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    return text[:119].replace("\n", " ") + ("…" if len(text) > 119 else "")


def escaped(text: str) -> str:
    """`text` with all characters escaped that a terminal would obey or hide; line ends stay."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def suggest(name: str, names, quote: str = "{}") -> str:
    """`Did you mean x?`, or the names that exist if none is near."""
    from difflib import SequenceMatcher, get_close_matches

    def likeness(other: str) -> float:
        return SequenceMatcher(None, name.lower(), other.lower()).ratio()

    names, last = list(dict.fromkeys(names)), name.lower().replace(":", ".").rpartition(".")[2]
    near = [other for other in names if abs(len(other) - len(name)) <= max(8, len(name))][:20_000]
    same = [other for other in near if other.lower().rpartition(".")[2] == last]
    best = [*sorted(same, key=likeness, reverse=True), *get_close_matches(name, near, n=2, cutoff=0.6)]
    if best:  # beside a very near name a second one only distracts
        best = best[:1] if likeness(best[0]) > 0.85 else list(dict.fromkeys(best))[:2]
        return f"Did you mean {' or '.join(map(quote.format, best))}?"
    shown = ", ".join(map(quote.format, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"Available: {shown}." if names else "There are none."
