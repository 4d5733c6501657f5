"""68 SIGKILLs and more: `python -m pytest -m long tests/test_kill.py`; KILL_RUNS=6 for 200."""

import os

import pytest
from tests.test_interruptions import BUSY, killed_as_often


@pytest.mark.long
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("seed", range(int(os.environ.get("KILL_RUNS", 2))))
def test_killed_often_ends_as_uninterrupted(read, workers, seed):
    changes = BUSY | {"training.scheme.epochs": "60", "training.scheme.seed": str(seed)}
    if workers != "0":
        changes |= {"training.scheme.workers": workers, "training.scheme.memory": "0.0"}
    hits = killed_as_often(read, changes, kills=17, name=f"often-{workers}-{seed}", seed=seed)
    print(f"{hits} kills")
    assert hits == 17
