"""What training makes small: `loss(outputs, targets) -> scalar tensor`.

Outputs are logits (N, classes); targets are class indices (N,), or shares of the classes (N, classes), as after mixup.
Those of segmentation are (N, classes, H, W) and (N, H, W): pixels of class -100, torch's own number for that, count
nowhere; recipes/segmentation.py makes it of the 255 in masks.
A loss that has to know the data gives `loss.prepare(targets, classes, device) -> loss`.

Every loss of torch.nn is here by its name: `@loss = torch.nn.CrossEntropyLoss`, with torch's own arguments; a list of
numbers stands for a tensor. Losses that compare number by number (MSELoss, L1Loss, BCEWithLogitsLoss, ...) are given
class indices as one-hot rows (SoftMarginLoss: 1 and -1), or as a column where the outputs are one: (N, 1).
"""

from typing import Literal

from core import registry
from core.adopt import adopt, attempt, refuse

registry.create("loss")

IGNORED = -100  # the class of pixels that count nowhere, of all losses of torch


@registry.loss.register("cross_entropy")
def cross_entropy(label_smoothing: float = 0.0, class_weights: list[float] | Literal["balanced"] | None = None):
    """Cross entropy of logits (N, classes) with class indices (N,) or shares (N, classes), or of pixels.

    `label_smoothing`: share of the target spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).
    `class_weights`: one for each class, or balanced: samples / (classes * samples of the class). The mean is weighted.
    """
    import torch.nn.functional as F

    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing = {label_smoothing}: write a number from 0 up to, but not including, 1")

    def loss(outputs, targets, weight):
        if targets.ndim > 1 and not targets.is_floating_point():  # of pixels, of which perhaps none counts
            total = F.cross_entropy(outputs, targets, weight, label_smoothing=label_smoothing, reduction="sum")
            return total / _counted(targets, weight, outputs.dtype).sum().clamp(min=1e-6)
        mean = F.cross_entropy(outputs, targets, weight, label_smoothing=label_smoothing)
        if weight is None or not targets.is_floating_point():
            return mean
        return mean * len(targets) / (targets @ weight).sum()  # torch divides shares by their number alone

    return _weighted(loss, class_weights)


@registry.loss.register("focal")
def focal(gamma: float = 2.0, class_weights: list[float] | Literal["balanced"] | None = None):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): cross entropy times (1 - p)^gamma; easy samples count less.

    Of the softmax of logits (N, classes), with class indices (N,) or shares (N, classes), or of pixels; `class_weights`
    as in cross_entropy, which is gamma = 0.
    """
    import torch.nn.functional as F

    if gamma < 0:
        raise ValueError(f"gamma = {gamma}: write 0 or more")

    def loss(outputs, targets, weight):
        logs = outputs.log_softmax(1)
        if targets.ndim > 1 and not targets.is_floating_point():  # of pixels: (N, H, W)
            shares = _counted(targets, weight, outputs.dtype)
            logs = logs.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
        else:
            shares = targets if targets.is_floating_point() else F.one_hot(targets, outputs.shape[1])
            shares = shares.to(outputs.dtype) if weight is None else shares * weight  # (N, classes)
        doubt = (1 - logs.exp()).clamp(min=1e-7)  # at 0 a power below 1 has no gradient
        return -(shares * doubt**gamma * logs).sum() / shares.sum().clamp(min=1e-6)

    return _weighted(loss, class_weights)


@registry.loss.register("dice")
def dice(smooth: float = 1.0):
    """1 - the mean over the classes of 2 |p g| / (|p|^2 + |g|^2), of softmax p and truth g (Milletari et al. 2016,
    arXiv:1606.04797): every class counts alike, however few its pixels are.

    Logits (N, classes, ...), class indices (N, ...); sums go over the whole batch, ignored pixels left out.
    smooth: added above and below, in pixels; a class that is not in the batch then has a value.
    """
    if smooth <= 0:
        raise ValueError(f"smooth = {smooth}: write more than 0")

    def loss(outputs, targets):
        shares, counted, classes = outputs.softmax(1), targets != IGNORED, targets.clamp(min=0)
        none, counts = shares.new_zeros(outputs.shape[1]), counted.to(shares.dtype)
        own = shares.gather(1, classes.unsqueeze(1)).squeeze(1) * counts  # one-hot truth would be as large as outputs
        common = none.index_add(0, classes.flatten(), own.flatten())
        truth = none.index_add(0, classes.flatten(), counts.flatten())
        found = (shares.square() * counts.unsqueeze(1)).sum([0, *range(2, outputs.ndim)])
        return 1 - ((2 * common + smooth) / (found + truth + smooth)).mean()

    return loss


@registry.loss.register("sum_of")
def sum_of(*losses, weights: list[float] | None = None):
    """Several losses added: `[training.loss.*.first]`, `[training.loss.*.second]`, each with its `@loss = name`.

    weights: a factor for each, in the order of the file; None: 1
    """
    factors = [1.0] * len(losses) if weights is None else list(weights)
    if not losses or not all(map(callable, losses)):
        raise ValueError("give each loss a section of its own: [training.loss.*.first] with @loss = name")
    if len(factors) != len(losses) or min(factors) < 0:
        raise ValueError(f"weights = {factors}: write {len(losses)} numbers, one for each loss, 0 or more")

    def added(losses):
        pairs = list(zip(factors, losses, strict=True))
        return lambda outputs, targets: sum(factor * loss(outputs, targets) for factor, loss in pairs)

    def prepare(*known):
        return added([loss.prepare(*known) if hasattr(loss, "prepare") else loss for loss in losses])

    criterion = added(losses)
    criterion.prepare = prepare
    return criterion


def _counted(targets, weight, dtype):
    """The weight of each pixel of targets (N, H, W): 0 where it is ignored, else 1 or that of its class."""
    counted = targets != IGNORED
    return counted.to(dtype) if weight is None else weight[targets.clamp(min=0)] * counted


def _weighted(loss, class_weights):
    """`loss(outputs, targets, weight)` with its weight (classes,) filled in."""
    import torch

    if isinstance(class_weights, list | tuple) and not (min(class_weights, default=-1) >= 0 and sum(class_weights) > 0):
        raise ValueError(f"class_weights = {list(class_weights)}: write 0 or more for each class, and not 0 for all")

    def bind(weight):
        return lambda outputs, targets: loss(outputs, targets, None if weight is None else weight.to(outputs))

    def prepare(targets, classes: int, device):
        if class_weights is None:
            return bind(None)
        if class_weights == "balanced":
            if targets is None:
                raise ValueError("class_weights = balanced: the targets are not in memory to be counted; write numbers")
            if targets.is_floating_point():
                shares = targets.sum(0)
            else:  # of masks without 255, which is ignored
                shares = torch.bincount(targets.flatten(), minlength=classes)[:classes]
            weight = shares.sum() / (classes * shares.clamp(min=1))  # a class without a sample: as if it had one
        elif len(class_weights) != classes:
            raise ValueError(f"class_weights has {len(class_weights)} numbers, but there are {classes} classes")
        else:
            weight = torch.tensor(class_weights)
        return bind(weight.float().to(device))

    def unprepared(outputs, targets):
        raise RuntimeError("call loss.prepare(targets, classes, device) first: the balance is that of the data")

    fixed = None if class_weights is None else class_weights != "balanced" and torch.tensor(class_weights).float()
    criterion = unprepared if class_weights == "balanced" else bind(fixed)
    criterion.prepare = prepare
    return criterion


_NUMBER_BY_NUMBER = ("BCELoss", "BCEWithLogitsLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "PoissonNLLLoss")
_NUMBER_BY_NUMBER += ("MultiLabelSoftMarginLoss", "SmoothL1Loss", "SoftMarginLoss")
_OWN_WEIGHTS = "it has weights of its own, which no optimizer would train; make it the end of your model"
_OTHER_INPUT = "it takes more than outputs and targets; register a loss of your own that calls it"
_REFUSED = {"AdaptiveLogSoftmaxWithLoss": _OWN_WEIGHTS, "LinearCrossEntropyLoss": _OWN_WEIGHTS}
_REFUSED |= dict.fromkeys(("CTCLoss", "CosineEmbeddingLoss", "GaussianNLLLoss", "MarginRankingLoss"), _OTHER_INPUT)
_REFUSED |= dict.fromkeys(("TripletMarginLoss", "TripletMarginWithDistanceLoss"), _OTHER_INPUT)


def _of_torch(cls):
    """A loss of torch.nn as a function of ours."""
    import torch

    name = cls.__name__
    if not name.endswith("Loss"):
        return refuse(f"torch.nn.{name} is no loss")
    if name in _REFUSED:
        return refuse(_REFUSED[name])

    def factory(**settings):
        if (reduction := settings.get("reduction", "mean")) not in ("mean", "sum", "batchmean"):
            raise ValueError(f"reduction = {reduction}: training needs one number; write mean or sum")
        lists = {key: value for key, value in settings.items() if isinstance(value, list)}
        tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in lists.items()}
        criterion = attempt(lambda: cls(**settings | tensors))

        def loss(outputs, targets):
            if name in _NUMBER_BY_NUMBER:
                targets = _like(outputs, targets, low=-1 if name == "SoftMarginLoss" else 0)
            if tensors:
                criterion.to(outputs.device)
            return criterion(outputs, targets)

        return loss

    return adopt(factory, cls, without=["size_average", "reduce"])


registry.loss.module("torch.nn", _of_torch)


def _like(outputs, targets, low: int):
    """Targets in the shape and type of the outputs (N, C, ...): indices (N, ...) as one-hot, 1 and `low`."""
    import torch.nn.functional as F

    if targets.ndim == outputs.ndim - 1:
        indices = not targets.is_floating_point()
        if outputs.shape[1] == 1:  # (N,) beside (N, 1) would spread to (N, N)
            targets = targets.unsqueeze(1)
        elif indices:
            targets = F.one_hot(targets, outputs.shape[1]).movedim(-1, 1)
        if indices and low:
            targets = targets * (1 - low) + low
    return targets.to(outputs.dtype)
