"""Compare runs: the settings in which they differ, and the metrics of their best epochs.

python -m recipes.compare                                all runs of this project
python -m recipes.compare runs/a runs/b --sort accuracy  these; a folder stands for the runs in it
python -m recipes.compare --csv runs.csv --html runs.html

Runs under way are compared as far as they have come. `*` marks the best value. The page has the curves of all runs,
needs no network, and sorts by a click on a column.
"""

import csv
import os
from pathlib import Path

from core import IngredientsError
from core.errors import escaped, suggest
from recipes.parts.command import Command
from recipes.parts.records import Record, is_lowest, metrics_of, read_run, table


class Column:
    """A setting or a metric, whose `lowest` says whether that is the best: a value for each run, or None."""

    def __init__(self, name: str, values: list, lowest: bool | None = None):
        self.name, self.values, self.is_metric = name, [v if v == v else None for v in values], lowest is not None
        known = sorted({*self.values} - {None}, key=lambda v: (isinstance(v, str), v), reverse=lowest is False)
        self.ranks = [len(known) if v is None else known.index(v) for v in self.values]  # 0: the best, or the lowest
        texts = ["-" if v is None else f"{v:.4f}" if self.is_metric else str(v) for v in self.values]
        best = 0 if self.is_metric and len(known) > 1 else None
        self.texts = [text + "*" * (rank == best) for text, rank in zip(texts, self.ranks, strict=True)]


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("runs", nargs="*", metavar="RUN", help="run folders, or folders of them")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--sort", metavar="COLUMN", help="best first; default: by folder, which is the time")
        command.add_argument("--csv", metavar="FILE", help="write the table")
        command.add_argument("--html", metavar="FILE", help="write a page with table and curves")
        arguments, ingredients = command.read(with_functions=False)
        where = ingredients.at("training.model.runs", "runs"), ingredients.at("project.name", "project")
        runs = read_runs(arguments.runs, Path(*map(str, where)).expanduser())
        columns = columns_of(runs)
        if arguments.sort:
            ranks = {column.name: column.ranks for column in columns}
            if arguments.sort not in ranks:
                raise IngredientsError(f"--sort {arguments.sort}: no such column. {suggest(arguments.sort, ranks)}")
            runs = [runs[row] for row in sorted(range(len(runs)), key=ranks[arguments.sort].__getitem__)]
            columns = columns_of(runs)
        print(escaped(table([[column.name, *column.texts] for column in columns])))
        try:
            if arguments.csv:
                with open(arguments.csv, "w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows(zip(*([column.name, *column.values] for column in columns), strict=True))
            if arguments.html:
                Path(arguments.html).write_text(page(runs, columns, Path(arguments.html).parent), encoding="utf-8")
        except OSError as error:
            raise IngredientsError(f"{error.filename}: cannot be written ({error.strerror})") from None


def read_runs(names: list[str], parent: Path) -> list[Record]:
    """The runs in these folders, else those of the project; one that cannot be read is named and passed over."""
    found = [path for name in names for path in sorted(Path(name).rglob("checkpoints"))]
    runs = []
    for folder in dict.fromkeys(path.parent for path in (found if names else sorted(parent.glob("*/checkpoints")))):
        try:
            runs += [read_run(folder)] if folder.name != "debug" else []
        except IngredientsError as error:
            print(escaped(f"passed over: {error}"))
    if not runs:
        raise IngredientsError(f"no run to compare in {', '.join(names) or parent}; python train.py makes one")
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
    above = os.path.commonpath([path.parent for path in folders])
    columns = [Column("run", [os.path.relpath(path, above) for path in folders])]
    columns += [Column(name, values) for name, values in settings.items()]
    columns.append(Column("best epoch", [run.best["epoch"] for run in runs]))
    for prefix, lines in (("", [run.best for run in runs]), ("test ", [run.testing for run in runs])):
        for name in dict.fromkeys(name for line in lines for name in metrics_of(line)):
            columns.append(Column(prefix + name, [line.get(name) for line in lines], is_lowest(name, runs)))
    columns.append(Column("epochs done", [len(run.epochs) for run in runs]))
    columns.append(Column("seconds", [round(sum(line["seconds"] for line in run.epochs), 1) for run in runs]))
    return [*columns, Column("finished", ["yes" if run.finished else "no" for run in runs])]


def page(runs: list[Record], columns: list[Column], folder: Path) -> str:
    """The HTML text, with links from `folder` to the reports there are; the curves are drawn by the browser."""
    from jinja2 import Environment

    names = dict.fromkeys(name for run in runs for line in run.epochs for name in ("train_loss", *metrics_of(line)))
    curves = {name: [[(line["epoch"], line.get(name)) for line in run.epochs] for run in runs] for name in names}
    reports = [run.folder / "report.html" for run in runs]
    links = [os.path.relpath(path, folder) if path.is_file() else "" for path in reports]
    template = (Path(__file__).with_name("templates") / "compare.html").read_text(encoding="utf-8")
    return Environment(autoescape=True).from_string(template).render(columns=columns, curves=curves, links=links)


if __name__ == "__main__":
    main()
