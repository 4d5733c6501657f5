"""Losses, metrics and trackers: ours against their formulas, those of packages against the packages."""

import inspect
import sys
from types import SimpleNamespace

import pantry  # noqa: F401  (registers)
import pytest
import torch
import torch.nn.functional as F
from core import IngredientsError, parse_string, registry, resolve
from recipes.parts.calling import Metrics
from recipes.parts.own_metrics import as_metric

CLASSES = 4
LOGITS = torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
ONE_HOT = F.one_hot(TARGETS, CLASSES).float()
MIXED = 0.7 * ONE_HOT + 0.3 * ONE_HOT.flip(0)


def made(shelf, name, /, **settings):
    """What `[x] @shelf = name` gives with those settings, written as in a file."""
    lines = [f"{key} = {value}" for key, value in settings.items()]
    return resolve(parse_string("\n".join(["[x]", f"@{shelf} = {name}", *lines])))["x"]


# Losses

CHANGES = {
    "cross_entropy": {"label_smoothing": 0.2, "class_weights": [1, 2, 3, 4]},
    "focal": {"gamma": 0.5, "class_weights": [1, 2, 3, 4]},
}


def test_each_setting_changes_the_loss():
    ours = [name for name in registry.loss if "." not in name]
    assert set(CHANGES) <= set(ours)
    for name, changes in CHANGES.items():
        assert set(changes) == set(inspect.signature(registry.loss.get(name)).parameters)
        for key, value in changes.items():
            changed = made("loss", name, **{key: value}).prepare(TARGETS, CLASSES, "cpu")
            assert made("loss", name)(LOGITS, TARGETS) != changed(LOGITS, TARGETS)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 4.0], "balanced"])
@pytest.mark.parametrize("change", [{}, {"label_smoothing": 0.3}, {"gamma": 0.7}])
def test_indices_and_one_hot_targets_are_one(name, weights, change):
    if not set(change) <= set(CHANGES[name]):
        return
    loss = made("loss", name, class_weights=weights, **change).prepare(TARGETS, CLASSES, "cpu")
    assert torch.allclose(loss(LOGITS, TARGETS), loss(LOGITS, ONE_HOT))
    assert not torch.allclose(loss(LOGITS, TARGETS), loss(LOGITS, MIXED))
    prepared = made("loss", name, class_weights=weights, **change).prepare(ONE_HOT, CLASSES, "cpu")
    assert torch.allclose(loss(LOGITS, MIXED), prepared(LOGITS, MIXED))


def test_cross_entropy_is_that_of_torch():
    for weights in (None, [1.0, 2.0, 3.0, 4.0]):
        tensor = None if weights is None else torch.tensor(weights)
        loss = made("loss", "cross_entropy", class_weights=weights, label_smoothing=0.1)
        loss = loss.prepare(TARGETS, CLASSES, "cpu")
        assert torch.equal(loss(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS, tensor, label_smoothing=0.1))
    plain = made("loss", "cross_entropy")
    assert torch.equal(plain(LOGITS, MIXED), F.cross_entropy(LOGITS, MIXED))


def test_balanced_weights_give_every_class_the_same_say():
    loss = made("loss", "cross_entropy", class_weights="balanced").prepare(TARGETS, CLASSES, "cpu")
    single = F.cross_entropy(LOGITS, TARGETS, reduction="none")
    by_class = [single[label == TARGETS].mean() for label in range(CLASSES)]
    assert torch.allclose(loss(LOGITS, TARGETS), sum(by_class) / CLASSES)
    # 12 samples / (4 classes * 6 of class 0) and so on
    weight = torch.tensor([0.5, 1.0, 1.5, 3.0])
    assert torch.allclose(loss(LOGITS, MIXED), (F.cross_entropy(LOGITS, MIXED, weight) * 12 / (MIXED @ weight).sum()))
    five = torch.cat([LOGITS, LOGITS[:, :1]], 1)
    absent = made("loss", "cross_entropy", class_weights="balanced").prepare(TARGETS, 5, "cpu")(five, TARGETS)
    assert absent.isfinite()


def test_class_weights_are_as_many_as_classes_and_move_with_the_outputs():
    loss = made("loss", "cross_entropy", class_weights=[1, 2, 3])
    with pytest.raises(ValueError, match="class_weights has 3 numbers, but there are 4 classes"):
        loss.prepare(TARGETS, CLASSES, "cpu")
    loss = made("loss", "focal", class_weights=[1, 2, 3, 4])
    assert loss.prepare(TARGETS, CLASSES, "cpu")(LOGITS.double(), TARGETS).dtype == torch.float64
    prepared = loss.prepare(TARGETS, CLASSES, "meta")
    assert prepared(LOGITS.to("meta"), MIXED.to("meta")).is_meta


def test_focal_is_its_formula_and_has_gradients_at_the_ends():
    p = LOGITS.softmax(1)[range(12), TARGETS]
    assert torch.allclose(made("loss", "focal", gamma=2)(LOGITS, TARGETS), ((1 - p) ** 2 * -p.log()).mean())
    plain, weighted = made("loss", "focal", gamma=0), made("loss", "focal", gamma=0, class_weights=[1, 2, 3, 4])
    weighted = weighted.prepare(TARGETS, CLASSES, "cpu")
    assert torch.allclose(plain(LOGITS, MIXED), F.cross_entropy(LOGITS, MIXED))
    entropy = made("loss", "cross_entropy", class_weights=[1, 2, 3, 4]).prepare(TARGETS, CLASSES, "cpu")
    assert torch.allclose(weighted(LOGITS, MIXED), entropy(LOGITS, MIXED))
    for gamma in (0.5, 1.0, 2.0):
        sure = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        value = made("loss", "focal", gamma=gamma)(sure, torch.tensor([0, 0]))
        value.backward()
        assert value.isfinite() and sure.grad.isfinite().all()


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("cross_entropy", {"label_smoothing": 1}, r"label_smoothing = 1\n.*must be in \[0, 1\)"),
        ("cross_entropy", {"class_weights": [1, -1]}, "must be at least 0 for each class"),
        ("cross_entropy", {"class_weights": [0, 0]}, "not all 0"),
        ("cross_entropy", {"class_weights": []}, "must be at least 0 for each class"),
        ("cross_entropy", {"class_weights": "balance"}, "balanced"),
        ("focal", {"gamma": -1}, r"gamma = -1\n.*must be in \[0, inf\)"),
        ("torch.nn.MultiMarginLoss", {"p": 3}, "<text>:2: x\n.*p == 1 and p == 2"),
        ("torch.nn.CrossEntropyLoss", {"label_smothing": 0.1}, "Did you mean label_smoothing?"),
        ("torch.nn.CrossEntropyLoss", {"weight": 3}, "x.weight = 3\n.*expected a list.* a number"),
        ("torch.nn.CrossEntropyLoss", {"reduction": "none"}, "expected a scalar loss; use mean or sum"),
        ("torch.nn.CrossEntropyLos", {}, "Did you mean torch.nn.CrossEntropyLoss?"),
        ("torch.nn.Linear", {}, "torch.nn.Linear is not a loss"),
    ],
)
def test_wrong_settings_are_refused_with_the_mend(name, settings, message):
    with pytest.raises(IngredientsError, match=message):
        made("loss", name, **settings)


def test_class_weights_that_were_not_prepared_say_so():
    with pytest.raises(RuntimeError, match="call loss.prepare"):
        made("loss", "cross_entropy", class_weights="balanced")(LOGITS, TARGETS)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelMarginLoss"])
def test_losses_of_classes_refuse_targets_that_are_numbers(name):
    numbers = torch.rand(12)
    with pytest.raises(ValueError, match=f"torch.nn.{name}: expected class indices, got float targets"):
        made("loss", f"torch.nn.{name}").prepare(numbers, 1, "cpu")
    for ours, settings in (("cross_entropy", {"class_weights": "balanced"}), ("focal", {"class_weights": [1]})):
        message = r"class_weights = (balanced|\[1\]): expected class indices, got float targets"
        with pytest.raises(ValueError, match=message):
            made("loss", ours, **settings).prepare(numbers, 1, "cpu")
    with pytest.raises(ValueError, match="^expected class indices, got float targets"):
        made("loss", "focal").prepare(numbers, 1, "cpu")


def test_what_a_loss_of_torch_refuses_is_one_line():
    message = r"torch.nn.NLLLoss cannot take outputs \[12, 4\] and targets \[12, 4\]: \S[^\n]*$"
    with pytest.raises(IngredientsError, match=message):
        made("loss", "torch.nn.NLLLoss")(LOGITS, MIXED)
    with pytest.raises(IngredientsError, match="torch.nn.BCELoss .*between 0 and 1"):
        made("loss", "torch.nn.BCELoss")(LOGITS, TARGETS)


@pytest.mark.parametrize("name", ["HuberLoss", "MSELoss", "BCEWithLogitsLoss", "SoftMarginLoss"])
def test_losses_of_numbers_leave_ignored_indices_out(name):
    maps, labels = LOGITS.reshape(3, CLASSES, 2, 2), TARGETS.reshape(3, 2, 2).clone()
    labels[:, 0, 1] = -100
    loss = made("loss", f"torch.nn.{name}")
    rows = maps.movedim(1, -1)
    assert torch.allclose(loss(maps, labels), loss(rows[labels >= 0], labels[labels >= 0]))
    assert loss(maps.to("meta"), labels.to("meta")).is_meta


def test_a_sum_of_losses():
    text = """[x]\n@loss = sum_of\nweights = [2, 0.5]\n[x.*.first]\n@loss = cross_entropy\nclass_weights = balanced
[x.*.second]\n@loss = torch.nn.MSELoss"""
    added = resolve(parse_string(text))["x"].prepare(TARGETS, CLASSES, "cpu")
    first = made("loss", "cross_entropy", class_weights="balanced").prepare(TARGETS, CLASSES, "cpu")
    expected = 2 * first(LOGITS, TARGETS) + made("loss", "torch.nn.MSELoss")(LOGITS, TARGETS) / 2
    assert torch.allclose(added(LOGITS, TARGETS), expected)
    with pytest.raises(ValueError, match="must be 2 numbers"):
        registry.loss.get("sum_of")(first, first, weights=[1.0])
    with pytest.raises(IngredientsError, match=r"weights = \[2, -1\]\n.*must be in \[0, inf\)"):
        resolve(parse_string(text.replace("0.5", "-1")))
    with pytest.raises(IngredientsError, match="a section of its own"):
        made("loss", "sum_of")


NAMES = [name for name in vars(torch.nn) if name.endswith("Loss")]
OF_INDICES = {"CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"}
SPREAD = {  # for each loss of numbers: what torch itself is to be given for class indices
    name: ONE_HOT
    for name in ("BCEWithLogitsLoss", "HuberLoss", "L1Loss", "MSELoss", "MultiLabelSoftMarginLoss", "SmoothL1Loss")
} | {"PoissonNLLLoss": ONE_HOT, "SoftMarginLoss": 2 * ONE_HOT - 1}
OTHER = {"BCELoss", "KLDivLoss"}  # of probabilities, of their logarithms
AS_THEY_ARE = {"HingeEmbeddingLoss", "MultiLabelMarginLoss"}  # targets in the shape of the outputs, as torch wants them
REFUSED = {"AdaptiveLogSoftmaxWithLoss": "weights of its own", "LinearCrossEntropyLoss": "weights of its own"}
REFUSED |= dict.fromkeys(["CTCLoss", "CosineEmbeddingLoss", "GaussianNLLLoss", "MarginRankingLoss"], "takes more than")
REFUSED |= dict.fromkeys(["TripletMarginLoss", "TripletMarginWithDistanceLoss"], "takes more than")


def test_every_loss_of_torch_is_tried_below():
    assert set(NAMES) == OF_INDICES | set(SPREAD) | OTHER | AS_THEY_ARE | set(REFUSED)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_of_torch_works_by_its_name_or_says_why_not(name):
    if name in REFUSED:
        with pytest.raises(IngredientsError, match=f"<text>:2: x\n.*{REFUSED[name]}"):
            made("loss", f"torch.nn.{name}")
        return
    settings = {"reduction": "batchmean"} if name == "KLDivLoss" else {}
    outputs = LOGITS.sigmoid() if name == "BCELoss" else LOGITS
    given, wanted = TARGETS, SPREAD.get(name, TARGETS if name in OF_INDICES else ONE_HOT)
    if name in AS_THEY_ARE:
        given = wanted = ONE_HOT.long() if name == "MultiLabelMarginLoss" else 2 * ONE_HOT - 1
    logits = outputs.log_softmax(1) if name in ("KLDivLoss", "NLLLoss") else outputs
    theirs = getattr(torch.nn, name)(**settings)(logits, wanted)
    assert torch.equal(made("loss", f"torch.nn.{name}", **settings)(outputs, given), theirs)
    if name in set(SPREAD) | OTHER:
        ours = made("loss", f"torch.nn.{name}", **settings)
        assert torch.equal(ours(outputs, wanted), theirs), "numbers in the shape of the outputs stay as they are"


@pytest.mark.parametrize("name", ["KLDivLoss", "NLLLoss"])
def test_losses_of_log_probabilities_take_logits_and_log_probabilities_alike(name):
    loss = made("loss", f"torch.nn.{name}", reduction="sum")
    assert torch.allclose(loss(LOGITS, TARGETS), torch.nn.functional.cross_entropy(LOGITS, TARGETS, reduction="sum"))
    assert torch.allclose(loss(LOGITS.log_softmax(1), TARGETS), loss(LOGITS, TARGETS))


def test_a_list_becomes_a_tensor_and_goes_to_the_outputs():
    loss = made("loss", "torch.nn.CrossEntropyLoss", weight=[1, 2, 3, 4.5])
    assert torch.equal(loss(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS, torch.tensor([1, 2, 3, 4.5])))
    assert loss(LOGITS.to("meta"), TARGETS.to("meta")).is_meta
    loss = made("loss", "torch.nn.BCEWithLogitsLoss", pos_weight=[1, 2, 3, 4])
    weight = torch.tensor([1.0, 2, 3, 4])
    assert torch.equal(loss(LOGITS, TARGETS), F.binary_cross_entropy_with_logits(LOGITS, ONE_HOT, pos_weight=weight))


def test_targets_take_the_shape_of_a_single_output_and_of_maps():
    column = LOGITS[:, :1]
    mean = made("loss", "torch.nn.MSELoss")
    assert torch.equal(mean(column, TARGETS / 3), F.mse_loss(column[:, 0], TARGETS / 3))
    binary = made("loss", "torch.nn.BCEWithLogitsLoss")
    zero_or_one = TARGETS % 2
    wanted = F.binary_cross_entropy_with_logits(column[:, 0], zero_or_one.float())
    assert torch.allclose(binary(column, zero_or_one), wanted)
    soft = made("loss", "torch.nn.SoftMarginLoss")
    assert torch.allclose(soft(column, zero_or_one), F.soft_margin_loss(column[:, 0], zero_or_one * 2.0 - 1))
    maps, labels = LOGITS.reshape(3, CLASSES, 2, 2), TARGETS.reshape(3, 2, 2)
    spread = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
    assert torch.equal(mean(maps, labels), F.mse_loss(maps, spread))


# Metrics


def test_torchmetrics_by_name():
    torchmetrics = pytest.importorskip("torchmetrics")
    ours = made("metric", "torchmetrics.F1Score", task="multiclass", num_classes=CLASSES, average="macro")
    ours = as_metric(ours).to("cpu")
    for part in (slice(0, 5), slice(5, 12)):
        ours.update(LOGITS[part], TARGETS[part])
    theirs = torchmetrics.F1Score("multiclass", num_classes=CLASSES, average="macro")
    assert ours.compute() == theirs(LOGITS, TARGETS) and ours.higher_is_better
    plain = made("metric", "torchmetrics.F1Score", task="multiclass", num_classes=CLASSES)
    assert plain(LOGITS, TARGETS) != ours.compute()
    area = made("metric", "torchmetrics.classification.MulticlassAUROC", num_classes=CLASSES)
    assert 0 < area(LOGITS, TARGETS) < 1


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("torchmetrics.F1Score", {}, 'x.task\n.*missing.*"binary" or "multiclass" or "multilabel"'),
        ("torchmetrics.F1Score", {"task": "multiclass"}, "<text>:2: x\n.*num_classes"),
        ("torchmetrics.F1Score", {"task": "multiclass", "num_clases": 3}, "Did you mean num_classes?"),
        ("torchmetrics.F1Scor", {}, "Did you mean torchmetrics.F1Score?"),
        ("torchmetrics.MetricCollection", {}, "MetricCollection is not a metric"),
        ("torchmetrics.classification.MulticlassAUROC", {"num_classes": 1}, "<text>:2: x\n.*num_classes"),
    ],
)
def test_wrong_settings_of_a_metric_are_refused(name, settings, message):
    pytest.importorskip("torchmetrics")
    with pytest.raises(IngredientsError, match=message):
        made("metric", name, **settings)


def test_what_a_metric_refuses_is_one_line():
    pytest.importorskip("torchmetrics")
    metrics = Metrics(f1=made("metric", "torchmetrics.F1Score", task="binary"))
    with pytest.raises(IngredientsError, match=r"metrics.f1\n +cannot take \[12, 4\] and \[12\]: \S[^\n]*$"):
        metrics.update(LOGITS, TARGETS)


def test_a_function_is_a_metric_over_all_of_the_data():
    def median_margin(outputs, targets):
        seen.append(len(targets))
        return outputs[range(len(targets)), targets].median()

    seen = []
    metric = as_metric(median_margin)
    assert metric.to("cpu") is metric and metric.higher_is_better is None
    for part in (slice(0, 5), slice(5, 12)):
        metric.update(LOGITS[part], TARGETS[part])
    assert metric.compute() == median_margin(LOGITS, TARGETS) and seen == [12, 12]
    metric.reset()
    metric.update(LOGITS[:3], TARGETS[:3])
    assert metric.compute() == median_margin(LOGITS[:3], TARGETS[:3])
    median_margin.higher_is_better = True
    assert as_metric(median_margin).higher_is_better
    assert as_metric(metric) is metric
    with pytest.raises(ValueError, match=r"expected a function \(outputs, targets\) -> number.*, got 3"):
        as_metric(3)


# Trackers

SETTINGS = parse_string("[training.scheme]\nepochs = 3\n\n[project]\nname = tiny")


def test_tensorboard_writes_what_its_own_reader_reads(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = made("tracker", "tensorboard")(tmp_path, SETTINGS)
    log({"loss": 0.5, "accuracy": 0.25}, 1)
    log({"loss": 0.125, "accuracy": 0.75}, 2)
    log.close()
    seen = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [(1, 0.5), (2, 0.125)]
    assert [(event.step, event.value) for event in seen.Scalars("accuracy")] == [(1, 0.25), (2, 0.75)]
    (event,) = seen.Tensors("ingredients/text_summary")
    assert b"    epochs = 3" in event.tensor_proto.string_val[0]


class Recorder(SimpleNamespace):
    """Stands in for a package: notes every call."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return Recorder(calls=self.calls, info=SimpleNamespace(run_id="r17"))

        return call


def test_mlflow_is_given_parameters_once_and_figures_by_epoch(tmp_path, monkeypatch):
    fake = Recorder(calls=[])
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    track = made("tracker", "mlflow", experiment="digits", uri="http://here")
    log = track(tmp_path, SETTINGS)
    log({"loss": 0.5}, 1)
    log.close()
    start = {"run_id": None, "run_name": tmp_path.name}
    assert fake.calls == [
        ("set_tracking_uri", ("http://here",), {}),
        ("set_experiment", ("digits",), {}),
        ("start_run", (), start),
        ("log_params", ({"training.scheme.epochs": 3, "project.name": "tiny"},), {}),
        ("log_metrics", ({"loss": 0.5},), {"step": 1}),
        ("end_run", (), {}),
    ]
    fake.calls.clear()
    made("tracker", "mlflow")(tmp_path, SETTINGS)  # the run goes on
    assert fake.calls[1:] == [("start_run", (), start | {"run_id": "r17"})]
    assert fake.calls[0] == ("set_experiment", ("Default",), {})


def test_wandb_goes_on_with_the_run_of_the_folder(tmp_path, monkeypatch):
    fake = Recorder(calls=[])
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = made("tracker", "wandb", project="digits", entity="us", mode="offline")(tmp_path, SETTINGS)
    log({"loss": 0.5}, 1)
    log.close()
    (name, _, settings), *rest = fake.calls
    assert name == "init" and settings.pop("config") == {"training.scheme.epochs": 3, "project.name": "tiny"}
    where = {"project": "digits", "entity": "us", "mode": "offline", "dir": str(tmp_path)}
    assert settings == where | {"id": tmp_path.name, "name": tmp_path.name, "resume": "allow"}
    assert rest == [("log", ({"loss": 0.5},), {"step": 1}), ("finish", (), {})]


@pytest.mark.parametrize("name, settings", [("tensorboard", {}), ("mlflow", {}), ("wandb", {"project": "x"})])
def test_a_package_that_is_not_there_is_named_with_its_command(monkeypatch, name, settings):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(IngredientsError, match=f"needs the package {name}: python -m pip install {name}"):
        made("tracker", name, **settings)


def test_an_error_inside_a_package_is_not_taken_for_its_absence(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        made("tracker", "wandb", project="x")
