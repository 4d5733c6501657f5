"""Detectors: `build(in_channels, output_classes, ...) -> nn.Module` with the calls of torchvision's detection models.

While it trains `model(images, targets) -> {name: loss}`, else `model(images) -> [{"boxes", "labels", "scores"}]`, with
images a list of (3, H, W) from 0 to 1. Its attribute `first_label` is 1 if label 0 is the background.
"""

from core import registry
from core.errors import suggest


@registry.backbone.register("fcos")
def fcos(in_channels: int, output_classes: int, body: str = "small", width: int = 64):
    """FCOS (Tian et al. 2019, arXiv:1904.01355): every place of a feature map tells a class and the way to four sides.

    body: small, or a resnet or mobilenet_v3 of torchvision, to which a feature pyramid is added
    width: channels of the small body
    """
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    features = _body(body, width, of_pyramid=True)
    if body != "small":
        return _ready(FCOS(features, output_classes), first_label=0)
    return _ready(FCOS(features, output_classes, anchor_generator=AnchorGenerator(((8,),), ((1.0,),))), first_label=0)


@registry.backbone.register("retinanet")
def retinanet(in_channels: int, output_classes: int, body: str = "resnet18", width: int = 64):
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002): anchors on a feature pyramid, with the focal loss. See `fcos`."""
    from torchvision.models.detection import RetinaNet

    features = _body(body, width, of_pyramid=True)
    anchors = {"anchor_generator": _anchors()} if body == "small" else {}
    return _ready(RetinaNet(features, output_classes, **anchors), first_label=0)


@registry.backbone.register("faster_rcnn")
def faster_rcnn(in_channels: int, output_classes: int, body: str = "resnet18", width: int = 64):
    """Faster R-CNN (Ren et al. 2015, arXiv:1506.01497): regions first, then the class of each. See `fcos`."""
    from torchvision.models.detection import FasterRCNN

    return _ready(FasterRCNN(_body(body, width), output_classes + 1, **_regions(body)), first_label=1)


@registry.backbone.register("mask_rcnn")
def mask_rcnn(in_channels: int, output_classes: int, body: str = "resnet18", width: int = 64):
    """Mask R-CNN (He et al. 2017, arXiv:1703.06870): Faster R-CNN and a mask for each region. See `fcos`."""
    from torchvision.models.detection import MaskRCNN

    settings = _regions(body)
    if body == "small":
        from torchvision.ops import MultiScaleRoIAlign

        settings["mask_roi_pool"] = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    return _ready(MaskRCNN(_body(body, width), output_classes + 1, **settings), first_label=1)


def _body(name: str, width: int, of_pyramid: bool = False):
    """Feature maps of an image. of_pyramid: from stride 8 on, with two coarser levels, as one-stage detectors want."""
    from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    if name == "small":
        return _small_body(width)
    from torch import nn

    names = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d")
    names += ("wide_resnet50_2", "wide_resnet101_2")
    mobile = ("mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v2")
    if name in names:
        more = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)} if of_pyramid else {}
        settings = {"norm_layer": nn.BatchNorm2d, "trainable_layers": 5}
        return resnet_fpn_backbone(backbone_name=name, weights=None, **settings, **more)
    if name in mobile and not of_pyramid:
        settings = {"norm_layer": nn.BatchNorm2d, "trainable_layers": 6}
        return mobilenet_backbone(backbone_name=name, weights=None, fpn=True, **settings)
    choices = ["small", *names, *(() if of_pyramid else mobile)]
    raise ValueError(f"body = {name}: this detector has no such body. {suggest(name, choices)}")


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


def _anchors():
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    return AnchorGenerator(((16, 24, 32, 48),), ((0.5, 1.0, 2.0),))


def _regions(body: str) -> dict:
    """Anchors and pooling of R-CNNs for bodies that do not give the five feature maps of a resnet's pyramid."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    if body == "small":
        pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
        return {"rpn_anchor_generator": _anchors(), "box_roi_pool": pool}
    if body.startswith("mobilenet"):  # three maps; as in torchvision's fasterrcnn_mobilenet_v3_large_fpn
        return {"rpn_anchor_generator": AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)}
    return {}


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
