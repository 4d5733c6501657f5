"""What takes the steps: `build(model) -> torch.optim.Optimizer`."""

from core import registry

registry.create("optimizer")


@registry.optimizer.register("sgd")
def sgd(learning_rate: float = 0.1, momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4):
    """Stochastic gradient descent with (Nesterov) momentum; for convolutional nets trained from scratch."""
    import torch

    _refuse_negative(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)

    def build(model):
        groups = decay_groups(model, weight_decay)
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov and momentum > 0)

    return build


@registry.optimizer.register("adamw")
def adamw(learning_rate: float = 1e-3, betas: list[float] = (0.9, 0.999), weight_decay: float = 0.01):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); for transformers and for fine-tuning."""
    import torch

    _refuse_negative(learning_rate=learning_rate, weight_decay=weight_decay)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas = {list(betas)}: write two numbers from 0 up to, but not including, 1")

    def build(model):
        return torch.optim.AdamW(decay_groups(model, weight_decay), lr=learning_rate, betas=tuple(betas))

    return build


def _refuse_negative(**settings: float) -> None:
    for name, value in settings.items():
        if value < 0:
            raise ValueError(f"{name} = {value}: write 0 or more")


def decay_groups(model, weight_decay: float) -> list[dict]:
    """Parameter groups with weight decay on matrices and kernels alone.

    Decay of norms and biases only costs accuracy (He et al. 2019, "Bag of tricks", arXiv:1812.01187).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
