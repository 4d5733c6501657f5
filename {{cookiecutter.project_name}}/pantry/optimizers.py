"""Optimizers: `build(model) -> torch.optim.Optimizer`."""

from typing import Annotated, Literal

from core import registry

Amount = Annotated[float, "[0, inf)"]
Betas = Annotated[list[float], "[0, 1)"]


@registry.optimizer.register("sgd")
def sgd(
    learning_rate: Amount | Literal["auto"] = 0.1,
    momentum: Amount = 0.9,
    nesterov: bool = True,
    weight_decay: Amount = 5e-4,
):
    """Stochastic gradient descent with (Nesterov) momentum, for convolutional networks trained from scratch.

    `learning_rate = auto`, also in adamw: a range test chooses it before training.
    """
    import torch

    learning_rate = 1.0 if learning_rate == "auto" else learning_rate  # the range test scales this one
    settings = {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov and momentum > 0}
    return lambda model: _fused(torch.optim.SGD, decay_groups(model, weight_decay), settings)


@registry.optimizer.register("adamw")
def adamw(
    learning_rate: Amount | Literal["auto"] = 1e-3,
    betas: Betas = (0.9, 0.999),
    weight_decay: Amount = 0.01,
):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), for transformers and for fine-tuning."""
    import torch

    learning_rate = 1.0 if learning_rate == "auto" else learning_rate
    settings = {"lr": learning_rate, "betas": two_betas(betas=betas)}
    return lambda model: _fused(torch.optim.AdamW, decay_groups(model, weight_decay), settings)


def two_betas(**setting) -> tuple:
    """The two decay rates of an Adam; the name of the setting is for the message."""
    [(name, betas)] = setting.items()
    if len(betas) != 2:
        raise ValueError(f"{name} = {list(betas)}: must be two numbers")
    return tuple(betas)


def decay_groups(model, weight_decay: float) -> list[dict]:
    """Parameter groups that apply weight decay to matrices and kernels, not to norms and biases.

    Decaying norms and biases only costs accuracy (He et al. 2019, "Bag of tricks", arXiv:1812.01187).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _fused(cls, groups: list[dict], settings: dict):
    """The optimizer with PyTorch's fused kernel: on two CPU cores a step takes about half the time."""
    import torch

    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for group in groups for p in group["params"])
    optimizer = cls(groups, fused=fused, **settings)
    if cls is torch.optim.SGD and settings["momentum"]:  # or the kernel leaves them unset if fp16 skips the first step
        for parameter in (parameter for group in groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def match_memory_format(optimizer):
        # The kernel walks memory in order, so a loaded state must have the strides of its parameter.
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if value is not None and value.shape == parameter.shape:
                    state[key] = torch.empty_like(parameter).copy_(value)

    optimizer.register_load_state_dict_post_hook(match_memory_format)
    return optimizer
