"""The blank recipe runs as it is: a start for a task of your own. Replace these tests with those of yours."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from core import IngredientsError, resolve
from recipes import predict
from recipes.settings import read_ingredients
from recipes.train import train as train_recipe

HERE = Path(__file__).parent.parent
INI = next(HERE / name for name in ("ingredients.blank.ini", "ingredients.ini") if (HERE / name).is_file())


@pytest.fixture
def train(tmp_path, monkeypatch, own):
    """train({"a.b": "5"}) -> the folder of a run, in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    file = INI.with_name(INI.name.replace("ingredients", "custom_functions").replace(".ini", ".py"))
    spec = importlib.util.spec_from_file_location("custom_functions", file)
    monkeypatch.setitem(sys.modules, "custom_functions", importlib.util.module_from_spec(spec))
    for functions in (own.load_dataset, own.backbone):
        functions.pop("load_products", None), functions.pop("two_layers", None)
    spec.loader.exec_module(sys.modules["custom_functions"])

    def run(changes=None):
        changes = {"project.name": "blank"} | (changes or {})
        ingredients = read_ingredients(INI, [(path, text, True) for path, text in changes.items()])
        return train_recipe(ingredients, resolve(ingredients))

    return run


def test_it_learns_products_and_predicts_one(train, monkeypatch, capsys):
    run = train()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert min(line["loss"] for line in lines if "train_loss" in line) < 0.001
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["predict", "0.5,-0.5", "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    assert float(re.fullmatch(r"0\.5,-0\.5  (\S+)\n", capsys.readouterr().out)[1]) == pytest.approx(-0.25, abs=0.1)
    monkeypatch.setattr("sys.argv", ["predict", "0.5,x", "--run", str(run), "--ingredients", str(INI)])
    with pytest.raises(SystemExit):
        predict.main()
    assert "0.5,x: write numbers with commas between them" in capsys.readouterr().err


def test_metrics(train):
    pytest.importorskip("torchmetrics")
    metric = {"validation.metrics.again.@metric": "torchmetrics.MeanSquaredError", "training.scheme.epochs": "1"}
    [figures, *_] = [json.loads(line) for line in (train(metric) / "metrics.jsonl").read_text().splitlines()]
    assert figures["again"] == pytest.approx(figures["loss"], rel=1e-4)


def test_what_does_not_fit_is_refused(train, own):
    import torch

    own.load_dataset("classes")(lambda: lambda: (torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64)))
    own.load_dataset("long")(lambda: lambda: (torch.zeros(9, 3), torch.zeros(9)))
    for changes, told in (
        ({"training.load_dataset.@load_dataset": "classes"}, "y is torch.int64; floats are needed"),
        ({"model.architecture.backbone": "two_layer"}, "model.architecture.backbone = .*\n.*Did you mean two_l"),
        (
            {"testing.load_dataset.@load_dataset": "long", "training.scheme.epochs": "1"},
            r"a sample is \[3\], but in tr",
        ),
    ):
        with pytest.raises(IngredientsError, match=told):
            train(changes)
