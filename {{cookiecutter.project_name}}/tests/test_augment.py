"""Augmentations and views: each one registered is tried, the day it is registered."""

import inspect

import pytest
import torch

import pantry  # noqa: F401  (registers)
from core import IngredientsError, parse_string, registry, resolve
from pantry import augment

SETTINGS = {  # of those that need some, or that would change nothing that these tests see
    "random_crop": {"size": [10, 12], "pad": 2},
    "random_flip": {"probability": 0.5},
    "mixup": {"classes": 10},
    "cutmix": {"classes": 10},
}
# Of boxes, which batches of classes have not, tests/test_detection.py.
OURS = [name for name in registry.augment if "." not in name and name not in ("sequence", "mosaic")]
COUNT = 64


def make(name):
    return registry.augment.get(name)(**SETTINGS.get(name, {}))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(channels=3, side=16):
    images = torch.rand(COUNT, channels, side, side, generator=seeded(9))
    return images.to(memory_format=torch.channels_last), torch.arange(COUNT) % 10


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_changes_and_stays_a_batch(name, channels):
    inputs, targets = batch(channels)
    before = inputs.clone()
    changed, new_targets = make(name)(inputs, targets, seeded())
    assert torch.equal(inputs, before) and torch.equal(targets, torch.arange(COUNT) % 10)  # what came in is left alone
    assert list(changed.shape) == [COUNT, channels, *SETTINGS.get(name, {}).get("size", [16, 16])]
    assert changed.dtype == torch.float32 and changed.is_contiguous(memory_format=torch.channels_last)
    assert changed.min() >= 0 and changed.max() <= 1
    assert changed.shape != inputs.shape or not torch.equal(changed, inputs)
    if name in ("mixup", "cutmix"):
        assert new_targets.shape == (COUNT, 10) and torch.allclose(new_targets.sum(1), torch.ones(COUNT))
    else:
        assert new_targets is targets


@pytest.mark.parametrize("name", OURS)
def test_chance_comes_from_the_generator_alone(name):
    inputs, targets = batch()
    function = make(name)
    torch.manual_seed(1)
    first = function(inputs, targets, seeded())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again, other = function(inputs, targets, seeded()), function(inputs, targets, seeded(1))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", OURS)
def test_each_sample_has_a_draw_of_its_own(name):
    image = torch.rand(1, 1, 16, 16, generator=seeded(9))
    inputs = image.repeat(COUNT, 1, 1, 1)
    if name in ("mixup", "cutmix"):  # two kinds of images in turn: what shows is the share
        inputs[::2] = 0
    changed, _ = make(name)(inputs, torch.arange(COUNT) % 10, seeded())
    assert len({tuple(one.flatten().tolist()) for one in changed}) > (1 if name == "random_flip" else 2)


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_asked_of_the_device(name):
    """On the meta device there are no values: whoever reads one fails."""
    inputs, targets = torch.empty(8, 3, 16, 16, device="meta"), torch.zeros(8, dtype=torch.int64, device="meta")
    if name in ("mixup", "cutmix"):
        targets = torch.empty(8, 10, device="meta")
    changed, _ = make(name)(inputs, targets, None)
    assert changed.device.type == "meta"


def test_random_crop_cuts_windows_out_of_the_bordered_image():
    inputs = torch.arange(1.0, 26).view(1, 1, 5, 5).repeat(200, 1, 1, 1)
    crops, _ = augment.random_crop([3, 4], pad=1)(inputs, None, seeded())
    padded = torch.nn.functional.pad(inputs[0, 0], (1,) * 4)
    windows = {
        tuple(padded[top : top + 3, left : left + 4].flatten().tolist()) for top in range(5) for left in range(4)
    }
    assert {tuple(crop.flatten().tolist()) for crop in crops} == windows
    with pytest.raises(IngredientsError, match=r"5 x 5 pixels, smaller than size = \[6, 5\]; raise pad"):
        augment.random_crop([6, 5])(inputs, None, seeded())


def test_random_flip_upside_down():
    inputs, _ = batch()
    assert torch.equal(augment.random_flip(1.0, vertical=True)(inputs, None, seeded())[0], inputs.flip(-2))
    assert torch.equal(augment.random_flip(0.0)(inputs, None, seeded())[0], inputs)


@pytest.mark.parametrize("noise", [False, True])
def test_random_erasing_fills_one_rectangle_of_the_share_asked_for(noise):
    inputs = torch.full((500, 2, 20, 30), 2.0)
    erased, _ = augment.random_erasing(0.6, area=[0.1, 0.2], ratio=[0.5, 2.0], noise=noise)(inputs, None, seeded())
    boxes = erased[:, 0] != 2
    assert torch.equal(boxes, erased[:, 1] != 2)
    rows, columns = boxes.any(2), boxes.any(1)
    assert torch.equal(boxes, rows[:, :, None] & columns[:, None, :])
    hit = boxes.any(2).any(1)
    assert 0.5 < hit.float().mean() < 0.7
    shares = boxes[hit].float().mean((1, 2))
    assert 0.08 < shares.min() < 0.12 and 0.18 < shares.max() < 0.22
    tallness = rows[hit].sum(1) / columns[hit].sum(1)
    assert 0.4 < tallness.min() < 0.6 and 1.6 < tallness.max() < 2.4
    assert (len(erased[erased != 2].unique()) > 100) if noise else bool((erased[erased != 2] == 0).all())


def test_mixup_mixes_images_and_targets_by_the_same_share():
    inputs = torch.arange(6.0)[:, None, None, None].expand(6, 1, 4, 4) / 5
    mixed, targets = augment.mixup(6, alpha=1.0)(inputs, torch.arange(6), seeded())
    means = targets @ (torch.arange(6.0) / 5)
    assert torch.allclose(mixed, means[:, None, None, None].expand_as(mixed), atol=1e-6)
    neighbours = torch.arange(6).roll(1)
    assert bool((targets[range(6), range(6)] + targets[range(6), neighbours] - 1 < 1e-6).all())


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.5, 1.0, 2.0, 30.0])
def test_shares_are_beta_distributed(alpha):
    shares = augment._beta(alpha, 100_000, "cpu", seeded())
    assert shares.min() >= 0 and shares.max() <= 1
    torch.manual_seed(0)
    wanted = torch.distributions.Beta(alpha, alpha).sample((100_000,))
    assert (shares.sort().values - wanted.sort().values).abs().mean() < 0.01
    assert abs(shares.var() * 4 * (2 * alpha + 1) - 1) < 0.02


def test_cutmix_tells_the_share_of_pixels_that_it_kept():
    inputs = torch.arange(100.0)[:, None, None, None].expand(100, 1, 10, 10)
    mixed, targets = augment.cutmix(100)(inputs, torch.arange(100), seeded())
    kept = (mixed == inputs).float().mean((1, 2, 3))
    pasted = (mixed == inputs.roll(1, 0)).float().mean((1, 2, 3))
    assert torch.allclose(kept + pasted, torch.ones(100)) and torch.allclose(targets[range(100), range(100)], kept)
    assert 0.3 < float(kept.mean()) < 0.8


def test_mixup_after_cutmix_takes_shares():
    inputs, targets = batch()
    both = augment.sequence(augment.cutmix(10), augment.mixup(10))
    _, targets = both(inputs, targets, seeded())
    assert torch.allclose(targets.sum(1), torch.ones(COUNT)) and int((targets > 0).sum(1).max()) > 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: augment.random_crop([3]), r"size = \[3\]: write \[height, width\]"),
        (lambda: augment.random_crop([3, 3], pad=-1), "pad = -1: write 0 or more"),
        (lambda: augment.random_flip(1.5), "probability = 1.5: write a number from 0 to 1"),
        (lambda: augment.random_erasing(area=[0.5, 0.1]), r"area = \[0.5, 0.1\]: write two shares"),
        (lambda: augment.random_erasing(ratio=[0, 1]), r"ratio = \[0, 1\]: write two numbers above 0"),
        (lambda: augment.mixup(1), "classes = 1: write how many"),
        (lambda: augment.cutmix(3, alpha=0), "alpha = 0: write a number from 0.01"),
        (lambda: augment.sequence(), "give each step a section of its own"),
        (lambda: augment.sequence("random_flip"), "give each step a section of its own"),
        (lambda: augment.shift_views(0), "pixels = 0: write 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# sequence


def resolved(text):
    return resolve(parse_string(text)).at("training.augment")


def test_a_sequence_runs_in_the_order_of_the_file():
    both = resolved("""
[training.augment]
@augment = sequence
[training.augment.*.crop]
@augment = random_crop
size = [8, 8]
[training.augment.*.shift]
@augment = random_shift
pixels = 2
""")
    inputs, targets = batch()
    generator = seeded()
    wanted, _ = augment.random_crop([8, 8])(inputs, targets, generator)
    wanted, _ = augment.random_shift(2)(wanted, targets, generator)
    assert torch.equal(both(inputs, targets, seeded())[0], wanted)
    assert not hasattr(both, "per_sample")


def test_a_sequence_composes_what_works_on_samples():
    both = resolved("""
[training.augment]
@augment = sequence
[training.augment.*.flip]
@augment = torchvision.transforms.v2.RandomHorizontalFlip
p = 1.0
[training.augment.*.inner]
@augment = sequence
[training.augment.*.inner.*.upside]
@augment = torchvision.transforms.v2.RandomVerticalFlip
p = 1.0
[training.augment.*.inner.*.shift]
@augment = random_shift
""")
    inputs, targets = batch()
    assert torch.equal(both.per_sample(inputs[0], 1)[0], inputs[0].flip(1, 2))
    assert torch.equal(both(inputs, targets, seeded())[0], augment.random_shift()(inputs, targets, seeded())[0])


def test_a_sequence_refuses_samples_after_batches():
    text = """
[training.augment]
@augment = sequence
[training.augment.*.shift]
@augment = random_shift
[training.augment.*.flip]
@augment = torchvision.transforms.v2.RandomHorizontalFlip
"""
    with pytest.raises(IngredientsError, match="its steps work on a batch, one sample; put those of torchvision"):
        resolved(text)


# torchvision


def of_torchvision(name, **settings):
    return registry.augment.get(f"torchvision.transforms.v2.{name}")(**settings)


TORCHVISION = {
    "RandAugment": {},
    "TrivialAugmentWide": {},
    "AutoAugment": {},
    "AugMix": {},
    "ColorJitter": {"brightness": 0.5},
    "RandomAffine": {"degrees": 20},
    "RandomErasing": {"p": 1.0},
    "RandomResizedCrop": {"size": [16, 16], "antialias": True},
    "RandomRotation": {"degrees": 20},
}


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_of_torchvision_work_on_a_sample(name, channels):
    made = of_torchvision(name, **TORCHVISION[name])
    inputs, targets = batch(channels)
    assert made(inputs, targets, seeded()) == (inputs, targets)
    torch.manual_seed(0)
    results = [made.per_sample(inputs[0], 1)[0] for _ in range(20)]
    torch.manual_seed(0)
    assert all(torch.equal(one, made.per_sample(inputs[0], 1)[0]) for one in results)
    assert any(not torch.equal(one, inputs[0]) for one in results)
    for result in results:
        assert result.shape == inputs[0].shape and result.dtype == torch.float32
        assert result.min() >= -1e-6 and result.max() <= 1 + 1e-6


def test_arguments_of_torchvision_are_checked():
    head = "[training.augment]\n@augment = torchvision.transforms.v2."
    with pytest.raises(IngredientsError, match="(?s)no such argument. Did you mean num_ops.*_auto_augment.py"):
        resolved(f"{head}RandAugment\nnum_opps = 3")
    with pytest.raises(IngredientsError, match="num_ops = many.*\n.*an integer is needed"):
        resolved(f"{head}RandAugment\nnum_ops = many")
    with pytest.raises(IngredientsError, match="Did you mean torchvision.transforms.v2.RandAugment"):
        resolved(f"{head}RandAugmnt")
    with pytest.raises(IngredientsError, match="RandomErasing refuses its settings: .*floating point value"):
        resolved(f"{head}RandomErasing\np = 3.0")


def test_a_number_of_any_kind_is_a_number():
    text = "[training.augment]\n@augment = torchvision.transforms.v2.RandomAffine\ndegrees = "
    for value in ("10", "10.5", "[-10, 10]"):
        assert resolved(text + value).per_sample
    with pytest.raises(IngredientsError, match="degrees = True\n.*a number"):
        resolved(text + "True")


@pytest.mark.parametrize(
    "name, message",
    [
        ("MixUp\nnum_classes = 3", "MixUp does not work on one sample; write @augment = mixup"),
        ("CutMix\nnum_classes = 3", "write @augment = cutmix"),
        ("Compose\ntransforms = []", "write @augment = sequence"),
        ("ClampBoundingBoxes", "ClampBoundingBoxes is no transform of an image"),
        ("query_size\nflat_inputs = []", "query_size is no transform of an image"),
    ],
)
def test_what_does_not_work_on_a_sample_is_refused(name, message):
    with pytest.raises(IngredientsError, match=message):
        resolved(f"[training.augment]\n@augment = torchvision.transforms.v2.{name}")


# views


@pytest.mark.parametrize("name", list(registry.views))
def test_views_are_batches_like_the_first(name):
    inputs, _ = batch()
    views = registry.views.get(name)()(inputs)
    assert torch.equal(views[0], inputs) and len(views) > 1
    assert all(view.shape == inputs.shape and not torch.equal(view, inputs) for view in views[1:])


def test_shift_views_move_up_down_left_right():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    places = [view.nonzero()[0, 2:].tolist() for view in augment.shift_views(2)(image)]
    assert places == [[2, 2], [0, 2], [4, 2], [2, 0], [2, 4]]


def test_every_setting_has_a_kind():
    for kind in ("augment", "views"):
        for name in getattr(registry, kind):
            parameters = inspect.signature(getattr(registry, kind).get(name)).parameters.values()
            assert "." in name or all(p.annotation is not p.empty or p.kind is p.VAR_POSITIONAL for p in parameters)
