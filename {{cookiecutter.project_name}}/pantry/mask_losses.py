"""Losses for segmentation: logits (N, classes, H, W), class indices (N, H, W), of which -100 is ignored."""

from core import registry
from pantry.losses import IGNORE_INDEX


@registry.loss.register("dice")
def dice(smooth: float = 1.0):
    """1 - the mean over classes of 2 |p g| / (|p|^2 + |g|^2), with softmax p and one-hot targets g.

    Every class counts the same, however few pixels it has (Milletari et al. 2016, arXiv:1606.04797). Sums go over the
    batch. smooth: pixels added to numerator and denominator, so that a class that is not in the batch has a value.
    """
    if smooth <= 0:
        raise ValueError(f"smooth = {smooth}: must be above 0")

    def loss(outputs, targets):
        shares, counted, classes = outputs.softmax(1), targets != IGNORE_INDEX, targets.clamp(min=0)
        none, counts = shares.new_zeros(outputs.shape[1]), counted.to(shares.dtype)
        own = shares.gather(1, classes.unsqueeze(1)).squeeze(1) * counts  # one-hot targets would be as large as outputs
        common = none.index_add(0, classes.flatten(), own.flatten())
        truth = none.index_add(0, classes.flatten(), counts.flatten())
        predicted = (shares.square() * counts.unsqueeze(1)).sum([0, *range(2, outputs.ndim)])
        return 1 - ((2 * common + smooth) / (predicted + truth + smooth)).mean()

    return loss
