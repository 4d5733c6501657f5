"""Folders of images with boxes or masks in the layouts that people have."""

import json
from pathlib import Path

import numpy
import pytest
from core import IngredientsError
from pantry.box_folders import load_box_folder
from pantry.mask_folders import load_mask_folder
from PIL import Image

BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>8</xmax><ymax>9</ymax></bndbox>"
XML = f"<annotation><object><name>{{}}</name>{BOX}</object></annotation>"


def image(path: Path, pixels=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numpy.zeros((16, 16, 3), numpy.uint8) if pixels is None else pixels).save(path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(root: Path) -> None:
    for name, label in (("a", "cat"), ("b", "dog"), ("c", "cat")):
        image(root / f"JPEGImages/{name}.jpg")
        write(root / f"Annotations/{name}.xml", XML.format(label))
    write(root / "ImageSets/Main/train.txt", "a\nb\n")
    write(root / "ImageSets/Main/val.txt", "c 1\n")


def voc_beside(root: Path) -> None:
    for split, names in (("train", "ab"), ("valid", "c")):
        for name, label in zip(names, ("cat", "dog"), strict=False):
            image(root / split / f"{name}.jpg")
            write(root / split / f"{name}.xml", XML.format(label))


def yolo(root: Path) -> None:
    for split, names in (("train", "ab"), ("val", "c")):
        for name, label in zip(names, (0, 1), strict=False):
            image(root / f"images/{split}/{name}.jpg")
            write(root / f"labels/{split}/{name}.txt", f"{label} 0.5 0.5 0.25 0.25\n")
    write(root / "data.yaml", "train: images/train\nval: images/val\nnc: 2\nnames: ['cat', 'dog']\n")


def coco(root: Path) -> None:
    for split, names in (("train", "ab"), ("val", "c")):
        content = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}
        for number, name in enumerate(names):
            image(root / f"{split}2017/{name}.jpg")
            content["images"].append({"id": number, "file_name": f"{name}.jpg"})
            outline = [2, 3, 8, 3, 8, 9, 2, 9]
            box = {
                "image_id": number,
                "category_id": 7 if number else 3,
                "bbox": [2, 3, 6, 6],
                "segmentation": [outline],
            }
            content["annotations"].append({"id": number} | box)
        write(root / f"annotations/instances_{split}2017.json", json.dumps(content))


@pytest.mark.parametrize("layout", [voc, voc_beside, yolo, coco])
def test_the_layout_and_its_splits_are_found(tmp_path, layout):
    layout(tmp_path)
    training, validation = (load_box_folder(tmp_path, split)() for split in ("training", "validation"))
    assert [Path(path).stem for path in training.paths] == ["a", "b"] and training.classes == ["cat", "dog"]
    assert [Path(path).stem for path in validation.paths] == ["c"] and validation.classes == ["cat", "dog"]
    assert training[1][1]["labels"].tolist() == [1] and training[1][1]["boxes"].shape == (1, 4)
    assert load_box_folder(tmp_path, "testing", optional=True)() is None
    with pytest.raises(IngredientsError, match="no images for testing; name a folder test"):
        load_box_folder(tmp_path, "testing")()


def test_without_splits_everything_is_for_training(tmp_path):
    voc(tmp_path)
    for file in tmp_path.glob("ImageSets/Main/*.txt"):
        file.unlink()
    assert len(load_box_folder(tmp_path)()) == 3 and load_box_folder(tmp_path, "validation", optional=True)() is None


@pytest.mark.parametrize(
    "names", ["names:\n  0: cat\n  2: dog\nnc: 3\n", "names:\n- cat\n- x\n- dog\n", "cat\nx\ndog\n"]
)
def test_names_of_yolo(tmp_path, names):
    image(tmp_path / "a.jpg")
    write(tmp_path / "a.txt", "2 0.5 0.5 0.25 0.25\n")
    write(tmp_path / ("data.yaml" if names.startswith("names") else "classes.txt"), names)
    loaded = load_box_folder(tmp_path)()
    assert loaded.classes[0] == "cat" and loaded.classes[2] == "dog" and loaded[0][1]["labels"].tolist() == [2]


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(IngredientsError, match="there is no such folder"):
        load_box_folder(tmp_path / "nowhere")()
    with pytest.raises(IngredientsError, match="there is no image in it"):
        load_box_folder(tmp_path)()
    image(tmp_path / "a.jpg")
    with pytest.raises(IngredientsError, match="has images, but no annotations"):
        load_box_folder(tmp_path)()
    write(tmp_path / "a.xml", XML.format("cat").replace("<xmax>8", "<xmax>80"))
    with pytest.raises(IngredientsError, match="a.xml: object 1: the box .* beyond the image"):
        load_box_folder(tmp_path)()


def masks(root: Path, values=(0, 5, 255), colours: bool = False) -> None:
    mask = numpy.zeros((16, 16), numpy.uint8)
    mask[4:8], mask[8:] = values[1], values[2]
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            image(root / f"images/{split}/{name}.jpg")
            image(root / f"masks/{split}/{name}.png", numpy.stack([mask, mask * 0, mask], 2) if colours else mask)
        image(root / f"images/{split}/unlabelled.jpg")


def test_masks_and_their_values_are_found(tmp_path):
    masks(tmp_path)
    write(tmp_path / "masks/config.yaml", "classes:\n  0: ground\n  5: tree\n")
    training, validation = (load_mask_folder(tmp_path, split)() for split in ("training", "validation"))
    assert training.classes == validation.classes == ["ground", "tree"]
    assert [Path(path).stem for path in training.paths] == ["a", "b"] and len(validation) == 1
    assert sorted(training[0][1].unique().tolist()) == [0, 1, 255]
    assert load_mask_folder(tmp_path, "testing", optional=True)() is None


def test_masks_of_colours(tmp_path):
    masks(tmp_path, (0, 90, 200), colours=True)
    loaded = load_mask_folder(tmp_path)()
    assert loaded.classes == ["(0, 0, 0)", "(90, 0, 90)", "(200, 0, 200)"]
    assert sorted(loaded[0][1].unique().tolist()) == [0, 1, 2]


def test_polygons_are_drawn_if_there_are_no_masks(tmp_path):
    coco(tmp_path)
    loaded = load_mask_folder(tmp_path, "validation")()
    assert loaded.classes == ["background", "cat", "dog"] and sorted(loaded[0][1].unique().tolist()) == [0, 1]


def test_a_photo_is_not_a_mask(tmp_path):
    image(tmp_path / "images/a.png")
    image(tmp_path / "masks/a.png", numpy.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=numpy.uint8))
    with pytest.raises(IngredientsError, match="a.png: has more than 255 colours"):
        load_mask_folder(tmp_path)()
