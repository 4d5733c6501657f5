"""All of torch.optim by name, with its own arguments and defaults: `@optimizer = torch.optim.RMSprop`."""

from core import registry
from pantry._adopt import adopt, attempt, refuse
from pantry.optimizers import decay_groups

_REFUSED = {
    "LBFGS": "needs a closure that evaluates the loss several times a step; the training loop has none",
    "SparseAdam": "takes sparse gradients only, and those of a network are dense; use torch.optim.Adam",
    "Muon": "takes matrices only; use muon, which trains all other parameters with AdamW",
}


def _adopt_optimizer(cls):
    """A class of torch.optim as a registered function; weight decay, if any, skips norms and biases."""
    import inspect

    import torch

    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or cls is torch.optim.Optimizer:
        return refuse(f"torch.optim.{cls.__name__} is not an optimizer")
    if cls.__name__ in _REFUSED:
        return refuse(f"torch.optim.{cls.__name__} {_REFUSED[cls.__name__]}")
    decay = inspect.signature(cls).parameters.get("weight_decay")

    def factory(**settings):
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}

        def build(model):
            if decay is None:
                return cls([p for p in model.parameters() if p.requires_grad], **settings)
            return cls(decay_groups(model, settings.get("weight_decay", decay.default)), **settings)

        attempt(lambda: build(torch.nn.Linear(1, 1)))  # a bad setting is reported before training
        return build

    return adopt(factory, cls, without=["params"])


registry.optimizer.module("torch.optim", _adopt_optimizer)
