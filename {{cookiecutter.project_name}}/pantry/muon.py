"""Muon: `build(model) -> torch.optim.Optimizer`, PyTorch's update for hidden layers and AdamW for the rest."""

from typing import Annotated

from core import registry
from pantry.optimizers import Amount, Betas, decay_groups, two_betas


@registry.optimizer.register("muon")
def muon(
    learning_rate: Amount = 0.02,
    momentum: Annotated[float, "[0, 1)"] = 0.95,
    weight_decay: Amount = 0.01,
    rest_learning_rate: Amount = 3e-4,
    rest_betas: Betas = (0.9, 0.95),
):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): orthogonalized momentum for hidden layers.

    Trains the weights of linear and convolutional layers, a kernel (out, in, h, w) as a matrix (out, in * h * w).
    AdamW trains the rest at `rest_learning_rate`: the last such layer (the head), embeddings, norms and biases.
    """
    import torch

    betas = two_betas(rest_betas=rest_betas)

    class Muon(torch.optim.AdamW):
        """AdamW, but for the groups that have a momentum: one optimizer, so one state to save."""

        @torch.no_grad()
        def step(self):
            groups = self.param_groups
            for group in groups:
                if group["momentum"] is not None:
                    _muon_step(group, [p for p in group["params"] if p.grad is not None], self.state)
            self.param_groups = [group for group in groups if group["momentum"] is None]
            super().step()
            self.param_groups = groups

    def build(model):
        layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
        hidden = [module.weight for module in model.modules() if isinstance(module, layers)][:-1]
        hidden = list(dict.fromkeys(weight for weight in hidden if weight.requires_grad))  # a shared one once
        groups = [{"params": hidden, "weight_decay": weight_decay, "lr": learning_rate, "momentum": momentum}]
        chosen = set(hidden)
        for group in decay_groups(model, weight_decay):
            groups.append(group | {"params": [p for p in group["params"] if p not in chosen], "momentum": None})
        return Muon(groups, lr=rest_learning_rate, betas=betas)

    return build


def _muon_step(group: dict, parameters: list, states: dict) -> None:
    """One step of torch.optim.Muon, whose class takes matrices only, on kernels (out, in, ...) as (out, in * ...)."""
    import torch
    from torch.optim._muon import muon as take_step

    settings = {key: group[key] for key in ("lr", "weight_decay", "momentum")}
    settings |= {"ns_coefficients": (3.4445, -4.7750, 2.0315), "ns_steps": 5, "eps": 1e-7}
    for parameter in parameters:
        state, weight, gradient = states[parameter], parameter.flatten(1).clone(), parameter.grad.flatten(1)
        if "momentum_buffer" not in state:
            state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(weight))  # AdamW loads a step
        buffers = [state["momentum_buffer"]]
        take_step([weight], [gradient], buffers, **settings, nesterov=True, adjust_lr_fn=None, has_complex=False)
        parameter.copy_(weight.view_as(parameter))  # whose channels may be last in memory
