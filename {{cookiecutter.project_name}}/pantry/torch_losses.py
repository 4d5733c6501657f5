"""Losses of torch.nn by name, with torch's own arguments: `@loss = torch.nn.CrossEntropyLoss`; and sums of losses.

A list of numbers becomes a tensor. Losses that compare numbers (MSELoss, L1Loss, BCEWithLogitsLoss, ...) get class
indices as one-hot rows (SoftMarginLoss: 1 and -1), or as a column if the outputs are one: (N, 1). Those that take
log-probabilities (NLLLoss, KLDivLoss) get the log_softmax of the outputs.
"""

from typing import Annotated

from core import SettingError, registry
from pantry._adopt import adopt, attempt, refuse
from pantry.losses import IGNORE_INDEX, refuse_numbers

_OF_CLASSES = ("CrossEntropyLoss", "MultiLabelMarginLoss", "MultiMarginLoss", "NLLLoss")
_OF_NUMBERS = ("BCELoss", "BCEWithLogitsLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "PoissonNLLLoss")
_OF_NUMBERS += ("MultiLabelSoftMarginLoss", "SmoothL1Loss", "SoftMarginLoss")
_OF_LOGARITHMS = ("NLLLoss", "KLDivLoss")
_WITH_WEIGHTS = ("AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss")


@registry.loss.register("sum_of")
def sum_of(*losses, weights: Annotated[list[float], "[0, inf)"] | None = None):
    """A sum of losses: `[training.loss.*.first]`, `[training.loss.*.second]`, each with its `@loss = name`.

    `weights`: one per loss, in the order of the file; None: 1 each.
    """
    weights = [1.0] * len(losses) if weights is None else list(weights)
    if not losses or not all(map(callable, losses)):
        raise ValueError("give each loss a section of its own: [training.loss.*.first] with @loss = name")
    if len(weights) != len(losses):
        raise ValueError(f"weights = {weights}: must be {len(losses)} numbers, one per loss")

    def total(losses):
        pairs = list(zip(weights, losses, strict=True))
        return lambda outputs, targets: sum(weight * loss(outputs, targets) for weight, loss in pairs)

    def prepare(*known):
        return total([loss.prepare(*known) if hasattr(loss, "prepare") else loss for loss in losses])

    criterion = total(losses)
    criterion.prepare = prepare
    return criterion


def _adopt_loss(cls):
    """A class of torch.nn as a registered function."""
    import inspect

    import torch

    name = cls.__name__
    if not name.endswith("Loss"):
        return refuse(f"torch.nn.{name} is not a loss")
    if name in _WITH_WEIGHTS:
        return refuse(f"torch.nn.{name} has weights of its own, which no optimizer would train; put it into your model")
    if len(inspect.signature(cls.forward).parameters) != 3:  # self, outputs, targets
        return refuse(f"torch.nn.{name} takes more than outputs and targets; register a loss of your own that calls it")

    def factory(**settings):
        if (reduction := settings.get("reduction", "mean")) not in ("mean", "sum", "batchmean"):
            raise ValueError(f"reduction = {reduction}: expected a scalar loss; use mean or sum")
        lists = {key: value for key, value in settings.items() if isinstance(value, list)}
        tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in lists.items()}
        criterion = attempt(lambda: cls(**settings | tensors))

        def loss(outputs, targets):
            given = outputs, targets
            if name in _OF_NUMBERS:
                outputs, targets = _as_numbers(outputs, targets, low=-1 if name == "SoftMarginLoss" else 0)
            if name in _OF_LOGARITHMS and outputs.ndim > 1:  # which leaves log-probabilities as they are
                outputs = outputs.log_softmax(1)
            if name == "NLLLoss":  # whose backward pass does not take logits of images with the channels last
                outputs = outputs.contiguous()
            if tensors:
                criterion.to(outputs.device)
            try:
                return criterion(outputs, targets)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                shapes, reason = [list(tensor.shape) for tensor in given], str(error).partition("\n")[0]
                message = f"torch.nn.{name} cannot take outputs {shapes[0]} and targets {shapes[1]}: {reason}"
                raise SettingError("training.loss", message) from error

        def prepare(targets, classes: int, device):
            if name in _OF_CLASSES:
                refuse_numbers(targets, f"torch.nn.{name}: ")
            return loss

        loss.prepare = prepare
        return loss

    return adopt(factory, cls, without=["size_average", "reduce"])


registry.loss.module("torch.nn", _adopt_loss)


def _as_numbers(outputs, targets, low: int) -> tuple:
    """Targets in shape and type of the outputs (N, C, ...): indices (N, ...) one-hot, as 1 and `low`."""
    import torch.nn.functional as F

    if targets.ndim == outputs.ndim - 1:
        indices = not targets.is_floating_point()
        if indices and targets.ndim > 1 and not outputs.is_meta:  # whose shapes cannot depend on values
            kept = targets != IGNORE_INDEX
            outputs, targets = outputs.movedim(1, -1)[kept], targets[kept]  # (kept, C), (kept,)
        if outputs.shape[1] == 1:  # (N,) with (N, 1) would broadcast to (N, N)
            targets = targets.unsqueeze(1)
        elif indices:
            targets = F.one_hot(targets, outputs.shape[1]).movedim(-1, 1)
        if indices and low:
            targets = targets * (1 - low) + low
    return outputs, targets.to(outputs.dtype)
