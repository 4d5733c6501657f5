"""What training makes small: `loss(outputs, targets) -> scalar tensor`.

Outputs are logits (N, classes); targets are class indices (N,), or shares of the classes (N, classes), as after mixup.
A loss that has to know the data gives `loss.prepare(targets, classes, device) -> loss`.

Every loss of torch.nn is here by its name: `@loss = torch.nn.CrossEntropyLoss`, with torch's own arguments; a list of
numbers stands for a tensor. Losses that compare number by number (MSELoss, L1Loss, BCEWithLogitsLoss, ...) are given
class indices as one-hot rows (SoftMarginLoss: 1 and -1), or as a column where the outputs are one: (N, 1).
"""

from typing import Literal

from core import registry
from pantry.packages import adopt, attempt, refuse

registry.create("loss")


@registry.loss.register("cross_entropy")
def cross_entropy(label_smoothing: float = 0.0, class_weights: list[float] | Literal["balanced"] | None = None):
    """Cross entropy of logits (N, classes) with class indices (N,) or shares (N, classes).

    `label_smoothing`: share of the target spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).
    `class_weights`: one for each class, or balanced: samples / (classes * samples of the class). The mean is weighted.
    """
    import torch.nn.functional as F

    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing = {label_smoothing}: write a number from 0 up to, but not including, 1")

    def loss(outputs, targets, weight):
        mean = F.cross_entropy(outputs, targets, weight, label_smoothing=label_smoothing)
        if weight is None or not targets.is_floating_point():
            return mean
        return mean * len(targets) / (targets @ weight).sum()  # torch divides shares by their number alone

    return _weighted(loss, class_weights)


@registry.loss.register("focal")
def focal(gamma: float = 2.0, class_weights: list[float] | Literal["balanced"] | None = None):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): cross entropy times (1 - p)^gamma; easy samples count less.

    Of the softmax of logits (N, classes), with class indices (N,) or shares (N, classes); `class_weights` as in
    cross_entropy, which is gamma = 0.
    """
    import torch.nn.functional as F

    if gamma < 0:
        raise ValueError(f"gamma = {gamma}: write 0 or more")

    def loss(outputs, targets, weight):
        shares = targets if targets.is_floating_point() else F.one_hot(targets, outputs.shape[1])
        shares = shares.to(outputs.dtype) if weight is None else shares * weight  # (N, classes)
        logs = outputs.log_softmax(1)
        doubt = (1 - logs.exp()).clamp(min=1e-7)  # at 0 a power below 1 has no gradient
        return -(shares * doubt**gamma * logs).sum() / shares.sum()

    return _weighted(loss, class_weights)


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
            shares = targets.sum(0) if targets.is_floating_point() else torch.bincount(targets, minlength=classes)
            weight = len(targets) / (classes * shares.clamp(min=1))  # a class without a sample: as if it had one
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
