"""Random changes of a batch, on its device: `augment(inputs, targets, generator) -> inputs, targets`."""

from core import registry

registry.create("augment")


@registry.augment.register("random_shift")
def random_shift(pixels: int = 1):
    """Move each image by up to `pixels` in both directions; what comes in at the edge is 0.

    inputs: (N, C, H, W) floats. Each image has a shift of its own: one indexed read of the padded batch.
    """
    import torch
    import torch.nn.functional as F

    if pixels < 0:
        raise ValueError(f"pixels = {pixels}: write 0 or more")

    def augment(inputs, targets, generator):
        count, channels, height, width = inputs.shape
        padded = F.pad(inputs, (pixels,) * 4)
        top, left = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator, device=inputs.device)
        rows = (top[:, None] + torch.arange(height, device=inputs.device))[:, None, :, None]  # (N, 1, H, 1)
        columns = (left[:, None] + torch.arange(width, device=inputs.device))[:, None, None, :]  # (N, 1, 1, W)
        sample = torch.arange(count, device=inputs.device)[:, None, None, None]
        channel = torch.arange(channels, device=inputs.device)[None, :, None, None]
        return padded[sample, channel, rows, columns], targets

    return augment


@registry.augment.register("random_flip")
def random_flip(probability: float = 0.5):
    """Mirror each image left to right with this probability. Not for digits or text, which have a left and a right."""
    import torch

    if not 0 <= probability <= 1:
        raise ValueError(f"probability = {probability}: write a number from 0 to 1")

    def augment(inputs, targets, generator):
        flipped = torch.rand(len(inputs), generator=generator, device=inputs.device) < probability
        return torch.where(flipped[:, None, None, None], inputs.flip(-1), inputs), targets

    return augment
