"""Splits: which ones a source has, if its loaders are `optional`, reported before training; the parts of a fold."""

import os
from pathlib import Path

from core import SettingError


def describe_splits(experiment, training, validation, testing) -> str:
    """A line on where each split was found."""
    source = Path(str(experiment.ingredients.at("training.load_dataset.source"))).expanduser()
    scheme = experiment.scheme
    if experiment.held_back:
        share = f"part {scheme.fold}" if scheme.fold else f"{scheme.validation_fraction:.0%}"
        of_validation = f"{share} of it held back for validation"
    else:
        of_validation = f"validation{_place(source, validation)}"
    of_testing = f"testing{_place(source, testing)}, {len(testing):,} samples" if testing else "no test split"
    line = f"{source}: training{_place(source, training)}; {of_validation}; {of_testing}"
    if validation.labels is not None and validation.classes:
        seen = {*validation.labels.tolist()}
        if unseen := [name for index, name in enumerate(validation.classes) if index not in seen]:
            line += f"\nnote: no validation sample of {', '.join(unseen[:10])}{', ...' if unseen[10:] else ''}"
    return line


def _place(source: Path, samples) -> str:
    """` in <folder>/`, that which holds all files of the samples, if it is below the source."""
    place = Path(os.path.commonpath(samples.names)) if samples.names else source
    place = place if place.is_dir() else place.parent
    return f" in {place.relative_to(source)}/" if source in place.parents else ""


def part_of(fold: str) -> slice:
    """ "2/5" -> every fifth, from the second."""
    try:
        part, count = map(int, fold.split("/"))
    except ValueError:
        part = count = 0
    if not 1 <= part <= count or count < 2:
        raise SettingError("training.scheme.fold", "expected a part and their number, such as 2/5")
    return slice(part - 1, None, count)
