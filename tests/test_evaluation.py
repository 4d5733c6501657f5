"""recipes/validate.py and recipes/parts/evaluation*.py: figures against known cases, counting, and other libraries."""

import csv
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from recipes import blank, classification, multilabel, segmentation, tabular, text, validate
from recipes.parts import checkpoint, evaluation, evaluation_own
from recipes.parts.calling import Metrics
from recipes.parts.evaluation import Kept, bootstrap, calibration, precision_recall
from recipes.parts.evaluation_classification import analyse
from test_multilabel import CHANGES as LABELS
from test_multilabel import load_stripes
from tests.helpers import equal, metrics_of

NAMES = ["a", "b", "c"]


def experiment(classes=NAMES, **more):
    return SimpleNamespace(meta={"classes": classes, **more})


def kept(outputs, targets, of=Kept):
    """As after an evaluation in two batches."""
    found = of(Metrics(), torch.nn.Identity())
    for part in zip(outputs.split(len(outputs) // 2 + 1), targets.split(len(outputs) // 2 + 1), strict=True):
        found.update(*part)
    return found


# ------------------------------------------------------------------------------------------------- known cases


def test_the_interval_of_an_accuracy_is_near_the_normal_approximation():
    right = numpy.arange(1000) < 900
    low, high = bootstrap(lambda indices: {"accuracy": right[indices].mean()}, 1000)["accuracy"]
    half = 1.96 * math.sqrt(0.9 * 0.1 / 1000)
    assert abs(low - (0.9 - half)) < 0.2 * half and abs(high - (0.9 + half)) < 0.2 * half


def test_an_interval_holds_its_value_where_resampling_is_biased():
    squares = numpy.random.default_rng(0).normal(size=50)
    biased = bootstrap(lambda indices: {"n": float(len({*indices.tolist()})), "sum": squares[indices].sum()}, 50)
    assert biased["n"][0] < 50 < biased["n"][1]  # all resamples have fewer samples that differ
    assert "x" not in bootstrap(lambda indices: {"x": math.nan}, 5)
    right = numpy.arange(27) > 2
    assert bootstrap(lambda indices: {"accuracy": right[indices].mean()}, 27)["accuracy"][1] == 1, "and not above"


def test_a_calibration_by_hand():
    """Two of three right at 0.75 on average, none of one at 0.25: (3 x |0.75 - 2/3| + |0.25 - 0|) / 4."""
    found = calibration(numpy.array([0.74, 0.76, 0.75, 0.25]), numpy.array([True, False, True, False]))
    assert found["ece"] == pytest.approx((3 * (0.75 - 2 / 3) + 0.25) / 4)
    assert [one["count"] for one in found["bins"]] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]
    perfect = calibration(numpy.array([1.0, 0.0]), numpy.array([True, False]))
    assert math.isnan(calibration(numpy.array([math.nan]), numpy.array([False]))["ece"])  # and nothing crashes
    assert perfect["ece"] == 0 and perfect["bins"][-1] == {"count": 1, "confidence": 1.0, "accuracy": 1.0}


def test_classes_against_counting():
    torch.manual_seed(0)
    logits, targets = torch.randn(60, 3), torch.randint(3, (60,))
    found, guess = analyse(experiment(), kept(logits, targets), {}), logits.argmax(1)
    counts = [[int(((targets == row) & (guess == column)).sum()) for column in range(3)] for row in range(3)]
    assert found.facts["confusion"] == {"classes": NAMES, "counts": counts}
    for k, name in enumerate(NAMES):
        right, shown = counts[k][k], sum(row[k] for row in counts)
        row = {"precision": right / shown, "recall": right / sum(counts[k]), "support": sum(counts[k])}
        assert found.table[name] == pytest.approx(row | {"f1": 2 * right / (shown + sum(counts[k]))})
    metrics = classification.evaluate(torch.nn.Identity(), [(logits, targets)], Metrics())
    assert found.statistic(numpy.arange(60)) == pytest.approx(metrics)
    worst = int(found.badness.argmax())
    told = found.describe(worst)
    assert (told["truth"], told["prediction"]) == (NAMES[targets[worst]], NAMES[guess[worst]])
    assert told["loss"] == pytest.approx(-math.log(logits.softmax(1)[worst, targets[worst]]))


def test_labels_against_torchmetrics():
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 3).round(decimals=1), torch.randint(2, (50, 3))  # some scores are equal
    found = analyse(experiment(thresholds={"a": 0.9}), kept(logits.sigmoid(), targets), {})
    indices = torch.randint(50, (50,))
    for chosen in (torch.arange(50), indices):
        metrics = multilabel.evaluate(torch.nn.Identity(), [(logits[chosen], targets[chosen])], Metrics())
        assert found.statistic(chosen.numpy()) == pytest.approx(metrics, rel=1e-5)
    assert found.table["a"]["recall"] == pytest.approx(
        float(targets[logits[:, 0].sigmoid() >= 0.9, 0].sum() / targets[:, 0].sum())
    )
    assert found.has_curves and found.describe(0)["truth"].count(",") == max(0, int(targets[0].sum()) - 1)


def test_a_threshold_is_the_best_of_all():
    random = numpy.random.default_rng(0)
    scores, right = random.random(40).round(1).clip(0.1), random.random(40) < 0.4
    curve = precision_recall(scores, right, int(right.sum()))
    best = curve["f1"].argmax()

    def f1_at(threshold):
        return 2 * (right & (scores >= threshold)).sum() / ((scores >= threshold).sum() + right.sum())

    assert curve["f1"][best] == pytest.approx(max(f1_at(threshold) for threshold in numpy.arange(0, 1.05, 0.05)))
    assert f1_at(curve["threshold"][best]) == pytest.approx(curve["f1"][best])
    assert not numpy.isin(curve["threshold"], scores).any()  # a score that differs by a rounding stays on its side


# ------------------------------------------------------------------------------------------------- boxes and masks


def random_boxes(generator, images, classes=3):
    """(predictions, objects) in which some predictions are near an object, and classes or boxes may be wrong."""
    found, truth = [], []
    for _ in range(images):
        count = int(torch.randint(0, 5, (), generator=generator))
        corners = torch.rand(count, 2, generator=generator) * 50
        boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 30], 1)
        labels = torch.randint(classes - 1, (count,), generator=generator)  # no object of the last class
        near = boxes.repeat(3, 1) + torch.randn(3 * count, 4, generator=generator) * 3
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2])
        guess = torch.where(torch.rand(3 * count, generator=generator) < 0.8, labels.repeat(3), 2)
        found.append({"boxes": near, "labels": guess, "scores": torch.rand(3 * count, generator=generator)})
        truth.append({"boxes": boxes, "labels": labels})
    return found, truth


def masks_of(boxes):
    rows, columns = torch.arange(90)[:, None], torch.arange(90)
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_average_precision_is_that_of_torchmetrics(kind):
    """Of all images, and of a resample, in which images come twice."""
    from recipes.parts.evaluation_detection import Kept, Matches
    from torchmetrics.detection import MeanAveragePrecision

    found, truth = random_boxes(torch.Generator().manual_seed(1), 15)
    name = {"bbox": "map", "segm": "mask_map"}[kind]
    for one in [*found, *truth] if kind == "segm" else []:
        one["masks"] = masks_of(one["boxes"])
    keeper = Kept(Metrics(), None)
    keeper.update(found, truth)
    matches = Matches(keeper.seen, name, 3)
    for chosen in (range(15), numpy.random.default_rng(0).integers(15, size=15).tolist()):
        metric = MeanAveragePrecision(iou_type=kind, backend="faster_coco_eval", class_metrics=True)
        metric.update([found[index] for index in chosen], [truth[index] for index in chosen])
        values = metric.compute()
        area = matches.average_precision(numpy.bincount(chosen, minlength=15))
        each = {int(k): float(v) for k, v in zip(values["classes"], values["map_per_class"], strict=True)}
        for label in range(2):
            assert area[label].mean() == pytest.approx(each[label], abs=1e-6)
        assert numpy.isnan(area[2]).all() and each[2] == -1
        assert area[:2].mean() == pytest.approx(float(values["map"]), abs=1e-6)
        assert area[:2, 0].mean() == pytest.approx(float(values["map_50"]), abs=1e-6)


def test_boxes_are_confused_with_each_other_and_with_the_background():
    """A digit found, one taken for another, one missed, one made up, one too unsure to be shown."""
    from recipes.parts.evaluation_detection import Kept
    from recipes.parts.evaluation_detection import analyse as analyse_boxes

    corners = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]])
    truth = {"boxes": corners[:3], "labels": torch.tensor([0, 1, 2])}
    found = {
        "boxes": corners[[0, 1, 3, 2]],
        "labels": torch.tensor([0, 2, 1, 2]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.3]),
    }
    keeper = Kept(Metrics(), None)
    keeper.update([found], [truth])
    analysis = analyse_boxes(experiment(), keeper, {})
    assert analysis.facts["confusion"]["classes"] == [*NAMES, "background"]
    assert analysis.facts["confusion"]["counts"] == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert analysis.describe(0) == {"found": 1, "false": 2, "missed": 2} and analysis.badness.tolist() == [4]
    picture = analysis.draw(0, torch.zeros(3, 80, 80))
    colours = {tuple(pixel) for pixel in picture.flatten(1).T.tolist()}
    assert {(0, 255, 0), (255, 99, 71), (255, 255, 0)} <= colours
    lower = analyse_boxes(experiment(thresholds={"c": 0.2}), keeper, {})
    assert lower.describe(0) == {"found": 2, "false": 2, "missed": 1}


@pytest.mark.parametrize("objects", [0, 2])
def test_a_detector_that_finds_nothing(objects):
    from recipes.parts.evaluation_detection import Kept
    from recipes.parts.evaluation_detection import analyse as analyse_boxes

    corners, labels = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), torch.tensor([0, 1])
    keeper = Kept(Metrics(), None)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    keeper.update([nothing] * 3, [{"boxes": corners[:objects], "labels": labels[:objects]}] * 3)
    analysis = analyse_boxes(experiment(), keeper, {})
    assert analysis.statistic(numpy.arange(3)) == ({"map": 0.0, "map50": 0.0} if objects else {})
    assert analysis.facts["calibration"]["ece"] == 0.0 and analysis.badness.tolist() == [objects] * 3
    assert analysis.draw(0, torch.zeros(3, 40, 40)).shape[0] == 3 and analysis.table["a"]["recall"] == 0.0


def test_masks_are_measured_image_by_image():
    from recipes.parts import evaluation_segmentation

    torch.manual_seed(0)
    images, masks = torch.randn(6, 3, 8, 8), torch.randint(3, (6, 8, 8)).to(torch.uint8)
    masks[0, :4], masks[1] = 255, 255
    model = torch.nn.Identity()
    model.class_names = NAMES

    def metrics_of(chosen, metrics):
        batches = [(images[part], masks[part]) for part in torch.as_tensor(chosen).split(4)]
        return segmentation.evaluate(model, ended(batches, metrics), metrics)

    def ended(batches, metrics):
        for batch in batches:
            yield batch
            if metrics:
                metrics.end_batch(batch[1])

    keeper = evaluation_segmentation.Kept(Metrics(), model)
    whole = metrics_of(range(6), keeper)
    analysis = evaluation_segmentation.analyse(experiment(), keeper, whole)
    for chosen in (range(6), [0, 3, 3, 5, 2, 2]):
        assert analysis.statistic(numpy.array(chosen)) == pytest.approx(metrics_of(chosen, Metrics()), rel=1e-5)
    assert sum(map(sum, analysis.facts["confusion"]["counts"])) == int((masks != 255).sum())
    assert {name: row["iou"] for name, row in analysis.table.items()} == pytest.approx(
        {name: whole[f"iou.{name}"] for name in NAMES}
    )


def test_numbers_and_classes_of_tables():
    from recipes.parts import evaluation_tabular

    outputs, targets = torch.randn(30), torch.randn(30)
    found = evaluation_tabular.analyse(experiment(["cm"]), kept(outputs, targets), {"loss": 3.0})
    values = found.statistic(numpy.arange(30))
    r2 = 1 - (outputs - targets).square().sum() / (targets - targets.mean()).square().sum()
    assert values == pytest.approx(
        {"loss": 3.0, "mae": (outputs - targets).abs().mean().item(), "r2": r2.item()}, rel=1e-4
    )
    assert found.ranked() == {} and found.describe(int(found.badness.argmax()))["unit"] == "cm"
    logits, labels = torch.randn(30, 3), torch.randint(3, (30,))
    model = torch.nn.Identity()
    model.target = None
    metrics = tabular.evaluate(model, [(logits, labels)], Metrics())
    found = evaluation_tabular.analyse(experiment(), kept(logits, labels), metrics)
    assert found.statistic(numpy.arange(30)) == pytest.approx(metrics)


# ------------------------------------------------------------------------------------------------- own tasks


def test_a_task_of_ones_own_has_intervals_of_what_follows_from_outputs():
    model = torch.nn.Linear(2, 1)
    inputs, targets = torch.randn(20, 2), torch.randn(20)
    task = SimpleNamespace(evaluate=lambda *given: blank.evaluate(*given[:2], Metrics()))
    run = SimpleNamespace(meta={"classes": ["y"]}, evaluate=task.evaluate)
    keeper = evaluation_own.Kept(Metrics(), model)
    metrics = blank.evaluate(model, [(inputs, targets)], keeper)
    keeper.end_batch(targets)
    analysis = evaluation_own.analyse(run, keeper, metrics)
    assert analysis.statistic(numpy.arange(20)) == pytest.approx(metrics) and not model._forward_hooks
    assert evaluation_own.analyse(run, keeper, {"loss": 99.0}).statistic(numpy.arange(20)) == {}
    run.evaluate = lambda *given: 1 / 0
    assert evaluation_own.analyse(run, keeper, metrics).statistic(numpy.arange(20)) == {}


def test_each_task_has_its_part():
    of = {
        task: evaluation.find_part(task).__name__.rpartition("_")[2]
        for task in (classification, text, multilabel, tabular)
    }
    assert list(of.values()) == ["classification"] * 3 + ["tabular"]
    assert evaluation.find_part(blank) is evaluation_own


def test_an_evaluation_of_classes_imports_nothing_heavy():
    heavy = "'sklearn', 'pandas', 'torchmetrics', 'matplotlib'"
    code = f"import sys, recipes.parts.evaluation_classification; print(*{{{heavy}}} & {{*sys.modules}})"
    folder = validate.__file__.rpartition("/recipes/")[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ------------------------------------------------------------------------------------------------- the command


def ask(monkeypatch, capsys, *arguments):
    """(exit code, what was printed) of the command."""
    ini = f"{validate.__file__.rpartition('/recipes/')[0]}/ingredients.ini"
    monkeypatch.setattr("sys.argv", ["validate", ini, "--project.name", "tiny", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        validate.main()
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def first(outputs, targets):
    """The share of the first class among predictions."""
    return (outputs.argmax(1) == 0).float().mean()


def test_a_run_is_evaluated_and_gets_thresholds(train, read, own, monkeypatch, capsys, tmp_path):
    own.metric("first")(lambda: first)
    run = train({"training.scheme.epochs": "3", "validation.metrics.first.@metric": "first"})
    before = {
        path: checkpoint.load(path) for path in [*run.glob("checkpoints/*.pt"), tmp_path / "models/0.0.0/model.pth"]
    }
    code, said = ask(monkeypatch, capsys, "--run", run)
    assert code == 0 and said.startswith("validation: loss ") and "(12 samples)\n" in said, said
    found = json.loads((run / "evaluation/validation.json").read_text())
    lines, best = metrics_of(run), before[run / "checkpoints/best.pt"]
    assert found["metrics"] == best["best"] and found["metrics"].items() <= lines[best["epoch"] - 1].items()
    assert set(found["intervals"]) == {"loss", "accuracy", "first"}
    assert all(low <= found["metrics"][name] <= high for name, (low, high) in found["intervals"].items())
    table = csv.DictReader((run / "evaluation/validation-classes.csv").read_text().splitlines())
    assert [(row["class"], float(row["f1"])) for row in table] == [(n, row["f1"]) for n, row in found["table"].items()]
    worst = found["worst"]
    assert len(worst) == 12 and worst[0]["loss"] == max(one["loss"] for one in worst)
    assert worst[0]["sample"].endswith(".png") and (run / "evaluation" / worst[0]["picture"]).stat().st_size > 100
    assert len(list(run.glob("evaluation/*.png"))) == 12

    code, said = ask(monkeypatch, capsys, "--run", run, "--thresholds", "--on", "testing")
    assert (code, said) == (1, "--on testing: thresholds are chosen on data of neither training nor testing\n")
    assert ask(monkeypatch, capsys, "--run", run, "--on", "testing")[0] == 0
    tested = json.loads((run / "evaluation/testing.json").read_text())
    assert tested["metrics"].items() <= lines[-2].items() and lines[-2]["split"] == "testing"
    code, said = ask(monkeypatch, capsys, "--run", run, "--thresholds")
    assert code == 0 and "thresholds kept: models/0.0.0/model.pth" in said, said
    chosen = json.loads((run / "evaluation/validation.json").read_text())["thresholds"]
    thresholds = {name: row["threshold"] for name, row in chosen.items()}
    path = run / "checkpoints/best.pt"
    state = checkpoint.load(path)
    state["model"] = {name: tensor * math.nan for name, tensor in state["model"].items()}
    checkpoint.save(tmp_path / "nan.pt", state)
    code, said = ask(monkeypatch, capsys, "--run", tmp_path / "nan.pt", "--thresholds")
    assert code == 1 and "no scores of classes to choose thresholds for, or nan" in said, said
    for path, state in before.items():
        after = checkpoint.load(path)
        has = path.suffix == ".pth" or state["epoch"] == best["epoch"]
        assert after["meta"].pop("thresholds", None) == (thresholds if has else None), path
        assert equal(after, state), "nothing else has changed"
    assert (
        train(
            {
                "training.scheme.epochs": "4",
                "training.scheme.resume": "True",
                "validation.metrics.first.@metric": "first",
            }
        )
        == run
    )
    assert [line["epoch"] for line in metrics_of(run) if "train_loss" in line] == [1, 2, 3, 4]


def test_other_data_and_a_lone_file(train, monkeypatch, capsys, tmp_path):
    run = train({"training.scheme.epochs": "1"})
    weights = tmp_path / "models/0.0.0/model.pth"
    code, said = ask(monkeypatch, capsys, "--run", weights, "--on", tmp_path / "data/tiny/testing")
    assert code == 0 and f"written: {weights.parent}/model-evaluation/folder-testing.json" in said, said
    assert not (run / "evaluation").exists()
    found = json.loads((weights.parent / "model-evaluation/folder-testing.json").read_text())
    tested = next(line for line in metrics_of(run) if line.get("split") == "testing")
    assert found["metrics"].items() <= tested.items() and found["samples"] == 15
    code, said = ask(monkeypatch, capsys, "--run", run, "--on", "vlidation")
    assert code == 1 and "--on vlidation: there is no such folder; expected validation, testing, training" in said
    code, said = ask(monkeypatch, capsys, "--run", run, "--on", "vlidation", "--check")
    assert code == 1 and f"weights: {run}" not in said and "--on vlidation: there is no such folder" in said
    code, said = ask(monkeypatch, capsys, "--run", "nowhere", "--check")
    assert code == 1 and "nowhere: there is no such checkpoint" in said
    (run / "evaluation").touch()
    assert ask(monkeypatch, capsys, "--run", run) == (1, f"{run}/evaluation: File exists\n")
    (run / "evaluation").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "find_part", lambda task: None)
        code, said = ask(monkeypatch, capsys, "--run", run, "--thresholds")
    assert code == 1 and "--thresholds: this task has no scores of classes" in said
    assert not (run / "evaluation").exists()
    testing = tmp_path / "data/tiny/testing"
    (testing / "class-0").rename(tmp_path / "others")  # a class may be missing
    for path in [*testing.glob("*/*.png")]:
        path.rename(path.with_name(f"\x1b[31m{path.name}"))
    code, said = ask(monkeypatch, capsys, "--run", run, "--on", testing)
    assert code == 0 and "(10 samples)" in said and "/\\x1b[31m" in said and "\x1b" not in said, said
    found = json.loads((run / "evaluation/folder-testing.json").read_text())
    assert [row["support"] for row in found["table"].values()] == [0, 5, 5]
    assert all(one["truth"] in one["sample"] for one in found["worst"])
    for data, count in ((tmp_path / "data/tiny/training", 3), (testing, 3)):  # classes without samples keep theirs
        assert ask(monkeypatch, capsys, "--run", run, "--on", data, "--thresholds")[0] == 0
        assert len(checkpoint.load(run / "checkpoints/best.pt")["meta"]["thresholds"]) == count
    (tmp_path / "others").rename(testing / "class-0")
    (tmp_path / "other/dog").mkdir(parents=True)
    (tmp_path / "data/tiny/testing/class-0").rename(tmp_path / "other/cat")
    (tmp_path / "data/tiny/testing/class-1").rename(tmp_path / "other/dog/in")
    code, said = ask(monkeypatch, capsys, "--run", run, "--on", tmp_path / "other")
    assert code == 1 and "its classes are cat, dog, but those of training are class-0" in said


def test_labels_have_curves_and_thresholds(train, own, monkeypatch, capsys):
    own.load_dataset("load_stripes")(load_stripes)
    run = train(LABELS | {"training.scheme.epochs": "2"})
    code, said = ask(monkeypatch, capsys, "--run", run, "--thresholds")
    assert code == 0, said
    found = json.loads((run / "evaluation/validation.json").read_text())
    assert {*found["intervals"]} == {"loss", "map", "f1"} and {*found["curves"]} == {"rows", "columns"}
    assert found["worst"][0]["sample"] == str(found["worst"][0]["index"])
    kept_there = checkpoint.load(run / "checkpoints/best.pt")["meta"]["thresholds"]
    assert kept_there == {name: row["threshold"] for name, row in found["thresholds"].items()}
