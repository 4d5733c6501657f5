"""Detectors: `build(in_channels, output_classes, ...) -> nn.Module` with the calls of torchvision's detection models.

While it trains `model(images, targets) -> {name: loss}`, else `model(images) -> [{"boxes", "labels", "scores"}]`, with
images a list of (3, H, W) from 0 to 1. Its attribute `first_label` is 1 if label 0 is the background.
"""

from core import registry


@registry.backbone.register("fcos")
def fcos(in_channels: int, output_classes: int, body: str = "small", width: int | None = None):
    """FCOS (Tian et al. 2019, arXiv:1904.01355): every place of a feature map tells a class and the way to four sides.

    body: small, or a classification model of torchvision (resnet18, mobilenet_v2, ...) or timm (timm.mobilenetv2_100,
        ...), to which a feature pyramid is added
    width: channels of the feature maps, a multiple of 32; None: 64 of the small body, 256 of a pyramid. The cost of
        the heads grows with its square
    """
    from torchvision.models.detection import FCOS

    features, count = _body(body, width, one_stage=True)
    anchors = _anchors([(8 * 2**level,) for level in range(count)], (1.0,))
    return _ready(FCOS(features, output_classes, anchor_generator=anchors, **_normalization(features)), first_label=0)


@registry.backbone.register("retinanet")
def retinanet(in_channels: int, output_classes: int, body: str = "resnet18", width: int | None = None):
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002): anchors on a feature pyramid, with the focal loss. See `fcos`."""
    from torchvision.models.detection import RetinaNet

    features, count = _body(body, width, one_stage=True)
    sizes = [tuple(int(side * 2 ** (third / 3)) for third in range(3)) for side in (32, 64, 128, 256, 512)][:count]
    anchors = _anchors([SMALL_SIZES] if body == "small" else sizes)
    return _ready(RetinaNet(features, output_classes, anchor_generator=anchors, **_normalization(features)), 0)


@registry.backbone.register("faster_rcnn")
def faster_rcnn(in_channels: int, output_classes: int, body: str = "resnet18", width: int | None = None):
    """Faster R-CNN (Ren et al. 2015, arXiv:1506.01497): regions first, then the class of each. See `fcos`."""
    from torchvision.models.detection import FasterRCNN

    features, settings = _regions(body, width)
    return _ready(FasterRCNN(features, output_classes + 1, **settings), first_label=1)


@registry.backbone.register("mask_rcnn")
def mask_rcnn(in_channels: int, output_classes: int, body: str = "resnet18", width: int | None = None):
    """Mask R-CNN (He et al. 2017, arXiv:1703.06870): Faster R-CNN and a mask for each region. See `fcos`."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.ops import MultiScaleRoIAlign

    features, settings = _regions(body, width)
    settings["mask_roi_pool"] = MultiScaleRoIAlign(settings["box_roi_pool"].featmap_names, 14, sampling_ratio=2)
    return _ready(MaskRCNN(features, output_classes + 1, **settings), first_label=1)


SMALL_SIZES = (16, 24, 32, 48)  # pixels of the anchors on the one map of the small body


def _body(name: str, width: int | None, one_stage: bool = False) -> tuple:
    """(feature maps of an image, their number). one_stage: from stride 8 on, with two coarser maps than the body's."""
    if name == "small":
        return _small_body(width or 64), 1
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

    from pantry.bodies import pyramid

    width = width or 256
    extra = LastLevelP6P7(width, width) if one_stage else LastLevelMaxPool()
    features = pyramid(name, width, 8 if one_stage else 4, extra)
    return features, features.count + (2 if one_stage else 1)


def _anchors(sizes: list, ratios=(0.5, 1.0, 2.0)):
    """sizes: of the anchors of each map, in pixels."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    return AnchorGenerator(tuple(sizes), (ratios,) * len(sizes))


def _regions(body: str, width: int | None) -> tuple:
    """(body, settings) of the R-CNNs."""
    from torchvision.ops import MultiScaleRoIAlign

    features, count = _body(body, width)
    anchors = _anchors([SMALL_SIZES] if body == "small" else [(32 * 2**level,) for level in range(count)])
    pooled = [str(level) for level in range(max(1, count - 1))]  # not from the coarsest
    pool = MultiScaleRoIAlign(pooled, output_size=7, sampling_ratio=2)
    return features, {"rpn_anchor_generator": anchors, "box_roi_pool": pool} | _normalization(features)


def _normalization(features) -> dict:
    """What weights of a body expect; detectors normalize their images themselves."""
    normalization = vars(features).get("normalization")
    return {f"image_{key}": value for key, value in normalization.items()} if normalization else {}


def _small_body(width: int):
    """Five convolutions, three of them of stride 2: one feature map of stride 8, for objects of 16 to 64 pixels."""
    from collections import OrderedDict

    from torch import nn

    if width < 8:
        raise ValueError(f"width = {width}: must be at least 8")

    class Body(nn.Sequential):
        out_channels = width

        def forward(self, images):  # (N, 3, H, W) -> {"0": (N, width, H/8, W/8)}
            return OrderedDict([("0", super().forward(images))])

    layers, before = [], 3
    for channels, stride in ((width // 2, 2), (width, 2), (width, 2), (width, 1), (width, 1)):
        layers += [nn.Conv2d(before, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        before = channels
    return Body(*layers)


def _ready(model, first_label: int):
    model.first_label = first_label
    return model


# ------------------------------------------------------------------------------------------------------- augmentation


@registry.augment.register("mosaic")
def mosaic(share: float = 0.5):
    """Put four images of the batch into one, each at half its size, with their boxes and masks.

    share: of the batch that becomes mosaics. Bochkovskiy et al. 2020, "YOLOv4", arXiv:2004.10934.
    """
    import torch
    import torch.nn.functional as F

    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}: write a number from 0 to 1")

    def augment(inputs, targets, generator):
        count, (height, width) = len(inputs), inputs.shape[-2:]
        half = height // 2, width // 2
        device = generator.device
        chosen = (torch.rand(count, generator=generator, device=device) < share).tolist()
        others = torch.randint(count, (count, 3), generator=generator, device=device).tolist()
        small = F.interpolate(inputs, half, mode="bilinear", antialias=True)
        mixed, found = inputs.clone(), list(targets)
        for index, (is_mosaic, rest) in enumerate(zip(chosen, others, strict=True)):
            if not is_mosaic:
                continue
            parts = []
            for place, other in enumerate([index, *rest]):
                top, left = place // 2 * half[0], place % 2 * half[1]
                mixed[index, :, top : top + half[0], left : left + half[1]] = small[other]
                parts.append(_moved(targets[other], (height, width), half, top, left))
            found[index] = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return mixed, found

    return augment


def _moved(target: dict, size, half, top: int, left: int) -> dict:
    """A target in the part of an image that begins at top, left."""
    import torch
    import torch.nn.functional as F

    scale = torch.tensor([half[1] / size[1], half[0] / size[0]] * 2, device=target["boxes"].device)
    corner = torch.tensor([left, top] * 2, device=scale.device)
    moved = {"boxes": target["boxes"].as_subclass(torch.Tensor) * scale + corner, "labels": target["labels"]}
    if "masks" in target:
        masks = target["masks"].as_subclass(torch.Tensor)
        small = F.interpolate(masks[None].float(), half, mode="nearest")[0].to(masks.dtype)
        borders = (left, size[1] - half[1] - left, top, size[0] - half[0] - top)
        moved["masks"] = F.pad(small, borders)
    return moved
