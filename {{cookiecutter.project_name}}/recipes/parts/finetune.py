"""Fine-tuning: weights to start from, a frozen body, two learning rates, activation checkpointing."""

import functools
from contextlib import contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from core import IngredientsError
from core.errors import suggest
from recipes.parts.backbone import name_of_body, unwrapped


def head(model) -> nn.Module:
    """The last module with parameters of its own: the layer that gives the logits.

    In a network with a `backbone` (or `backbone.body`), all but that: a ModuleList.
    """
    network = unwrapped(model)
    parts = dict(network.named_children())
    if "backbone" in parts:
        backbone = parts.pop("backbone")
        inner = dict(backbone.named_children())
        neck = [module for name, module in inner.items() if name != "body"] if "body" in inner else []
        return nn.ModuleList([*neck, *parts.values()])
    owners = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]
    if not owners:
        raise IngredientsError("the model has no parameters, so it has no head")
    return owners[-1]


# ------------------------------------------------------------------------------------------------------------ weights


def load_weights(model, weights: str | Path, name: str, options: dict | None = None) -> str:
    """Load weights into a model of `find_backbone(name, options)`. Returns one line: what was loaded, what stayed new.

    weights: "pretrained" (those of torchvision, for images scaled to [0, 1] and normalized by the means 0.485, 0.456,
    0.406 and the deviations 0.229, 0.224, 0.225), or a state dict in a file: .safetensors, or .pt and .pth as
    torch.save and this project write them. Weights of a classifier also fit the body of a network that has one. A head
    of another size stays new; entries that the model does not have are ignored.
    Raises IngredientsError with all entries of another shape, or if nothing fits or the file cannot be read.
    """
    state = _pretrained(name_of_body(name, options)) if str(weights) == "pretrained" else _read_state(Path(weights))
    network = unwrapped(model)
    own = network.state_dict()
    state = _rename(state, own)
    head_tensors = set(map(id, head(network).state_dict(keep_vars=True).values()))
    in_head = {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in head_tensors}
    common = [key for key in own if key in state]
    differ = [key for key in common if state[key].shape != own[key].shape]
    if wrong := [key for key in differ if key not in in_head]:
        lines = [f"    {key} is {list(state[key].shape)}, but {list(own[key].shape)} in {name}" for key in wrong]
        raise IngredientsError("\n".join([f"{weights}: weights of another network:", *lines]))
    loaded = {key: state[key] for key in common if key not in differ}
    if not any(key not in in_head for key in loaded):
        got, expected = ", ".join(list(state)[:3]), ", ".join(list(own)[:3])
        raise IngredientsError(f"{weights}: no entry fits {name}: expected {expected}, …, got {got}, …")
    own.update(loaded)  # not a new dict: this one holds the versions of the modules
    network.load_state_dict(own)
    new = [key for key in own if key not in loaded and not key.endswith("num_batches_tracked")]  # which nothing reads
    told = f"newly initialized: {', '.join(_modules_of(new, loaded))}" if new else "nothing newly initialized"
    return f"loaded {len(loaded)} of {len(state)} entries of {weights}; {told}"


def _modules_of(new: list[str], loaded) -> list[str]:
    """The shortest names of modules that cover `new` and hold nothing that was loaded."""
    holding = {path for key in loaded for path in _paths(key)}
    return list(dict.fromkeys(next(path for path in _paths(key) if path not in holding) for key in new))


def _paths(key: str) -> list[str]:
    """a.b.c -> [a, a.b, a.b.c]"""
    parts = key.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _pretrained(name: str) -> dict:
    import torchvision

    if name not in torchvision.models.list_models():
        raise IngredientsError(f"torchvision has no pretrained weights of {name}; write weights = <path> of a file")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:  # through the model: torchvision renames entries of some of its files
        return torchvision.models.get_model(name, weights=weights, progress=False).state_dict()
    except (OSError, RuntimeError, HTTPException) as error:  # no network, disk full, or a truncated file
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        reason = str(error).partition("\n")[0]
        message = f"cannot download the weights of {name} from {weights.url} ({reason}); put that file into {folder}"
        raise IngredientsError(f"{message}, or write weights = <path> of a file that you have") from error


def _read_state(path: Path) -> dict:
    """The tensors of a file by name."""
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise IngredientsError(f"{path}: expected pretrained, or a file that ends in .safetensors, .pt or .pth")
    if not path.is_file():
        raise IngredientsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise IngredientsError(f"{path}: reading it needs a package: pip install safetensors") from None
    except Exception as error:  # a damaged file may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise IngredientsError(f"{path}: cannot be read as weights: {reason}") from error
    for key in ("model", "state_dict"):  # a checkpoint holds them beside other things
        state = state.get(key, state) if isinstance(state, dict) else state
    tensors = isinstance(state, dict) and {key: value for key, value in state.items() if torch.is_tensor(value)}
    if not tensors:
        raise IngredientsError(f"{path}: expected a state dict (names and tensors), got {type(state).__name__}")
    return tensors


def _rename(state: dict, own: dict) -> dict:
    """The state under those names that fit the model best: without a wrapper's prefix, or with that of the body."""
    wrappers = ("", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "1.")  # 1.: after GreyToRGB
    prefixes = [wrapper + part for part in ("", "features.") for wrapper in wrappers]
    places = ("", "backbone.", "backbone.body.")
    pairs = [(prefix, place) for prefix in prefixes for place in places]
    renamed = [{place + key.removeprefix(prefix): state[key] for key in state} for prefix, place in pairs]
    return max(renamed, key=lambda names: sum(key in own for key in names))


# ----------------------------------------------------------------------------------------------------------- training


def freeze(model, head, frozen: bool = True) -> None:
    """Freeze everything but `head`, running statistics of the norms included; or unfreeze it.

    Call it after each `model.train()`, which turns the norms on. Build the optimizer first: those of the pantry skip
    parameters that need no gradient then.
    """
    in_head = {id(parameter) for parameter in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in in_head)
    head_modules = set(head.modules())
    for module in model.modules():
        if module not in head_modules and "running_mean" in dict(module.named_buffers(recurse=False)):
            module.train(model.training and not frozen)


def split_rates(optimizer, head_parameters, factor: float) -> None:
    """Multiply the learning rate of all parameters but the head's by `factor`: each group becomes body and head."""
    if not factor >= 0:
        raise ValueError(f"factor = {factor}: must be at least 0")
    in_head = {id(parameter) for parameter in head_parameters}
    groups = []
    for group in optimizer.param_groups:
        slower = {key: group[key] * factor for key in ("lr", "initial_lr") if key in group}
        body = [parameter for parameter in group["params"] if id(parameter) not in in_head]
        rest = [parameter for parameter in group["params"] if id(parameter) in in_head]
        groups += [group | slower | {"params": body}] if body else []
        groups += [group | {"params": rest}] if rest else []
    optimizer.param_groups[:] = groups


def recompute(model, names: list[str]) -> None:
    """Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): compute these blocks again in the backward pass.

    names: paths such as layer3, or classes such as Bottleneck. Results stay the same to the bit: random numbers repeat,
    and running statistics are updated once.
    Raises IngredientsError with all names that the model does not have, and the nearest ones.
    """
    modules = {path: module for path, module in unwrapped(model).named_modules() if path}
    known = dict.fromkeys([*modules, *(type(module).__name__ for module in modules.values())])
    unknown = [f'the model has no block "{name}". {suggest(name, known)}' for name in names if name not in known]
    if unknown:
        raise IngredientsError("\n".join(unknown))
    for path, module in modules.items():
        if path in names or type(module).__name__ in names:
            contexts = functools.partial(_contexts, module)
            # on the instance, so that the keys of the state dict stay
            module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False, context_fn=contexts)


def _contexts(module) -> tuple:
    """Contexts of the first computation of a block, and of the second."""
    return nullcontext(), _restore_buffers(module)


@contextmanager
def _restore_buffers(module):
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
