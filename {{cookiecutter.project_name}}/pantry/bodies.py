"""Bodies of detectors and segmenters: the feature maps of a classification model, joined by a feature pyramid."""

import math

import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork

from core.errors import suggest
from core.registry import need

SIDE = 128  # pixels of the image that shows at which strides a body has maps


class Pyramid(nn.Module):
    """images (N, 3, H, W) -> {"0": (N, out_channels, H / finest stride, W / finest stride), ...}, from fine to coarse.

    Lin et al. 2017, arXiv:1612.03144. channels: of the body's last maps; extra: coarser maps, as LastLevelMaxPool
    normalization: {"mean", "std"} of each channel of the images, as weights of the body expect them
    """

    def __init__(self, body: nn.Module, channels: list[int], width: int, extra, normalization: dict):
        super().__init__()
        self.body, self.fpn = body, FeaturePyramidNetwork(channels, width, extra)
        self.out_channels, self.normalization, self.count = width, normalization, len(channels)

    def forward(self, images):
        maps = self.body(images)
        maps = list(maps.values() if isinstance(maps, dict) else maps)[-self.count :]
        return self.fpn({str(index): features for index, features in enumerate(maps)})


def pyramid(name: str, width: int, finest: int = 4, extra=None) -> Pyramid:
    """The feature pyramid of a classification model of torchvision, or of timm as timm.<name>, without weights.

    width: channels of its maps; finest: stride of the first one
    Raises ValueError with the nearest names, or if the model has no maps of several strides.
    """
    body, channels, normalization = (_timm_body if name.startswith("timm.") else _torchvision_body)(name)
    counts = [count for stride, count in channels.items() if stride >= finest]
    if len(counts) < 2:
        raise ValueError(f"body = {name}: has no feature maps of several strides from {finest} on")
    return Pyramid(body, counts, width, extra, normalization)


def _timm_body(name: str) -> tuple:
    timm, short = need("timm"), name.removeprefix("timm.")
    if not timm.is_model(short):
        raise ValueError(f"body = {name}: timm has no such model. {suggest(short, timm.list_models())}")
    try:
        body = timm.create_model(short, features_only=True)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"body = {name}: {error}") from error
    strides, counts = body.feature_info.reduction(), body.feature_info.channels()
    config = timm.models.get_pretrained_cfg(short)
    return body, dict(zip(strides, counts, strict=True)), {"mean": list(config.mean), "std": list(config.std)}


def _torchvision_body(name: str) -> tuple:
    """The layers up to the last feature map, and the channels of the last map of each stride."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise ValueError(f"body = {name}: there is no such model. {suggest(name, names)}")
    model = torchvision.models.get_model(name, weights=None)
    layers = dict(model.named_children()).get("features", model)
    images, last = torch.zeros(1, 3, SIDE, SIDE), {}  # last: stride -> (layer, channels)
    model.eval()
    with torch.inference_mode():
        for layer, module in layers.named_children():
            try:
                images = module(images)
            except (RuntimeError, AssertionError, NotImplementedError):  # a layer that takes no images, as the head
                break
            if images.ndim != 4 or images.shape[3] < 3:  # pooled
                break
            last[2 ** round(math.log2(SIDE / images.shape[3]))] = layer, images.shape[1]
    body = IntermediateLayerGetter(layers.train(), {layer: layer for layer, _ in last.values()})
    channels = {stride: count for stride, (_, count) in last.items()}
    return body, channels, {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
