"""What differs by task, here: one class for each text. Texts are rows of token ids (L,); the rest is classification."""

from functools import partial

import torch

from core import SettingError
from pantry.texts import to_ids
from recipes import classification
from recipes.parts.samples import is_ids

METRICS = classification.METRICS  # what `evaluate` returns
BEST = "accuracy"  # the one that selects the best epoch if the ingredients name none

REFUSED = {  # settings, sections and registered names that this task cannot use, and why
    "training.scheme.first_size": "texts cannot be resized",
    "testing.views": "views are of images",
}
READS = "text"
EVALUATION = "classification"

check, check_split = classification.check, classification.check_split
build_model = partial(classification.build_model, dtype=torch.long)
default_loss, loss, evaluate = classification.default_loss, classification.loss, classification.evaluate
predict, exported = classification.predict, classification.exported


def check_data(architecture, samples) -> int:
    """The number of classes of the training data. Raises SettingError if ids, head or targets do not fit."""
    if not is_ids(samples.first):
        message = f"a sample is {samples.first.dtype} {samples.shape}, expected a row of token ids, int64 (L,)"
        raise SettingError("training.load_dataset", message)
    return classification.check_data(architecture, samples)


def read_sample(text, input_format: dict) -> torch.Tensor:
    """A text, or an Upload of one, as the token ids of `load_texts`. Change this for a loader with other tokens."""
    text = text if isinstance(text, str) else text.getvalue().decode(errors="replace")
    return to_ids(text, input_format.get("length", max(1, len(text.encode(errors="surrogateescape")))))
