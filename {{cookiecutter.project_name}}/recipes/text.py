"""What differs by task, here: one class for each text. Texts are rows of token ids (L,); the rest is classification."""

from functools import partial

import torch

from core import Ingredients, located
from pantry.texts import to_ids
from recipes import classification
from recipes.data import is_ids

FIGURES = classification.FIGURES  # what `evaluate` gives
BEST = "accuracy"  # the one by which the best epoch is chosen where the ingredients name none

check, check_other_data = classification.check, classification.check_other_data
build_model = partial(classification.build_model, dtype=torch.long)
default_loss, loss, evaluate = classification.default_loss, classification.loss, classification.evaluate
predict = classification.predict


def check_data(ingredients: Ingredients, architecture, samples) -> int:
    """The number of classes of the training data. Raises IngredientsError where ids, head or targets do not fit."""
    if not is_ids(samples.first):
        message = f"a sample is {samples.first.dtype} {samples.shape}; a row of token ids, int64 (L,), is needed"
        raise located(ingredients, "training.load_dataset", message)
    return classification.count_classes(ingredients, architecture, samples)


def read_sample(text: str, form: dict) -> torch.Tensor:
    """A text as token ids, as `load_texts` makes them. A loader of yours with other tokens: change this."""
    return to_ids(text, form.get("length", max(1, len(text.encode()))))
