"""Tables: rows of a CSV file, and a network for columns in any units."""

import csv
import math
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from core.errors import suggest
from pantry.images import Arrays, refuse


@registry.load_dataset.register("load_csv")
def load_csv(
    source: Path,
    target: str,
    split: Literal["training", "testing", "all"] = "training",
    columns: list[str] | None = None,
    unit: str = "",
    testing_share: float = 0.2,
    seed: int = 0,
    delimiter: str = ",",
):
    """`load() -> Arrays`: the numbers of a CSV file whose first line names its columns.

    X: float32 (N, columns), y: float32 (N,), both in the units of the file

    target: the column to predict; columns: those to predict it from, None for all others
    split, testing_share, seed: this share of the rows, drawn by `seed`, is for testing, the rest for training; all: the
        whole file, if training and testing rows are in files of their own
    unit: of the target, printed after predictions

    Raises IngredientsError with all missing columns or, by line, all cells that are not numbers.
    """
    if not 0 <= testing_share < 1:
        raise ValueError(f"testing_share = {testing_share}: must be in [0, 1)")

    def load() -> Arrays:
        import torch

        header, lines = read_csv(source, delimiter)
        inputs = [name for name in header if name != target] if columns is None else list(columns)
        unknown = [name for name in [*inputs, target] if name not in header]
        wrong = [f"{source}: there is no column {name}. {suggest(name, header)}" for name in unknown]
        wrong += [f"{source}: {target} is the target; remove it from columns"] if target in inputs else []
        refuse(wrong)
        values = torch.tensor(numbers(source, header, lines, [*inputs, target]), dtype=torch.float32)
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        count = round(testing_share * len(values))
        chosen = {"testing": order[:count], "training": order[count:], "all": torch.arange(len(values))}[split]
        chosen = chosen.sort().values
        names = [f"{source}:{lines[index][0]}" for index in chosen.tolist()]
        known = {"paths": names, "input_format": {"columns": inputs, "delimiter": delimiter}}
        return Arrays(values[chosen, :-1], values[chosen, -1], classes=[unit or target], **known)

    load.check = load  # reading a table takes no time
    return load


def read_csv(source: str | Path, delimiter: str = ",") -> tuple[list[str], list]:
    """(names of the columns, (line number, cells) of each row). Raises IngredientsError."""
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a mark
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise IngredientsError(f"{source}: cannot be read: {error}") from error
    other = next((mark for mark in ",;\t" if mark != delimiter and len(header) == 1 and mark in header[0]), None)
    refuse([f"{source}: its columns are separated by {other!r}; set delimiter = {other!r}"] if other else [])
    refuse([f"{source}: has column {name!r} twice" for name in sorted({*header}) if header.count(name) > 1])
    refuse([] if lines else [f"{source}: has no rows"])
    return header, lines


def numbers(source: str | Path, header: list[str], lines: list, names: list[str]) -> list[list[float]]:
    """The cells of these columns, for each line. Raises IngredientsError with all that are not finite numbers."""
    rows, problems, places = [], [], [header.index(name) for name in names]
    for number, cells in lines:
        if len(cells) != len(header):
            problems.append(f"{source}:{number}: {len(cells)} cells, but {len(header)} columns")
            continue
        rows.append([])
        for name, place in zip(names, places, strict=True):
            try:
                rows[-1].append(float(cells[place]))
            except ValueError:
                rows[-1].append(math.nan)
            if not math.isfinite(rows[-1][-1]):
                held = f"is {cells[place]!r}" if cells[place].strip() else "is empty"
                problems.append(f"{source}:{number}: {name} {held}, expected a number")
    refuse(problems)
    return rows


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


def regressor(network, columns: int):
    """The network between two standardisations: `model(rows (N, columns)) -> (N, 1)`, both in their own units.

    `model(rows, targets (N,)) -> outputs (N,), targets (N,)`, both standardised, is what a loss compares: its value and
    the learning rate then mean the same in any unit.

    `inputs` and `target` standardise by the mean and variance of all batches seen in training mode. So the statistics
    are those of the training split alone, without its validation share, and are in the checkpoint with the weights.
    """
    import torch
    from torch import nn

    class Standardise(nn.Module):
        def __init__(self, columns: int):
            super().__init__()
            for name, value in (("seen", torch.zeros(())), ("mean", torch.zeros(columns))):
                self.register_buffer(name, value)
            self.register_buffer("variance", torch.ones(columns))

        def forward(self, values):  # (N, columns)
            if self.training:
                self.see(values.detach())
            return (values - self.mean) / self.deviation()

        def undo(self, values):
            return values * self.deviation() + self.mean

        def deviation(self):
            return torch.where(self.variance > 0, self.variance, 1.0).sqrt()  # of a constant column: 1

        def see(self, values):  # Chan et al. 1979: mean and variance of two parts from theirs
            self.seen += len(values)
            share, apart = len(values) / self.seen, values.mean(0) - self.mean
            mixed = (1 - share) * self.variance + share * values.var(0, unbiased=False)
            self.variance.copy_(mixed + share * (1 - share) * apart**2)
            self.mean += share * apart

    class Regressor(nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs, self.network, self.target = Standardise(columns), network, Standardise(1)

        def forward(self, rows, targets=None):
            outputs = self.network(self.inputs(rows))
            if targets is None:
                return self.target.undo(outputs)
            return outputs[:, 0], self.target(targets.float()[:, None])[:, 0]

    return Regressor()
