"""Which splits a source has, if its loaders are `optional`: found, checked and reported before training."""

import os
from pathlib import Path

from recipes.contracts import Checkable
from recipes.parts import samples as data
from recipes.parts.samples import Samples


def find_splits(experiment, training: Samples, validation: Samples) -> tuple[str, bool]:
    """(a line on where each split was found, whether there is test data).

    Test data is looked at as far as `check` of its loader does, so that classes unlike those of training show now.
    """
    source = Path(str(experiment.ingredients.at("training.load_dataset.source"))).expanduser()
    loader, scheme = experiment.functions.at("testing.load_dataset"), experiment.scheme
    look = loader.check if isinstance(loader, Checkable) else loader
    section = experiment.preprocess_section("testing")
    testing = data.load(look, experiment.preprocess("testing"), memory=0.0, optional=True, section=section)
    if testing is not None:
        experiment.task.check_split("testing.load_dataset", testing, experiment.meta)
    if experiment.held_back:
        share = f"part {scheme.fold}" if scheme.fold else f"{scheme.validation_fraction:.0%}"
        of_validation = f"{share} of it held back for validation"
    else:
        of_validation = f"validation{_place(source, validation)}"
    of_testing = f"testing{_place(source, testing)}, {len(testing):,} samples" if testing else "no test split"
    found = f"{source}: training{_place(source, training)}; {of_validation}; {of_testing}"
    return found, testing is not None


def _place(source: Path, samples: Samples) -> str:
    """` in <folder>/`, that which holds all files of the samples, if it is below the source."""
    place = Path(os.path.commonpath(samples.names)) if samples.names else source
    place = place if place.is_dir() else place.parent
    return f" in {place.relative_to(source)}/" if source in place.parents else ""
