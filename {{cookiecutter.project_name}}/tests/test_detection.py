"""Detection: annotation files and what is wrong in them, boxes that move with their images, training, interruption."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from core import IngredientsError, registry, resolve
from pantry.boxes import BoxedImages, load_coco, load_voc, load_yolo
from pantry.scenes import load_digit_scenes
from recipes import data, detection
from recipes.settings import read_ingredients

HERE = Path(__file__).parent.parent
INI = next(path for path in (HERE / "ingredients.detection.ini", HERE / "ingredients.ini") if path.exists())
DIGITS = HERE / "data" / "digits"


@pytest.fixture(scope="module", autouse=True)
def digits():
    """The archive of single digits, unpacked."""
    if not DIGITS.is_dir():
        registry.download_function.get("download_archive")(f"file:{HERE}/data/digits.tgz", HERE / "data")()


# files


def image(path, height=40, width=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numpy.full((height, width, 3), 90, dtype=numpy.uint8)).save(path)


def xml(path, *boxes):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{path.stem}.png</filename>{objects}</annotation>")


def voc(folder, **files):
    for name, boxes in files.items():
        image(folder / "images" / f"{name}.png")
        xml(folder / "annotations" / f"{name}.xml", *boxes)
    return lambda **settings: load_voc(folder / "images", folder / "annotations", **settings)()


def test_voc(tmp_path):
    load = voc(tmp_path, a=[("cat", 10, 5, 30, 25), ("ant", 0, 0, 60, 40)], b=[])
    dataset = load()
    assert dataset.classes == ["ant", "cat"] and len(dataset) == 2
    pixels, target = dataset[0]
    assert pixels.shape == (3, 40, 60) and pixels.dtype == torch.uint8
    assert target["boxes"].tolist() == [[10, 5, 30, 25], [0, 0, 60, 40]] and target["labels"].tolist() == [1, 0]
    assert dataset[1][1]["boxes"].shape == (0, 4)  # an image without boxes is legal


def test_images_keep_their_proportions_and_boxes_follow(tmp_path):
    dataset = voc(tmp_path, a=[("cat", 10, 5, 30, 25)])(image_size=[20, 20])
    pixels, target = dataset[0]
    assert pixels.shape == (3, 20, 20)
    assert set(pixels[:, :13].unique().tolist()) == {90} and set(pixels[:, 14:].unique().tolist()) == {114}
    assert torch.allclose(target["boxes"], torch.tensor([[10, 5, 30, 25]]) / 3)


def test_every_wrong_box_is_named_with_its_file(tmp_path):
    load = voc(
        tmp_path,
        a=[("cat", 30, 5, 10, 25), ("cat", 10, 5, 10, 25), ("catt", 1, 1, 5, 5)],
        b=[("cat", 0, 0, 90, 25), ("cat", "nan", 0, 20, 25), ("cat", "", 0, 20, 25)],
    )
    xml(tmp_path / "annotations" / "c.xml", ("cat", 1, 1, 2, 2))
    (tmp_path / "annotations" / "d.xml").write_text("<annotation><obj")
    with pytest.raises(IngredientsError) as told:
        load(classes=["cat"])
    expected = [
        "8 annotations cannot be used",
        r"a.xml: object 1: the box (30, 5) to (10, 25) is reversed",
        "a.xml: object 2: the box (10, 5) to (10, 25) has no area",
        "a.xml: object 3: there is no class catt. Did you mean cat",
        "b.xml: object 1: the box (0, 0) to (90, 25) stands out of the image of 60 x 40 pixels",
        "b.xml: object 2: a corner of the box is no number",
        "b.xml: object 3: a corner of the box is no number",
        "c.xml: there is no image c.*",
        "d.xml: cannot be read as XML",
    ]
    for text in expected:
        assert text in str(told.value), (text, str(told.value))


def test_a_box_may_stand_out_by_a_rounded_pixel(tmp_path):
    [box] = voc(tmp_path, a=[("cat", -1, 0, 61, 41)])()[0][1]["boxes"].tolist()
    assert box == [0, 0, 60, 40]


def coco(folder, annotations, **changes):
    image(folder / "images" / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "ant"}],
        "annotations": [{"id": number, "image_id": 7} | one for number, one in enumerate(annotations)],
    }
    (folder / "coco.json").write_text(json.dumps(content | changes))
    return lambda **settings: load_coco(folder / "images", folder / "coco.json", **settings)()


def test_coco_with_polygons(tmp_path):
    square = [10, 5, 30, 5, 30, 25, 10, 25]
    load = coco(tmp_path, [{"category_id": 3, "bbox": [10, 5, 20, 20], "segmentation": [square]}])
    dataset = load(masks=True)
    assert dataset.classes == ["ant", "cat"]
    _, target = dataset[0]
    assert target["boxes"].tolist() == [[10, 5, 30, 25]] and target["labels"].tolist() == [1]
    assert target["masks"].shape == (1, 40, 60) and target["masks"][0, 15, 20] == 1 and target["masks"][0, 30, 20] == 0
    assert 400 <= int(target["masks"].sum()) <= 441


def test_coco_files_that_are_wrong(tmp_path):
    load = coco(tmp_path, [{"category_id": 9, "bbox": [0, 0, 5, 5]}, {"category_id": 3, "bbox": [0, 0]}])
    with pytest.raises(
        IngredientsError, match="(?s)annotation 0: there is no class of category id 9.*annotation 1: bbox"
    ):
        load()
    rle = {"category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": {"counts": [1], "size": [40, 60]}}
    with pytest.raises(IngredientsError, match="run-length encoded; export polygons"):
        coco(tmp_path, [rle])(masks=True)
    with pytest.raises(IngredientsError, match="there is no image b.png"):
        coco(tmp_path, [], images=[{"id": 7, "file_name": "b.png"}])()
    flat = {"category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": [1, 2, 3, 4, 5, 6]}
    with pytest.raises(IngredientsError, match="a polygon needs 3 points"):
        coco(tmp_path, [flat])(masks=True)
    for annotations in ("text", [1], None, [{"image_id": 7, "category_id": [3]}]):
        with pytest.raises(IngredientsError, match="coco.json: is no COCO file"):
            content = {"images": [{"id": 7, "file_name": "a.png"}], "categories": [], "annotations": annotations}
            (tmp_path / "coco.json").write_text(json.dumps(content))
            load()
    (tmp_path / "coco.json").write_text("[1]")
    with pytest.raises(IngredientsError, match="coco.json: is no COCO file"):
        load()
    (tmp_path / "coco.json").unlink()
    with pytest.raises(IngredientsError, match="coco.json: cannot be read"):
        load()


def yolo(folder, text, split=""):
    image(folder / "images" / split / "a.png")
    path = folder / "labels" / split / "a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return lambda **settings: load_yolo(folder / "images", folder / "labels", **settings)()


def test_yolo(tmp_path):
    load = yolo(tmp_path, "1 0.5 0.5 0.5 0.25\n\n0 0 0 0.5 0 0.5 1\n", "train2017")
    image(tmp_path / "images" / "train2017" / "empty.png")
    dataset = load(classes=["ant", "cat"])
    assert dataset[0][1]["boxes"].tolist() == [[15, 15, 45, 25], [0, 0, 30, 40]]
    assert dataset[0][1]["labels"].tolist() == [1, 0] and len(dataset[1][1]["labels"]) == 0
    with pytest.raises(IngredientsError, match="there is no val or valid or validation in it"):
        load(split="validation")


def test_yolo_files_that_are_wrong(tmp_path):
    load = yolo(tmp_path, "5 0.5 0.5 0.5 0.25\n0 0.5 0.5\n0 0.9 0.5 0.5 0.5\nx 0.5 0.5 0.1 0.1\n")
    (tmp_path / "labels" / "other.txt").write_text("")
    with pytest.raises(IngredientsError) as told:
        load(classes=["ant"])
    for text in [
        "line 1: there is no class number 5",
        "line 2: 2 values",
        "line 3: the box",
        "line 4: there is no class",
    ]:
        assert text in str(told.value)
    assert "other.txt" not in str(told.value)  # sets in use have some left over
    (tmp_path / "labels" / "a.txt").rename(tmp_path / "labels" / "b.txt")
    with pytest.raises(
        IngredientsError, match="(?s)2 annotations.*b.txt: there is no image of this name in .*other.txt"
    ):
        load()


# scenes


def test_scenes_are_drawn_from_their_seed_alone():
    one, same = (load_digit_scenes(DIGITS, count=count)() for count in (4, 6))
    other = load_digit_scenes(DIGITS, count=4, seed=1)()
    assert torch.equal(one.X, same.X[:4]) and not torch.equal(one.X, other.X)
    assert not torch.equal(one.X, load_digit_scenes(DIGITS, "validation", count=4)().X)


def test_boxes_of_scenes_are_those_of_their_masks():
    dataset = load_digit_scenes(DIGITS, targets="instances", count=5)()
    classes = load_digit_scenes(DIGITS, targets="classes", count=5)()
    for index in range(5):
        pixels, target = dataset[index]
        assert pixels.shape == (3, 128, 128) and 1 <= len(target["labels"]) <= 5
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert set(classes[index][1][mask.bool()].tolist()) == {int(label) + 1}


# models


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("body", ["small", "resnet18"])
def test_detectors_of_the_pantry_train_and_detect(name, body):
    model = detection.find_detector(name, {"body": body})(3, 4)
    model.transform.min_size, model.transform.max_size = (64,), 64
    target = {"boxes": tv_tensors.BoundingBoxes([[4, 4, 40, 44]], format="XYXY", canvas_size=(64, 64))}
    target |= {"labels": torch.tensor([3]), "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 64, 64)}
    loss = detection.loss(model, torch.rand(2, 3, 64, 64), [target, empty])
    loss.backward()
    assert loss.ndim == 0 and torch.isfinite(loss)
    with torch.inference_mode():
        [found] = detection.detect(model.eval(), torch.rand(1, 3, 64, 64))
    assert {"boxes", "labels", "scores"} <= set(found) and ("masks" in found) == (name == "mask_rcnn")


def test_detectors_of_torchvision():
    for name in ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"):
        with torch.device("meta"):
            model = detection.find_detector(name)(3, 4)
        assert model.first_label == (0 if "fcos" in name else 1)
    with pytest.raises(IngredientsError, match="no backbone .fcoss.. Did you mean"):
        detection.find_detector("fcoss")
    with pytest.raises(IngredientsError, match="boddy: fcos has no such option. Did you mean body"):
        detection.find_detector("fcos", {"boddy": "small"})
    with pytest.raises(ValueError, match="this detector has no such body. Did you mean resnet18"):
        detection.find_detector("retinanet", {"body": "resnet19"})(3, 4)


# augmentation


def moved(transform, sample, target):
    dataset = data.Augmented([(sample, target)], transform, 0)
    return dataset[0, 0]


def boxed(*corners, size=(40, 60)):
    boxes = tv_tensors.BoundingBoxes(torch.tensor(corners, dtype=torch.float32), format="XYXY", canvas_size=size)
    return {"boxes": boxes, "labels": torch.zeros(len(corners), dtype=torch.int64)}


def test_boxes_move_with_their_image():
    flip = registry.augment.get("torchvision.transforms.v2.RandomHorizontalFlip")(p=1.0)
    sample = torch.zeros(3, 40, 60)
    sample[:, 5:25, 10:30] = 1
    pixels, target = moved(flip.per_sample, sample, boxed([10, 5, 30, 25]))
    assert target["boxes"].tolist() == [[30, 5, 50, 25]] and pixels[:, 5:25, 30:50].min() == 1


@pytest.mark.parametrize("name", ["RandomIoUCrop", "RandomZoomOut", "ScaleJitter"])
def test_boxes_still_frame_the_same_after_crops_and_zooms(name):
    settings = {"ScaleJitter": {"target_size": [40, 60], "scale_range": [0.5, 2.0]}}.get(name, {})
    transform = registry.augment.get(f"torchvision.transforms.v2.{name}")(**settings)
    sample = torch.zeros(3, 40, 60)
    sample[:, 5:25, 10:30] = 1
    seen = set()
    for seed in range(12):
        pixels, target = data.Augmented([(sample, boxed([10, 5, 30, 25]))], transform.per_sample, seed)[0, 0]
        assert pixels.shape == sample.shape  # back to the size of the batch
        for x1, y1, x2, y2 in target["boxes"].clamp(min=0).round().int().tolist():
            if x2 - x1 > 2 and y2 - y1 > 2:
                assert pixels[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.85  # resized edges are soft
        seen.add(str(target["boxes"].tolist()))
    assert len(seen) > 1


def test_mosaic_moves_boxes_and_masks():
    inputs = torch.zeros(4, 3, 40, 60)
    targets = []
    for index in range(4):
        inputs[index, :, 10:20, 20 : 30 + index] = (index + 1) / 4
        target = boxed([20, 10, 30 + index, 20]) | {"masks": tv_tensors.Mask(inputs[index, :1] > 0)}
        targets.append(target | {"labels": torch.tensor([index])})
    augment = registry.augment.get("mosaic")(share=1.0)
    mixed, found = augment(inputs, targets, torch.Generator().manual_seed(0))
    assert mixed.shape == inputs.shape and len(targets[0]["labels"]) == 1  # what was given is as it was
    for index in range(4):
        assert found[index]["labels"][0] == index and len(found[index]["labels"]) == 4
        for (x1, y1, x2, y2), label, mask in zip(
            *(found[index][key] for key in ("boxes", "labels", "masks")), strict=True
        ):
            inner = mixed[index, :, int(y1) + 1 : int(y2) - 1, int(x1) + 1 : int(x2) - 1]
            assert torch.allclose(inner, (label + 1) / 4) and mask[int(y1) + 2, int(x1) + 2] == 1
    assert torch.equal(registry.augment.get("mosaic")(share=0.0)(inputs, targets, torch.Generator())[0], inputs)


def test_what_is_left_of_boxes_after_augmentation():
    target = boxed([-5, 2, 10, 50], [3, 3, 3.5, 30], [61, 0, 70, 20]) | {"labels": torch.tensor([0, 1, 2])}
    kept = detection._for_training(target, (40, 60), 1)
    assert kept["boxes"].tolist() == [[0, 2, 10, 40]] and kept["labels"].tolist() == [1]


# training


SMALL = {
    "project.name": "scenes",
    "training.load_dataset.source": str(DIGITS),
    "training.load_dataset.count": "12",
    "training.load_dataset.image_size": "[64, 64]",
    "training.load_dataset.digits": "[1, 2]",
    "validation.load_dataset.source": str(DIGITS),
    "validation.load_dataset.count": "4",
    "validation.load_dataset.image_size": "[64, 64]",
    "model.architecture.options": '{"body": "small", "width": 32}',
    "training.scheme.epochs": "2",
    "training.scheme.batch_size": "4",
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(changes=None, **more):
        merged = SMALL | (changes or {}) | more
        ini = INI.read_text(encoding="utf-8")
        ini = ini[: ini.index("[testing.load_dataset]")].replace("warmup", "# warmup")
        ini = ini.replace("[project.data.download]", "[project.left]").replace("@download_function", "called")
        (tmp_path / "scenes.ini").write_text(ini, encoding="utf-8")
        taken = [(path, text, True) for path, text in merged.items()]
        return read_ingredients(tmp_path / "scenes.ini", taken)

    return read


@pytest.fixture
def train(read):
    from recipes.train import train as train_recipe

    def run(changes=None, resume=None):
        ingredients = read(changes)
        return train_recipe(ingredients, resolve(ingredients), resume)

    return run


def state_of(folder):
    from recipes import checkpoint

    state = checkpoint.load(folder / "checkpoints" / "last.pt")
    return state["model"], state["figures"]


def same(one, other):
    (model, figures), (expected, others) = state_of(one), state_of(other)
    assert figures == others
    assert all(torch.equal(model[key], expected[key]) for key in expected)


def test_training_writes_figures_and_pictures(train):
    folder = train()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"map", "map50", "train_loss"} <= set(lines[0])
    for name in ("batch.png", "predictions.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 200 and len(picture.convert("L").getcolors()) > 20


TRICKS = {
    "training.augment.@augment": "sequence",
    "training.augment.*.flip.@augment": "torchvision.transforms.v2.RandomHorizontalFlip",
    "training.augment.*.crop.@augment": "torchvision.transforms.v2.RandomIoUCrop",
    "training.augment.*.mosaic.@augment": "mosaic",
    "training.scheme.accumulate": "2",
    "training.scheme.ema": "0.9",
    "training.schedule.@schedule": "constant",  # the same rate, however many epochs are to come
}


def test_neither_an_interruption_nor_workers_change_the_numbers(train):
    whole = train(TRICKS)
    same(whole, train(TRICKS | {"training.scheme.workers": "1"}))
    short = train(TRICKS | {"training.scheme.epochs": "1"})
    assert any(
        not torch.equal(*pair) for pair in zip(state_of(short)[0].values(), state_of(whole)[0].values(), strict=True)
    )
    same(whole, train(TRICKS, resume=str(short)))


def test_what_does_not_go_with_boxes_is_refused_at_once(train):
    changes = {
        "training.loss.@loss": "cross_entropy",
        "training.scheme.first_size": "0.5",
        "training.scheme.swa": "0.5",
        "training.scheme.balanced": "True",
        "training.augment.@augment": "random_flip",
        "model.architecture.backbone": "fcoss",
    }
    with pytest.raises(IngredientsError) as told:
        train(changes)
    for path in ("training.loss", "first_size", "swa", "balanced", "random_flip does not move boxes", "no backbone"):
        assert path in str(told.value), path
    assert not Path("runs").exists()


def test_data_that_does_not_fit_is_refused(train):
    with pytest.raises(IngredientsError, match="the data has 10 classes .0, 1, .*write 10"):
        train({"model.architecture.output_classes": "7"})
    with pytest.raises(IngredientsError, match="gives boxes without masks; set masks = True"):
        train({"model.architecture.backbone": "mask_rcnn"})
    with pytest.raises(IngredientsError, match="gives no boxes; use load_voc"):
        train({"training.load_dataset.targets": "classes"})
    with pytest.raises(IngredientsError, match=r"training.preprocess.size = .*\n.*set image_size in the loaders"):
        train({"training.preprocess.@preprocess": "resize_and_scale", "training.preprocess.size": "[32, 32]"})


def test_a_preprocess_of_ones_own_leaves_the_size(train, own):
    own.preprocess.register("test_half")(lambda: lambda sample: sample[:, ::2, ::2] / 255)
    with pytest.raises(IngredientsError, match="(?s)resized an image from .64, 64. to .32, 32., but not the boxes"):
        train({"training.preprocess.@preprocess": "test_half"})


def test_perfect_boxes_have_a_precision_of_one():
    dataset = load_digit_scenes(DIGITS, count=4)()
    inputs, targets = BoxedImages.collate([dataset[index] for index in range(4)])

    def perfect(images):
        return [target | {"scores": torch.ones(len(target["labels"]))} for target in targets]

    perfect.eval = lambda: perfect
    figures = detection.evaluate(perfect, [(inputs / 255, targets)])
    assert figures["map"] == pytest.approx(1) and figures["map50"] == pytest.approx(1)
    assert {name for name in figures if "." in name} == {
        f"map.{label}" for target in targets for label in target["labels"].tolist()
    }
