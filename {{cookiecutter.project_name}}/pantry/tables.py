"""Tables: rows of a CSV file, with missing values and categories, and a network for columns in any units."""

import csv
import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from core import IngredientsError, registry
from core.errors import suggest
from pantry.images import Arrays, read_text, refuse

MISSING = ("", "?", "na", "n/a", "nan", "null", "none")  # cells without a value, in lower case
DECIMAL = re.compile(r"^\s*([-+]?\d*),(\d+)\s*$")  # a number with a comma
MOST_CATEGORIES = 100  # of a column; rarer ones are treated as unknown


@registry.load_dataset.register("load_csv")
def load_csv(
    source: Path,
    target: str,
    split: Literal["training", "testing", "all"] = "training",
    columns: list[str] | None = None,
    categories: list[str] | None = None,
    target_kind: Literal["auto", "number", "class"] = "auto",
    like: Path | None = None,
    unit: str = "",
    testing_share: Annotated[float, "[0, 1)"] = 0.2,
    seed: int = 0,
    delimiter: str = ",",
):
    """`load() -> Arrays`: the rows of a CSV file whose first line names its columns.

    X: float32 (N, inputs), see `encode`; y: float32 (N,) in the unit of the file, or class indices int64 (N,)
    target: the column to predict; columns: those to predict it from, None for all others
    split, testing_share, seed: this share of the rows, drawn by `seed`, is for testing; all: every row of the file
    categories: columns of categories; None: those in which most cells are not numbers
    target_kind: auto: class if most cells of the target are not numbers, or all are 0 or 1
    like: the training file, if this is another: its categories and classes are used; unit: of the target, as printed

    Raises IngredientsError with all missing columns or, by line, all cells that do not fit.
    """

    def load() -> Arrays:
        import torch

        header, lines = read_csv(source, delimiter)
        inputs = [name for name in header if name != target] if columns is None else list(columns)
        parts = _split(lines, testing_share, seed)
        known = (header, parts["all" if split == "all" else "training"]) if like is None else read_csv(like, delimiter)
        for file, names in ((source, header), (like or source, known[0])):
            _check_columns(file, names, inputs, target)
        layout, problems = layout_of(*known, inputs, categories) | {"delimiter": delimiter}, []
        rows = check_lengths(source, header, parts[split], problems)
        X = encode(source, header, rows, layout, problems)
        cells = [cell for cell in column(*known, target) if cell is not None]
        is_class = target_kind == "class" or (target_kind == "auto" and (_is_text(cells) or {*cells} == {"0", "1"}))
        classes = sorted(set(cells)) if is_class else [unit or target]
        if is_class:
            y = _class_indices(source, header, rows, target, classes, problems)
        else:
            y = _numbers(source, header, rows, target, problems, required=True)
        refuse(problems)
        paths = [f"{source}:{number}" for number, _ in rows]
        return Arrays(torch.tensor(X).float(), torch.tensor(y), classes=classes, paths=paths, input_format=layout)

    load.check = load  # reading a table takes no time
    return load


def _split(lines: list, testing_share: float, seed: int) -> dict[str, list]:
    import torch

    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(seed))
    count = round(testing_share * len(lines))
    parts = {"testing": order[:count], "training": order[count:], "all": order}
    return {name: [lines[index] for index in sorted(part.tolist())] for name, part in parts.items()}


def _check_columns(source, header: list[str], inputs: list[str], target: str) -> None:
    unknown = [name for name in [*inputs, target] if name not in header]
    wrong = [f"{source}: there is no column {name}. {suggest(name, header)}" for name in unknown]
    wrong += [f"{source}: {target} is the target; remove it from columns"] if target in inputs else []
    refuse(wrong)


def read_csv(source: str | Path | io.BytesIO, delimiter: str = ",") -> tuple[list[str], list]:
    """(names of the columns, (line number, cells) of each row). Raises IngredientsError."""
    is_file = not isinstance(source, io.BytesIO)
    text = read_text(Path(source)) if is_file else source.getvalue().decode("utf-8-sig", "replace")
    reader = csv.reader(io.StringIO(text, None), delimiter=delimiter, skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise IngredientsError(f"{source}: cannot be read: {error}") from error
    if delimiter == ";":  # of countries that write 1,5
        lines = [(line, [DECIMAL.sub(r"\1.\2", cell) for cell in cells]) for line, cells in lines]
    other = next((mark for mark in ",;\t" if mark != delimiter and len(header) == 1 and mark in header[0]), None)
    refuse([f"{source}: its columns are separated by {other!r}; set delimiter = {other!r}"] if other else [])
    refuse([f"{source}: has column {name!r} twice" for name in sorted({*header}) if header.count(name) > 1])
    refuse([] if lines else [f"{source}: has no rows"])
    return header, lines


def column(header: list[str], lines: list, name: str) -> list[str | None]:
    """The cells of a column; None for missing ones."""
    place = header.index(name)
    cells = [cells[place].strip() for _, cells in lines if len(cells) == len(header)]
    return [None if cell.lower() in MISSING else cell for cell in cells]


def _is_text(cells: list[str]) -> bool:
    """Whether most cells are not numbers."""
    return sum(_number(cell) is None for cell in cells) > len(cells) / 2


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def layout_of(header: list[str], lines: list, columns: list[str], categories: list[str] | None) -> dict:
    """What `encode` has to know of the training rows: columns, {column: categories}, columns with missing numbers."""
    layout = {"columns": columns, "categories": {}, "missing": []}
    for name in columns:
        cells = column(header, lines, name)
        known = [cell for cell in cells if cell is not None]
        if name in categories if categories is not None else _is_text(known):
            # one that occurs once, such as a name or a number of a ticket, says nothing about other rows
            often = [cell for cell, count in Counter(known).most_common(MOST_CATEGORIES) if count > 1]
            layout["categories"][name] = sorted(often)
        elif len(known) < len(cells):
            layout["missing"].append(name)
    return layout


def check_lengths(source: str | Path, header: list[str], lines: list, problems: list[str]) -> list:
    """The lines with a cell for each column; the others are added to `problems`."""
    wrong = [(number, len(cells)) for number, cells in lines if len(cells) != len(header)]
    problems += [f"{source}:{number}: {count} cells, but {len(header)} columns" for number, count in wrong]
    return [(number, cells) for number, cells in lines if len(cells) == len(header)]


def encode(source: str | Path, header: list[str], lines: list, layout: dict, problems: list[str]) -> list[list[float]]:
    """A row of numbers for each line; what is wrong is added to `problems`.

    Of each column its number, nan if that is missing; of a column of categories a 1 for its category and 0 for all
    others, unknown and missing ones too. Then, for each column in which training lacks numbers, a 1 if this row does.
    """
    encoded = []  # by column
    for name in layout["columns"]:
        if name in layout["categories"]:
            cells = column(header, lines, name)
            encoded += [[float(cell == known) for cell in cells] for known in layout["categories"][name]]
        else:
            encoded.append(_numbers(source, header, lines, name, problems))
    for name in layout["missing"]:
        encoded.append([float(cell is None) for cell in column(header, lines, name)])
    return [list(row) for row in zip(*encoded, strict=True)]


def _numbers(source, header: list[str], lines: list, name: str, problems: list[str], required=False) -> list:
    """The numbers of a column; nan for missing ones, which are a problem if they are required."""
    numbers = []
    for (line, _), cell in zip(lines, column(header, lines, name), strict=True):
        number = None if cell is None else _number(cell)
        if number is None and (cell is not None or required):
            problems.append(
                f"{source}:{line}: {name} is {'missing' if cell is None else repr(cell)}, expected a number"
            )
        numbers.append(math.nan if number is None else number)
    return numbers


def _class_indices(source, header: list[str], lines: list, name: str, classes: list[str], problems: list) -> list[int]:
    """The indices of the cells of a column among the classes."""
    cells = column(header, lines, name)
    for (line, _), cell in zip(lines, cells, strict=True):
        if cell not in classes:
            what = "is missing" if cell is None else f"is {cell!r}, not a class of training. {suggest(cell, classes)}"
            problems.append(f"{source}:{line}: {name} {what}")
    return [classes.index(cell) if cell in classes else 0 for cell in cells]


@registry.backbone.register("mlp")
def mlp(in_channels: int, output_classes: int, widths: list[int] = (64, 64), dropout: float = 0.0):
    """Linear layers with ReLU and dropout between them, for rows (N, in_channels).

    widths: of the hidden layers; dropout: probability of a hidden unit to be zeroed in training
    """
    from torch import nn

    if min(widths, default=1) < 1:
        raise ValueError(f"widths = {list(widths)}: must be at least 1 each")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout}: must be in [0, 1)")
    layers = []
    for before, after in zip((in_channels, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear((in_channels, *widths)[-1], output_classes))


def standardised(network, columns: int, of_classes: bool = False):
    """The network between two standardisations: `model(rows (N, columns)) -> (N, 1)`, both in their own units.

    `model(rows, targets (N,)) -> outputs (N,), targets (N,)`, both standardised, is what a loss compares: its value and
    the learning rate then mean the same in any unit. Missing numbers, nan, become the mean.
    of_classes: the outputs are logits, which are not standardised, and `model.target` is None

    `inputs` and `target` standardise by the mean and variance of all batches seen in training mode. So the statistics
    are those of the training split alone, without its validation share, and are in the checkpoint with the weights.
    """
    from torch import nn

    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs, self.network = _standardise(columns), network
            self.target = None if of_classes else _standardise(1)

        def forward(self, rows, targets=None):
            outputs = self.network(self.inputs(rows))
            if self.target is None:
                return outputs
            if targets is None:
                return self.target.undo(outputs)
            return outputs[:, 0], self.target(targets.float()[:, None])[:, 0]

    return Standardised()


def _standardise(columns: int):
    """A module that standardises values (N, columns) by the mean and variance of what it has seen in training mode."""
    import torch
    from torch import nn

    class Standardise(nn.Module):
        def __init__(self, columns: int):
            super().__init__()
            for name in ("seen", "mean", "variance"):
                self.register_buffer(name, torch.full((columns,), float(name == "variance")))

        def forward(self, values):  # (N, columns)
            if self.training:
                self.see(values.detach())
            return ((values - self.mean) / self.deviation()).nan_to_num(0.0)

        def undo(self, values):
            return values * self.deviation() + self.mean

        def deviation(self):
            return torch.where(self.variance > 0, self.variance, 1.0).sqrt()  # of a constant column: 1

        def see(self, values):  # Chan et al. 1979: mean and variance of two parts from theirs
            count = (~values.isnan()).sum(0)
            mean = values.nansum(0) / count.clamp(min=1)
            variance = (values - mean).square().nansum(0) / count.clamp(min=1)
            self.seen += count
            share, difference = count / self.seen.clamp(min=1), mean - self.mean
            mixed = (1 - share) * self.variance + share * variance
            self.variance.copy_(mixed + share * (1 - share) * difference**2)
            self.mean += share * difference

    return Standardise(columns)
