"""The network that [model.architecture] names: a registered backbone, or a model of torchvision or timm."""

from torch import nn

from core import Ingredients, IngredientsError, registry
from core.arguments import Signature


def find_backbone(name: str, options: dict | None = None, names: list[str] | None = None, make=None):
    """`build(in_channels, output_classes) -> nn.Module` of a registered backbone or a model of torchvision or timm.

    options: further arguments, such as {"dropout": 0.3}
    names, make: the models of torchvision to choose from, and `make(name, in_channels, output_classes, options)`;
    those of classification by default.
    Raises IngredientsError with the nearest names, also of options.
    """
    options = options or {}
    if name not in registry.backbone:
        from recipes.parts.library_models import find_model

        signature, make = find_model(name, names, make)
        check_options(name, signature, options)
        return lambda in_channels, output_classes: make(name, in_channels, output_classes, options)
    build = registry.backbone.get(name)
    check_options(name, Signature(build), options)

    def registered(in_channels: int, output_classes: int) -> nn.Module:
        model = build(in_channels, output_classes, **options)
        if not isinstance(model, nn.Module):
            raise IngredientsError(f"{name} returned {type(model).__name__}, expected a torch.nn.Module")
        return model

    return registered


def check_options(name: str, signature: Signature, options: dict) -> None:
    """Raises IngredientsError with all options that the builder does not take, or not with such a value."""
    signature.names = [key for key in signature.names if key not in ("in_channels", "output_classes", "num_classes")]
    signature.hints = {key: hint for key, hint in signature.hints.items() if key in options and key in signature.names}
    if problems := signature.check(Ingredients(options), name, "option"):
        raise IngredientsError("\n".join(f"{problem.key}: {problem.message}" for problem in problems))
