"""What takes the steps: `build(model) -> torch.optim.Optimizer`."""

from core import registry

registry.create("optimizer")


@registry.optimizer.register("sgd")
def sgd(learning_rate: float = 0.1, momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4):
    """Stochastic gradient descent with (Nesterov) momentum; for convolutional nets trained from scratch."""
    import torch

    def build(model):
        groups = decay_groups(model, weight_decay)
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov and momentum > 0)

    return build


@registry.optimizer.register("adamw")
def adamw(learning_rate: float = 1e-3, betas: list[float] = (0.9, 0.999), weight_decay: float = 0.01):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); for transformers and for fine-tuning."""
    import torch

    def build(model):
        return torch.optim.AdamW(decay_groups(model, weight_decay), lr=learning_rate, betas=tuple(betas))

    return build


def decay_groups(model, weight_decay: float) -> list[dict]:
    """Parameter groups with weight decay on matrices and kernels alone.

    Decay of norms and biases only costs accuracy (He et al. 2019, "Bag of tricks", arXiv:1812.01187).
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
