"""Transforms of torchvision by name, with its own arguments: `@augment = torchvision.transforms.v2.RandAugment`.

Given a batch they would change all images alike, so they take one sample at a time, where samples are read:
each carries `augment.per_sample(sample, target)` and leaves batches as they are. Targets that are
tv_tensors move along. Some count in pixels: TrivialAugmentWide shifts by up to 32, whatever the size.
"""

from core import SettingError, registry
from core.registry import adopt, attempt, refuse

registry.create("augment")

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
