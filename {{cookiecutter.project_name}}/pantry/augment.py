"""Augmentations of a batch, on its device: `augment(inputs, targets, generator) -> inputs, targets`.

inputs: floats (N, C, H, W), usually in [0, 1]; targets: class indices (N,), or probabilities (N, classes) after mixup
and cutmix. All randomness comes from `generator` and from torch's default generator; both are seeded before each step.
An augment that only moves pixels carries `augment.move(inputs, generator) -> inputs`, for targets that are images too.
"""

from typing import Annotated

from core import IngredientsError, registry


@registry.augment.register("sequence")
def sequence(*augments):
    """Several one after another, in the order of the file: `[training.augment.*.shift]`, `[training.augment.*.erase]`.

    Those that take one sample, as torchvision's do, come before those that take a batch.
    """
    if not augments or not all(map(callable, augments)):
        raise ValueError("give each step a section of its own: [training.augment.*.first] with @augment = name")
    of_batch = [not hasattr(step, "per_sample") for step in augments]
    if of_batch != sorted(of_batch):
        raise ValueError("a step that takes one sample follows one that takes a batch; put those of torchvision first")

    def augment(inputs, targets, generator):
        for step in augments:
            inputs, targets = step(inputs, targets, generator)
        return inputs, targets

    def per_sample(sample, target):
        for step in augments[: of_batch.count(False)]:
            sample, target = step.per_sample(sample, target)
        return sample, target

    augment.steps = augments
    if not all(of_batch):
        augment.per_sample = per_sample
    return augment


@registry.augment.register("random_shift")
def random_shift(pixels: Annotated[int, "[0, inf)"] = 1):
    """Shift each image by up to `pixels` vertically and horizontally; the border is filled with 0."""
    return _moving(lambda inputs, generator: _crop(inputs, pixels, *inputs.shape[-2:], generator))


@registry.augment.register("random_crop")
def random_crop(size: list[int], pad: Annotated[int, "[0, inf)"] = 0):
    """Crop each image to `size` = [height, width] pixels at a random place, after padding it with `pad` zeros."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size = {list(size)}: must be [height, width] in pixels")

    def move(inputs, generator):
        height, width = (side + 2 * pad for side in inputs.shape[-2:])
        if height < size[0] or width < size[1]:
            message = f"random_crop: padded images are {height} x {width} pixels, smaller than size = {list(size)}"
            raise IngredientsError(f"{message}; raise pad, or lower size")
        return _crop(inputs, pad, *size, generator)

    return _moving(move)


@registry.augment.register("random_flip")
def random_flip(probability: Annotated[float, "[0, 1]"] = 0.5, vertical: bool = False):
    """Flip each image left to right (`vertical`: upside down) with this probability. Not for digits or text."""
    import torch

    def move(inputs, generator):
        flipped = torch.rand(len(inputs), generator=generator, device=inputs.device) < probability
        # lerp with 0 or 1 picks exactly, in a third of the time that torch.where takes
        return inputs.lerp(inputs.flip(-2 if vertical else -1), flipped.to(inputs.dtype)[:, None, None, None])

    return _moving(move)


def _moving(move):
    """An augment that moves pixels by `move(inputs, generator)`."""

    def augment(inputs, targets, generator):
        return move(inputs, generator), targets

    augment.move = move
    return augment


def _crop(inputs, pad: int, height: int, width: int, generator):
    """A window of each padded image. One indexed read of a view of all windows: 3 times as fast as one per pixel."""
    import torch
    import torch.nn.functional as F

    count, tops, lefts = len(inputs), *(side + 2 * pad + 1 for side in inputs.shape[-2:])
    sample = torch.arange(count, device=inputs.device)
    top = torch.randint(tops - height, (count,), generator=generator, device=inputs.device)
    left = torch.randint(lefts - width, (count,), generator=generator, device=inputs.device)
    windows = F.pad(inputs, (pad,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, tops, lefts, height, width)
    return windows.permute(0, 2, 3, 1, 4, 5)[sample, top, left]
