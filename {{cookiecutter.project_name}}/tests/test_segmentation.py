"""Segmentation: masks that move with their images, metrics, pictures, and runs."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import equal, metrics_of, state_of
from PIL import Image

import pantry  # noqa: F401  (registers)
from core import IngredientsError, registry
from recipes import segmentation
from recipes.parts.calling import Metrics
from recipes.settings import call_functions, read_ingredients

HERE = Path(__file__).parent.parent
INI = next(path for name in (".segmentation", "") if (path := HERE / f"ingredients{name}.ini").is_file())
IGNORED = 255
MASKS = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(1))
HOLED = MASKS.masked_fill(torch.rand(MASKS.shape, generator=torch.Generator().manual_seed(2)) < 0.3, IGNORED).byte()


# ------------------------------------------------------------------------------------------------------- augmentation


def coloured(count=64, side=16):
    """Images whose pixels have the values of their masks, 1 to 200: 0 is what comes in at the edge."""
    masks = torch.randint(1, 200, (count, side, side), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return (masks / 255)[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last), masks


@pytest.mark.parametrize(
    "name, settings",
    [
        ("random_flip", {}),
        ("random_flip", {"vertical": True}),
        ("random_shift", {"pixels": 3}),
        ("random_crop", {"size": [10, 12], "pad": 2}),
    ],
)
def test_masks_move_with_their_images(name, settings):
    images, before = coloured()
    augment = adapted(name, **settings)
    moved, after = augment(images, before, torch.Generator().manual_seed(0))
    assert after.dtype == torch.uint8 and after.shape == (64, *moved.shape[2:]) and not torch.equal(after, before)
    expected = (moved[:, 0] * 255).round().byte()
    assert torch.equal(after, torch.where(expected == 0, IGNORED, expected))
    assert (after == IGNORED).any() == (name != "random_flip")


def adapted(name, **settings):
    return segmentation.adapt_augment(registry.augment.get(name)(**settings))


def test_masks_move_with_transforms_of_torchvision():
    torch.manual_seed(0)  # by chance, an image may not move
    images, before = coloured(count=8)
    augment = adapted("torchvision.transforms.v2.RandomAffine", degrees=0, translate=[0.3, 0.3])
    for image, mask in zip(images, before, strict=True):
        moved, after = augment.per_sample(image, mask)
        expected = (moved[0] * 255).round().byte()
        assert torch.equal(after, torch.where(expected == 0, IGNORED, expected)) and not torch.equal(after, mask)


# ------------------------------------------------------------------------------------------------------------- metrics


class Copy(torch.nn.Module):
    """A model whose predictions are in its images: the class of a pixel is 100 times its value."""

    def __init__(self, classes=4):
        super().__init__()
        self.classes, self.class_names = classes, range(classes)

    def forward(self, images):
        return 8 * F.one_hot((images[:, 0] * 100).round().long(), self.classes).movedim(-1, 1).float()


def batches(predicted, truth):
    return [(predicted[:, None] / 100, truth)]


def test_metrics_are_their_formulas():
    predicted = MASKS.clamp(max=2)
    truth = torch.where(HOLED == 3, 2, HOLED).roll(1, 2)  # class 3 occurs nowhere
    metrics = segmentation.evaluate(Copy(), batches(predicted, truth), Metrics())
    counts = truth != IGNORED
    ious, dices = [], []
    for label in range(3):
        a, b = (predicted == label) & counts, truth == label
        ious.append(float((a & b).sum() / (a | b).sum()))
        dices.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
        assert metrics[f"iou.{label}"] == pytest.approx(ious[-1])
    assert "iou.3" not in metrics
    assert metrics["mean_iou"] == pytest.approx(sum(ious) / 3) and metrics["dice"] == pytest.approx(sum(dices) / 3)
    assert metrics["pixel_accuracy"] == pytest.approx(float((predicted == truth)[counts].float().mean()))
    expected = F.cross_entropy(Copy()(predicted[:, None] / 100), truth.long(), ignore_index=IGNORED)
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_metrics_depend_neither_on_the_batches_nor_on_views(monkeypatch):
    whole = segmentation.evaluate(Copy(), batches(MASKS.roll(1, 1), MASKS), Metrics())
    split = batches(MASKS[:1].roll(1, 1), MASKS[:1]) + batches(MASKS[1:].roll(1, 1), MASKS[1:])
    assert segmentation.evaluate(Copy(), split, Metrics()) == pytest.approx(whole)
    monkeypatch.setattr(segmentation, "AT_ONCE", 1)
    assert segmentation.evaluate(Copy(), batches(MASKS.roll(1, 1), MASKS), Metrics()) == pytest.approx(whole)
    views = registry.views.get("flip_views")()
    assert segmentation.evaluate(Copy(), batches(MASKS, MASKS), Metrics(), views)["mean_iou"] == 1.0


def test_predictions_and_pictures():
    mask = torch.tensor([[[1, 1, 1, 0], [1, 1, 3, 0]]])
    [predicted] = segmentation.predict(Copy(), mask[:, None] / 100, ["ground", "dog", "cat", "bird"])
    assert predicted["shares"] == {"dog": 0.625, "ground": 0.25, "bird": 0.125}
    assert predicted["_mask"].tolist() == mask[0].tolist()
    images, masks = torch.full((1, 3, 200, 200), 0.5), torch.zeros(1, 200, 200, dtype=torch.uint8)
    masks[:, :100], masks[:, 199] = 2, IGNORED
    [drawn] = segmentation.draw(images, masks, ["ground", "dog", "cat"])
    grey, cat = torch.tensor([127] * 3), torch.tensor(segmentation.colour_of(2))
    for row, expected in ((40, grey // 2 + cat // 2), (140, grey // 2), (199, grey)):
        assert torch.equal(drawn[:, 14 + row, 50].long(), expected)
    [both] = segmentation.draw(torch.full_like(images, 0.01), masks, ["ground", "dog", "cat"], Copy(3))
    assert drawn.shape == (3, 214, 200) and both.shape == (3, 214, 400)
    assert torch.equal(both[:, 54, 300].long(), 2 // 2 + torch.tensor(segmentation.colour_of(1)) // 2)


def test_an_image_is_predicted_with_its_aspect_ratio(tmp_path):
    Image.fromarray(np.zeros((60, 20, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    input_format = {"size": [32, 32], "channels": 3}
    assert segmentation.read_sample(str(tmp_path / "a.png"), input_format).shape == (3, 32, 11)


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(changes) -> the shipped ingredients of segmentation for a short run in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    small = {
        "project.name": "scenes",
        "project.data.source": f"file:{HERE}/data/digits.tgz",
        "project.data.root": f"{tmp_path}/data/",
        "training.load_dataset.count": "16",
        "training.load_dataset.image_size": "[48, 48]",
        "validation.load_dataset.count": "4",
        "testing.load_dataset.count": "4",
        "model.architecture.options": '{"widths": [4, 8], "stride": 2}',
        "training.scheme.epochs": "2",
        "training.scheme.batch_size": "8",
    }

    def read(changes=None):
        return read_ingredients(INI, [(path, text, True) for path, text in (small | (changes or {})).items()])

    return read


@pytest.fixture
def train(read):
    from recipes.train import train as train_recipe

    def run(changes=None, resume=None):
        ingredients = read(changes)
        return train_recipe(ingredients, call_functions(ingredients), resume)

    return run


def test_a_run_from_end_to_end(train, read):
    from recipes.parts.trained import open_trained

    pytest.importorskip("torchmetrics")
    metric = {"validation.metrics.f1.@metric": "torchmetrics.F1Score"}
    metric |= {"validation.metrics.f1.task": "multiclass", "validation.metrics.f1.num_classes": "11"}
    folder = train(metric | {"testing.views.@views": "flip_views"})
    *epochs, tested, _ = metrics_of(folder)
    assert len(epochs) == 2 and {*segmentation.METRICS, "f1", "iou.background"} <= set(epochs[0]) & set(tested)
    assert (folder / "batch.png").is_file() and (folder / "predictions.png").is_file()
    experiment = open_trained(str(folder), read())
    assert experiment.meta["classes"] == ["background", *map(str, range(10))]
    again, count = experiment.evaluate_split("testing", lambda batches, count, text: batches)
    assert count == 4 and again == {key: value for key, value in tested.items() if key not in ("split", "epoch")}


def test_an_interruption_changes_no_number(train, monkeypatch):
    changes = {"training.augment.@augment": "random_shift", "training.augment.pixels": "4"}
    whole = train(changes | {"project.name": "whole"})
    steps, loss = [], segmentation.loss

    def interrupted(*given):
        steps.append(1)
        if len(steps) == 4:  # there are 2 in an epoch
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(segmentation, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(changes)
    folder = train(changes, resume="")
    assert len(list(folder.parent.iterdir())) == 1
    assert all(equal(state_of(folder, name), state_of(whole, name)) for name in ("last.pt", "best.pt"))
    assert metrics_of(folder) == metrics_of(whole)


def test_masks_in_memory_and_on_disk_train_alike(train):
    one, other = (train({"project.name": name, "training.scheme.memory": name}) for name in ("4.0", "0.0"))
    assert equal(state_of(one), state_of(other))


CNN = {"model.architecture.backbone": "small_cnn", "model.architecture.options": "null"}
ONE = {"model.architecture.backbone": "deeplabv3_resnet50", "model.architecture.options": "null"}


@pytest.mark.parametrize(
    "changes, path, message",
    [
        ({"model.architecture.backbone": "unett"}, "model.architecture.backbone", "Did you mean unet"),
        (CNN, "model.architecture.backbone", "a class for each pixel"),
        ({"training.augment.@augment": "torchvision.transforms.v2.RandAugment"}, "training.augment", "not their masks"),
        ({"training.scheme.first_size": "0.5"}, "training.scheme.first_size", "masks"),
        ({"training.scheme.balanced": "True"}, "training.scheme.balanced", "set class_weights"),
        ({"testing.views.@views": "shift_views"}, "testing.views", "flip_views"),
        ({"model.architecture.output_classes": "10"}, "model.architecture.output_classes", "set it to 11"),
        ({"training.load_dataset.targets": "boxes"}, "training.load_dataset", "mask of class indices"),
        ({"training.preprocess.@preprocess": "halved"}, "training.load_dataset", "image_size"),
        (ONE | {"training.scheme.batch_size": "1"}, "training.scheme.batch_size", "at least 2"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(train, own, changes, path, message):
    own.preprocess("halved")(lambda: lambda image: image[:, ::2, ::2] / 255)
    with pytest.raises(IngredientsError) as error:
        train(changes)
    assert any(problem.key.startswith(path) and message in problem.message for problem in error.value.problems)
    assert not Path("runs").exists()


def test_check_knows_the_shapes(read, capsys):
    from recipes.check import answer

    ingredients = read()
    paths = ["project.data.source", "project.data.root", "training.load_dataset.image_size"]
    paths += [f"{split}.load_dataset.count" for split in ("training", "validation", "testing")]
    changes = [(path, str(ingredients.at(path)), True) for path in paths]
    assert answer("check", Namespace(ingredients=str(INI)), changes) == 0
    assert "the data is not here yet" in capsys.readouterr().out
    call_functions(ingredients).project.data.download()
    assert answer("check", Namespace(ingredients=str(INI)), changes) == 0
    output = capsys.readouterr().out
    assert "[3, 48, 48] -> [11, 48, 48]" in output and output.endswith("ok\n")
