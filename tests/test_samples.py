"""recipes/parts/samples.py: what a loader may return, and the one data path from there to batches."""

import numpy as np
import pytest
import torch
from core import IngredientsError
from recipes.parts import samples as data


def arrays():
    """12 images (5, 4, 3) in bytes of 3 classes."""
    X = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    return X, np.arange(12) % 3


def load(loaded, preprocess=data.scale, memory=1.0):
    return data.load(lambda: loaded, preprocess, memory)


def read_all(samples, **settings):
    batches = list(data.reader(samples, 5, torch.device("cpu"), **settings)())
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


@pytest.mark.parametrize(
    "loaded, message",
    [
        ({"X": 1}, r"returned dict, expected \(X, y\)"),
        ((1, 2, 3), "returned tuple"),
        (list(arrays()), "an item of the data set is ndarray, expected a pair"),
        ((arrays()[0], ["a"] * 12), "y holds str, expected numbers"),
        ((arrays()[0][:0], arrays()[1][:0]), "returned no samples"),
        ((arrays()[0], arrays()[1][:10]), "12 samples, but 10 targets"),
        ((torch.from_numpy(arrays()[0]), arrays()[1]), "a tensor has its channels first"),
    ],
)
def test_loaders_that_cannot_be_used_are_refused(loaded, message):
    with pytest.raises(IngredientsError, match=message):
        load(loaded)


@pytest.mark.parametrize(
    "preprocess, message",
    [(lambda sample: None, "preprocess returned None"), (lambda sample: sample, "torch.uint8, expected floats")],
)
def test_preprocess_that_cannot_be_used_is_refused(preprocess, message):
    with pytest.raises(IngredientsError, match=message):
        load(arrays(), preprocess)


def test_samples_of_several_sizes_are_named():
    pairs = [(np.zeros((4, 4), np.uint8), 0), (np.zeros((4, 5), np.uint8), 1)]
    with pytest.raises(IngredientsError, match=r"sample 1 is \[1, 4, 5\], but the first one is \[1, 4, 4\]"):
        load(pairs)


def test_split_is_stratified_and_seeded():
    samples = load((torch.arange(300.0)[:, None], torch.arange(300) % 3))
    training, validation = data.split_off(samples, 0.2, seed=3)
    assert validation.targets.bincount().tolist() == [20, 20, 20]
    inputs, targets = read_all(validation)
    assert sorted(read_all(training)[0][:, 0].tolist() + inputs[:, 0].tolist()) == list(range(300))
    assert torch.equal(inputs[:, 0] % 3, targets)
    assert torch.equal(read_all(data.split_off(samples, 0.2, seed=3)[1])[0], inputs)
    assert not torch.equal(read_all(data.split_off(samples, 0.2, seed=4)[1])[0], inputs)
