"""Loss functions: `loss(outputs, targets) -> scalar`.

Outputs are logits (N, classes, ...). Targets are class indices (N, ...), of which -100 is ignored, as by torch,
or class probabilities (N, classes), as returned by mixup.
A loss that depends on the training data carries `loss.prepare(targets, classes, device) -> loss`.
"""

from typing import Annotated, Literal

from core import registry

IGNORE_INDEX = -100


@registry.loss.register("cross_entropy")
def cross_entropy(
    label_smoothing: Annotated[float, "[0, 1)"] = 0.0, class_weights: list[float] | Literal["balanced"] | None = None
):
    """Cross entropy of logits (N, classes, ...) with class indices (N, ...) or probabilities (N, classes).

    `label_smoothing`: probability spread over all classes, in [0, 1) (Szegedy et al. 2016, arXiv:1512.00567).
    `class_weights`: one per class, for a weighted mean; balanced: samples / (classes * samples of the class).
    """
    import torch.nn.functional as F

    def loss(outputs, targets, weight):
        if targets.ndim > 1 and not targets.is_floating_point():  # torch's mean is nan if all are ignored
            # Summed apart: on GPUs torch's own sum over pixels differs from run to run.
            each = F.cross_entropy(outputs, targets, weight, label_smoothing=label_smoothing, reduction="none")
            return each.sum() / _weight_of(targets, weight, outputs).sum().clamp(min=1e-6)
        mean = F.cross_entropy(outputs, targets, weight, label_smoothing=label_smoothing)
        if weight is None or not targets.is_floating_point():
            return mean
        return mean * len(targets) / (targets @ weight).sum()  # torch divides by the number of samples instead

    return _weighted(loss, class_weights)


@registry.loss.register("focal")
def focal(gamma: Annotated[float, "[0, inf)"] = 2.0, class_weights: list[float] | Literal["balanced"] | None = None):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): cross entropy times (1 - p)^gamma, with softmax p.

    The larger `gamma`, the less easy samples count; 0 is cross entropy. Shapes and `class_weights`: see cross_entropy.
    """
    import torch.nn.functional as F

    def loss(outputs, targets, weight):
        logs = outputs.log_softmax(1)
        if targets.ndim > 1 and not targets.is_floating_point():
            shares = _weight_of(targets, weight, outputs)
            logs = logs.gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
        else:
            shares = targets if targets.is_floating_point() else F.one_hot(targets, outputs.shape[1])
            shares = shares.to(outputs.dtype) if weight is None else shares * weight  # (N, classes)
        doubt = (1 - logs.exp()).clamp(min=1e-7)  # a power below 1 has no gradient at 0
        return -(shares * doubt**gamma * logs).sum() / shares.sum().clamp(min=1e-6)

    return _weighted(loss, class_weights)


def _weight_of(targets, weight, outputs):
    """The weight of each of the class indices: 0 if ignored, else 1 or that of its class."""
    kept = targets != IGNORE_INDEX
    return kept.to(outputs.dtype) if weight is None else weight[targets.clamp(min=0)] * kept


def _weighted(loss, class_weights):
    """`loss(outputs, targets, weight)` as a loss of outputs and targets; `prepare` makes the weight (classes,)."""
    import torch

    if isinstance(class_weights, list | tuple) and not (min(class_weights, default=-1) >= 0 and sum(class_weights) > 0):
        raise ValueError(f"class_weights = {list(class_weights)}: must be at least 0 for each class, and not all 0")

    def criterion(outputs, targets):
        if class_weights is not None:
            raise RuntimeError("class_weights: call loss.prepare(targets, classes, device) first")
        return loss(outputs, targets, None)

    def prepare(targets, classes: int, device):
        refuse_numbers(targets, "" if class_weights is None else f"class_weights = {class_weights}: ")
        if class_weights is None:
            return criterion
        weight = _balanced(targets, classes) if class_weights == "balanced" else torch.tensor(class_weights)
        if len(weight) != classes:
            raise ValueError(f"class_weights has {len(weight)} numbers, but there are {classes} classes")
        weight = weight.float().to(device)
        return lambda outputs, targets: loss(outputs, targets, weight.to(outputs))

    criterion.prepare = prepare
    return criterion


def refuse_numbers(targets, beginning: str) -> None:
    """Raise ValueError if the targets (N,) are floats, which no loss of classes takes."""
    if targets is not None and targets.is_floating_point() and targets.ndim == 1:
        raise ValueError(f"{beginning}expected class indices, got float targets; use torch.nn.HuberLoss")


def _balanced(targets, classes: int):
    """(classes,): samples / (classes * samples of the class); a class without samples is treated as having one."""
    if targets is None:
        raise ValueError("class_weights = balanced: targets that are not in memory are not counted; give a list")
    if not targets.is_floating_point():  # indices from `classes` on are ignored ones
        targets = targets.flatten().bincount(minlength=classes)[None, :classes]
    counts = targets.sum(0)
    return counts.sum() / (classes * counts.clamp(min=1))
