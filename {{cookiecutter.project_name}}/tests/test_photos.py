"""Your ingredients train on made-up photos, from scratch."""

from pathlib import Path

import pytest
import torch

from core import resolve
from recipes.experiment import load_task
from recipes.parts.calling import carried
from recipes.settings import read_ingredients
from recipes.train import train
from tests.helpers import equal, metrics_of, state_of

HERE = Path(__file__).parent.parent
INI = HERE / ("ingredients.folder.ini" if (HERE / "ingredients.folder.ini").exists() else "ingredients.ini")
SPLITS = ("training", "validation", "testing")
CHANGES = {
    "model.architecture.weights": "None",
    "training.scheme.epochs": "1",
    "training.scheme.batch_size": "2",
    "training.scheme.workers": "0",
}
for split in SPLITS:
    section = f"{split}.load_dataset"
    CHANGES |= {f"{section}.@load_dataset": "made_up", f"{section}.split": split, f"{section}.image_size": "[64, 64]"}
    CHANGES[f"{section}.optional"] = "True"


@pytest.fixture
def run(own, one_thread, tmp_path, monkeypatch):
    """run() -> its folder."""
    monkeypatch.chdir(tmp_path)

    @own.load_dataset.register("made_up")
    def made_up(split: str, image_size: list[int], optional: bool):
        def load():
            images = torch.arange(4 * 3, dtype=torch.uint8).reshape(4, 3, 1, 1).expand(4, 3, *image_size)
            stand_in = carried(task, "stand_in")
            both = stand_in(images, 2) if stand_in else (images, torch.tensor([0, 1, 0, 1]))
            return None if split == "testing" else both

        return load

    task = load_task(read_ingredients(INI))

    def run():
        ingredients = read_ingredients(INI, [(path, text, True) for path, text in CHANGES.items()])
        return train(ingredients, resolve(ingredients))

    return run


def test_the_same_ingredients_give_the_same_numbers(run, capsys):
    one, other = run(), run()
    printed = capsys.readouterr().out
    assert "no test split" in printed and "epoch   1/1" in printed and metrics_of(one)[-1] == {"finished": 1}
    assert metrics_of(other) == metrics_of(one) and equal(state_of(other), state_of(one))
    assert (one / "batch.png").is_file() and Path("models/0.0.0/model.pth").is_file()
