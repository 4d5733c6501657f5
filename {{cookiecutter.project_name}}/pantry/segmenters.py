"""Networks for segmentation: they map (N, C, H, W) floats to (N, classes, H, W) logits.

Those of torchvision (fcn_resnet50, deeplabv3_resnet50, lraspp_mobilenet_v3_large, ...) go by their names: see
`find_segmenter` in recipes/segmentation.py.
"""

from core import registry


@registry.backbone.register("unet")
def unet(in_channels: int, output_classes: int, widths: list[int] = (64, 128, 256, 512, 1024), stride: int = 1):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597), with batch norm and padded convolutions: images of any size.

    widths: channels of each level; each further level halves height and width on the way down, and sees twice as far
    stride: 2 or 4 let the first level work at that part of height and width, at a 4th or 16th of the cost; the logits
    are grown to the image's size at the end, bilinearly
    About 31,000,000 parameters; with widths of 16, 32, 64, 128 about 480,000.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    if not widths or min(widths) < 1:
        raise ValueError(f"widths = {list(widths)}: write the channels of each level")
    if stride < 1:
        raise ValueError(f"stride = {stride}: write 1 or more")

    def layer(before, after, kernel=3, stride=1):
        convolution = nn.Conv2d(before, after, kernel, stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU()]

    def level(before, after):
        return nn.Sequential(*layer(before, after), *layer(after, after))

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            first = nn.Sequential(*layer(in_channels, widths[0], stride + 2, stride), *layer(widths[0], widths[0]))
            pairs = list(zip(widths, widths[1:], strict=False))  # of a level and the one below
            self.down = nn.ModuleList([first, *(level(here, below) for here, below in pairs)])
            self.grow = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for here, below in reversed(pairs))
            self.up = nn.ModuleList(level(2 * here, here) for here, _ in reversed(pairs))
            self.last = nn.Conv2d(widths[0], output_classes, 1)

        def forward(self, images):
            features, passed = self.down[0](images), []
            for level in self.down[1:]:
                passed.append(features)
                features = level(F.max_pool2d(features, 2))
            for grow, level in zip(self.grow, self.up, strict=True):
                across, grown = passed.pop(), grow(features)
                lacking = [here - there for here, there in zip(across.shape[2:], grown.shape[2:], strict=True)]
                if torch.compiler.is_exporting() or any(lacking):  # an odd row or column that pooling left out
                    grown = F.pad(grown, (0, lacking[1], 0, lacking[0]))
                features = level(torch.cat((across, grown), 1))
            logits = self.last(features)
            return logits if stride == 1 else F.interpolate(logits, images.shape[2:], mode="bilinear")

    return UNet()


@registry.backbone.register("fpn")
def fpn(in_channels: int, output_classes: int, body: str = "mobilenet_v2", width: int = 128):
    """Semantic FPN (Kirillov et al. 2019, arXiv:1901.02446): the maps of a feature pyramid, added up.

    body: a classification model of torchvision (resnet18, mobilenet_v2, ...) or timm (timm.mobilenetv2_100, ...)
    width: channels of the pyramid, whose finest map has a quarter of the image's height and width
    Grey images are repeated to three channels.
    """
    import torch.nn.functional as F
    from torch import nn

    from pantry.bodies import pyramid

    if in_channels not in (1, 3):
        raise ValueError(f"expected images of 1 or 3 channels, got {in_channels}")

    class FPN(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = pyramid(body, width)
            mixed = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            self.head = nn.Sequential(*mixed, nn.Conv2d(width, output_classes, 1))

        def forward(self, images):
            size, (finest, *rest) = images.shape[2:], self.backbone(images.expand(-1, 3, -1, -1)).values()
            for features in rest:
                finest = finest + F.interpolate(features, finest.shape[2:], mode="bilinear")
            return F.interpolate(self.head(finest), size, mode="bilinear")

    return FPN()
