"""Tables: files, standardisation by the training split alone, and a run from training to a prediction."""

from pathlib import Path

import pytest
import torch
from helpers import metrics_of

from core import IngredientsError
from pantry.tables import load_csv, standardised
from recipes import predict, validate
from recipes.settings import call_functions, read_ingredients
from recipes.train import train as train_recipe

HERE = Path(__file__).parent.parent
INI = next(HERE / name for name in ("ingredients.tabular.ini", "ingredients.ini") if (HERE / name).is_file())
DATA = HERE / "data" / "diabetes.csv"


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(changes) -> the folder of a short run in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    short = {"project.name": "rows", "project.data.root": f"{HERE}/data/", "training.scheme.epochs": "12"}

    def run(changes=None):
        overrides = [(path, text, True) for path, text in (short | (changes or {})).items()]
        ingredients = read_ingredients(INI, overrides)
        return train_recipe(ingredients, call_functions(ingredients))

    return run


def last_epoch(run):
    return [line for line in metrics_of(run) if "train_loss" in line][-1]


# --------------------------------------------------------------------------------------------------------------- files


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    return tmp_path / "t.csv"


def test_each_row_is_in_one_split():
    parts = {split: load_csv(DATA, "progression", split)() for split in ("training", "testing", "all")}
    assert [len(part[0]) for part in parts.values()] == [354, 88, 442]
    X, y = parts["all"]
    assert (X.shape, X.dtype, y.shape, y.dtype) == ((442, 10), torch.float32, (442,), torch.float32)
    assert X[0].tolist() == pytest.approx([59, 2, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87]) and y[0] == 151
    names = [name for split in ("training", "testing") for name in parts[split].paths]
    assert sorted(names) == sorted(parts["all"].paths) and len({*names}) == 442
    for split in ("training", "testing"):
        rows = [int(name.rpartition(":")[2]) - 2 for name in parts[split].paths]
        assert torch.equal(parts[split][0], X[rows]) and torch.equal(parts[split][1], y[rows])
    assert parts["testing"].paths != load_csv(DATA, "progression", "testing", seed=1)().paths


def test_columns_in_their_order_and_delimiters(tmp_path):
    file = table(tmp_path, "\ufeffa; b ;c\n1;2;3\n\n4; 5;6e-1\n")
    X, y = loaded = load_csv(file, "a", "all", columns=["c", "b"], delimiter=";", unit="EUR")()
    assert X.tolist() == [[3, 2], [pytest.approx(0.6), 5]] and y.tolist() == [1, 4]
    assert loaded.classes == ["EUR"] and loaded.input_format["columns"] == ["c", "b"] and loaded.paths[1] == f"{file}:4"
    assert load_csv(file, "b", "all", delimiter=";")().classes == ["b"]


BAD_TABLES = {
    "cells": ("a,b\n1,x\n,2\n3,nan\n1,2,3\ninf,1\n",
              [":2: b is 'x'", ":4: b is missing", ":5: 3 cells, but 2 columns", ":6: a is 'inf'"]),
    "target": ("a,d\n1,2\n", ["there is no column b"]),
    "twice": ("a,b,a\n1,2,3\n", ["has column 'a' twice"]),
    "no rows": ("a,b\n", ["has no rows"]),
    "delimiter": ("a;b\n1;2\n", ["set delimiter = ';'"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TABLES)
def test_everything_wrong_with_a_table_is_reported_at_once(tmp_path, name):
    text, expected = BAD_TABLES[name]
    with pytest.raises(IngredientsError) as error:
        load_csv(table(tmp_path, text), "b", "all")()
    assert [part for part in expected if part not in str(error.value)] == []


PASSENGERS = "class,sex,age,fare,cabin,survived\n" + "".join(
    f"{1 + i % 3},{'female' if i % 2 else 'male'},{'' if i % 5 == 0 else 20 + i % 40},{i % 7}.5,C{i},"
    f"{'yes' if (i % 2) ^ (i % 11 == 0) else 'no'}\n"
    for i in range(200)
)


def test_missing_values_and_categories(tmp_path):
    file = table(tmp_path, PASSENGERS)
    X, y = loaded = load_csv(file, "survived")()
    assert loaded.classes == ["no", "yes"] and y.dtype == torch.int64 and len(y) == 160
    layout = loaded.input_format
    assert layout["categories"] == {"sex": ["female", "male"], "cabin": []} and layout["missing"] == ["age"]
    assert X.shape == (160, 6)  # class, female, male, age, fare, and whether the age is missing
    assert torch.equal(X[:, 3].isnan(), X[:, 5] == 1) and torch.equal(X[:, 1] + X[:, 2], torch.ones(160))
    assert load_csv(file, "survived", "testing")().input_format == layout
    other = tmp_path / "other.csv"
    other.write_text("sex,age,cabin,class,fare,survived\nnone,30,C1,1,2,no\nbird,?,C1,2,3,yess\n")
    with pytest.raises(IngredientsError, match="other.csv:3: survived is 'yess'.* Did you mean yes?"):
        load_csv(other, "survived", "all", like=file)()
    other.write_text("sex,age,cabin,class,fare,survived\nnone,30,C1,1,2,no\nbird,?,C1,2,3,yes\n")
    columns = layout["columns"]
    X, y = load_csv(other, "survived", "all", columns=columns, like=file)()
    assert X[0].tolist() == [1, 0, 0, 30, 2, 0] and X[1, 1:3].tolist() == [0, 0] and y.tolist() == [0, 1]
    numbers = load_csv(file, "class", target_kind="class")()
    assert numbers.classes == ["1", "2", "3"]


# ------------------------------------------------------------------------------------------------------------- network


def test_the_network_knows_mean_and_deviation_of_its_training_data_alone():
    X = torch.randn(100, 3) * torch.tensor([1e-4, 1.0, 0.0]) + torch.tensor([0.0, 2000.0, 7.0])  # the last is constant
    y = torch.randn(100) * 50 + 300
    model = standardised(torch.nn.Linear(3, 1), 3)
    for start, end in ((0, 10), (10, 64), (64, 100)):
        model(X[start:end], y[start:end])
    assert torch.allclose(model.inputs.mean, X.mean(0), rtol=1e-4, atol=1e-6)
    assert torch.allclose(model.inputs.variance, X.var(0, unbiased=False), rtol=1e-3)
    assert torch.allclose(model.target.variance, y.var(unbiased=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outputs, targets = model.eval()(X, y)
    model(X + 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert abs(float(targets.mean())) < 1e-3 and float(targets.std()) == pytest.approx(1, abs=0.01)
    assert torch.allclose(model(X)[:, 0], outputs * y.std(unbiased=False) + y.mean(), rtol=1e-4)
    holed = X.clone()
    holed[3, 0] = float("nan")
    means = torch.where(holed.isnan(), model.inputs.mean, holed)
    assert torch.isfinite(model(X)).all() and torch.allclose(model(holed), model(means))


# ---------------------------------------------------------------------------------------------------------------- runs


def test_a_run_learns_is_evaluated_again_and_predicts_rows(train, monkeypatch, capsys, tmp_path):
    run = train()
    metrics = last_epoch(run)
    assert metrics["r2"] > 0.4 and metrics["mae"] < 55 and 0.3 < metrics["loss"] < 0.7
    tested = (run / "log.txt").read_text().partition("on 88 test samples: ")[2].splitlines()[0]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["validate", str(run / "ingredients.ini"), "--run", str(run), "--on", "testing"])
    validate.main()
    assert capsys.readouterr().out.startswith(f"testing: {tested} (88 samples)\n")

    header, *rows = DATA.read_text().splitlines()[:4]
    plain = table(tmp_path, "\n".join([header, *rows]) + "\n")
    turned = tmp_path / "turned.csv"  # in another order, with another column
    turned.write_text("\n".join(",".join(["name", *row.split(",")[::-1]]) for row in (header, *rows)) + "\n")
    monkeypatch.setattr("sys.argv", ["predict", str(plain), str(turned), "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{file}:{n}" for file in (plain, turned) for n in (2, 3, 4)]
    values = [line.split(maxsplit=1)[1] for line in lines]
    assert values[:3] == values[3:] and all(line.endswith(" points of progression") for line in values)
    assert 25 < float(values[0].split()[0]) < 346

    table(tmp_path, "age,sex\n1,2\n")
    with pytest.raises(SystemExit):
        predict.main()
    assert f"{plain}: there is no column bmi" in capsys.readouterr().err


def test_classes_of_rows_with_missing_values(train, monkeypatch, capsys, tmp_path):
    file = table(tmp_path, PASSENGERS)
    changes = {f"{split}.load_dataset.source": str(file) for split in ("training", "testing")}
    changes |= {f"{split}.load_dataset.target": "survived" for split in ("training", "testing")}
    run = train(changes | {"training.scheme.epochs": "30", "training.scheme.best": "f1"})
    metrics = last_epoch(run)
    assert metrics["accuracy"] > 0.8 and metrics["f1"] > 0.8
    (tmp_path / "new.csv").write_text("age,sex,class,fare,cabin\n,female,2,3.5,X\n30,,1,,\n")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["predict", "new.csv", "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["new.csv:2", "yes"] and second.split()[1] in ("yes", "no")


def test_the_unit_of_the_target_changes_nothing_but_the_unit(train, tmp_path):
    header, *rows = [line.split(",") for line in DATA.read_text().splitlines()]
    scaled = [[*row[:-1], str(float(row[-1]) * 1000 + 5)] for row in rows]
    file = table(tmp_path, "\n".join(map(",".join, [header, *scaled])) + "\n")
    few = {"training.scheme.epochs": "3"}
    one, other = last_epoch(train(few)), last_epoch(train(few | {"training.load_dataset.source": str(file)}))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert other["mae"] == pytest.approx(1000 * one["mae"], rel=1e-3)
    assert other["r2"] == pytest.approx(one["r2"], rel=1e-2)


def test_another_loss_and_metrics_of_torchmetrics(train):
    pytest.importorskip("torchmetrics")
    changes = {"validation.metrics.again.@metric": "torchmetrics.R2Score", "training.scheme.best": "again"}
    changes |= {"training.loss.@loss": "torch.nn.SmoothL1Loss", "training.scheme.epochs": "6"}
    metrics = last_epoch(train(changes))
    assert metrics["again"] == pytest.approx(metrics["r2"], abs=1e-4) and metrics["r2"] > 0.2


@pytest.mark.parametrize(
    "changes, path, message",
    [
        ({"training.scheme.best": "mae"}, "training.scheme.best", "best_is = lowest"),
        ({"training.scheme.best": "accuracy"}, "training.scheme.best", "no such metric"),
        ({"model.architecture.output_classes": "2"}, "model.architecture.output_classes", "set it to 1"),
        ({"model.architecture.backbone": "mpl"}, "model.architecture.backbone", "Did you mean mlp"),
        ({"training.load_dataset.@load_dataset": "whole"}, "training.load_dataset", "torch.int64 [3]"),
        ({"training.load_dataset.@load_dataset": "classes"}, "training.load_dataset", "one class"),
        ({"testing.load_dataset.columns": '["bmi"]'}, "testing.load_dataset", "['bmi']"),
    ],
)
def test_what_does_not_fit_is_refused(train, own, changes, path, message):
    own.load_dataset("whole")(lambda: lambda: (torch.zeros(10, 3, dtype=torch.int64), torch.zeros(10)))
    own.load_dataset("classes")(lambda: lambda: (torch.zeros(10, 3), torch.zeros(10, dtype=torch.int64)))
    if "training.load_dataset.@load_dataset" in changes:  # the other sections refer to its settings
        changes = changes | {"testing.load_dataset.@load_dataset": "whole"}
    with pytest.raises(IngredientsError) as error:
        train({"training.scheme.epochs": "1"} | changes)
    assert any(problem.key == path and message in problem.message for problem in error.value.problems), error.value
