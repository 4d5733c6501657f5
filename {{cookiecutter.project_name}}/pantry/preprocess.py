"""Deterministic steps on one sample, before the model: `preprocess(sample) -> sample`."""

from core import registry

registry.create("preprocess")


@registry.preprocess.register("resize_and_scale")
def resize_and_scale(size: list[int]):
    """Bring an image to `size` = [height, width] pixels, and its values from 0..255 to 0..1.

    Takes a uint8 tensor (C, H, W) or an array (H, W) or (H, W, C); gives a float tensor (C, height, width).
    Smooths before it shrinks (antialias), as image libraries do.
    """
    import torch
    import torch.nn.functional as F

    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size = {size}: write [height, width] in pixels")

    def preprocess(sample):
        image = torch.as_tensor(sample)
        if image.ndim == 2:
            image = image[None]
        elif not isinstance(sample, torch.Tensor):
            image = image.permute(2, 0, 1)
        image = image.float() / 255
        if list(image.shape[1:]) == list(size):
            return image
        return F.interpolate(image[None], size=tuple(size), mode="bilinear", antialias=True)[0].clamp(0, 1)

    return preprocess
