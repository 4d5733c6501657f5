"""pantry/preprocess.py: one sample, and many at once."""

import pantry  # noqa: F401  (registers)
import pytest
import torch
from core import registry
from pantry import preprocess


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


def test_a_batch_is_preprocessed_as_its_samples_are():
    import torch

    images = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for settings in ({"size": [9, 7]}, {"size": [16, 12]}, {"size": [4, 4], "mean": [0.5] * 3, "std": [0.2] * 3}):
        preprocess = registry.preprocess.get("resize_and_scale")(**settings)
        assert torch.equal(preprocess.of_batch(images), torch.stack([preprocess(image) for image in images]))
