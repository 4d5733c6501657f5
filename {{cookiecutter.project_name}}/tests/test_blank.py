"""The blank recipe runs as it is: a start for a task of your own. Replace these tests with those of yours."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import metrics_of

import pantry  # noqa: F401  (registers)
from core import IngredientsError
from recipes import predict
from recipes.settings import call_functions, read_ingredients
from recipes.train import train as train_recipe

HERE = Path(__file__).parent.parent
INI = next(HERE / name for name in ("ingredients.blank.ini", "ingredients.ini") if (HERE / name).is_file())


@pytest.fixture
def train(tmp_path, monkeypatch, own):
    """train(changes) -> the folder of a run in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    file = INI.with_name(INI.name.replace("ingredients", "custom_functions").replace(".ini", ".py"))
    spec = importlib.util.spec_from_file_location("custom_functions", file)
    monkeypatch.setitem(sys.modules, "custom_functions", importlib.util.module_from_spec(spec))
    for registry, name in ((own.load_dataset, "load_products"), (own.backbone, "two_layers")):
        registry.pop(name, None)
    spec.loader.exec_module(sys.modules["custom_functions"])

    def run(changes=None):
        changes = {"project.name": "blank"} | (changes or {})
        ingredients = read_ingredients(INI, [(path, text, True) for path, text in changes.items()])
        return train_recipe(ingredients, call_functions(ingredients))

    return run


def test_a_run_learns_products_and_predicts_one(train, monkeypatch, capsys):
    run = train()
    assert min(line["loss"] for line in metrics_of(run) if "train_loss" in line) < 0.001
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["predict", "0.5,-0.5", "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    assert float(re.fullmatch(r"0\.5,-0\.5  (\S+)\n", capsys.readouterr().out)[1]) == pytest.approx(-0.25, abs=0.1)
    monkeypatch.setattr("sys.argv", ["predict", "0.5,x", "--run", str(run), "--ingredients", str(INI)])
    with pytest.raises(SystemExit):
        predict.main()
    assert "0.5,x" in capsys.readouterr().err


def test_metrics_of_torchmetrics(train):
    pytest.importorskip("torchmetrics")
    metric = {"validation.metrics.again.@metric": "torchmetrics.MeanSquaredError", "training.scheme.epochs": "1"}
    first, *_ = metrics_of(train(metric))
    assert first["again"] == pytest.approx(first["loss"], rel=1e-4)


def test_what_does_not_fit_is_refused(train, own):
    own.load_dataset("classes")(lambda: lambda: (torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64)))
    own.load_dataset("long")(lambda: lambda: (torch.zeros(9, 3), torch.zeros(9)))
    for changes, path, message in (
        ({"training.load_dataset.@load_dataset": "classes"}, "training.load_dataset", "y is torch.int64"),
        ({"model.architecture.backbone": "two_layer"}, "model.architecture.backbone", "Did you mean two_layers"),
        ({"testing.load_dataset.@load_dataset": "long"}, "testing.load_dataset", "a sample is [3]"),
    ):
        with pytest.raises(IngredientsError) as error:
            train({"training.scheme.epochs": "1"} | changes)
        assert any(problem.key == path and message in problem.message for problem in error.value.problems), error.value
