"""Test-time augmentation: `views(inputs) -> list of inputs`, over whose predictions the mean is taken.

Views whose outputs are images too carry `views.back(outputs) -> outputs`, which moves them back over the input.
"""

from typing import Annotated

from core import registry


@registry.views.register("flip_views")
def flip_views():
    """Each image and its mirror image, left to right."""

    def views(inputs):
        return [inputs, inputs.flip(-1)]

    views.back = lambda outputs: [outputs[0], outputs[1].flip(-1)]  # for outputs that are images too
    return views


@registry.views.register("shift_views")
def shift_views(pixels: Annotated[int, "[1, inf)"] = 1):
    """Each image as it is, and shifted by `pixels` up, down, left and right; the border is filled with 0."""
    import torch.nn.functional as F

    def views(inputs):
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (pixels,) * 4)
        windows = [(2 * pixels, pixels), (0, pixels), (pixels, 2 * pixels), (pixels, 0)]  # top, left
        return [inputs, *(padded[..., top : top + height, left : left + width] for top, left in windows)]

    return views
