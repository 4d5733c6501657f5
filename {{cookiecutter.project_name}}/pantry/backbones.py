"""Networks for images: `build(in_channels, output_classes, **options)` maps (N, C, H, W) to logits (N, classes)."""

from typing import Annotated

from core import registry

Count, Counts = Annotated[int, "[1, inf)"], Annotated[list[int], "[1, inf)"]


@registry.backbone.register("small_cnn")
def small_cnn(in_channels: int, output_classes: int, widths: Counts = (16, 32, 64), grid: Count = 1):
    """Blocks of convolution, max-pool, batch norm and ReLU, then a linear head: for small images (8 to 64 pixels).

    widths: channels of each block, which halves height and width. grid: size of the feature map before the head.
    Pooling before the norm quarters the norm's cost. About 24,000 parameters.
    """
    from torch import nn

    if not widths:
        raise ValueError("widths = []: must be the channels of each block")
    blocks = []
    for before, after in zip((in_channels, *widths), widths, strict=False):
        blocks += [*_convolution(before, after, pool=True), nn.ReLU()]
    head = nn.Linear(widths[-1] * grid * grid, output_classes)
    return nn.Sequential(*blocks, _max_pool_to(grid), nn.Flatten(), head)


@registry.backbone.register("resnet_small")
def resnet_small(in_channels: int, output_classes: int, width: Count = 64):
    """Nine layers, four of them in two residual blocks: for photographs of 28 to 64 pixels.

    width: channels of the first layer; the last has eight times as many. About 6,600,000 parameters.
    After Page 2018, "How to train your ResNet", with max-pool before batch norm.
    """
    from torch import nn

    class Residual(nn.Sequential):
        def forward(self, images):  # (N, C, H, W) -> the same
            return images + super().forward(images)

    def layer(before, after, pool=False):
        return nn.Sequential(*_convolution(before, after, pool), nn.ReLU())

    def residual(channels):
        return Residual(layer(channels, channels), layer(channels, channels))

    return nn.Sequential(
        layer(in_channels, width),  # (N, width, H, W)
        layer(width, 2 * width, pool=True),  # (N, 2 width, H/2, W/2)
        residual(2 * width),
        layer(2 * width, 4 * width, pool=True),  # (N, 4 width, H/4, W/4)
        layer(4 * width, 8 * width, pool=True),  # (N, 8 width, H/8, W/8)
        residual(8 * width),
        _max_pool_to(1),
        nn.Flatten(),
        nn.Linear(8 * width, output_classes),
    )


def _max_pool_to(grid: int):
    """nn.AdaptiveMaxPool2d(grid), by fixed windows where these fill the image: on GPUs its gradient repeats only so."""
    import torch.nn.functional as F
    from torch import nn

    class MaxPoolTo(nn.Module):
        def forward(self, images):  # (N, C, H, W) -> (N, C, grid, grid)
            height, width = images.shape[2:]
            if height % grid or width % grid:
                return F.adaptive_max_pool2d(images, grid)
            return F.max_pool2d(images, (height // grid, width // grid))

    return MaxPoolTo()


def _convolution(before: int, after: int, pool: bool) -> list:
    from torch import nn

    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [convolution, *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(after)]
