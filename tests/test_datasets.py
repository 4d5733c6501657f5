"""Data sets of torchvision and of the package datasets, by name."""

import struct
from pathlib import Path

import numpy
import pytest
import torch
from core import IngredientsError, parse_string, resolve
from recipes.parts.samples import load, scale
from recipes.settings import import_functions

import_functions(Path("no such folder"))


def loader_of(text: str):
    return resolve(parse_string(f"[training.load_dataset]\n{text}\n")).training.load_dataset


@pytest.fixture
def idx(tmp_path):
    """Files of Fashion-MNIST's own format, 12 images for training and 12 for testing."""
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    pixels = numpy.arange(12 * 28 * 28, dtype=numpy.uint32).astype(numpy.uint8)
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 12, 28, 28) + pixels.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 12) + bytes(range(10)) + b"\0\1")
    return tmp_path


def test_a_data_set_of_torchvision_by_name(idx):
    loader = loader_of(f"@load_dataset = torchvision.datasets.FashionMNIST\nroot = {idx}\ntrain = False")
    samples = load(loader, scale, memory=1.0)
    assert samples.shape == [1, 28, 28] and samples.classes[9] == "Ankle boot" and len(samples) == 12
    assert samples.targets.tolist() == [*range(10), 0, 1] and float(samples.first.max()) == 1.0
    assert len(loader.check()) == 12


def test_a_data_set_that_is_not_there_says_so(tmp_path):
    loader = loader_of(f"@load_dataset = torchvision.datasets.MNIST\nroot = {tmp_path}")
    with pytest.raises(IngredientsError, match="torchvision.datasets.MNIST: Dataset not found.*download=True"):
        loader()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@load_dataset = torchvision.datasets.FashionMNST", "Did you mean torchvision.datasets.FashionMNIST"),
        ("@load_dataset = torchvision.datasets.MNIST\nroot = .\ntrian = True", "Did you mean train"),
        ("@load_dataset = torchvision.datasets.MNIST\nroot = .\ntransform = x", "transform"),
        ("@load_dataset = torchvision.datasets.VisionDataset\nroot = .", "is not a map-style data set"),
        ("@load_dataset = huggingface", "path"),
    ],
)
def test_mistakes_are_told_with_their_line(text, message):
    with pytest.raises(IngredientsError, match=rf"(?s)^<text>:\d+: training.load_dataset.*{message}"):
        loader_of(text)


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A Parquet file of grey images and the names of their classes, and no network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    images = [numpy.full((4, 4), value, numpy.uint8) for value in (0, 100, 200)]
    table = datasets.Dataset.from_dict(
        {"image": images, "label": ["dog", "cat", "dog"]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    table.to_parquet(tmp_path / "pets.parquet")
    return tmp_path / "pets.parquet"


def test_a_parquet_file_is_read_by_the_package_datasets(parquet):
    loader = loader_of(f"@load_dataset = huggingface\npath = parquet\ndata_files = {parquet}")
    samples = load(loader, scale, memory=1.0)
    assert samples.classes == ["cat", "dog"] and samples.targets.tolist() == [1, 0, 1]
    assert torch.equal(samples[2][0], torch.full((1, 4, 4), 200 / 255))


def test_a_missing_column_is_named(parquet):
    text = f"@load_dataset = huggingface\npath = parquet\ndata_files = {parquet}\ntarget = breed"
    with pytest.raises(IngredientsError, match="no column breed; its columns are image, label"):
        loader_of(text)()
