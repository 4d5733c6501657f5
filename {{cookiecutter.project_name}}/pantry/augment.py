"""Random changes of a batch, on its device: `augment(inputs, targets, generator) -> inputs, targets`.

inputs: (N, C, H, W) floats, mostly from 0 to 1; targets: class indices (N,), or shares (N, classes) after mixup and
cutmix, or masks of class indices (N, H, W), which move with their images; what comes in at the edge of a mask is 255,
which counts nowhere. All chance comes from `generator`, a draw for each sample; nothing is read back from the device.

`torchvision.transforms.v2.NAME` names a transform of torchvision, such as RandAugment or TrivialAugmentWide. It works
on one sample at a time, where samples are read: see `_per_sample` below. Some of them count in pixels: on small images
TrivialAugmentWide, which moves by up to 32, may leave nothing to see.

The last functions are views for test-time augmentation: `views(inputs) -> list of inputs`.
"""

from core import IngredientsError, registry

registry.create("augment")
registry.create("views")


@registry.augment.register("sequence")
def sequence(*augments):
    """Several one after another, in the order of the file: `[training.augment.*.shift]`, `[training.augment.*.erase]`.

    Those of torchvision, which work on one sample before it joins a batch, stand first.
    Raises ValueError where one of them comes after one that works on a batch.
    """
    if not augments or not all(map(callable, augments)):
        raise ValueError("give each step a section of its own: [training.augment.*.first] with @augment = name")
    steps = [step for augment in augments for step in getattr(augment, "steps", [augment])]
    of_samples = [hasattr(step, "per_sample") for step in steps]
    if True in of_samples[of_samples.index(False) if False in of_samples else len(steps) :]:
        order = ", ".join("one sample" if one else "a batch" for one in of_samples)
        raise ValueError(f"its steps work on {order}; put those of torchvision, which take one sample, first")

    def augment(inputs, targets, generator):
        for step in steps:
            inputs, targets = step(inputs, targets, generator)
        return inputs, targets

    def per_sample(sample, target):
        for step in steps[: sum(of_samples)]:
            sample, target = step.per_sample(sample, target)
        return sample, target

    augment.steps = steps
    if any(of_samples):
        augment.per_sample = per_sample
    return augment


@registry.augment.register("random_shift")
def random_shift(pixels: int = 1):
    """Move each image by up to `pixels` in both directions; what comes in at the edge is 0 (of masks: 255, ignored)."""
    if pixels < 0:
        raise ValueError(f"pixels = {pixels}: write 0 or more")

    def augment(inputs, targets, generator):
        return _crop(inputs, targets, pixels, *inputs.shape[-2:], generator)

    return augment


@registry.augment.register("random_crop")
def random_crop(size: list[int], pad: int = 0):
    """Cut `size` = [height, width] pixels out of each image at a place of its own, after a border of `pad` zeros
    (of masks: 255, ignored).

    Raises IngredientsError where an image with its border is smaller than that.
    """
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size = {list(size)}: write [height, width] in pixels")
    if pad < 0:
        raise ValueError(f"pad = {pad}: write 0 or more")

    def augment(inputs, targets, generator):
        height, width = (side + 2 * pad for side in inputs.shape[-2:])
        if height < size[0] or width < size[1]:
            message = f"random_crop: images with their border are {height} x {width} pixels, smaller than size = "
            raise IngredientsError(f"{message}{list(size)}; raise pad, or lower size")
        return _crop(inputs, targets, pad, *size, generator)

    return augment


def _are_masks(targets) -> bool:
    """Whether the targets are class indices of pixels (N, H, W)."""
    return getattr(targets, "ndim", 0) == 3 and not targets.is_floating_point()


def _crop(inputs, targets, pad: int, height: int, width: int, generator):
    """A window of each image, and of its mask where it has one.

    One indexed read of all windows as a view, three times as fast as an index a pixel.
    """
    import torch
    import torch.nn.functional as F

    def cut(images, fill):
        windows = F.pad(images, (pad,) * 4, value=fill).unfold(2, height, 1).unfold(3, width, 1)
        return windows.permute(0, 2, 3, 1, 4, 5)[sample, top, left]  # of (N, tops, lefts, C, height, width)

    count, tops, lefts = len(inputs), *(side + 2 * pad + 1 for side in inputs.shape[-2:])
    sample = torch.arange(count, device=inputs.device)
    top = torch.randint(tops - height, (count,), generator=generator, device=inputs.device)
    left = torch.randint(lefts - width, (count,), generator=generator, device=inputs.device)
    return cut(inputs, 0), cut(targets[:, None], 255)[:, 0] if _are_masks(targets) else targets


@registry.augment.register("random_flip")
def random_flip(probability: float = 0.5, vertical: bool = False):
    """Mirror each image left to right (vertical: upside down) with this probability. Not for digits or text."""
    import torch

    _refuse_unless_share(probability=probability)
    axis = -2 if vertical else -1

    def augment(inputs, targets, generator):
        flipped = torch.rand(len(inputs), generator=generator, device=inputs.device) < probability
        if _are_masks(targets):
            targets = torch.where(flipped[:, None, None], targets.flip(axis), targets)
        # lerp with 0 or 1 picks exactly, in a third of the time that torch.where takes
        return inputs.lerp(inputs.flip(axis), flipped.to(inputs.dtype)[:, None, None, None]), targets

    return augment


@registry.augment.register("random_erasing")
def random_erasing(
    probability: float = 0.5, area: list[float] = (0.02, 0.33), ratio: list[float] = (0.3, 3.3), noise: bool = False
):
    """Erase a rectangle of each image with this probability (Zhong et al. 2017, arXiv:1708.04896).

    area: smallest and largest share of the image; ratio: smallest and largest height / width, on a log scale
    noise: fill it with uniform noise from 0 to 1; False: with 0
    A rectangle too long for the image is cut to it, where the paper draws again.
    """
    import torch

    _refuse_unless_share(probability=probability)
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise ValueError(f"area = {list(area)}: write two shares of the image, the smaller first")
    if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio = {list(ratio)}: write two numbers above 0, the smaller first")

    def augment(inputs, targets, generator):
        count, _, height, width = inputs.shape
        draws = torch.rand(5, count, generator=generator, device=inputs.device)
        pixels = height * width * (area[0] + (area[1] - area[0]) * draws[0])
        tallness = ratio[0] * (ratio[1] / ratio[0]) ** draws[1]
        tall = (pixels * tallness).sqrt().round().clamp(1, height)
        wide = (pixels / tallness).sqrt().round().clamp(1, width) * (draws[4] < probability)
        top = (draws[2] * (height - tall + 1)).floor()
        left = (draws[3] * (width - wide + 1)).floor()
        erased = _boxes(inputs, top, top + tall, left, left + wide)
        if not noise:
            return inputs * (1 - erased), targets
        return inputs.lerp(torch.empty_like(inputs).uniform_(generator=generator), erased), targets

    return augment


@registry.augment.register("mixup")
def mixup(classes: int, alpha: float = 0.2):
    """Mix each image with its neighbour in the batch, and their targets alike (Zhang et al. 2017, arXiv:1710.09412).

    The share of the image itself is drawn from Beta(alpha, alpha); targets become shares (N, classes) that sum to 1.
    """
    _refuse_mix(classes, alpha)

    def augment(inputs, targets, generator):
        share = _beta(alpha, len(inputs), inputs.device, generator)
        mixed = _neighbours(inputs).lerp(inputs, share.to(inputs.dtype)[:, None, None, None])
        return mixed, _mixed_targets(targets, classes, share)

    return augment


@registry.augment.register("cutmix")
def cutmix(classes: int, alpha: float = 1.0):
    """Paste a rectangle of its neighbour in the batch into each image (Yun et al. 2019, arXiv:1905.04899).

    The share that the image keeps is drawn from Beta(alpha, alpha), the middle of the rectangle is anywhere; targets
    become shares (N, classes) that sum to 1, by the pixels in fact kept.
    """
    import torch

    _refuse_mix(classes, alpha)

    def augment(inputs, targets, generator):
        count, _, height, width = inputs.shape
        side = (1 - _beta(alpha, count, inputs.device, generator)).sqrt() / 2  # half of it, as a share of the image
        row, column = torch.rand(2, count, generator=generator, device=inputs.device)
        top, bottom = (((row + sign * side) * height).round().clamp(0, height) for sign in (-1, 1))
        left, right = (((column + sign * side) * width).round().clamp(0, width) for sign in (-1, 1))
        pasted = _boxes(inputs, top, bottom, left, right)
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return inputs.lerp(_neighbours(inputs), pasted), _mixed_targets(targets, classes, share)

    return augment


def _boxes(inputs, top, bottom, left, right):
    """1 in one rectangle of each image, 0 around it: (N, 1, H, W), from its edges (N,); bottom and right lie outside.

    As numbers, since masks of truth values are several times as slow to make and to use.
    """
    import torch

    row, column = (torch.arange(side, device=inputs.device) for side in inputs.shape[-2:])
    rows = ((row >= top[:, None]) & (row < bottom[:, None])).to(inputs.dtype)  # (N, H)
    columns = ((column >= left[:, None]) & (column < right[:, None])).to(inputs.dtype)  # (N, W)
    return (rows[:, :, None] * columns[:, None, :])[:, None]


def _neighbours(batch):
    """The sample before, for each; the order of an epoch is random, so that is a partner by chance."""
    import torch

    return torch.cat((batch[-1:], batch[:-1]))  # roll would lose the memory format


def _beta(alpha: float, count: int, device, generator, tries: int = 4):
    """Draws (count,) from Beta(alpha, alpha), by two gammas after Marsaglia and Tsang 2000; torch's take no generator.

    Their method rejects a draw in twenty. Here all tries are made at once, so that nothing waits for the device.
    """
    import torch

    if alpha == 1:
        return torch.rand(count, generator=generator, device=device)
    size = alpha + 2 / 3  # of a gamma of alpha + 1, which a power of a uniform brings down to alpha
    normal = torch.randn(tries, 2, count, generator=generator, device=device)
    uniform = torch.rand(tries + 1, 2, count, generator=generator, device=device).log()
    cube = (1 + normal / (9 * size) ** 0.5).clamp(min=1e-4) ** 3
    accepted = uniform[:-1] < normal**2 / 2 + size * (1 - cube + cube.log())
    logs = cube.log()  # small powers would not fit into 32 bits
    chosen = logs[0]  # (2, count); one in 100,000 times no try is accepted
    for one, taken in zip(logs[1:], accepted[1:], strict=True):
        chosen = torch.where(taken, one, chosen)
    chosen = chosen + uniform[-1] / alpha
    return (chosen[0] - chosen[1]).sigmoid()


def _mixed_targets(targets, classes: int, share):
    """Targets (N,) or (N, classes) as shares: `share` (N,) of a sample's own, the rest of its neighbour's."""
    import torch.nn.functional as F

    if targets.ndim == 1:
        targets = F.one_hot(targets, classes).to(share.dtype)
    return _neighbours(targets).lerp(targets, share[:, None])


def _refuse_mix(classes: int, alpha: float) -> None:
    if classes < 2:
        raise ValueError(f"classes = {classes}: write how many there are, 2 or more")
    if not 0.01 <= alpha <= 1000:  # further out there is next to no chance in it
        raise ValueError(f"alpha = {alpha}: write a number from 0.01 to 1000")


def _refuse_unless_share(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} = {value}: write a number from 0 to 1")


# ---------------------------------------------------------------------------------- one sample at a time: torchvision


def _per_sample(transform):
    """A factory with the arguments of a torchvision transform; what it gives has `per_sample(sample, target) -> both`.

    A sample is a float tensor (C, H, W) from 0 to 1, with 1 or 3 channels. A target that is a tv_tensor (a mask, boxes,
    key points) moves with it; any other stays. The transform runs where samples are read,
    with torch's own generator, and leaves the batch as it is. Transforms of a whole batch, of boxes or of other
    transforms are refused with what to write in their place.
    """

    def factory(*args, **settings):
        return _torchvision_augment(transform, args, settings)

    factory.__wrapped__ = transform  # whose signature and place are told
    factory.__doc__ = transform.__doc__
    return factory


registry.augment.module("torchvision.transforms.v2", _per_sample)


def _torchvision_augment(transform, args, settings):
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    name = transform.__name__
    instead = {"MixUp": "mixup", "CutMix": "cutmix", "Compose": "sequence"}.get(name)
    if instead:
        raise ValueError(f"{name} does not work on one sample; write @augment = {instead}")
    if not (isinstance(transform, type) and issubclass(transform, v2.Transform)) or name.startswith(
        ("Convert", "Clamp", "Set")
    ):
        raise ValueError(f"{name} is no transform of an image; write one such as RandAugment or RandomRotation")
    if isinstance(fill := settings.get("fill"), int | float | list):  # of images; masks get 0, which stands for nothing
        settings = settings | {"fill": {tv_tensors.Mask: 0, "others": fill}}
    try:
        made = transform(*args, **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} refuses its settings: {error}") from error

    def augment(inputs, targets, generator):
        return inputs, targets

    augment.per_sample = made
    return augment


# ------------------------------------------------------------------------------------------- test-time augmentation


@registry.views.register("flip_views")
def flip_views():
    """Each image and its mirror image, left to right."""

    def views(inputs):
        return [inputs, inputs.flip(-1)]

    views.back = lambda outputs: [outputs[0], outputs[1].flip(-1)]  # of outputs that are images too, such as masks
    return views


@registry.views.register("shift_views")
def shift_views(pixels: int = 1):
    """Each image where it is, and moved by `pixels` up, down, left and right; what comes in at the edge is 0."""
    import torch.nn.functional as F

    if pixels < 1:
        raise ValueError(f"pixels = {pixels}: write 1 or more")

    def views(inputs):
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (pixels,) * 4)
        corners = [(2, 1), (0, 1), (1, 2), (1, 0)]  # top and left of the window, in units of `pixels`
        windows = [(row * pixels, column * pixels) for row, column in corners]
        return [inputs, *(padded[..., top : top + height, left : left + width] for top, left in windows)]

    return views
