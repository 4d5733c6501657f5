"""Your own functions, by the name that ingredients.ini calls them.

A registered function takes settings from its section and returns what the recipe calls. Look into pantry/ for what
the functions of each registry return.
"""

from typing import Literal

from core import registry


@registry.load_dataset.register("load_products")
def load_products(split: Literal["training", "testing"] = "training", count: int = 1000):
    """`load() -> X, y`: pairs of numbers, float32 (N, 2), and their products, (N,). Yours: your own data."""

    def load():
        import torch

        generator = torch.Generator().manual_seed(["training", "testing"].index(split))
        X = torch.rand(count, 2, generator=generator) * 2 - 1
        return X, X[:, 0] * X[:, 1]

    load.check = load  # for --check: what `load` would return; of data that takes long to read, empty samples
    return load


@registry.backbone.register("two_layers")
def two_layers(in_channels: int, output_classes: int, width: int = 64):
    """A network, (N, in_channels) -> (N, output_classes). Yours: your own, an nn.Module of any kind."""
    from torch import nn

    return nn.Sequential(nn.Linear(in_channels, width), nn.ReLU(), nn.Linear(width, output_classes))
