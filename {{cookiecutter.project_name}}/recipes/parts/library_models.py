"""Models of torchvision and timm: found by name, made without weights, for images of 1 or 3 channels."""

import inspect
import typing

import torchvision
from torch import nn

from core import IngredientsError, registry
from core.arguments import Signature
from core.errors import suggest
from core.registry import need


class GreyToRGB(nn.Module):
    """(N, 1, H, W) -> (N, 3, H, W), without a copy."""

    def forward(self, images):
        return images.expand(-1, 3, -1, -1)


def unwrapped(model):
    """The network itself, without the module that repeats grey images."""
    return model[1] if isinstance(next(model.children(), None), GreyToRGB) else model


def find_model(name: str, names: list[str] | None = None, make=None) -> tuple:
    """(signature, make) of a model of torchvision or timm. See `find_backbone`."""
    if name.startswith("timm.") and names is None:
        check_timm(name)
        return Signature(lambda **options: None), torchvision_classifier
    classifiers = torchvision.models.list_models(module=torchvision.models)
    names = classifiers if names is None else names
    if name not in names and name in classifiers:  # of another task: it may be the body of a backbone
        takers = [known for known in registry.backbone if "body" in Signature(registry.backbone.get(known)).names]
        for known in takers[:1]:
            advice = f'write backbone = {known}, options = {{"body": "{name}"}}'
            raise IngredientsError(f"{name} classifies images; as the body of a model for this task {advice}")
    if name not in names:
        raise IngredientsError(f'there is no backbone "{name}". {suggest(name, [*registry.backbone, *names])}')
    build = torchvision.models.get_model_builder(name)
    signature = Signature(build)
    if signature.takes_any_name:  # builders pass them to the class that they return
        signature = Signature(typing.get_type_hints(build).get("return", build))
    signature.takes_any_name = False
    if name.startswith("mobilenet_v3"):
        signature.names.append("width_mult")  # hidden behind two layers of **kwargs
    return signature, make or torchvision_classifier


def check_timm(name: str) -> None:
    """Raises IngredientsError with the nearest names if timm.<name> is none of its models."""
    try:
        timm = need("timm")
    except ValueError as error:
        raise IngredientsError(f"{name} {error}") from None
    if not timm.is_model(name.removeprefix("timm.")):
        names = [f"timm.{known}" for known in timm.list_models()]
        raise IngredientsError(f"there is no {name}. {suggest(name, names)}")


def torchvision_classifier(name: str, in_channels: int, output_classes: int, options: dict):
    """The model with a head of `output_classes`; grey images are repeated to the three channels that it expects."""
    settings = {}
    if name in ("googlenet", "inception_v3"):
        # No second output while training, no slow initialization, and inputs scaled as their weights expect.
        settings = {"aux_logits": False, "init_weights": False, "transform_input": True}
    return torchvision_model(name, in_channels, num_classes=output_classes, **settings | options)


def torchvision_model(name: str, in_channels: int, **settings):
    """A model of torchvision, or of timm as timm.<name>, without weights, for images of 1 or 3 channels."""
    if in_channels not in (1, 3):
        raise ValueError(f"expected images of 1 or 3 channels, got {in_channels}")
    try:
        if name.startswith("timm."):
            model = need("timm").create_model(name.removeprefix("timm."), **settings)
        else:
            model = torchvision.models.get_model(name, weights=None, **settings)
    except TypeError as error:
        raise ValueError(f"refuses its options: {error}") from error
    return model if in_channels == 3 else nn.Sequential(GreyToRGB(), model)


def name_of_body(name: str, options: dict | None = None) -> str:
    """The model whose pretrained weights fit: the backbone itself, or what its argument `body` names."""
    if name in registry.backbone:
        parameters = inspect.signature(registry.backbone.get(name)).parameters
        if "body" in parameters:
            return (options or {}).get("body", parameters["body"].default)
    return name
