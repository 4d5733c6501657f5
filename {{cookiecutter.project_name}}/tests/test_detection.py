"""Detection: boxes that move with their images, metrics, pictures, and runs."""

from pathlib import Path

import pytest
import torch
from helpers import equal, metrics_of, state_of
from PIL import Image
from torchvision import tv_tensors

from core import IngredientsError, registry
from pantry.boxes import BoxedImages
from pantry.scenes import load_digit_scenes
from recipes import detection
from recipes.parts.calling import Metrics
from recipes.parts.samples import Samples
from recipes.settings import call_functions, read_ingredients

HERE = Path(__file__).parent.parent
INI = next(path for name in (".detection", "") if (path := HERE / f"ingredients{name}.ini").is_file())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of single digits, unpacked."""
    root = tmp_path_factory.mktemp("digits")
    registry.download_function.get("download_archive")(f"file:{HERE}/data/digits.tgz", root)()
    return root / "digits"


# ------------------------------------------------------------------------------------------------------- augmentation


def boxed(*corners, size=(40, 60)):
    boxes = tv_tensors.BoundingBoxes(torch.tensor(corners, dtype=torch.float32), format="XYXY", canvas_size=size)
    return {"boxes": boxes, "labels": torch.zeros(len(corners), dtype=torch.int64)}


@pytest.mark.parametrize("name", ["RandomHorizontalFlip", "RandomIoUCrop", "RandomZoomOut", "ScaleJitter"])
def test_boxes_move_with_their_image(name):
    settings = {"ScaleJitter": {"target_size": [40, 60], "scale_range": [0.5, 2.0]}}.get(name, {})
    augment = detection.adapt_augment(registry.augment.get(f"torchvision.transforms.v2.{name}")(**settings))
    sample = torch.zeros(3, 40, 60)
    sample[:, 5:25, 10:30] = 1
    seen = set()
    for seed in range(12):
        read = lambda index: (sample, boxed([10, 5, 30, 25]))  # noqa: E731
        pixels, target = Samples(read, count=1, per_sample=augment.per_sample, seed=seed)[0]
        assert pixels.shape == sample.shape  # that of the batch
        for x1, y1, x2, y2 in target["boxes"].clamp(min=0).round().int().tolist():
            if x2 - x1 > 2 and y2 - y1 > 2:
                assert pixels[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.85  # resized edges are soft
        seen.add(str(target["boxes"].tolist()))
    assert len(seen) > 1


def test_mosaic_moves_boxes_and_masks():
    inputs, targets = torch.zeros(4, 3, 40, 60), []
    for index in range(4):
        inputs[index, :, 10:20, 20 : 30 + index] = (index + 1) / 4
        target = boxed([20, 10, 30 + index, 20]) | {"masks": tv_tensors.Mask(inputs[index, :1] > 0)}
        targets.append(target | {"labels": torch.tensor([index])})
    augment = registry.augment.get("mosaic")(share=1.0)
    mixed, moved = augment(inputs, targets, torch.Generator().manual_seed(0))
    assert mixed.shape == inputs.shape and len(targets[0]["labels"]) == 1  # the given ones stay as they were
    for index in range(4):
        assert moved[index]["labels"][0] == index and len(moved[index]["labels"]) == 4
        objects = zip(*(moved[index][key] for key in ("boxes", "labels", "masks")), strict=True)
        for (x1, y1, x2, y2), label, mask in objects:
            inner = mixed[index, :, int(y1) + 1 : int(y2) - 1, int(x1) + 1 : int(x2) - 1]
            assert torch.allclose(inner, (label + 1) / 4) and mask[int(y1) + 2, int(x1) + 2] == 1


def test_boxes_are_clipped_and_small_ones_removed():
    target = boxed([-5, 2, 10, 50], [3, 3, 3.5, 30], [61, 0, 70, 20]) | {"labels": torch.tensor([0, 1, 2])}
    kept = detection._for_training(target, (40, 60), 1)
    assert kept["boxes"].tolist() == [[0, 2, 10, 40]] and kept["labels"].tolist() == [1]


# -------------------------------------------------------------------------------------------------- models and metrics


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn", "mask_rcnn"])
def test_detectors_train_and_detect(name):
    model = detection.find_detector(name, {"body": "small"})(3, 4)
    model.transform.min_size, model.transform.max_size = (64,), 64
    target = boxed([4, 4, 40, 44], size=(64, 64))
    target |= {"labels": torch.tensor([3]), "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 64, 64)}
    loss = detection.loss(model, torch.rand(2, 3, 64, 64), [target, empty])
    loss.backward()
    assert loss.ndim == 0 and torch.isfinite(loss)
    with torch.inference_mode():
        [found] = detection.detect(model.eval(), torch.rand(1, 3, 64, 64))
    assert {"boxes", "labels", "scores"} <= set(found) and ("masks" in found) == (name == "mask_rcnn")


def test_perfect_boxes_have_a_precision_of_one(digits):
    dataset = load_digit_scenes(digits, count=4)()
    inputs, targets = BoxedImages.collate([dataset[index] for index in range(4)])

    class Perfect(torch.nn.Module):
        first_label, class_names = 0, range(10)

        def forward(self, images):
            return [target | {"scores": torch.ones(len(target["labels"]))} for target in targets]

    metrics = detection.evaluate(Perfect(), [(inputs / 255, targets)], Metrics())
    assert metrics["map"] == pytest.approx(1) and metrics["map50"] == pytest.approx(1)
    labels = {label for target in targets for label in target["labels"].tolist()}
    assert {name for name in metrics if "." in name} == {f"map.{label}" for label in labels}


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def train(tmp_path, monkeypatch, digits):
    """train(changes) -> the folder of a short run in a scratch folder; its test data is left out."""
    from recipes.train import train as train_recipe

    monkeypatch.chdir(tmp_path)
    ini = INI.read_text(encoding="utf-8")
    (tmp_path / "scenes.ini").write_text(ini[: ini.index("[testing.load_dataset]")], encoding="utf-8")
    small = {
        "project.name": "scenes",
        "project.data.source": f"file:{HERE}/data/digits.tgz",
        "project.data.root": f"{digits.parent}/",
        "training.load_dataset.count": "12",
        "training.load_dataset.image_size": "[64, 64]",
        "training.load_dataset.digits": "[1, 2]",
        "validation.load_dataset.count": "4",
        "model.architecture.options": '{"body": "small", "width": 32}',
        "training.scheme.epochs": "2",
        "training.scheme.batch_size": "4",
    }

    def run(changes=None, resume=None):
        taken = [(path, text, True) for path, text in (small | (changes or {})).items()]
        ingredients = read_ingredients("scenes.ini", taken)
        return train_recipe(ingredients, call_functions(ingredients), resume)

    return run


TECHNIQUES = {
    "training.augment.@augment": "sequence",
    "training.augment.*.flip.@augment": "torchvision.transforms.v2.RandomHorizontalFlip",
    "training.augment.*.crop.@augment": "torchvision.transforms.v2.RandomIoUCrop",
    "training.augment.*.mosaic.@augment": "mosaic",
    "training.scheme.accumulate": "2",
    "training.scheme.ema": "0.9",
}


def test_neither_an_interruption_nor_workers_change_a_number(train, monkeypatch):
    whole = train(TECHNIQUES | {"project.name": "whole", "training.scheme.workers": "1"})
    first, *_ = metrics_of(whole)
    assert {"map", "map50", "train_loss"} <= set(first)
    for name in ("batch.png", "predictions.png"):
        with Image.open(whole / name) as picture:
            assert picture.width > 200 and len(picture.convert("L").getcolors()) > 20
    steps, loss = [], detection.loss

    def interrupted(*given):
        steps.append(1)
        if len(steps) == 4:  # a microbatch of epoch 2
            raise KeyboardInterrupt
        return loss(*given)

    monkeypatch.setattr(detection, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(TECHNIQUES)
    folder = train(TECHNIQUES, resume="")
    assert equal(state_of(folder), state_of(whole)) and metrics_of(folder) == metrics_of(whole)


def problems_of(train, changes) -> str:
    with pytest.raises(IngredientsError) as error:
        train(changes)
    assert not Path("runs").exists()
    return str(error.value)


def test_settings_that_cannot_be_used_are_refused_at_once(train):
    changes = {
        "training.loss.@loss": "cross_entropy",
        "training.scheme.first_size": "0.5",
        "training.scheme.swa": "0.5",
        "training.scheme.balanced": "True",
        "training.augment.@augment": "random_flip",
    }
    problems = problems_of(train, changes)
    for path in ("training.loss", "first_size", "swa", "balanced", "random_flip does not move boxes"):
        assert path in problems, path


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"model.architecture.output_classes": "7"}, ["model.architecture.output_classes", "set it to 10"]),
        ({"model.architecture.backbone": "mask_rcnn"}, ["training.load_dataset", "set masks = True"]),
        ({"training.load_dataset.targets": "classes"}, ["training.load_dataset", "load_voc"]),
        ({"training.preprocess.@preprocess": "resize_and_scale", "training.preprocess.size": "[32, 32]"},
         ["training.preprocess.size", "image_size"]),
        ({"training.preprocess.@preprocess": "halved"}, ["training.preprocess", "image_size"]),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused(train, own, changes, parts):
    own.preprocess("halved")(lambda: lambda sample: sample[:, ::2, ::2] / 255)
    problems = problems_of(train, changes)
    assert [part for part in parts if part not in problems] == []
