"""Deterministic steps on one sample, before the model: `preprocess(sample) -> sample`."""

from core import IngredientsError, registry

registry.create("preprocess")


@registry.preprocess.register("resize_and_scale")
def resize_and_scale(size: list[int]):
    """Bring an image to `size` = [height, width] pixels, and its values from 0..255 to 0..1.

    Takes what `to_image` takes, in bytes; gives a float tensor (C, height, width).
    Smooths before it shrinks (antialias), as image libraries do.
    """
    import torch.nn.functional as F

    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size = {size}: write [height, width] in pixels")

    def preprocess(sample):
        image = to_image(sample).float() / 255
        if list(image.shape[1:]) == list(size):
            return image
        return F.interpolate(image[None], size=tuple(size), mode="bilinear", antialias=True)[0].clamp(0, 1)

    return preprocess


def to_image(sample):
    """A tensor (C, H, W) of an image: a tensor or array (H, W) or (C, H, W), an array (H, W, C), a PIL image.

    Samples of another number of axes pass as they are. Raises IngredientsError for all else, and for a tensor
    that has its channels last: it would be read as an image of many channels.
    """
    import numpy
    import torch

    is_array = not isinstance(sample, torch.Tensor)
    try:
        sample = torch.from_numpy(numpy.array(sample)) if is_array else sample  # a copy: arrays may be read-only
    except TypeError:
        message = f"a sample is {type(sample).__name__}; a tensor, an array or an image is needed"
        raise IngredientsError(message) from None
    if sample.ndim == 3 and sample.shape[-1] in (1, 3, 4) and sample.shape[0] > 4:
        if not is_array:
            raise IngredientsError(f"an image is {list(sample.shape)}: a tensor has its channels first, (C, H, W)")
        sample = sample.permute(2, 0, 1)
    return sample[None] if sample.ndim == 2 else sample
