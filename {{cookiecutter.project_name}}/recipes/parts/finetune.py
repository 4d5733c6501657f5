"""Fine-tuning: a frozen body or its norms alone, two learning rates, activation checkpointing."""

import functools
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from core import IngredientsError
from core.errors import suggest
from recipes.parts.library_models import unwrapped

# Samples. mobilenet_v2 of ImageNet with frozen or trained norms: accuracy 0.67 or 0.56 on 210 photos, 0.92 or 0.86 in
# two epochs of 2,000 digits, mAP50 0.80 or 0.75 on 160 photos. Larger sets show their own statistics for long enough.
FEW = 5000


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


def norms_of_body(model) -> list[nn.Module]:
    """The batch norms outside of the head."""
    in_head = set(head(model).modules())
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind) and module not in in_head]


def freeze_norms(model, wanted, samples: int) -> list[nn.Module]:
    """Freeze scale and shift of the body's batch norms; returns those whose statistics stay as well: call their eval.

    wanted: True, or "auto": if there are fewer than FEW samples. Call it before the optimizer is built.
    """
    norms = norms_of_body(model)
    if wanted is True and not norms:
        raise IngredientsError("the body has no batch norms; set it to False")
    if wanted is not True and samples >= FEW:
        return []
    for norm in norms:
        norm.requires_grad_(False)
    return norms


def freeze(model, head, frozen: bool = True) -> None:
    """Freeze everything but `head`, running statistics of the norms included; or unfreeze it.

    Call it after each `model.train()`, which turns the norms on. Build the optimizer first: those of the pantry skip
    parameters that need no gradient then.
    """
    in_head = {id(parameter) for parameter in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in in_head)
    for norm in norms_of_body(model) if frozen else ():
        norm.eval()


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
