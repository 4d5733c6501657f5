"""Detectors: `build(in_channels, output_classes, ...) -> nn.Module` with the calls of torchvision's detection models.

While it trains `model(images, targets) -> {name: loss}`, else `model(images) -> [{"boxes", "labels", "scores"}]`, with
images a list of (3, H, W) from 0 to 1. Its attribute `first_label` is 1 where label 0 stands for the background.
"""

from core import IngredientsError, registry
from core.errors import suggest
from pantry.models import _check_options

DETECTORS = ("fasterrcnn", "maskrcnn", "retinanet", "fcos", "ssd")


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
        return _ready(FCOS(features, output_classes))
    return _ready(FCOS(features, output_classes, anchor_generator=AnchorGenerator(((8,),), ((1.0,),))))


@registry.backbone.register("retinanet")
def retinanet(in_channels: int, output_classes: int, body: str = "resnet18", width: int = 64):
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002): anchors on a feature pyramid, with the focal loss. See `fcos`."""
    from torchvision.models.detection import RetinaNet

    features = _body(body, width, of_pyramid=True)
    anchors = {"anchor_generator": _anchors()} if body == "small" else {}
    return _ready(RetinaNet(features, output_classes, **anchors))


@registry.backbone.register("faster_rcnn")
def faster_rcnn(in_channels: int, output_classes: int, body: str = "resnet18", width: int = 64):
    """Faster R-CNN (Ren et al. 2015, arXiv:1506.01497): regions first, then the class of each. See `fcos`."""
    from torchvision.models.detection import FasterRCNN

    return _ready(FasterRCNN(_body(body, width), output_classes + 1, **_regions(body)))


@registry.backbone.register("mask_rcnn")
def mask_rcnn(in_channels: int, output_classes: int, body: str = "resnet18", width: int = 64):
    """Mask R-CNN (He et al. 2017, arXiv:1703.06870): Faster R-CNN and a mask for each region. See `fcos`."""
    from torchvision.models.detection import MaskRCNN

    settings = _regions(body)
    if settings:
        from torchvision.ops import MultiScaleRoIAlign

        settings["mask_roi_pool"] = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
    return _ready(MaskRCNN(_body(body, width), output_classes + 1, **settings))


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
    raise ValueError(f"body = {name}: there is no such body of this detector. {suggest(name, choices)}")


def _small_body(width: int):
    """Five convolutions, three of them of stride 2: one feature map of stride 8, for objects of 16 to 64 pixels."""
    from collections import OrderedDict

    from torch import nn

    if width < 8:
        raise ValueError(f"width = {width}: write 8 or more")

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
    """What R-CNNs have to be told of a body with one feature map; of a pyramid they know it."""
    if body != "small":
        return {}
    from torchvision.ops import MultiScaleRoIAlign

    pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
    return {"rpn_anchor_generator": _anchors(), "box_roi_pool": pool}


def _ready(model):
    from torchvision.models.detection.ssd import SSD

    model.first_label = int(hasattr(model, "roi_heads") or isinstance(model, SSD))
    return model


def find_detector(name: str, options: dict | None = None):
    """The builder of a registered detector, or of a detection model of torchvision by its name.

    Raises IngredientsError with the nearest names, also of options.
    """
    import torchvision

    options = options or {}
    names = torchvision.models.list_models(module=torchvision.models.detection)
    names = [known for known in names if known.startswith(DETECTORS)]
    if name in names:
        build = torchvision.models.get_model_builder(name)
        _check_options(name, build, options)
        return lambda in_channels, output_classes: _of_torchvision(name, build, output_classes, options)
    if name not in registry.backbone:
        raise IngredientsError(f'there is no detector "{name}". {suggest(name, [*registry.backbone, *names])}')
    build = registry.backbone.get(name)
    _check_options(name, build, options)
    return lambda in_channels, output_classes: build(in_channels, output_classes, **options)


def _of_torchvision(name: str, build, output_classes: int, options: dict):
    background = int(not name.startswith(("retinanet", "fcos")))
    settings = {"weights": None, "weights_backbone": None, "num_classes": output_classes + background}
    try:
        return _ready(build(**settings, **options))
    except TypeError as error:
        raise ValueError(f"refuses its options: {error}") from error


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
