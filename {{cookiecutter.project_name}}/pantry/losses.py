"""What training makes small: `loss(outputs, targets) -> scalar tensor`."""

from core import registry

registry.create("loss")


@registry.loss.register("cross_entropy")
def cross_entropy(label_smoothing: float = 0.0):
    """Cross entropy of logits (N, classes) and class indices (N,).

    `label_smoothing`: share of the target spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).
    """
    import torch

    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing = {label_smoothing}: write a number from 0 up to, but not including, 1")
    return torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)
