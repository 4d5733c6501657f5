"""Compare runs: the settings in which they differ, and the metrics of their best epochs.

python -m recipes.compare                                all runs of this project
python -m recipes.compare runs/a runs/b --sort accuracy  these; a folder stands for the runs in it
python -m recipes.compare --csv runs.csv --html runs.html

Runs under way are compared as far as they have come. `*` marks the best value. The page has the curves of all runs,
needs no network, and sorts by a click on a column.
"""

import csv
import io
import os
from pathlib import Path

from core import IngredientsError
from core.errors import escaped, suggest
from recipes.parts.command import Command
from recipes.parts.records import LOWEST, Record, find_runs, metrics_of, read_run


class Column:
    """A setting or a metric: a number or a text for each run, None for a run without it."""

    def __init__(self, name: str, values: list, is_metric: bool = False):
        self.name, self.values, self.is_metric = name, [v if v == v else None for v in values], is_metric
        sign = -1 if is_metric and not LOWEST.search(name) else 1
        keys = [(v is None, isinstance(v, str), v if isinstance(v, str) else sign * (v or 0)) for v in self.values]
        self.ranks = [sorted({*keys}).index(key) for key in keys]  # 0: the best metric, the lowest setting
        stars = is_metric and len({*self.values} - {None}) > 1
        texts = ["-" if v is None else f"{v:.4f}" if is_metric else str(v) for v in self.values]
        self.texts = [text + "*" * (stars and not rank) for text, rank in zip(texts, self.ranks, strict=True)]


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("runs", nargs="*", metavar="RUN", help="run folders, or folders of them")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--sort", metavar="COLUMN", help="best first; default: by folder, which is the time")
        command.add_argument("--csv", metavar="FILE", help="write the table")
        command.add_argument("--html", metavar="FILE", help="write a page with table and curves")
        arguments, ingredients = command.read(with_functions=False)
        where = ingredients.at("training.model.runs", "runs"), ingredients.at("project.name", "project")
        parent = Path(*map(str, where)).expanduser()
        runs = read_runs(arguments.runs or [path for path in find_runs(parent) if path.parent == parent] or [parent])
        columns = columns_of(runs)
        if arguments.sort:
            ranks = {column.name: column.ranks for column in columns}
            if arguments.sort not in ranks:
                raise IngredientsError(f"--sort {arguments.sort}: no such column. {suggest(arguments.sort, ranks)}")
            runs = [runs[row] for row in sorted(range(len(runs)), key=ranks[arguments.sort].__getitem__)]
            columns = columns_of(runs)
        cells = [[text[:59] + "…" * (len(text) > 59) for text in (c.name, *c.texts)] for c in columns]
        padded = [[text.ljust(max(map(len, column))) for text in column] for column in cells]
        print(escaped("\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))))
        try:
            if arguments.csv:
                with open(arguments.csv, "w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows(zip(*([column.name, *column.values] for column in columns), strict=True))
            if arguments.html:
                Path(arguments.html).write_text(page(runs, columns, Path(arguments.html).parent), encoding="utf-8")
        except OSError as error:
            raise IngredientsError(f"{error.filename}: cannot be written ({error.strerror})") from None


def read_runs(names: list) -> list[Record]:
    """The runs in these folders; one that cannot be read is named and passed over."""
    runs = []
    for folder in dict.fromkeys(run for name in names for run in find_runs(Path(name))):
        try:
            runs.append(read_run(folder))
        except IngredientsError as error:
            print(escaped(f"passed over: {error}"))
    if not runs:
        raise IngredientsError(f"no run to compare in {', '.join(map(str, names))}; python train.py makes one")
    return runs


def columns_of(runs: list[Record]) -> list[Column]:
    """Folder, settings that differ, metrics of the best epoch and of the test data, how far and how long it trained."""
    settings = {}
    for path in dict.fromkeys(path for run in runs for path in run.settings):
        name, values = path.rpartition(".")[2], [run.settings.get(path) for run in runs]
        # What repeats another of its name, as by a reference, is left out.
        if len({*values}) > 1 and not path.startswith("training.model.") and settings.get(name) != values:
            settings[path if name in settings else name] = values
    folders = [run.folder.absolute() for run in runs]
    folders = [path.parents[1] if (path.parents[1] / "model.pth").is_file() else path for path in folders]  # of ablate
    above = os.path.commonpath([path.parent for path in folders])
    columns = [Column("run", [os.path.relpath(path, above) for path in folders])]
    columns += [Column(name, values) for name, values in settings.items()]
    columns.append(Column("best epoch", [run.best["epoch"] for run in runs]))
    for prefix, lines in (("", [run.best for run in runs]), ("test ", [run.testing for run in runs])):
        for name in dict.fromkeys(name for line in lines for name in metrics_of(line)):
            columns.append(Column(prefix + name, [line.get(name) for line in lines], is_metric=True))
    columns.append(Column("epochs done", [len(run.epochs) for run in runs]))
    columns.append(Column("seconds", [round(sum(line["seconds"] for line in run.epochs), 1) for run in runs]))
    return [*columns, Column("finished", ["yes" if run.finished else "no" for run in runs])]


def page(runs: list[Record], columns: list[Column], folder: Path) -> str:
    """The HTML text of the table, with links from `folder` to the reports there are, and of the curves."""
    from jinja2 import Environment, FileSystemLoader
    from matplotlib import colormaps, rc_context
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    colors = [to_hex(colormaps["turbo"]((row + 0.5) / len(runs))) for row in range(len(runs))]
    names = dict.fromkeys(name for run in runs for line in run.epochs for name in line if "." not in name)
    names = [name for name in names if name not in ("epoch", "seconds")]
    figure, svg = Figure(figsize=(12, 1.7 * len(names) + 1), layout="constrained"), io.StringIO()
    with rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        for number, name in enumerate(names):
            axes = figure.add_subplot((len(names) + 1) // 2, 2, number + 1, title=name)
            for row, run in enumerate(runs):
                points = [(line["epoch"], line.get(name, float("nan"))) for line in run.epochs]
                axes.plot(*zip(*points, strict=True), color=colors[row], marker=".", gid=f"run-{row}-{number}")
        figure.savefig(svg, format="svg")
    template = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    template, curves = template.get_template("compare.html"), svg.getvalue()[svg.getvalue().index("<svg") :]
    facts = {"runs": runs, "columns": columns, "colors": colors, "curves": curves}
    return template.render(facts, folder=folder, relpath=os.path.relpath)


if __name__ == "__main__":
    main()
