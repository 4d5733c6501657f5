"""The ready-made functions, by themselves."""

import math
from pathlib import Path

import pytest
import torch

import pantry  # noqa: F401  (registers)
from core import IngredientsError, registry
from pantry import augment, losses, models, optimizers, preprocess, schedules


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


def test_cross_entropy():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    plain = -logits.log_softmax(1)[range(6), targets].mean()
    smooth = 0.9 * plain - 0.1 * logits.log_softmax(1).mean()
    assert torch.allclose(losses.cross_entropy()(logits, targets), plain)
    assert torch.allclose(losses.cross_entropy(0.1)(logits, targets), smooth)


@pytest.mark.parametrize("build", [optimizers.sgd(weight_decay=0.3), optimizers.adamw(weight_decay=0.3)])
def test_weight_decay_spares_norms_and_biases(build):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
    model[2].weight.requires_grad = False
    decayed, spared = build(model).param_groups
    assert decayed["weight_decay"] == 0.3 and [p.ndim for p in decayed["params"]] == [4]
    assert spared["weight_decay"] == 0 and [p.ndim for p in spared["params"]] == [1, 1, 1, 1]


def test_schedules():
    factor = schedules.one_cycle(warmup=0.2, start=0.1)
    assert [factor(0), factor(0.2), factor(1)] == [0.1, 1.0, 0.0] and math.isclose(factor(0.6), 0.5)
    factor = schedules.cosine(warmup=0.1)
    assert factor(0) == 0 and factor(0.1) == 1 and factor(1) == 0 and math.isclose(factor(0.55), 0.5)
    assert schedules.constant()(0.3) == 1
    assert schedules.one_cycle(warmup=0.0)(0.0) == 1
    with pytest.raises(ValueError, match="warmup = 1: write a share"):
        schedules.one_cycle(warmup=1)


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


def test_small_cnn():
    for channels, side in ((1, 8), (1, 28), (3, 64)):
        model = models.find_backbone("small_cnn")(in_channels=channels, output_classes=7)
        assert model(torch.rand(2, channels, side, side)).shape == (2, 7)
    with pytest.raises(IngredientsError, match="Did you mean small_cnn"):
        models.find_backbone("smallcnn")


def test_grey_images_reach_a_torchvision_model_as_three_equal_channels():
    model = models.find_backbone("resnet18")(in_channels=1, output_classes=3).eval()
    images = torch.rand(2, 1, 32, 32)
    assert torch.allclose(model(images), model[1](images.repeat(1, 3, 1, 1)), atol=1e-5)


def all_backbones():
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_torchvision_classification_model_takes_its_place(part):
    """Shapes alone, on the meta device: no arithmetic."""
    for name in all_backbones()[part::4]:
        build = models.find_backbone(name)
        try:
            with torch.device("meta"):
                model = build(in_channels=1, output_classes=5)
        except NotImplementedError:  # it reads a number out of a tensor while it is built
            model = build(in_channels=1, output_classes=5).to("meta")
        side = 299 if name == "inception_v3" else 224
        images = torch.zeros(2, 1, side, side, device="meta")
        assert model.eval()(images).shape == (2, 5), name
        assert isinstance(model.train()(images), torch.Tensor), name


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
