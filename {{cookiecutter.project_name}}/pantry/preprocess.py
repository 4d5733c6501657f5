"""Deterministic steps on one sample, before the model: `preprocess(sample) -> sample`.

One that carries `of_batch(samples)`, the same for many at once, prepares data in memory many times as fast.
"""

from core import IngredientsError, registry


@registry.preprocess.register("resize_and_scale")
def resize_and_scale(size: list[int] | None = None, mean: list[float] | None = None, std: list[float] | None = None):
    """Resize an image to `size` = [height, width] pixels (None: as it is), and scale 0..255 to 0..1.

    mean, std: then normalize each channel by these, as pretrained weights expect; three of each make three channels of
    a grey image. Augmentations of colour, such as RandAugment, need 0..1: leave them out there.
    Takes images of bytes, as `to_image` does; returns a float tensor (C, height, width).
    """
    import torch
    import torch.nn.functional as F

    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size = {size}: write [height, width] in pixels")
    if (mean is None) != (std is None) or len(mean or ()) != len(std or ()):
        raise ValueError(f"mean = {mean}, std = {std}: write one number a channel in both, or leave both out")
    if std is not None and not (std and min(std) > 0):
        raise ValueError(f"std = {std}: write numbers above 0")
    shift, scale = (None, None) if mean is None else torch.tensor([mean, std])[:, :, None, None]  # (channels, 1, 1)

    def of_batch(images):  # (N, C, H, W) in bytes
        if images.ndim != 4:
            raise IngredientsError(f"a sample is {list(images.shape[1:])}, expected an image (C, H, W)")
        images = images.float() / 255
        if size is not None and (torch.compiler.is_exporting() or list(images.shape[2:]) != list(size)):
            images = F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)
        if shift is None:
            return images
        if 1 not in (images.shape[1], len(shift)) and images.shape[1] != len(shift):
            raise IngredientsError(f"an image has {images.shape[1]} channels, but mean and std have {len(shift)}")
        return (images - shift) / scale

    preprocess = lambda sample: of_batch(to_image(sample)[None])[0]  # noqa: E731
    preprocess.of_batch = of_batch
    return preprocess


def to_image(sample):
    """A tensor (C, H, W) of an image: a tensor or array (H, W) or (C, H, W), an array (H, W, C), a PIL image.

    Samples of other axes pass as they are. Raises IngredientsError for a tensor (H, W, C) and for anything else.
    """
    import numpy
    import torch

    is_array = not isinstance(sample, torch.Tensor)
    try:
        sample = torch.from_numpy(numpy.array(sample)) if is_array else sample  # a copy: arrays may be read-only
    except TypeError:
        raise IngredientsError(f"a sample is {type(sample).__name__}, expected a tensor, array or image") from None
    if sample.ndim == 3 and sample.shape[-1] in (1, 3, 4) and sample.shape[0] > 4:
        if not is_array:
            raise IngredientsError(f"an image is {list(sample.shape)}: a tensor has its channels first, (C, H, W)")
        sample = sample.permute(2, 0, 1)
    return sample[None] if sample.ndim == 2 else sample
