"""Tables: what a file may hold, standardisation by the training split alone, and the task from training to a number."""

import json
from pathlib import Path

import pytest
import torch

from core import IngredientsError, resolve
from pantry.tables import load_csv, regressor
from recipes import predict, validate
from recipes.parts.backbone import find_backbone
from recipes.settings import read_ingredients
from recipes.train import train as train_recipe

HERE = Path(__file__).parent.parent
INI = next(HERE / name for name in ("ingredients.tabular.ini", "ingredients.ini") if (HERE / name).is_file())
DATA = HERE / "data" / "diabetes.csv"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read({"a.b": "5"}) -> the shipped ingredients for a short training in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    fixed = {"project.name": "rows", "project.data.root": f"{HERE}/data/", "training.scheme.epochs": "12"}

    def read(changes=None):
        return read_ingredients(INI, [(path, text, True) for path, text in (fixed | (changes or {})).items()])

    return read


@pytest.fixture
def train(read):
    def train(changes=None):
        ingredients = read(changes)
        return train_recipe(ingredients, resolve(ingredients))

    return train


def last(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if "train_loss" in line)


# -------------------------------------------------------------------------------------------------------- the file


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    return tmp_path / "t.csv"


def test_rows_are_those_of_the_file_and_each_is_in_one_split():
    parts = {split: load_csv(DATA, "progression", split)() for split in ("training", "testing", "all")}
    assert [len(part[0]) for part in parts.values()] == [354, 88, 442]
    X, y = parts["all"]
    assert (X.shape, X.dtype, y.shape, y.dtype) == ((442, 10), torch.float32, (442,), torch.float32)
    assert X[0].tolist() == pytest.approx([59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87]) and y[0] == 151
    where = [path for split in ("training", "testing") for path in parts[split].paths]
    assert sorted(where) == sorted(parts["all"].paths) and len({*where}) == 442
    for split in ("training", "testing"):
        rows = [int(path.rpartition(":")[2]) - 2 for path in parts[split].paths]
        assert torch.equal(parts[split][0], X[rows]) and torch.equal(parts[split][1], y[rows])
    assert parts["testing"].paths != load_csv(DATA, "progression", "testing", seed=1)().paths


def test_chosen_columns_in_their_order_marks_and_spaces(tmp_path):
    file = table(tmp_path, "\ufeffa; b ;c\n1;2;3\n\n4; 5;6e-1\n")
    X, y = loaded = load_csv(file, "a", "all", columns=["c", "b"], delimiter=";", unit="EUR")()
    assert X.tolist() == [[3, 2], [pytest.approx(0.6), 5]] and y.tolist() == [1, 4]
    assert loaded.classes == ["EUR"] and loaded.form["columns"] == ["c", "b"] and loaded.paths[1] == f"{file}:4"
    assert load_csv(file, "b", "all", delimiter=";")().classes == ["b"]


BAD_TABLES = {
    "cells": ("a,b\n1,x\n,2\n3,nan\n1,2,3\ninf,1\n",
              [":2: b is 'x'; a number", ":3: a is empty", ":4: b is 'nan'", ":5: 3 cells, but 2 columns", ":6: a is"]),
    "target": ("a,d\n1,2\n", ["there is no column b. "]),
    "twice": ("a,b,a\n1,2,3\n", ["column 'a' stands there twice"]),
    "no rows": ("a,b\n", ["there are no rows in it"]),
    "mark": ("a;b\n1;2\n", ["its columns are parted by ';'; write delimiter = ';'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_all_that_is_wrong_with_a_table_is_told_at_once(tmp_path, name):
    text, wanted = BAD_TABLES[name]
    with pytest.raises(IngredientsError) as told:
        load_csv(table(tmp_path, text), "b", "all")()
    assert [part for part in wanted if part not in str(told.value)] == []


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(IngredientsError, match=r"none\.csv: cannot be read: No such file"):
        load_csv(tmp_path / "none.csv", "b")()
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IngredientsError, match="cannot be read"):
        load_csv(tmp_path / "t.csv", "b")()
    with pytest.raises(IngredientsError, match="b is the target; take it out of columns"):
        load_csv(table(tmp_path, "a,b\n1,2\n"), "b", columns=["a", "b"])()
    with pytest.raises(ValueError, match="testing_share = 1: write"):
        load_csv(DATA, "b", testing_share=1)


# ----------------------------------------------------------------------------------------------------- the network


def test_mlp():
    model = find_backbone("mlp", {"widths": [8, 4], "dropout": 0.5})(3, 2)
    assert [type(layer).__name__ for layer in model] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert model(torch.zeros(5, 3)).shape == (5, 2)
    assert find_backbone("mlp", {"widths": []})(3, 1)[0].weight.shape == (1, 3)
    for options, told in (({"widths": [0]}, "widths = "), ({"dropout": 1.0}, "dropout = 1.0: write")):
        with pytest.raises(ValueError, match=told):
            find_backbone("mlp", options)(3, 1)


def test_regressor_knows_mean_and_deviation_of_what_it_was_trained_on_and_of_nothing_else():
    X = torch.randn(100, 3) * torch.tensor([1e-4, 1.0, 0.0]) + torch.tensor([0.0, 2000.0, 7.0])  # the last is constant
    y = torch.randn(100) * 50 + 300
    model = regressor(torch.nn.Linear(3, 1), 3)
    for start, end in ((0, 10), (10, 64), (64, 100)):
        model(X[start:end], y[start:end])
    assert torch.allclose(model.inputs.mean, X.mean(0), rtol=1e-4, atol=1e-6)
    assert torch.allclose(model.inputs.variance, X.var(0, unbiased=False), rtol=1e-3)
    assert torch.allclose(model.target.variance, y.var(unbiased=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs, wanted = model.eval()(X, y)
    model(X + 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert abs(float(wanted.mean())) < 1e-3 and float(wanted.std()) == pytest.approx(1, abs=0.01)
    assert torch.allclose(model(X)[:, 0], outputs * y.std(unbiased=False) + y.mean(), rtol=1e-4)
    assert torch.isfinite(model(X)).all()


# -------------------------------------------------------------------------------------------------------- the task


def test_task_learns_and_is_measured_again_and_predicts_rows_in_their_unit(train, monkeypatch, capsys, tmp_path):
    run = train()
    figures = last(run)
    assert figures["r2"] > 0.4 and figures["mae"] < 55 and 0.3 < figures["loss"] < 0.7
    tested = (run / "log.txt").read_text().partition("on 88 test samples: ")[2].splitlines()[0]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["validate", str(run / "ingredients.ini"), "--run", str(run), "--on", "testing"])
    validate.main()
    assert capsys.readouterr().out == f"testing: {tested} (88 samples)\n"

    header, *rows = DATA.read_text().splitlines()[:4]
    plain = table(tmp_path, "\n".join([header, *rows]) + "\n")
    turned = tmp_path / "turned.csv"  # other order, another column
    turned.write_text("\n".join(",".join(["name", *row.split(",")[::-1]]) for row in (header, *rows)) + "\n")
    monkeypatch.setattr("sys.argv", ["predict", str(plain), str(turned), "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{file}:{n}" for file in (plain, turned) for n in (2, 3, 4)]
    said = [line.split(maxsplit=1)[1] for line in lines]
    assert said[:3] == said[3:] and all(line.endswith(" points of progression") for line in said)
    assert 25 < float(said[0].split()[0]) < 346

    table(tmp_path, "age,sex\n1,2\n")
    with pytest.raises(SystemExit):
        predict.main()
    assert f"{plain}: there is no column bmi" in capsys.readouterr().err


def test_the_unit_of_the_target_changes_nothing_but_the_unit(train, tmp_path):
    header, *rows = [line.split(",") for line in DATA.read_text().splitlines()]
    scaled = [[*row[:-1], str(float(row[-1]) * 1000 + 5)] for row in rows]
    file = table(tmp_path, "\n".join(map(",".join, [header, *scaled])) + "\n")
    few = {"training.scheme.epochs": "3"}
    one, other = last(train(few)), last(train(few | {"training.load_dataset.source": str(file)}))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert other["mae"] == pytest.approx(1000 * one["mae"], rel=1e-3)
    assert other["r2"] == pytest.approx(one["r2"], rel=1e-2)


@pytest.mark.parametrize("loss", ["torch.nn.SmoothL1Loss", "torch.nn.L1Loss"])
def test_losses_of_torch(train, loss):
    assert last(train({"training.loss.@loss": loss, "training.scheme.epochs": "6"}))["r2"] > 0.2


def test_metrics(train):
    pytest.importorskip("torchmetrics")
    metric = {"validation.metrics.again.@metric": "torchmetrics.R2Score", "training.scheme.epochs": "2"}
    figures = last(train(metric | {"training.scheme.best": "again"}))
    assert figures["again"] == pytest.approx(figures["r2"], abs=1e-4)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"training.scheme.best": "mae"}, "an error is best where it is lowest; add best_is = lowest"),
        ({"model.architecture.output_classes": "2"}, "a row has one number to predict; write 1"),
        ({"model.architecture.backbone": "mpl"}, "Did you mean mlp"),
        ({"model.architecture.backbone": "resnet18", "model.architecture.options": "None"}, "cannot take samples of"),
        ({"training.load_dataset.@load_dataset": "whole"}, r"a sample is torch.int64 \[3\]; a row of floats"),
        ({"training.load_dataset.@load_dataset": "classes"}, r"y is torch.int64 \[8\]; a row of floats"),
        ({"testing.load_dataset.columns": '["bmi"]'}, r"a row is \['bmi'\], but in training \['age'"),
    ],
)
def test_what_does_not_fit_is_refused(train, own, changes, told):
    own.load_dataset("whole")(lambda: lambda: (torch.zeros(10, 3, dtype=torch.int64), torch.zeros(10)))
    own.load_dataset("classes")(lambda: lambda: (torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64)))
    if "training.load_dataset.@load_dataset" in changes:  # the other sections refer to its settings
        changes = changes | {"testing.load_dataset.@load_dataset": "whole"}
    with pytest.raises(IngredientsError, match=told):
        train({"training.scheme.epochs": "1"} | changes)
