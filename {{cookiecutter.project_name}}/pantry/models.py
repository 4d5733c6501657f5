"""Networks: `build(in_channels, output_classes) -> nn.Module` that maps (N, C, H, W) floats to (N, classes) logits.

Then what is done to one before training: weights to start from, a frozen body, two learning rates, recomputing.
"""

from contextlib import contextmanager
from pathlib import Path

from core import IngredientsError, registry
from core.errors import suggest

registry.create("backbone")


@registry.backbone.register("small_cnn")
def small_cnn(in_channels: int, output_classes: int, widths: list[int] = (16, 32, 64), grid: int = 1):
    """Rounds of convolution, max-pool, batch norm, ReLU, then a linear head: for small images (8 to 64 pixels).

    widths: channels of each round; each halves height and width. grid: the head looks at the strongest value of each
    channel in grid x grid parts of the image, so that it can tell places apart where that is more than 1.
    Pooling before the norm leaves a quarter of the work to it. About 24,000 parameters.
    """
    from torch import nn

    if not widths or min(widths) < 1:
        raise ValueError(f"widths = {list(widths)}: write the channels of each round")
    if grid < 1:
        raise ValueError(f"grid = {grid}: write 1 or more")
    rounds = []
    for before, after in zip((in_channels, *widths), widths, strict=False):
        rounds += [*_convolution(before, after, pool=True), nn.ReLU()]
    head = nn.Linear(widths[-1] * grid * grid, output_classes)
    return nn.Sequential(*rounds, nn.AdaptiveMaxPool2d(grid), nn.Flatten(), head)


@registry.backbone.register("resnet_small")
def resnet_small(in_channels: int, output_classes: int, width: int = 64):
    """Nine layers, four of them in two pairs with a shortcut: for photographs of 28 to 64 pixels.

    width: channels of the first layer; the last has eight times as many, and parameters grow with its square.
    About 6,600,000 parameters. After Page 2018, "How to train your ResNet", with max-pool before batch norm.
    """
    from torch import nn

    if width < 1:
        raise ValueError(f"width = {width}: write 1 or more")

    class Residual(nn.Sequential):
        def forward(self, images):  # (N, C, H, W) -> the same
            return images + super().forward(images)

    def layer(before, after, pool=False):
        return nn.Sequential(*_convolution(before, after, pool), nn.ReLU())

    def pair(channels):
        return Residual(layer(channels, channels), layer(channels, channels))

    return nn.Sequential(
        layer(in_channels, width),  # (N, width, H, W)
        layer(width, 2 * width, pool=True),  # (N, 2 width, H/2, W/2)
        pair(2 * width),
        layer(2 * width, 4 * width, pool=True),  # (N, 4 width, H/4, W/4)
        layer(4 * width, 8 * width, pool=True),  # (N, 8 width, H/8, W/8)
        pair(8 * width),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, output_classes),
    )


def _convolution(before: int, after: int, pool: bool) -> list:
    from torch import nn

    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [convolution, *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(after)]


def find_backbone(name: str, options: dict | None = None, module: str = "torchvision.models"):
    """The builder of a registered backbone or of a torchvision model: of `module`, that of classification or another.

    options: further arguments of it, such as {"dropout": 0.3}
    Raises IngredientsError with the nearest names, also of options.
    """
    import sys

    options = options or {}
    if name in registry.backbone:
        build = registry.backbone.get(name)
        _check_options(name, build, options)
        return lambda in_channels, output_classes: build(in_channels, output_classes, **options)
    import torchvision

    names = torchvision.models.list_models(module=sys.modules[module])
    if name not in names:
        message = f'there is no backbone "{name}". {suggest(name, [*registry.backbone, *names])}'
        raise IngredientsError(message)
    if module == "torchvision.models.segmentation" and options:  # which its builders would swallow
        raise IngredientsError(f"{name} takes no options")
    _check_options(name, torchvision.models.get_model_builder(name), options)
    return lambda in_channels, output_classes: _torchvision_model(name, in_channels, output_classes, options)


def _check_options(name: str, build, options: dict) -> None:
    """Refuse options that the builder does not take, or not with such a value, all at once.

    Builders of torchvision hand them on to the class that they give back.
    """
    if not options:
        return
    import typing

    from core.arguments import Signature, fits, mend

    signature = Signature(build)
    if signature.takes_any_name:
        signature = Signature(typing.get_type_hints(build).get("return", build))
    names = [key for key in signature.names if key not in ("in_channels", "output_classes", "num_classes")]
    # Some classes swallow any name. What the builder itself takes of them is told nowhere; this is the one of use.
    names += ["width_mult"] if name.startswith("mobilenet_v3") else []
    problems = []
    for key, value in options.items():
        if key not in names:
            problems.append(f"{key}: {name} has no such option. {suggest(key, names)}")
        elif key in signature.hints and not fits(value, signature.hints[key]):
            problems.append(f"{key}: {mend(value, str(value), signature.hints[key])}")
    if problems:
        raise IngredientsError("\n".join(problems))


def _torchvision_model(name: str, in_channels: int, output_classes: int, options: dict):
    """The model with a head of `output_classes`; grey images are repeated to the three channels that it expects."""
    import torchvision
    from torch import nn

    if in_channels not in (1, 3):
        raise ValueError(f"takes images of 1 or 3 channels, but these have {in_channels}")
    # These two would give several outputs while they train, and warn of their slow initialisation. Their pretrained
    # weights are of images scaled otherwise than all others', which transform_input makes up for.
    other = {"aux_logits": False, "init_weights": False, "transform_input": True}
    plain = other if name in ("googlenet", "inception_v3") else {}
    parted = name in torchvision.models.list_models(module=torchvision.models.segmentation)
    if parted:  # pretrained weights come by load_weights
        plain = {"weights_backbone": None}
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=output_classes, **{**plain, **options})
    except TypeError as error:
        raise ValueError(f"refuses its options: {error}") from error
    if parted:
        model.register_forward_hook(_take_out)
    if in_channels == 3:
        return model

    class GreyToRGB(nn.Module):
        def forward(self, images):  # (N, 1, H, W) -> (N, 3, H, W), without a copy
            return images.expand(-1, 3, -1, -1)

    return nn.Sequential(GreyToRGB(), model)


def _take_out(model, images, outputs):
    """The logits (N, classes, H, W) alone, of the dict that torchvision's segmentation models give."""
    return outputs["out"]


def _network(model):
    """The model itself, without the step that repeats grey images."""
    first = next(model.children(), None)
    return model[1] if type(first).__name__ == "GreyToRGB" else model


def head(model):
    """The last module that has parameters of its own: the linear layer (or 1x1 convolution) that gives the logits.

    Of a network with a `backbone`, such as torchvision's for segmentation, all but that: a ModuleList.
    """
    network = _network(model)
    if hasattr(network, "backbone"):
        from torch import nn

        return nn.ModuleList(module for name, module in network.named_children() if name != "backbone")
    owners = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    if not owners:
        raise IngredientsError("the model has no parameters, so it has no head")
    return owners[-1]


def _without_head(model, head) -> list:
    """All modules but the head and what is in it."""
    of_head = set(head.modules())
    return [module for module in model.modules() if module not in of_head]


# ------------------------------------------------------------------------------------------------ weights to start from


def load_weights(model, weights: str | Path, name: str) -> list[str]:
    """Fill a model of `find_backbone(name)` with weights, and return the entries that are left new, sorted.

    weights: "pretrained" (those of torchvision, of images scaled to 0..1 and normalised by the means 0.485, 0.456,
    0.406 and the deviations 0.229, 0.224, 0.225) or a file of a state dict: .safetensors, or .pt and .pth as torch.save
    and this project write them. What else the file holds is passed over, and so is a head of another size.
    Raises IngredientsError with all entries whose shapes differ, or where nothing fits or nothing can be read.
    """
    state = _pretrained(name) if str(weights) == "pretrained" else _read_state(Path(weights))
    network = _network(model)
    own = network.state_dict()
    state = _without_prefix(state, own)
    in_head = set(map(id, head(network).state_dict(keep_vars=True).values()))
    of_head = {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in in_head}
    common = [key for key in own if key in state]
    differ = [key for key in common if state[key].shape != own[key].shape]
    if wrong := [key for key in differ if key not in of_head]:
        lines = [f"    {key} is {list(state[key].shape)}, but {list(own[key].shape)} in {name}" for key in wrong]
        raise IngredientsError("\n".join([f"{weights}: weights of another network:", *lines]))
    taken = {key: state[key] for key in common if key not in differ}
    if not any(key not in of_head for key in taken):
        found, wanted = ", ".join(list(state)[:3]) or "none", ", ".join(list(own)[:3])
        raise IngredientsError(f"{weights}: nothing in it fits {name}. Its entries: {found}, …; wanted: {wanted}, …")
    own.update(taken)  # not a new dict: this one knows the versions of its modules
    network.load_state_dict(own)
    counters = "num_batches_tracked"  # which old files lack, and nothing here reads
    return sorted(key for key in own if key not in taken and not key.endswith(counters))


def _pretrained(name: str) -> dict:
    from http.client import HTTPException

    import torch
    import torchvision

    if name not in torchvision.models.list_models():
        raise IngredientsError(f"{name} is no model of torchvision: only those come pretrained; write weights = <path>")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:  # a model of its own: torchvision renames entries of some of its files on the way
        return torchvision.models.get_model(name, weights=weights, progress=False).state_dict()
    except (OSError, RuntimeError, HTTPException) as error:  # no network, no space, or a file cut off in the middle
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        reason = f"{getattr(error, 'reason', error)}".partition("\n")[0]
        message = f"the weights of {name} cannot be had from {weights.url} ({reason}); put that file into {folder}"
        raise IngredientsError(f"{message}, or write weights = <path> of a file that you have") from error


def _read_state(path: Path) -> dict:
    """The tensors of a file by their names."""
    import pickle

    import torch

    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise IngredientsError(f"{path}: write pretrained, or a file that ends in .safetensors, .pt or .pth")
    if not path.is_file():
        raise IngredientsError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise IngredientsError(f"{path}: cannot be read as weights: {reason}") from error
    for key in ("model", "state_dict"):  # a checkpoint holds them beside other things
        state = state.get(key, state) if isinstance(state, dict) else state
    tensors = isinstance(state, dict) and {key: value for key, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        raise IngredientsError(f"{path}: holds no state dict (names and tensors), but {type(state).__name__}")
    return tensors


def _read_safetensors(path: Path) -> dict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise IngredientsError(f"{path}: reading it needs a package: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise IngredientsError(f"{path}: cannot be read as weights: {error}") from error


def _without_prefix(state: dict, own: dict) -> dict:
    """The state with the names of the model: parallel and compiled models, and those of grey images, prefix theirs."""
    prefixes = ("module.", "_orig_mod.", "1.")
    while not any(key in own for key in state):
        prefix = next((prefix for prefix in prefixes if state and all(key.startswith(prefix) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


# ---------------------------------------------------------------------------------------------------- how it is trained


def freeze(model, head, frozen: bool = True) -> None:
    """Let the body, all but `head`, keep its weights and the running statistics of its norms; or let it train again.

    Call it after each `model.train()`, which turns the norms on. Make the optimizer before: those of the pantry pass
    over what needs no gradient at that time.
    """
    of_head = {id(parameter) for parameter in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in of_head)
    for module in _without_head(model, head):
        if getattr(module, "running_mean", None) is not None:
            module.train(model.training and not frozen)


def split_rates(optimizer, head_parameters, factor: float) -> None:
    """Give all parameters but the head's `factor` times their learning rate: each group becomes body and head."""
    if not factor >= 0:
        raise ValueError(f"factor = {factor}: write 0 or more")
    of_head = {id(parameter) for parameter in head_parameters}
    groups = []
    for group in optimizer.param_groups:
        slower = {key: group[key] * factor for key in ("lr", "initial_lr") if key in group}
        body = [parameter for parameter in group["params"] if id(parameter) not in of_head]
        rest = [parameter for parameter in group["params"] if id(parameter) in of_head]
        groups += [group | slower | {"params": body}] if body else []
        groups += [group | {"params": rest}] if rest else []
    optimizer.param_groups[:] = groups


def recompute(model, names: list[str]) -> None:
    """Keep no intermediate results of these blocks: they are computed again in the backward pass, to save memory.

    names: paths such as layer3, or classes such as Bottleneck. Results stay the same to the bit: chance is repeated,
    and buffers such as running statistics are changed once. Chen et al. 2016, arXiv:1604.06174.
    Raises IngredientsError with all names that the model does not have, and the nearest ones.
    """
    import functools

    from torch.utils.checkpoint import checkpoint

    network = _network(model)
    modules = {path: module for path, module in network.named_modules() if path}
    known = dict.fromkeys([*modules, *(type(module).__name__ for module in modules.values())])
    unknown = [f'the model has no block "{name}". {suggest(name, known)}' for name in names if name not in known]
    if unknown:
        raise IngredientsError("\n".join(unknown))
    for path, module in modules.items():
        if path in names or type(module).__name__ in names:
            contexts = functools.partial(_contexts, module)
            # on the instance, so that the names of the state dict stay
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False, context_fn=contexts)


def _contexts(module) -> tuple:
    """What surrounds the first computing of a block, and what the second."""
    from contextlib import nullcontext

    return nullcontext(), _buffers_kept(module)


@contextmanager
def _buffers_kept(module):
    """Undo what happens inside to the buffers of a module."""
    import torch

    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
