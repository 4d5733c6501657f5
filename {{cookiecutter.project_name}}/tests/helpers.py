"""What a run wrote, and whether two of them are the same."""

import json

import torch

from recipes.parts import checkpoint
from recipes.settings import MEASURED


def metrics_of(folder):
    """The lines of metrics.jsonl, less the time they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def state_of(folder, name="last.pt"):
    """A checkpoint, without what differs between two equal runs: the name of the project and the times."""
    state = checkpoint.load(folder / "checkpoints" / name)
    state.pop("meta")
    for line in state["history"]:
        for name in MEASURED:
            line.pop(name)
    return state


def equal(one, other):
    """Whether two checkpoints, or parts of them, are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other
