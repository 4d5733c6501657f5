"""FSDP2: each process holds a part of the parameters, gradients and optimizer state ([training.parallel] strategy)."""

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from recipes.parts.shared import SharedExperiment


class ShardedExperiment(SharedExperiment):
    """All processes take part in each forward pass, so each evaluates all samples."""

    def shard(self, model) -> None:
        """Shard each block of the network by itself, so that one block at a time is whole."""
        for child in model.children():
            if [*child.parameters()] and not isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict):
                fully_shard(child)
        fully_shard(model)

    def wrap(self, model, batch_size: int):
        self.scale_losses(batch_size)
        for group in self.param_groups:
            if "fused" in group and "momentum" in group:
                group["fused"] = False  # SGD has no fused kernel for sharded tensors
        return model

    def last_syncs(self, parts, model):
        for part in parts:
            model.set_requires_gradient_sync(part is parts[-1])
            yield part

    def full(self, state):
        """A state with its tensors put together, on the CPU of the first process."""
        if isinstance(state, dict):
            return {key: self.full(value) for key, value in state.items()}
        whole = state.full_tensor() if isinstance(state, DTensor) else state
        return whole.cpu() if whole is not state and self.rank == 0 else whole

    def alone(self, _, best: dict):
        experiment = super().alone(self, best)
        experiment.model = self.task.build_model(self.architecture, self.meta["shape"], self.outputs).to(self.device)
        experiment.model.class_names = self.meta["classes"]
        if self.rank == 0:
            experiment.model.load_state_dict(best["model"])
        return experiment

    def spread(self, state: dict) -> dict:
        """A state whose tensors are divided as the parameters that they belong to."""
        model = self.model.state_dict()
        state = state | {"model": {name: _like(model[name], value) for name, value in state["model"].items()}}
        for name, saved in state.get("optimizers", {}).items():
            parameters = [each for group in self.optimizers[name].param_groups for each in group["params"]]
            for index, values in saved["state"].items():
                saved["state"][index] = {key: _like(parameters[index], value) for key, value in values.items()}
        return state


def _like(sharded, value):
    if isinstance(sharded, DTensor) and torch.is_tensor(value) and value.shape == sharded.shape:
        return distribute_tensor(value.to(sharded.device), sharded.device_mesh, sharded.placements)
    return value
