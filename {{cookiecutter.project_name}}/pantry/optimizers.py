"""What takes the steps: `build(model) -> torch.optim.Optimizer`.

All of torch.optim is here by its name: `@optimizer = torch.optim.RMSprop`, with torch's own arguments and defaults.
"""

import math
from typing import Literal

from core import registry
from core.adopt import adopt, attempt, need, refuse

registry.create("optimizer")


@registry.optimizer.register("sgd")
def sgd(
    learning_rate: float | Literal["auto"] = 0.1,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 5e-4,
):
    """Stochastic gradient descent with (Nesterov) momentum; for convolutional nets trained from scratch.

    The rate `auto`, here and in adamw, is 1: the recipe looks for the one to multiply it by.
    """
    import torch

    learning_rate = 1.0 if learning_rate == "auto" else learning_rate
    _refuse_negative(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)

    def build(model):
        settings = {"lr": learning_rate, "momentum": momentum, "nesterov": nesterov and momentum > 0}
        return _fused(torch.optim.SGD, decay_groups(model, weight_decay), settings)

    return build


@registry.optimizer.register("adamw")
def adamw(
    learning_rate: float | Literal["auto"] = 1e-3,
    betas: list[float] = (0.9, 0.999),
    weight_decay: float = 0.01,
):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); for transformers and for fine-tuning."""
    import torch

    learning_rate = 1.0 if learning_rate == "auto" else learning_rate
    _refuse_negative(learning_rate=learning_rate, weight_decay=weight_decay)
    _refuse_unless_betas(betas)

    def build(model):
        settings = {"lr": learning_rate, "betas": tuple(betas)}
        return _fused(torch.optim.AdamW, decay_groups(model, weight_decay), settings)

    return build


@registry.optimizer.register("muon")
def muon(
    learning_rate: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    rest_learning_rate: float = 3e-4,
    rest_betas: list[float] = (0.9, 0.95),
):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, made orthogonal, for hidden matrices.

    It moves the weights of linear and convolutional layers, a kernel (out, in, h, w) as the matrix (out, in * h * w).
    AdamW moves the rest at `rest_learning_rate`: the last of these layers, the head; embeddings, norms and biases.
    """
    import torch

    _refuse_negative(learning_rate=learning_rate, weight_decay=weight_decay, rest_learning_rate=rest_learning_rate)
    _refuse_unless_betas(rest_betas, "rest_betas")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum}: write a number from 0 up to, but not including, 1")

    class Muon(torch.optim.Optimizer):
        """One optimizer, so that one state is saved: `momentum` in a group says whose it is."""

        @torch.no_grad()
        def step(self):
            for group in self.param_groups:
                update = _adamw_step if group["momentum"] is None else _muon_step
                update(group, [p for p in group["params"] if p.grad is not None], self.state)

    def build(model):
        layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
        hidden = [module.weight for module in model.modules() if isinstance(module, layers)][:-1]
        hidden = list(dict.fromkeys(weight for weight in hidden if weight.requires_grad))  # a shared one once
        groups = [{"params": hidden, "weight_decay": weight_decay, "lr": learning_rate, "momentum": momentum}]
        chosen = set(hidden)
        for group in decay_groups(model, weight_decay):
            groups.append(group | {"params": [p for p in group["params"] if p not in chosen]})
        return Muon(groups, {"lr": rest_learning_rate, "momentum": None, "betas": tuple(rest_betas)})

    return build


def _muon_step(group: dict, parameters: list, states: dict) -> None:
    import torch

    for parameter in parameters:
        if not states[parameter]:
            states[parameter]["momentum"] = torch.zeros_like(parameter)
        buffer = states[parameter]["momentum"]
        buffer.lerp_(parameter.grad, 1 - group["momentum"])
        matrix = parameter.grad.lerp(buffer, group["momentum"]).flatten(1)  # Nesterov's look ahead
        rows, columns = matrix.shape
        rate = group["lr"] * math.sqrt(max(1, rows / columns))  # the same spectral norm for a tall matrix
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonal(matrix).reshape(parameter.shape), alpha=-rate)


def orthogonal(matrix, rounds: int = 5):
    """About U V^T of `matrix` (rows, columns) = U S V^T: singular values about 0.7 to 1.2, by matrix products alone.

    Newton and Schulz's iteration with the quintic of Jordan et al. 2024. On GPUs in bfloat16, which suffices.
    """
    import torch

    x = matrix.to(torch.bfloat16 if matrix.is_cuda else matrix.dtype)
    x = x.T if len(matrix) > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)


def _adamw_step(group: dict, parameters: list, states: dict) -> None:
    import torch
    from torch.optim.adamw import adamw as take_step

    for parameter in parameters:
        if not states[parameter]:
            states[parameter].update({key: torch.zeros_like(parameter) for key in ("average", "average_square")})
            states[parameter]["step"] = torch.zeros(())
    columns = [[states[p][key] for p in parameters] for key in ("average", "average_square", "step")]
    beta1, beta2 = group["betas"]
    settings = {"lr": group["lr"], "weight_decay": group["weight_decay"], "beta1": beta1, "beta2": beta2, "eps": 1e-8}
    gradients = [p.grad for p in parameters]
    take_step(parameters, gradients, *columns[:2], [], columns[2], amsgrad=False, maximize=False, **settings)


@registry.optimizer.register("schedule_free")
def schedule_free(
    kind: Literal["adamw", "sgd"] = "adamw",
    learning_rate: float = 2.5e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
):
    """Schedule-free AdamW or SGD (Defazio et al. 2024, arXiv:2405.15682), of the package schedulefree.

    An average of the weights stands in for a falling rate: use it with `@schedule = constant`. The weights that are
    measured are not those that take the steps, so norms over the batch (BatchNorm) suit it less than others.
    """
    schedulefree = need("schedulefree")
    _refuse_negative(learning_rate=learning_rate, weight_decay=weight_decay, warmup_steps=warmup_steps)
    if not 0 < momentum < 1:
        raise ValueError(f"momentum = {momentum}: write a number between 0 and 1")
    settings = {"lr": learning_rate, "warmup_steps": warmup_steps}

    def build(model):
        groups = decay_groups(model, weight_decay)
        if kind == "sgd":
            return schedulefree.SGDScheduleFree(groups, momentum=momentum, **settings)
        return schedulefree.AdamWScheduleFree(groups, betas=(momentum, 0.999), **settings)

    return build


_REFUSED = {
    "LBFGS": "it measures the loss several times a step, by a closure; the loop does so once. Take another optimizer",
    "SparseAdam": "it takes sparse gradients alone, and those of a network are dense; write torch.optim.Adam",
    "Muon": "it takes matrices alone; write muon, which leaves the rest to AdamW",
}


def _of_torch(cls):
    """A class of torch.optim as a function of ours; weight decay, where it has one, is kept off norms and biases."""
    import inspect

    import torch

    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or cls is torch.optim.Optimizer:
        return refuse(f"torch.optim.{cls.__name__} is no optimizer")
    if cls.__name__ in _REFUSED:
        return refuse(_REFUSED[cls.__name__])
    usual = inspect.signature(cls).parameters.get("weight_decay")

    def factory(**settings):
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}

        def build(model):
            if usual is None:
                return cls([p for p in model.parameters() if p.requires_grad], **settings)
            return cls(decay_groups(model, settings.get("weight_decay", usual.default)), **settings)

        attempt(lambda: build(torch.nn.Linear(1, 1)))  # a setting that it refuses shows before training
        return build

    return adopt(factory, cls, without=["params"])


registry.optimizer.module("torch.optim", _of_torch)


def _refuse_negative(**settings: float) -> None:
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"{name} = {value}: write 0 or more")


def _refuse_unless_betas(betas, name: str = "betas") -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"{name} = {list(betas)}: write two numbers from 0 up to, but not including, 1")


def _fused(cls, groups: list[dict], settings: dict):
    """The optimizer with all of a step in one kernel where there is one.

    On two CPU cores a step takes 0.6 of the time for SGD and 0.4 to 0.5 for AdamW.
    """
    import torch

    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for group in groups for p in group["params"])
    optimizer = cls(groups, fused=fused, **settings)

    def lay_out(optimizer):
        # The kernel reads memory in its order: a state saved in another memory format would be taken for another one.
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if value is not None and value.shape == parameter.shape:
                    state[key] = torch.empty_like(parameter).copy_(value)

    optimizer.register_load_state_dict_post_hook(lay_out)
    return optimizer


def decay_groups(model, weight_decay: float) -> list[dict]:
    """Parameter groups with weight decay on matrices and kernels alone.

    Decay of norms and biases only costs accuracy (He et al. 2019, "Bag of tricks", arXiv:1812.01187).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
