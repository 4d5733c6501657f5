"""Augmentations of torchvision: mixup, cutmix, random_erasing, and all of torchvision.transforms.v2 by name.

`@augment = torchvision.transforms.v2.RandAugment` has torchvision's own arguments. Since these transforms change all
images of a batch alike, they take one sample at a time, where samples are read: each carries
`augment.per_sample(sample, target)` and leaves batches as they are. Targets that are tv_tensors move along. Some count
in pixels: TrivialAugmentWide shifts by up to 32, whatever the size.
"""

from typing import Annotated

from core import SettingError, registry
from pantry._adopt import adopt, attempt, refuse

Classes, Positive = Annotated[int, "[2, inf)"], Annotated[float, "(0, inf)"]


@registry.augment.register("random_erasing")
def random_erasing(
    probability: Annotated[float, "[0, 1]"] = 0.5,
    area: Annotated[list[float], "[0, 1]"] = (0.02, 0.33),
    ratio: Annotated[list[float], "(0, inf)"] = (0.3, 3.3),
    noise: bool = False,
):
    """Erase a rectangle of each image with this probability (Zhong et al. 2017, arXiv:1708.04896), by torchvision.

    area: range of its share of the image; ratio: range of its height / width; noise: fill with normal noise, not 0.
    Takes 0.1 ms per image; torchvision.transforms.v2.RandomErasing is the same in the workers that read samples.
    """
    from torchvision.transforms import v2

    for name, ends in {"area": area, "ratio": ratio}.items():
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(f"{name} = {list(ends)}: must be two numbers, the smaller first")
    erase = v2.RandomErasing(probability, area, ratio, value="random" if noise else 0, inplace=True)

    def augment(inputs, targets, generator):
        inputs = inputs.clone()
        for image in inputs:  # given a batch, torchvision would erase the same rectangle of all images
            erase(image)
        return inputs, targets

    return augment


@registry.augment.register("mixup")
def mixup(classes: Classes, alpha: Positive = 0.2):
    """Mix each image with its neighbor in the batch, and their targets alike (Zhang et al. 2017, arXiv:1710.09412).

    The share of a batch is drawn from Beta(alpha, alpha); targets become probabilities (N, classes). By torchvision.
    """
    from torchvision.transforms import v2

    return _mixing(v2.MixUp, classes, alpha)


@registry.augment.register("cutmix")
def cutmix(classes: Classes, alpha: Positive = 1.0):
    """Paste a rectangle of its neighbor in the batch into each image (Yun et al. 2019, arXiv:1905.04899).

    The share to keep is drawn from Beta(alpha, alpha); targets become probabilities (N, classes). By torchvision.
    """
    from torchvision.transforms import v2

    return _mixing(v2.CutMix, classes, alpha)


def _mixing(transform, classes: int, alpha: float):
    import torch

    mix = transform(alpha=alpha, num_classes=classes)

    def augment(inputs, targets, generator):
        inputs, targets = mix(inputs, targets)
        return inputs.contiguous(memory_format=torch.channels_last), targets  # which torchvision does not keep

    return augment


# ------------------------------------------------------------------------------------------------ one sample at a time

_INSTEAD = {"MixUp": "mixup", "CutMix": "cutmix", "Compose": "sequence"}
_COLORS = ("AugMix", "AutoAugment", "ColorJitter", "GaussianNoise", "RandAugment", "RandomAdjustSharpness")
_COLORS += ("RandomAutocontrast", "RandomEqualize", "RandomInvert", "RandomPhotometricDistort", "RandomPosterize")
_COLORS += ("RandomSolarize", "TrivialAugmentWide")  # clip or fold all values outside of [0, 1]


def _adopt_transform(cls):
    """A class of torchvision.transforms.v2 as a registered function."""
    from torchvision.transforms import v2

    name = cls.__name__
    if name in _INSTEAD:
        return refuse(f"{name} does not take one sample; use @augment = {_INSTEAD[name]}")
    is_transform = isinstance(cls, type) and issubclass(cls, v2.Transform)
    if not is_transform or name.startswith(("Clamp", "Convert", "Set", "To", "PILTo")):
        return refuse(f"{name} is not an augmentation; use one such as RandAugment or RandomRotation")

    def factory(**settings):
        if isinstance(fill := settings.get("fill"), int | float | list):  # a color of images, not of their targets
            settings = settings | {"fill": _for_images(fill)}
        transform = attempt(lambda: cls(**settings))

        def augment(inputs, targets, generator):
            return inputs, targets

        def per_sample(sample, target):
            if sample.ndim != 3:
                raise SettingError("training.augment", f"{name} takes images (C, H, W), got {list(sample.shape)}")
            low, high = sample.aminmax() if name in _COLORS else (0, 1)
            if low < -0.01 or high > 1.01:
                message = f"{name} takes values in [0, 1], got {low:.2g} to {high:.2g}"
                raise SettingError("training.augment", f"{message}; leave mean and std out of preprocess")
            return transform(sample, target)

        augment.per_sample = per_sample
        return augment

    return adopt(factory, cls)


registry.augment.module("torchvision.transforms.v2", _adopt_transform)


def _for_images(fill) -> dict:
    import torch
    from torchvision import tv_tensors

    return {torch.Tensor: fill, tv_tensors.Image: fill, "others": 0}
