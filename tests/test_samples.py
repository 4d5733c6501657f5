"""recipes/parts/samples.py: what a loader may return, and the one data path from there to batches."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from core import IngredientsError, SettingError
from recipes.parts import samples as data
from recipes.parts import workers

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"


def arrays():
    """12 images (5, 4, 3) in bytes of 3 classes."""
    X = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    return X, np.arange(12) % 3


def load(loaded, preprocess=data.scale, memory=1.0):
    return data.load(lambda: loaded, preprocess, memory=memory)


def read_all(samples, **settings):
    batches = list(data.reader(samples, 5, torch.device("cpu"), **settings)())
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


def test_samples_that_are_augmented_one_by_one_stay_where_workers_read_them():
    kept = load(arrays())
    assert kept.to("meta").kept[0].is_meta
    augmented = data.replace(kept, per_sample=lambda sample, target: (sample, target))
    assert not augmented.to("meta").kept[0].is_meta  # of a device: a worker could neither read nor pin them


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


class Pairs:
    """A map-style data set of arrays; `targets` are known in advance."""

    def __init__(self, threads=1):
        (self.X, self.targets), self.threads = arrays(), threads

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return self.X[index], self.targets[index]


def halve(sample):
    return torch.from_numpy(sample).permute(2, 0, 1) / 255


@pytest.mark.parametrize("memory", [1.0, 0.0])
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_workers_and_kind_of_data_give_the_same_numbers(memory, workers):
    expected = torch.from_numpy(arrays()[0]).permute(0, 3, 1, 2) / 255
    for loaded in (arrays(), Pairs(), Pairs(threads=4), list(zip(*arrays(), strict=True))):
        samples = load(loaded, memory=memory)
        assert samples.in_memory is (memory > 0) and samples.shape == [3, 5, 4] and len(samples) == 12
        inputs, targets = read_all(samples, workers=workers)
        assert torch.equal(inputs, expected)
        assert targets.tolist() == arrays()[1].tolist() and targets.dtype == torch.int64


def test_what_fits_exactly_is_kept():
    assert load(arrays(), memory=12 * 60 * 4 / 1e9).in_memory
    assert not load(arrays(), memory=(12 * 60 * 4 - 1) / 1e9).in_memory


def test_a_preprocess_for_many_is_called_for_many():
    sizes = []
    preprocess = lambda sample: sample / 255  # noqa: E731
    preprocess.of_batch = lambda images: sizes.append(len(images)) or images / 255
    loaded = torch.from_numpy(arrays()[0]).permute(0, 3, 1, 2), arrays()[1]
    assert torch.equal(read_all(load(loaded, preprocess))[0], read_all(load(loaded, preprocess, memory=0))[0])
    assert sizes == [12]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_augments_a_sample_depends_on_seed_epoch_and_sample_alone(workers):
    samples = data.replace(load(arrays(), memory=workers), per_sample=lambda x, y: (x + torch.rand(()), y), seed=1)
    order_of = data.epoch_sampler(samples, 0)
    read = data.reader(samples, 5, torch.device("cpu"), workers)
    once, again = (torch.cat([x for x, _ in read(order_of(3).sort().values)]) for _ in range(2))
    other = torch.cat([x for x, _ in read(order_of(4).sort().values)])
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_a_data_set_of_torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    dataset = torchvision.datasets.FakeData(6, (3, 8, 8), 2)
    for memory in (1.0, 0.0):
        samples = load(dataset, memory=memory)
        inputs, targets = read_all(samples)
        assert inputs.shape == (6, 3, 8, 8) and targets.dtype == torch.int64
        assert samples.input_format["kind"] == "image"
        assert torch.equal(inputs[0], torchvision.transforms.functional.to_tensor(dataset[0][0]))


def test_targets_that_are_no_numbers_are_read_with_the_samples():
    loaded = Pairs()
    loaded.targets, plain = ["a"] * 12, Pairs()
    loaded.__class__ = type("Paths", (Pairs,), {"__getitem__": lambda self, index: plain[index]})
    assert read_all(load(loaded))[1].tolist() == plain.targets.tolist()


def test_workers_are_chosen_where_reading_takes_time(monkeypatch):
    monkeypatch.setattr(workers, "processors", lambda: 3)
    assert workers.choose_workers(None) == 3
    samples = load(arrays(), memory=0)
    assert workers.choose_workers(samples) == 0
    slow = data.replace(samples, read=lambda index: time.sleep(0.003) or samples.read(index))
    assert workers.choose_workers(slow) == 3


def test_one_class_alone_is_refused():
    from types import SimpleNamespace

    from recipes import classification

    samples = data.replace(load((arrays()[0], arrays()[1] * 0)), classes=["cat"])
    with pytest.raises(IngredientsError, match="has one class alone, cat; expected 2 or more"):
        classification.check_data(SimpleNamespace(output_classes=None), samples)


class Damaged(torch.utils.data.Dataset):
    """The fifth of its items cannot be read."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            raise self.error
        return torch.zeros(3), 0.0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind, words", [(IngredientsError, ["5.png: damaged"]), (SettingError, ["a.b", "damaged"])])
def test_an_error_of_a_worker_is_raised_as_it_was(kind, words, workers):
    error = kind(*words)
    samples = data.load(lambda: Damaged(error), data.scale, memory=0)
    read = data.reader(samples, 2, torch.device("cpu"), workers)
    with pytest.raises(kind) as caught:
        list(read())
    assert str(caught.value) == str(error) and "damaged" in str(error)


def test_a_script_ends_whose_error_holds_the_loader():
    """And with it its workers, which nobody told to end."""
    code = (
        "import torch\nfrom recipes.parts import samples as data\n"
        "samples = data.load(lambda: (torch.zeros(8, 3), torch.zeros(8)), data.scale, memory=0)\n"
        "for batch in data.reader(samples, 2, torch.device('cpu'), 1)():\n    raise RuntimeError('own')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: own\n")
