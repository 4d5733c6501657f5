"""The ready-made functions, by themselves."""

from pathlib import Path

import pantry  # noqa: F401  (registers)
import pytest
import torch
from core import registry
from pantry import augment, preprocess


def test_random_shift_moves_whole_images():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    batch, targets = image.repeat(200, 1, 1, 1), torch.arange(200)
    shift = augment.random_shift(pixels=1)
    moved, same = shift(batch, targets, torch.Generator().manual_seed(0))
    assert moved.shape == batch.shape and same is targets and moved.sum() == 200
    places = {tuple(place.tolist()[2:]) for place in moved.nonzero()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}
    again, _ = shift(batch, targets, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)
    with pytest.raises(ValueError, match="write 0 or more"):
        augment.random_shift(pixels=-1)


def test_random_flip():
    batch = torch.rand(100, 3, 4, 4)
    flipped, _ = augment.random_flip(1.0)(batch, None, torch.Generator())
    assert torch.equal(flipped, batch.flip(-1))
    some, _ = augment.random_flip(0.5)(batch, None, torch.Generator().manual_seed(1))
    share = sum(torch.equal(one, other) for one, other in zip(some, batch, strict=True))
    assert 30 < share < 70


def test_resize_and_scale_takes_tensors_and_arrays():
    image = torch.randint(0, 256, (3, 10, 6), dtype=torch.uint8)
    resize = preprocess.resize_and_scale([5, 4])
    small = resize(image)
    assert small.shape == (3, 5, 4) and small.dtype == torch.float32 and 0 <= small.min() <= small.max() <= 1
    assert torch.equal(resize(image.permute(1, 2, 0).numpy()), small)
    assert resize(image[0].numpy()).shape == (1, 5, 4)
    assert torch.equal(preprocess.resize_and_scale([10, 6])(image), image / 255)
    with pytest.raises(ValueError, match="height, width"):
        preprocess.resize_and_scale([5])


def test_every_registered_function_has_a_docstring():
    for kind in ("augment", "backbone", "download_function", "load_dataset", "loss", "optimizer", "schedule"):
        for name in getattr(registry, kind):
            function = getattr(registry, kind).get(name)
            if Path(function.__code__.co_filename).parent.name == "pantry":
                assert function.__doc__, f"{kind} {name}"


def test_a_batch_is_preprocessed_as_its_samples_are():
    import torch

    images = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for settings in ({"size": [9, 7]}, {"size": [16, 12]}, {"size": [4, 4], "mean": [0.5] * 3, "std": [0.2] * 3}):
        preprocess = registry.preprocess.get("resize_and_scale")(**settings)
        assert torch.equal(preprocess.of_batch(images), torch.stack([preprocess(image) for image in images]))
