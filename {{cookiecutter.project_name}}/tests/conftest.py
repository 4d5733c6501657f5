"""A tiny data set as an archive, and the shipped ingredients turned to it: tests train in a second, elsewhere."""

import signal
import sys
import tarfile
from pathlib import Path

import pytest

from core import registry, resolve
from recipes.settings import read_ingredients

HERE = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_arrives():
    """A shell's background jobs ignore SIGINT, and so would the processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def without_report():
    """As if recipes/report.py were not there: no training of a test starts a process that writes a report."""
    sys.modules["recipes.report"] = None


@pytest.fixture(scope="session")
def one_thread():
    """Tiny networks are no faster on several threads, and far slower where other processes want the processors."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """tiny.tgz: 3 classes of 8x8 grey images, 20 of each for training, 5 for testing: plain, rows, columns."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("archive")
    random = np.random.default_rng(0)
    for split, count in (("training", 20), ("testing", 5)):
        for label in range(3):
            for index in range(count):
                pixels = random.integers(0, 60, (8, 8), dtype=np.uint8)
                pixels[[slice(0, 0), np.s_[::2], np.s_[:, ::2]][label]] += 160
                path = folder / "tiny" / split / f"class-{label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    with tarfile.open(folder / "tiny.tgz", "w:gz") as tar:
        tar.add(folder / "tiny", "tiny")
    return folder / "tiny.tgz"


@pytest.fixture
def overrides(archive, tmp_path, monkeypatch):
    """What turns the shipped ingredients to the tiny data, in a scratch folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return {
        "project.name": "tiny",
        "project.data.source": f"file:{archive}",
        "project.data.root": f"{tmp_path}/data/",
        "project.meta.n_classes": "3",
        "model.architecture.options": "None",  # of the shipped backbone, which other backbones do not have
        "training.load_dataset.source": f"{tmp_path}/data/tiny",
        "training.preprocess.@preprocess": "resize_and_scale",
        "training.preprocess.size": "[16, 16]",
        "testing.preprocess.size": "[16, 16]",
        "training.scheme.precision": "float32",
        "training.scheme.epochs": "8",  # the running statistics of the norms need some fifty steps
        "training.scheme.batch_size": "8",
        "training.optimizer.learning_rate": "0.05",
        "training.scheme.early_stop": "False",
        "training.scheme.validation_fraction": "0.2",
        "training.model.report": "False",  # in processes that do not see the fixture above
    }


@pytest.fixture
def read(overrides):
    """read({"a.b": "5"}) -> the shipped ingredients, turned to the tiny data and changed; None leaves one out."""

    def read(changes=None):
        merged = overrides | (changes or {})
        taken = [(path, text, True) for path, text in merged.items() if text is not None]
        return read_ingredients(HERE / "ingredients.ini", taken)

    return read


@pytest.fixture
def train(read, one_thread):
    """train(changes) -> the run's folder."""
    from recipes.train import train as train_recipe

    def run(changes=None):
        ingredients = read(changes)
        return train_recipe(ingredients, resolve(ingredients))

    return run


@pytest.fixture
def own():
    """own.loss(name)(factory): a function of the user's, for this test alone."""
    before = {name: dict(functions) for name, functions in registry.items()}
    yield registry
    for name, functions in registry.items():
        for added in functions.keys() - before.get(name, {}).keys():
            del functions[added]
        functions.update((key, function) for key, function in before.get(name, {}).items() if callable(function))
