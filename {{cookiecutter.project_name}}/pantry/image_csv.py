"""Images that a file lists with their labels: a CSV file with a header, or a text file with a name in each line."""

import csv
import math
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from core.errors import suggest
from pantry.images import IMAGE_SUFFIXES, SPLITS, ImageFolder, read_text, refuse, refuse_size

NAMES = ("image", "file", "filename", "file_name", "path", "name")  # of the column of files


@registry.load_dataset.register("load_image_csv")
def load_image_csv(
    source: Path,
    split: Literal["training", "validation", "testing", "all"] = "all",
    images: Path | None = None,
    file: str | None = None,
    label: str | list[str] = "label",
    classes: list[str] | None = None,
    image_size: list[int] | None = None,
    channels: Literal[1, 3] | None = None,
    cache: Path | None = None,
    skip_corrupt: bool = False,
    optional: bool = False,
):
    """`load() -> ImageFolder`: the images that a CSV file names, and their labels.

    A file that ends in .txt has no header: each line is a name, and a label after a blank, or else that of its folder.

    split: the rows which say so in the column `split` (train, val, test, ...), without one all are for training; all:
        every row; of a text file train.txt, val.txt, ... that one is read
    images: folder that the names start from, None: that of `source`
    file, label: the columns; file = None: the first of image, file, filename, path, name. A list of labels makes
        multi-label targets, float (N, labels): 1 or 0 in each of these columns
    classes: names in the order of their indices; None: all labels of the file, sorted
    optional: return None if there is no such split
    The other settings are those of load_image_folder.

    Raises IngredientsError with all lines, or all images, that cannot be used.
    """
    refuse_size(image_size)

    def load(cache: Path | None = cache) -> ImageFolder | None:
        rows = _read_lists(source) if source.suffix == ".txt" else _read_csv(source, file, label)
        names, targets = _encode(source, rows, label, classes)
        chosen = _choose(source, rows, split)
        if not chosen and optional:
            return None
        if not chosen:
            raise IngredientsError(
                f"{source}: no row is of the split {split}; add a column split, or set validation_fraction"
            )
        folder = source.parent if images is None else images
        paths, targets = [str(folder / rows[index]["file"]) for index in chosen], [targets[index] for index in chosen]
        return ImageFolder(names, paths, targets, image_size, channels, cache, skip_corrupt)

    load.check = lambda: load(cache=None)
    return load


def _read_lists(source: Path) -> list[dict]:
    """As `_read_names`; of a file that is named after a split, with those beside it that are, and the split of each."""
    known = [name for names in SPLITS.values() for name in names]
    if source.stem.lower() not in known:
        return _read_names(source)
    files = [path for path in sorted(source.parent.glob("*.txt")) if path.stem.lower() in known]
    return [row | {"split": path.stem} for path in files for row in _read_names(path)]


def _read_names(source: Path) -> list[dict]:
    """Of each line that is not blank: its number, file and label."""
    rows = []
    for number, line in enumerate(map(str.strip, read_text(source).splitlines()), 1):
        is_name = line.lower().endswith(IMAGE_SUFFIXES)  # which may have blanks
        if words := [line] if is_name else line.rsplit(maxsplit=1):
            rows.append({"line": number, "file": words[0], "label": (*words, Path(words[0]).parent.name)[1]})
    refuse([] if rows else [f"{source}: there are no names in it"])
    return rows


def _read_csv(source: Path, file: str | None, label: str | list[str]) -> list[dict]:
    """Of each row: its line, file, label (a tuple of a list of labels), and split if there is such a column."""
    text = read_text(source)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, restval="")
    header = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = header
    file = file or next((name for name in NAMES if name in header), NAMES[0])
    wanted = [file, *([label] if isinstance(label, str) else label)]
    unknown = [name for name in wanted if name not in header]
    refuse([f"{source}: there is no column {name}. {suggest(name, header)}" for name in unknown])
    rows = [row | {"line": reader.line_num} for row in reader]
    refuse([f"{source}: there are no rows in it"] if not rows else [])
    cells = [[row[name].strip() for name in wanted] for row in rows]
    labels = [found if isinstance(label, list) else found[0] for _, *found in cells]
    return [row | {"file": row[file].strip(), "label": found} for row, found in zip(rows, labels, strict=True)]


def _encode(source: Path, rows: list[dict], label, classes: list[str] | None) -> tuple[list[str], list]:
    """Names of the classes, and of each row the class index, or a list of 0.0 and 1.0."""
    if isinstance(label, list):
        wrong = [row for row in rows if not {*row["label"]} <= {"0", "1", "0.0", "1.0"}]
        refuse([f"{source}:{row['line']}: labels are {', '.join(row['label'])}, expected 0 or 1" for row in wrong])
        return list(label), [[float(cell) for cell in row["label"]] for row in rows]
    found = {row["label"] for row in rows}
    names = classes or sorted(found, key=lambda name: (int(name) if name.isdecimal() else math.inf, name))
    wrong = [row for row in rows if not row["label"] or row["label"] not in names]
    reasons = [suggest(row["label"], names) if row["label"] else "the label is empty" for row in wrong]
    refuse([f"{source}:{row['line']}: {reason}" for row, reason in zip(wrong, reasons, strict=True)])
    places = {name: index for index, name in enumerate(names)}
    return list(names), [places[row["label"]] for row in rows]


def _choose(source: Path, rows: list[dict], split: str) -> list[int]:
    """The rows of a split, by the column `split`; without one all are for training."""
    if split == "all" or "split" not in rows[0]:
        return list(range(len(rows))) if split in ("all", "training") else []
    known = {name: split for split, names in SPLITS.items() for name in names}
    wrong = [row for row in rows if row["split"].strip().lower() not in known]
    refuse([f"{source}:{row['line']}: split is {row['split']!r}, expected one of {', '.join(known)}" for row in wrong])
    return [index for index, row in enumerate(rows) if known[row["split"].strip().lower()] == split]
