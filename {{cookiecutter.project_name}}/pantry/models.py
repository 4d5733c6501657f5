"""Networks: `build(in_channels, output_classes) -> nn.Module` that maps (N, C, H, W) floats to (N, classes) logits."""

from core import IngredientsError, registry
from core.errors import suggest

registry.create("backbone")


@registry.backbone.register("small_cnn")
def small_cnn(in_channels: int, output_classes: int):
    """Three rounds of convolution, max-pool, batch norm, ReLU, then a linear head: for small images (8 to 64 pixels).

    Pooling before the norm leaves a quarter of the work to it. About 24,000 parameters.
    """
    from torch import nn

    def block(channels_in, channels_out):
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        return [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(channels_out), nn.ReLU()]

    return nn.Sequential(
        *block(in_channels, 16),  # (N, 16, H/2, W/2)
        *block(16, 32),  # (N, 32, H/4, W/4)
        *block(32, 64),  # (N, 64, H/8, W/8)
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(64, output_classes),
    )


def find_backbone(name: str):
    """The builder of a registered backbone or of a torchvision classification model.

    Raises IngredientsError with the nearest names.
    """
    if name in registry.backbone:
        return registry.backbone.get(name)
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        message = f'there is no backbone "{name}". {suggest(name, [*registry.backbone, *names])}'
        raise IngredientsError(message)
    return lambda in_channels, output_classes: _torchvision_model(name, in_channels, output_classes)


def _torchvision_model(name: str, in_channels: int, output_classes: int):
    """The model with a head of `output_classes`; grey images are repeated to the three channels that it expects."""
    import torchvision
    from torch import nn

    if in_channels not in (1, 3):
        raise ValueError(f"takes images of 1 or 3 channels, but these have {in_channels}")
    # These two would give several outputs while they train, and warn of their slow initialisation.
    plain = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=output_classes, **plain)
    if in_channels == 3:
        return model

    class GreyToRGB(nn.Module):
        def forward(self, images):  # (N, 1, H, W) -> (N, 3, H, W), without a copy
            return images.expand(-1, 3, -1, -1)

    return nn.Sequential(GreyToRGB(), model)


def head(model):
    return [module for module in model.modules() if list(module.parameters(recurse=False))][-1]
