"""The names that torch itself offers: each tells core what it takes."""

import pytest
import torch
from core.arguments import Signature, describe, fits
from torchvision.transforms import v2

MODULES = {
    "optimizer": (torch.optim, "", torch.optim.Optimizer),
    "schedule": (torch.optim.lr_scheduler, "", torch.optim.lr_scheduler.LRScheduler),
    "loss": (torch.nn, "Loss", torch.nn.Module),
    "augment": (v2, "", v2.Transform),
}


def classes(kind):
    module, end, base = MODULES[kind]
    found = {key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    return {key: value for key, value in found.items() if key[0] != "_" and key.endswith(end)}


CLASSES = [(kind, name) for kind in MODULES for name in classes(kind)]


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_signature(kind, name):
    """Its parameters have names, as its __init__ has, and each default is accepted by the check."""
    found = classes(kind)[name]
    signature = Signature(found)
    own = [p for p in found.__init__.__code__.co_varnames[1 : found.__init__.__code__.co_argcount]]
    assert not hasattr(found.__init__, "__wrapped__")
    assert [name for name in signature.slots if name in own] == own
    assert all(describe(hint) for hint in signature.hints.values())


def test_there_are_many():
    assert {kind: len(classes(kind)) > 10 for kind in MODULES} == dict.fromkeys(MODULES, True)


def test_a_text_is_no_learning_rate():
    """`float | Tensor`: a Tensor cannot be checked, which must not let everything pass."""
    for name, found in classes("optimizer").items():
        hint = Signature(found).hints.get("lr", float)
        if name != "Optimizer":
            assert fits(0.1, hint) and not fits("fast", hint), name
