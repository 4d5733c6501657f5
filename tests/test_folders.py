"""Folders of images with boxes or masks in the layouts that people have."""

import json
from pathlib import Path

import numpy
import pytest
import torch
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


def test_lists_of_names_with_spaces(tmp_path):
    labelled(tmp_path, "photos", "photos", ("at home 1", "at home 2"))
    write(tmp_path / "train.txt", "/my photos/at home 1.jpg\n")
    write(tmp_path / "val.txt", "at home 2\n")
    assert counts(lambda split: load_box_folder(tmp_path, split)()) == ((1, 1), (1, 1))


def test_without_splits_everything_is_for_training(tmp_path):
    voc(tmp_path)
    for file in tmp_path.glob("ImageSets/Main/*.txt"):
        file.unlink()
    assert len(load_box_folder(tmp_path)()) == 3 and load_box_folder(tmp_path, "validation", optional=True)() is None


@pytest.mark.parametrize(
    "file, names",
    [
        ("data.yaml", "names:\n  0: cat\n  2: dog\nnc: 3\n"),
        ("data.yaml", "nc: 3\nnames:\n- cat  # the first\n- x\n- dog\n"),
        ("data.yml", "names: {0: cat, 1: x, 2: 'dog'}\n"),
        ("classes.txt", "cat\nx\ndog"),
        ("obj.names", "cat\nx\ndog\n"),
    ],
)
def test_names_of_yolo(tmp_path, file, names):
    image(tmp_path / "a.jpg")
    write(tmp_path / "a.TXT", "2 0.5 0.5 0.25 0.25\n")
    write(tmp_path / file, names)
    loaded = load_box_folder(tmp_path)()
    assert loaded.classes[0] == "cat" and loaded.classes[2] == "dog" and loaded[0][1]["labels"].tolist() == [2]


def labelled(root: Path, images: str, labels: str, names: str = "ab", text: str = "0 0.5 0.5 0.25 0.25\n") -> None:
    for name in names:
        image(root / images / f"{name}.jpg")
        write(root / labels / f"{name}.txt", text)


def counts(load) -> tuple:
    """(images, objects) of training, and of validation if there is any."""
    splits = [load(split) for split in ("training", "validation")]
    return tuple((len(found), sum(len(one.boxes) for one in found.found)) for found in splits if found)


def test_folders_of_the_same_names_keep_their_own_annotations(tmp_path):
    labelled(tmp_path / "cameras", "images/one", "labels/one", "abc")
    labelled(tmp_path / "cameras", "images/two", "labels/two", "ab", "0 0.5 0.5 0.1 0.1\n" * 2)
    labelled(tmp_path / "splits", "images/val", "labels/val", "abc")
    labelled(tmp_path / "splits", "images/train", "labels/train", "abc", "0 0.5 0.5 0.1 0.1\n" * 2)
    (tmp_path / "splits/labels/train/a.txt").unlink()  # no objects
    labelled(tmp_path / "shared", "images/train", "labels", "ab")
    labelled(tmp_path / "shared", "images/val", "labels", "c")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/photos").symlink_to(tmp_path / "shared", target_is_directory=True)
    expected = {
        "cameras": ((5, 7),),
        "splits": ((3, 4), (3, 3)),
        "shared": ((2, 2), (1, 1)),
        "linked": ((2, 2), (1, 1)),
    }
    for name, each in expected.items():
        assert counts(lambda split, name=name: load_box_folder(tmp_path / name, split, optional=True)()) == each, name


def coco_file(path: Path, names, category: str = "cat", outline=(2, 3, 8, 3, 8, 9)) -> None:
    objects = {"category_id": 1, "bbox": [2, 3, 6, 6], "segmentation": [list(outline)]}
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": number, "image_id": number} | objects for number in range(len(names))],
        "categories": [{"id": 1, "name": category}],
    }
    write(path, json.dumps(content))


def test_coco_files_of_one_folder_of_several_folders_and_beside_others(tmp_path):
    for name in "abc":
        image(tmp_path / f"one/images/{name}.jpg")
        image(tmp_path / f"several/images/{'val' if name == 'c' else 'train'}/1{name}.jpg")
    for split, names in (("train", ("a.jpg", "b.jpg")), ("val", ("images\\c.jpg",))):
        coco_file(tmp_path / f"one/annotations/instances_{split}.json", names)
        coco_file(tmp_path / f"one/annotations/person_keypoints_{split}.json", names, "person")
    coco_file(tmp_path / "several/all.json", ("train/1a.jpg", "train/1b.jpg", "val/1c.jpg"))
    for folder in ("one", "several"):
        for load in (load_box_folder, load_mask_folder):
            training, validation = (load(tmp_path / folder, split)() for split in ("training", "validation"))
            assert (len(training), len(validation), training.classes[-1]) == (2, 1, "cat"), folder
    coco_file(tmp_path / "several/again.json", ("val/1c.jpg",))
    with pytest.raises(IngredientsError, match=r"1c.jpg: is in .* and in another file"):
        load_box_folder(tmp_path / "several")()


def test_classes_that_training_lacks_are_noted(tmp_path, capsys):
    for split, category in (("train", "cat"), ("val", "dog")):
        image(tmp_path / f"{split}/{split}.jpg")
        coco_file(tmp_path / f"{split}/_annotations.coco.json", [f"{split}.jpg"], category)
    for load, classes in ((load_box_folder, ["cat", "dog"]), (load_mask_folder, ["background", "cat", "dog"])):
        assert load(tmp_path)().classes == load(tmp_path, "validation")().classes == classes
        assert capsys.readouterr().out == "note: 1 of 2 classes are in no image for training: dog\n"
    labelled(tmp_path / "empty", "images", "labels", text="")
    with pytest.raises(IngredientsError, match="no image for training has an object"):
        load_box_folder(tmp_path / "empty")()


def test_everything_corrupt_is_named_at_once(tmp_path):
    """Before training, in all splits, whatever the split that is loaded; when --check looks, too."""
    for split, names in (("train", "abc"), ("val", "def")):
        labelled(tmp_path / "boxes", f"{split}/images", f"{split}/labels", names)
        for name in names:
            image(tmp_path / f"masks/{split}/images/{name}.jpg")
            image(tmp_path / f"masks/{split}/masks/{name}.png", numpy.eye(16, dtype=numpy.uint8))
    for task in ("boxes", "masks"):
        whole = tmp_path / task / "train/images/a.jpg"
        whole.write_bytes(whole.read_bytes()[:300])
        write(tmp_path / task / "val/images/d.jpg", "<html>")
    (tmp_path / "boxes/val/labels/e.txt").write_bytes(b"\xff\xfe0")
    write(tmp_path / "boxes/train/labels/b.txt", "0 0.5 0.5 0 0")
    write(tmp_path / "masks/val/masks/e.png", "x")
    for load, wrong in ((load_box_folder, ("b.txt", "e.txt")), (load_mask_folder, ("e.png",))):
        folder = tmp_path / ("boxes" if load is load_box_folder else "masks")
        for call in (load(folder), load(folder).check, load(folder, "validation")):
            with pytest.raises(IngredientsError) as error:
                call()
            for name in ("a.jpg", "d.jpg", *wrong):
                assert f"/{name}: " in str(error.value), (load, name)


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


def test_a_pool_of_images_for_several_tasks(tmp_path):
    """As coco128 has it: instance_segmentation/images is a link, and holds no masks whatever its name."""
    masks(tmp_path / "semantic_segmentation")
    (tmp_path / "semantic_segmentation/images").rename(tmp_path / "images")
    (tmp_path / "instance_segmentation").mkdir()
    (tmp_path / "instance_segmentation/images").symlink_to(tmp_path / "images", target_is_directory=True)
    loaded = [load_mask_folder(tmp_path, split)() for split in ("training", "validation")]
    assert [len(dataset) for dataset in loaded] == [2, 1] and loaded[0].classes == ["0", "5"]


def test_masks_of_colours(tmp_path):
    masks(tmp_path, (0, 90, 200), colours=True)
    loaded = load_mask_folder(tmp_path)()
    assert loaded.classes == ["(0, 0, 0)", "(90, 0, 90)", "(200, 0, 200)"]
    assert sorted(loaded[0][1].unique().tolist()) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["png", "rgb", "jpg", "16 bit", "beside"])
def test_masks_of_black_and_white_are_two_classes(tmp_path, kind):
    """Of 0 and 255, in JPEG too; of 16 bits, and of names that end in _mask beside their images."""
    mask = numpy.zeros((16, 16), numpy.uint8)
    mask[4:10, 6:] = 1 if kind in ("16 bit", "beside") else 255
    mask = (
        numpy.stack([mask] * 3, 2) if kind == "rgb" else mask.astype(numpy.uint16 if kind == "16 bit" else numpy.uint8)
    )
    place = {"jpg": "masks/a.jpg", "beside": "images/a_mask.png"}.get(kind, "masks/a.png")
    image(tmp_path / "images/a.jpg")
    image(tmp_path / place, mask)
    file, names = (
        ("_classes.csv", "Pixel Value, Class\n0, no\n1, yes\n") if kind == "beside" else ("classes.txt", "no\nyes")
    )
    write(tmp_path / place.split("/")[0] / file, names)
    loaded = load_mask_folder(tmp_path)()
    assert loaded.classes == ["no", "yes"] and torch.equal(
        loaded[0][1], torch.from_numpy(mask.reshape(16, 16, -1)[..., 0] > 0).byte()
    )


def test_masks_keep_to_their_own_images_and_photos_are_none(tmp_path):
    for camera, value in (("one", 1), ("two", 2)):
        image(
            tmp_path / camera / "photos/a.png", numpy.random.default_rng(0).integers(0, 255, (16, 16, 3), numpy.uint8)
        )
        image(tmp_path / camera / "classes/a.png", numpy.full((16, 16, 3), value, numpy.uint8)[..., 0])
    loaded = load_mask_folder(tmp_path)()
    assert [mask.unique().tolist() for _, mask in (loaded[0], loaded[1])] == [[0], [1]] and loaded.classes == ["1", "2"]


def test_colours_are_named_by_cvat(tmp_path):
    masks(tmp_path, (0, 90, 200), colours=True)
    write(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,0::\ncar:200,0,200::\n")
    assert load_mask_folder(tmp_path)().classes == ["sky", "(90, 0, 90)", "car"]


def test_boxes_alone_are_no_masks(tmp_path):
    voc(tmp_path)
    with pytest.raises(IngredientsError, match="has images, but no masks or polygons"):
        load_mask_folder(tmp_path)()


def test_polygons_are_drawn_if_there_are_no_masks(tmp_path):
    coco(tmp_path)
    loaded = load_mask_folder(tmp_path, "validation")()
    assert loaded.classes == ["background", "cat", "dog"] and sorted(loaded[0][1].unique().tolist()) == [0, 1]


def test_a_photo_is_not_a_mask(tmp_path):
    image(tmp_path / "images/a.png")
    image(tmp_path / "masks/a.png", numpy.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=numpy.uint8))
    with pytest.raises(IngredientsError, match="a.png: has more than 255 colours"):
        load_mask_folder(tmp_path)()
