"""Segmentation: losses of pixels, networks that return a class for each pixel, and their weights."""

import pytest
import torch
import torch.nn.functional as F
from core import IngredientsError, parse_string, registry, resolve
from pantry import losses
from recipes import segmentation
from recipes.parts import finetune, weights

IGNORED = 255


def made(name, /, **settings):
    return registry.loss.get(name)(**settings)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LOGITS = torch.randn(2, 4, 5, 6, generator=seeded())
MASKS = torch.randint(0, 4, (2, 5, 6), generator=seeded(1))
HOLED = MASKS.masked_fill(torch.rand(MASKS.shape, generator=seeded(2)) < 0.3, losses.IGNORE_INDEX)
ROWS, KNOWN = LOGITS.movedim(1, -1)[HOLED >= 0], HOLED[HOLED >= 0]  # the pixels that count, as samples


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "dice"])
def test_ignored_pixels_count_nowhere(name):
    """Neither in the value nor in the gradient; pixels are samples of a classification otherwise."""
    loss, logits = made(name), LOGITS.clone().requires_grad_()
    value = loss(logits, HOLED)
    assert torch.allclose(value, loss(ROWS, KNOWN))
    value.backward()
    ignored = (HOLED < 0)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).all()
    nothing = loss(LOGITS.clone().requires_grad_(), torch.full_like(MASKS, losses.IGNORE_INDEX))
    nothing.backward()
    assert nothing.isfinite()


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 4.0], "balanced"])
@pytest.mark.parametrize("name, settings", [("cross_entropy", {"label_smoothing": 0.2}), ("focal", {"gamma": 1.5})])
def test_weights_and_smoothing_of_pixels_are_those_of_samples(name, settings, weights):
    loss = made(name, class_weights=weights, **settings)
    in_masks = HOLED.masked_fill(HOLED < 0, IGNORED).byte()
    of_pixels = loss.prepare(in_masks, 4, "cpu")
    assert torch.allclose(of_pixels(LOGITS, HOLED), loss.prepare(KNOWN, 4, "cpu")(ROWS, KNOWN))


def test_torchs_own_losses_take_masks():
    loss = resolve(parse_string("[x]\n@loss = torch.nn.CrossEntropyLoss"))["x"]
    assert torch.allclose(loss(LOGITS, HOLED), made("cross_entropy")(LOGITS, HOLED))


def test_dice_is_its_formula():
    shares, truth = LOGITS.softmax(1), F.one_hot(MASKS, 4).movedim(-1, 1)
    for smooth in (1.0, 10.0):
        by_class = []
        for label in range(4):
            p, g = shares[:, label].flatten(), truth[:, label].flatten().float()
            by_class.append((2 * p @ g + smooth) / (p @ p + g @ g + smooth))
        assert torch.allclose(made("dice", smooth=smooth)(LOGITS, MASKS), 1 - torch.stack(by_class).mean())
    assert made("dice")(50 * truth.float(), MASKS) < 1e-6
    with pytest.raises(ValueError, match="smooth = 0: must be above 0"):
        made("dice", smooth=0)


# ------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("widths, stride", [([4], 1), ([4, 6, 8], 1), ([4, 6, 8], 2)])
@pytest.mark.parametrize("size", [(32, 48), (37, 21)])
def test_unet_gives_each_pixel_its_logits(widths, stride, size):
    model = segmentation.find_segmenter("unet", {"widths": widths, "stride": stride})(in_channels=1, output_classes=3)
    assert model.eval()(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_unet_is_that_of_the_paper():
    with torch.device("meta"):
        model = segmentation.find_segmenter("unet")(in_channels=1, output_classes=2)
    convolutions = [tuple(one.weight.shape[:2]) for one in model.modules() if isinstance(one, torch.nn.Conv2d)]
    assert len(convolutions) == 19 and max(convolutions) == (1024, 1024)  # and 4 transposed ones: 23 in the paper
    assert 31_000_000 < sum(one.numel() for one in model.parameters()) < 31_100_000


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_torchvisions_models(name, channels):
    with torch.device("meta"):
        build = segmentation.find_segmenter(name)
        model = build(in_channels=channels, output_classes=5).eval()
        assert model(torch.rand(2, channels, 64, 48)).shape == (2, 5, 64, 48)
        head = finetune.head(model)
    body = next(one for one in model.modules() if hasattr(one, "backbone")).backbone
    parts = [set(map(id, part.parameters())) for part in (model, body, head)]
    assert parts[0] == parts[1] | parts[2] and not parts[1] & parts[2] and parts[2]


def test_names_and_options_of_segmentation_models():
    for name, options, message in (
        ("resnet18", None, 'options = {"body": "resnet18"}'),
        ("fcn_resnet5", None, "Did you mean fcn_resnet50"),
        ("fcn_resnet50", {"width": 3}, "takes no options"),
        ("unet", {"width": 3}, "Did you mean widths"),
    ):
        with pytest.raises(IngredientsError, match=message):
            segmentation.find_segmenter(name, options)


def test_weights_with_a_head_of_another_size(tmp_path):
    build = segmentation.find_segmenter("lraspp_mobilenet_v3_large")
    source, model = build(in_channels=3, output_classes=21), build(in_channels=1, output_classes=4)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    told = weights.load_weights(model, tmp_path / "a.pt", "lraspp_mobilenet_v3_large")
    assert told.endswith("newly initialized: classifier.low_classifier, classifier.high_classifier")
    own, theirs = model[1].state_dict(), source.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if own[key].shape == theirs[key].shape)


def test_a_frozen_body_trains_its_head_alone():
    build = segmentation.find_segmenter("lraspp_mobilenet_v3_large")
    model = build(in_channels=3, output_classes=4).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    finetune.freeze(model, finetune.head(model))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"classifier"}
