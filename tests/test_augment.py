"""Augmentations and views: each one registered is tried, the day it is registered."""

import inspect

import numpy
import pantry  # noqa: F401  (registers)
import pytest
import torch
from core import IngredientsError, SettingError, parse_string, registry, resolve
from pantry import augment, torch_augment, views
from recipes import segmentation
from recipes.parts.calling import carried

SETTINGS = {  # of those that need some, or that would change nothing that these tests see
    "random_crop": {"size": [10, 12], "pad": 2},
    "random_erasing": {"probability": 1.0},
    "mixup": {"classes": 10},
    "cutmix": {"classes": 10},
}
# What works on boxes is tested by the tests of detection.
OURS = [name for name in registry.augment if "." not in name and name not in ("sequence", "mosaic")]
MIXES = ("mixup", "cutmix")  # one draw for all of a batch
COUNT = 64


def made(shelf, name, **settings):
    """What `[x] @shelf = name` gives with those settings, written as in a file."""
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return resolve(parse_string("\n".join(["[x]", f"@{shelf} = {name}", *lines])))["x"]


def make(name):
    return registry.augment.get(name)(**SETTINGS.get(name, {}))


def seeded(seed=0):
    """All randomness of a step, seeded as recipes/experiment.py does."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def batch(channels=3, side=16):
    images = torch.rand(COUNT, channels, side, side, generator=torch.Generator().manual_seed(9))
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
    if name in MIXES:
        assert new_targets.shape == (COUNT, 10) and torch.allclose(new_targets.sum(1), torch.ones(COUNT))
    else:
        assert new_targets is targets


@pytest.mark.parametrize("name", OURS)
def test_a_seeded_step_is_repeated(name):
    inputs, targets = batch()
    function = make(name)
    first, again = (function(inputs, targets, seeded()) for _ in range(2))
    other = function(inputs, targets, seeded(1))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", [name for name in OURS if name not in MIXES])
def test_each_sample_has_a_draw_of_its_own(name):
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(9))
    changed, _ = make(name)(image.repeat(COUNT, 1, 1, 1), torch.arange(COUNT) % 10, seeded())
    assert len({tuple(one.flatten().tolist()) for one in changed}) > (1 if name == "random_flip" else 2)


@pytest.mark.parametrize("name", OURS)
def test_it_runs_on_the_meta_device(name):
    """--check has no values: whoever reads one fails."""
    inputs, targets = torch.empty(8, 3, 16, 16, device="meta"), torch.zeros(8, dtype=torch.int64, device="meta")
    if name in MIXES:
        targets = torch.empty(8, 10, device="meta")
    changed, _ = make(name)(inputs, targets, None)
    assert changed.device.type == "meta"


def test_random_shift_moves_whole_images():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    moved, _ = augment.random_shift(pixels=1)(image.repeat(200, 1, 1, 1), None, seeded())
    assert moved.sum() == 200
    places = {tuple(place.tolist()[2:]) for place in moved.nonzero()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (1, 2, 3)}


def test_random_crop_takes_windows_of_the_padded_image():
    inputs = torch.arange(1.0, 26).view(1, 1, 5, 5).repeat(200, 1, 1, 1)
    crops, _ = augment.random_crop([3, 4], pad=1)(inputs, None, seeded())
    padded = torch.nn.functional.pad(inputs[0, 0], (1,) * 4)
    windows = {
        tuple(padded[top : top + 3, left : left + 4].flatten().tolist()) for top in range(5) for left in range(4)
    }
    assert {tuple(crop.flatten().tolist()) for crop in crops} == windows
    with pytest.raises(IngredientsError, match=r"5 x 5 pixels, smaller than size = \[6, 5\]; raise pad"):
        augment.random_crop([6, 5])(inputs, None, seeded())


def test_random_flip_flips_this_share():
    inputs, _ = batch()
    assert torch.equal(augment.random_flip(1.0)(inputs, None, seeded())[0], inputs.flip(-1))
    assert torch.equal(augment.random_flip(1.0, vertical=True)(inputs, None, seeded())[0], inputs.flip(-2))
    assert torch.equal(augment.random_flip(0.0)(inputs, None, seeded())[0], inputs)
    flipped = augment.random_flip(0.25)(inputs, None, seeded())[0]
    assert 4 < sum(not torch.equal(*pair) for pair in zip(inputs, flipped, strict=True)) < 32


@pytest.mark.parametrize("noise", [False, True])
def test_random_erasing_fills_one_rectangle_of_this_share(noise):
    inputs = torch.full((300, 2, 20, 30), 9.0)
    erased, _ = torch_augment.random_erasing(0.6, area=[0.1, 0.2], ratio=[0.5, 2.0], noise=noise)(
        inputs, None, seeded()
    )
    boxes = erased[:, 0] != 9
    assert torch.equal(boxes, boxes.any(2)[:, :, None] & boxes.any(1)[:, None, :])
    hit = boxes.any(2).any(1)
    assert 0.5 < hit.float().mean() < 0.7
    shares = boxes[hit].float().mean((1, 2))
    assert 0.08 < shares.min() < 0.12 and 0.18 < shares.max() < 0.22
    assert (len(erased[erased != 9].unique()) > 100) if noise else bool((erased[erased != 9] == 0).all())


def test_mixup_and_cutmix_mix_targets_by_the_share_of_the_images():
    inputs = torch.arange(6.0)[:, None, None, None].expand(6, 1, 10, 10) / 5
    for mix in (torch_augment.mixup(6, alpha=1.0), torch_augment.cutmix(6)):
        mixed, targets = mix(inputs, torch.arange(6), seeded(3))
        assert (targets > 0).sum(1).min() > 1
        assert torch.allclose(targets @ (torch.arange(6.0) / 5), mixed.mean((1, 2, 3)), atol=1e-6)
    both = augment.sequence(torch_augment.cutmix(6), torch_augment.mixup(6))
    _, targets = both(inputs, torch.arange(6), seeded(3))
    assert torch.allclose(targets.sum(1), torch.ones(6)) and int((targets > 0).sum(1).max()) > 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: made("augment", "random_shift", pixels=-1), r"pixels = -1\n.*must be in \[0, inf\)"),
        (lambda: augment.random_crop([3]), r"size = \[3\]: must be \[height, width\]"),
        (lambda: made("augment", "random_crop", size=[3, 3], pad=-1), r"pad = -1\n.*must be in \[0, inf\)"),
        (lambda: made("augment", "random_flip", probability=1.5), r"probability = 1.5\n.*must be in \[0, 1\]"),
        (
            lambda: torch_augment.random_erasing(area=[0.5, 0.1]),
            r"area = \[0.5, 0.1\]: must be two numbers",
        ),
        (lambda: made("augment", "random_erasing", ratio=[0, 1]), r"ratio = \[0, 1\]\n.*must be in \(0, inf\)"),
        (lambda: made("augment", "mixup", classes=1), r"classes = 1\n.*must be in \[2, inf\)"),
        (lambda: made("augment", "cutmix", classes=3, alpha=0), r"alpha = 0\n.*must be in \(0, inf\)"),
        (lambda: augment.sequence(), "give each step a section of its own"),
        (lambda: augment.sequence("random_flip"), "give each step a section of its own"),
        (lambda: made("views", "shift_views", pixels=0), r"pixels = 0\n.*must be in \[1, inf\)"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises((ValueError, IngredientsError), match=message):
        call()


# sequence


def resolved(text):
    return resolve(parse_string(f"[training.augment]\n{text}")).at("training.augment")


def test_a_sequence_runs_in_the_order_of_the_file():
    both = resolved("""@augment = sequence
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
    assert not carried(both, "per_sample")


def test_a_sequence_composes_what_takes_samples():
    both = resolved("""@augment = sequence
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
    text = """@augment = sequence
[training.augment.*.shift]
@augment = random_shift
[training.augment.*.flip]
@augment = torchvision.transforms.v2.RandomHorizontalFlip
"""
    with pytest.raises(IngredientsError, match="one sample follows one that takes a batch; put those of torchvision"):
        resolved(text)


# torchvision


TORCHVISION = {
    "RandAugment": "",
    "TrivialAugmentWide": "",
    "AutoAugment": "",
    "AugMix": "",
    "ColorJitter": "brightness = 0.5",
    "RandomAffine": "degrees = 20",
    "RandomErasing": "p = 1.0",
    "RandomResizedCrop": "size = [16, 16]\nscale = [0.3, 1.0]",
    "RandomRotation": "degrees = 20\nfill = 0.5",
}


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("channels", [1, 3])
def test_transforms_of_torchvision_take_one_sample(name, channels):
    made = resolved(f"@augment = torchvision.transforms.v2.{name}\n{TORCHVISION[name]}")
    inputs, targets = batch(channels)
    assert made(inputs, targets, seeded()) == (inputs, targets)
    seeded()
    results = [made.per_sample(inputs[0], 1)[0] for _ in range(20)]
    seeded()
    assert all(torch.equal(one, made.per_sample(inputs[0], 1)[0]) for one in results)
    assert any(not torch.equal(one, inputs[0]) for one in results)
    for result in results:
        assert result.shape == inputs[0].shape and result.dtype == torch.float32
        assert result.min() >= -1e-6 and result.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["RandAugment", "TrivialAugmentWide", "AugMix", "ColorJitter"])
def test_colors_of_normalized_images_are_refused(name):
    """Values outside of [0, 1] would be clipped, or folded, without a word."""
    made = resolved(f"@augment = torchvision.transforms.v2.{name}")
    with pytest.raises(SettingError, match=rf"{name} takes values in \[0, 1\], got -.* to 2.*mean and std"):
        made.per_sample((batch()[0][0] - 0.5) / 0.2, 0)
    crop = resolved("@augment = torchvision.transforms.v2.RandomResizedCrop\nsize = [8, 8]")
    assert crop.per_sample((batch()[0][0] - 0.5) / 0.2, 0)[0].min() < 0


def test_colors_between_two_normalizations():
    """As the README of a project says."""
    undo = (
        "@augment = torchvision.transforms.v2.Normalize\nmean = [-2.118, -2.036, -1.804]\nstd = [4.367, 4.464, 4.444]"
    )
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    image = batch()[0][0]
    assert torch.allclose(resolved(undo).per_sample((image - mean) / std, 0)[0], image, atol=1e-3)


def test_every_transform_that_clips_colors_is_known():
    """Those that are not linear: twice the contrast must give twice the result."""
    from torchvision.transforms import v2

    needed = {"RandomAffine": {"degrees": 10}, "RandomRotation": {"degrees": 10}, "Resize": {"size": 8}}
    needed |= {name: {"size": [8, 8]} for name in ("CenterCrop", "RandomCrop", "RandomResizedCrop")}
    needed |= {"RandomPosterize": {"bits": 2, "p": 1.0}, "RandomSolarize": {"threshold": 0.5, "p": 1.0}}
    needed |= {"RandomAdjustSharpness": {"sharpness_factor": 2, "p": 1.0}, "GaussianBlur": {"kernel_size": 3}}
    needed |= {"ColorJitter": {"brightness": 0.9}, "RandomZoomOut": {"p": 1.0}, "Pad": {"padding": 1}}
    tried = set()
    for name, cls in vars(v2).items():
        if not (isinstance(cls, type) and issubclass(cls, v2.Transform)) or name in ("Normalize", "Transform"):
            continue
        settings = needed.get(name, {"p": 1.0} if "p" in inspect.signature(cls).parameters else {})
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) * 3 - 1  # in [-1, 2]
        try:
            transform = cls(**settings)
            linear = True
            for seed in range(8):
                seeded(seed)
                once = transform(image)
                seeded(seed)
                twice = transform(2 * image)
                linear &= torch.is_tensor(once) and torch.allclose(2 * once, twice, atol=1e-4)
        except (TypeError, ValueError, RuntimeError, NotImplementedError, UserWarning):  # not for a single image
            continue
        tried.add(name)
        if not name.startswith(("To", "Convert", "Clamp", "Set")):
            assert linear == (name not in torch_augment._COLORS), name
    assert len(tried) > 20


def test_arguments_of_torchvision_are_checked():
    head = "@augment = torchvision.transforms.v2."
    with pytest.raises(IngredientsError, match=r"num_opps = 3\n.*Did you mean num_ops.*_auto_augment\.py"):
        resolved(f"{head}RandAugment\nnum_opps = 3")
    with pytest.raises(IngredientsError, match=r"num_ops = many\n.*an integer"):
        resolved(f"{head}RandAugment\nnum_ops = many")
    with pytest.raises(IngredientsError, match="Did you mean torchvision.transforms.v2.RandAugment"):
        resolved(f"{head}RandAugmnt")
    with pytest.raises(IngredientsError, match="<text>:2: training.augment\n.*floating point value"):
        resolved(f"{head}RandomErasing\np = 3.0")
    for value in ("10", "10.5", "[-10, 10]"):
        assert resolved(f"{head}RandomAffine\ndegrees = {value}").per_sample
    with pytest.raises(IngredientsError, match="degrees = True\n.*a number"):
        resolved(f"{head}RandomAffine\ndegrees = True")


@pytest.mark.parametrize(
    "name, message",
    [
        ("MixUp\nnum_classes = 3", "use @augment = mixup"),
        ("CutMix\nnum_classes = 3", "use @augment = cutmix"),
        ("Compose\ntransforms = []", "use @augment = sequence"),
        ("ClampBoundingBoxes", "ClampBoundingBoxes is not an augmentation"),
        ("query_size\nflat_inputs = []", "query_size is not an augmentation"),
    ],
)
def test_what_does_not_take_one_sample_is_refused(name, message):
    with pytest.raises(IngredientsError, match=message):
        resolved(f"@augment = torchvision.transforms.v2.{name}")


# targets that are images too


def marked(count=64, side=16):
    """Images each pixel of which shows its class in its mask, 1 to 200: 0 is what comes in at the edges."""
    classes = torch.randint(1, 200, (count, side, side), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return (classes / 255)[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last), classes


def shown(images):
    """The classes that images show; 255 where nothing is."""
    return (images[..., 0, :, :] * 255).round().byte().masked_fill(images[..., 0, :, :] == 0, 255)


@pytest.mark.parametrize("name", [name for name in OURS if carried(make(name), "move")])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_masks_of_segmentation_move_with_their_images(name, dtype):
    images, before = marked()
    before[:, :2] = 255  # ignored already
    images[:, :, :2] = 0
    both = segmentation.adapt_augment(augment.sequence(make(name), torch_augment.random_erasing(0.0)))
    moved, after = both(images, before.to(dtype), seeded())
    assert torch.equal(after, shown(moved).to(dtype)) and after.dtype == dtype
    assert torch.equal(moved, make(name)(images, before, seeded())[0])
    assert moved.is_contiguous(memory_format=torch.channels_last)


def test_there_are_augmentations_that_move():
    assert {name for name in OURS if carried(make(name), "move")} == set(OURS) & {
        "random_shift",
        "random_crop",
        "random_flip",
    }


@pytest.mark.parametrize(
    "text",
    [
        "RandomAffine\ndegrees = 0\ntranslate = [0.3, 0.3]",
        "RandomAffine\ndegrees = 0\ntranslate = [0.3, 0.3]\nfill = 0.0",
        "RandomHorizontalFlip\np = 1.0",
        "RandomCrop\nsize = [12, 12]\npadding = 4",
    ],
)
def test_masks_of_segmentation_move_with_torchvisions_transforms(text):
    images, before = marked(count=8)
    adapted = segmentation.adapt_augment(resolved(f"@augment = torchvision.transforms.v2.{text}"))
    seeded()
    for index in range(8):
        moved, after = adapted.per_sample(images[index], before[index])
        assert torch.equal(after, shown(moved)) and type(after) is torch.Tensor
        assert not torch.equal(after, before[index])


# transforms of other packages


def test_a_transform_of_another_package_goes_through_a_function_of_ones_own():
    class ThirdParty:
        """Stands in for albumentations.Compose([...]): called with a numpy image (H, W, C) by name, returns a dict."""

        def set_random_seed(self, seed: int) -> None:
            self.random = numpy.random.default_rng(seed)

        def __call__(self, image: numpy.ndarray) -> dict:
            return {"image": image[:, ::-1] * numpy.float32(self.random.random())}

    def example(package):
        """The snippet of the README; `package` is what it imports."""

        @registry.augment.register("my_transforms")
        def my_transforms():
            transform = package.ThirdParty()

            def augment(inputs, targets, generator):  # a batch stays as it is
                return inputs, targets

            def per_sample(image, target):  # (C, H, W), in the workers that read samples
                transform.set_random_seed(int(torch.randint(2**31, ())))
                image = transform(image=image.permute(1, 2, 0).numpy())["image"]
                return torch.from_numpy(image.copy()).permute(2, 0, 1), target

            augment.per_sample = per_sample
            return augment

    example(type("package", (), {"ThirdParty": ThirdParty}))
    try:
        made = resolved("@augment = my_transforms")
        assert carried(made, "per_sample")
        images, targets = batch()
        seen = []
        for seed in (0, 1, 0):  # as the recipe seeds each sample
            torch.manual_seed(seed)
            sample, target = made.per_sample(images[5], targets[5])
            seen.append(sample)
        assert target == 5 and torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
        assert torch.allclose(seen[0] / seen[0].max(), images[5].flip(2) / images[5].max())
    finally:
        dict.pop(registry.augment, "my_transforms")


def test_kornia_augments_a_batch_on_its_device():
    kornia = pytest.importorskip("kornia")

    @registry.augment.register("my_kornia")
    def my_kornia():
        transform = kornia.augmentation.ColorJiggle(brightness=0.2, p=1.0)
        return lambda inputs, targets, generator: (transform(inputs), targets)

    try:
        inputs, targets = batch()
        made = resolved("@augment = my_kornia")
        first, again = (made(inputs, targets, seeded())[0] for _ in range(2))
        assert torch.equal(first, again) and not torch.equal(first, inputs)
    finally:
        dict.pop(registry.augment, "my_kornia")


# views


@pytest.mark.parametrize("name", list(registry.views))
def test_views_are_batches_like_the_first(name):
    inputs, _ = batch()
    seen = registry.views.get(name)()(inputs)
    assert torch.equal(seen[0], inputs) and len(seen) > 1
    assert all(view.shape == inputs.shape and not torch.equal(view, inputs) for view in seen[1:])


def test_shift_views_move_up_down_left_right():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    places = [view.nonzero()[0, 2:].tolist() for view in views.shift_views(2)(image)]
    assert places == [[2, 2], [0, 2], [4, 2], [2, 0], [2, 4]]
