"""Schedule-free optimizers: `build(model) -> torch.optim.Optimizer`."""

from typing import Annotated, Literal

from core import registry
from core.registry import need
from pantry.optimizers import Amount, decay_groups


@registry.optimizer.register("schedule_free")
def schedule_free(
    kind: Literal["adamw", "sgd"] = "adamw",
    learning_rate: Amount = 2.5e-3,
    momentum: Annotated[float, "(0, 1)"] = 0.9,
    weight_decay: Amount = 0.0,
    warmup_steps: Annotated[int, "[0, inf)"] = 0,
):
    """Schedule-free AdamW or SGD (Defazio et al. 2024, arXiv:2405.15682), from the package schedulefree.

    Averages the weights instead of decaying the rate: use it with `@schedule = constant`. The weights that are
    evaluated are not those that are trained, so it works less well with BatchNorm than with other norms.
    """
    schedulefree = need("schedulefree")
    settings = {"lr": learning_rate, "warmup_steps": warmup_steps}

    def build(model):
        groups = decay_groups(model, weight_decay)
        if kind == "sgd":
            return schedulefree.SGDScheduleFree(groups, momentum=momentum, **settings)
        return schedulefree.AdamWScheduleFree(groups, betas=(momentum, 0.999), **settings)

    return build
