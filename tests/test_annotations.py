"""Annotations of detection and segmentation: files as they are read, and what is wrong in them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from core import IngredientsError, registry
from pantry.boxes import GREY, load_coco, load_voc, load_yolo
from pantry.scenes import load_digit_scenes
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
IGNORED = 255


def made(name, /, **settings):
    return registry.load_dataset.get(name)(**settings)


# --------------------------------------------------------------------------------------------------------------- boxes


def image(path, height=40, width=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8)).save(path)


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


def test_every_wrong_box_is_reported_with_its_file(tmp_path):
    load = voc(
        tmp_path,
        a=[("cat", 30, 5, 10, 25), ("cat", 10, 5, 10, 25), ("catt", 1, 1, 5, 5)],
        b=[("cat", 0, 0, 90, 25), ("cat", "nan", 0, 20, 25), ("cat", "", 0, 20, 25)],
    )
    xml(tmp_path / "annotations" / "c.xml", ("cat", 1, 1, 2, 2))
    (tmp_path / "annotations" / "d.xml").write_text("<annotation><obj")
    with pytest.raises(IngredientsError) as error:
        load(classes=["cat"])
    expected = [
        "a.xml: object 1: the box (30, 5) to (10, 25) is reversed",
        "a.xml: object 2: the box (10, 5) to (10, 25) has no area",
        "a.xml: object 3: there is no class catt. Did you mean cat",
        "b.xml: object 1: the box (0, 0) to (90, 25) reaches beyond the image of 60 x 40 pixels",
        "b.xml: object 2: a corner",
        "b.xml: object 3: a corner",
        "c.xml: there is no image c.*",
        "d.xml: not valid XML",
    ]
    assert [text for text in expected if text not in str(error.value)] == []


def test_images_that_were_annotated_before_their_exif_tag_turned_them(tmp_path):
    load = voc(tmp_path, a=[("cat", 1, 1, 5, 5)])
    file, photo = tmp_path / "annotations/a.xml", tmp_path / "images/a.png"
    text = file.read_text()
    file.write_text(text.replace("<object>", "<size><width>60</width><height>40</height></size><object>"))
    tag = Image.Exif()
    tag[0x0112] = 6
    assert len(load()) == 1
    Image.open(photo).save(photo.with_suffix(".jpg"), exif=tag)
    photo.unlink()
    with pytest.raises(IngredientsError, match=r"a.xml: .*a.jpg was annotated as it is stored, .* remove that tag"):
        load()
    content = {"images": [{"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}]}
    with pytest.raises(IngredientsError, match=r"coco.json: .*a.jpg was annotated as it is stored"):
        coco(tmp_path, [], **content)()
    content["images"][0] |= {"width": 40, "height": 60}
    assert len(coco(tmp_path, [], **content)()) == 1


def test_a_box_may_reach_one_rounded_pixel_beyond_its_image(tmp_path):
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


def test_run_lengths_of_coco(tmp_path):
    """As lists and as the strings that pycocotools writes; crowds are no objects, but they are pixels of a class."""
    mask = (torch.rand(40, 60, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8)
    mask[5:35, 10:50] = 1
    packed = pytest.importorskip("faster_coco_eval").mask.encode(np.asfortranarray(mask.numpy()))["counts"]
    flat = mask.T.flatten().tolist()
    runs = [len(list(run)) for _, run in itertools.groupby([0, *flat])]
    runs[0] -= 1
    for counts in (runs, packed.decode() if isinstance(packed, bytes) else packed):
        one = {"category_id": 3, "bbox": [0, 0, 60, 40], "segmentation": {"size": [40, 60], "counts": counts}}
        load = coco(tmp_path, [one, one | {"category_id": 1, "iscrowd": 1}])
        target = load(masks=True)[0][1]
        assert torch.equal(target["masks"].as_subclass(torch.Tensor), mask[None])
        drawn = made("load_coco_masks", images=tmp_path / "images", annotations=tmp_path / "coco.json")()[0][1]
        assert torch.equal(drawn, mask)  # class 1, the crowd, was drawn over class 2


def test_coco_files_that_are_wrong(tmp_path):
    load = coco(tmp_path, [{"category_id": 9, "bbox": [0, 0, 5, 5]}, {"category_id": 3, "bbox": [0, 0]}])
    with pytest.raises(
        IngredientsError, match="(?s)annotation 0: there is no class of category id 9.*annotation 1: bbox"
    ):
        load()
    for runs, message in (([1], "not run lengths of a mask"), ([2000], r"run lengths are of \[50, 40\]")):
        rle = {"counts": runs, "size": [40, 60] if runs == [1] else [50, 40]}
        with pytest.raises(IngredientsError, match=f"annotation 0: .*{message}"):
            coco(tmp_path, [{"category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": rle}])(masks=True)
    with pytest.raises(IngredientsError, match="there is no image b.png"):
        coco(tmp_path, [], images=[{"id": 7, "file_name": "b.png"}])()
    flat = {"category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": [1, 2, 3, 4, 5, 6]}
    with pytest.raises(IngredientsError, match="a polygon needs 3 points"):
        coco(tmp_path, [flat])(masks=True)
    for annotations in ("text", [1], None, [{"image_id": 7, "category_id": [3]}]):
        with pytest.raises(IngredientsError, match="coco.json: not a COCO file"):
            content = {"images": [{"id": 7, "file_name": "a.png"}], "categories": [], "annotations": annotations}
            (tmp_path / "coco.json").write_text(json.dumps(content))
            load()
    (tmp_path / "coco.json").write_text("[1]")
    with pytest.raises(IngredientsError, match="coco.json: not a COCO file"):
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
    with pytest.raises(IngredientsError) as error:
        load(classes=["ant"])
    for text in [
        "line 1: there is no class number 5",
        "line 2: 2 values",
        "line 3: the box",
        "line 4: there is no class",
    ]:
        assert text in str(error.value)
    assert "other.txt" not in str(error.value)  # sets in use have some left over
    (tmp_path / "labels" / "a.txt").rename(tmp_path / "labels" / "b.txt")
    with pytest.raises(IngredientsError, match="(?s)b.txt: there is no image .*other.txt"):
        load()


# -------------------------------------------------------------------------------------------------------------- scenes


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of single digits, unpacked."""
    root = tmp_path_factory.mktemp("digits")
    registry.download_function.get("download_archive")(f"file:{PROJECT}/data/digits.tgz", root)()
    return root / "digits"


def test_scenes_are_drawn_from_their_seed_alone(digits):
    one, same = (load_digit_scenes(digits, count=count)() for count in (4, 6))
    other = load_digit_scenes(digits, count=4, seed=1)()
    assert torch.equal(one.X, same.X[:4]) and not torch.equal(one.X, other.X)
    assert not torch.equal(one.X, load_digit_scenes(digits, "validation", count=4)().X)


def test_boxes_of_scenes_are_those_of_their_masks(digits):
    dataset = load_digit_scenes(digits, targets="instances", count=5)()
    classes = load_digit_scenes(digits, targets="classes", count=5)()
    for index in range(5):
        pixels, target = dataset[index]
        assert pixels.shape == (3, 128, 128) and 1 <= len(target["labels"]) <= 5
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert set(classes[index][1][mask.bool()].tolist()) == {int(label) + 1}


# --------------------------------------------------------------------------------------------------------------- masks


def write(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(path)


@pytest.fixture
def pairs(tmp_path):
    """Two images of 6 x 8 pixels with masks of classes 0, 1, 2 and 255, ignored, and one for validation."""
    ids = np.zeros((6, 8), dtype=np.uint8)
    ids[2:4, 3:6], ids[0, 0], ids[5] = 2, 1, 255
    for split, names in (("train2017", "ab"), ("val", "c")):
        for shift, name in enumerate(names):
            write(tmp_path / "images" / split / f"{name}.jpg", np.full((6, 8, 3), 100))
            write(tmp_path / "masks" / split / f"{name}.png", np.roll(ids, shift, 1))
    return tmp_path, torch.from_numpy(ids)


def load(folder, **settings):
    return made("load_masks", images=folder / "images", masks=folder / "masks", **settings)()


def test_masks_of_numbers(pairs):
    folder, ids = pairs
    loaded = load(folder)
    assert loaded.classes is None and [Path(path).name for path in loaded.paths] == ["a.jpg", "b.jpg"]
    assert loaded.X.shape == (2, 3, 6, 8) and loaded.X.dtype == loaded.targets.dtype == torch.uint8
    assert torch.equal(loaded.targets, torch.stack([ids, ids.roll(1, 1)]))
    from_disk = load(folder, memory=0.0)
    assert from_disk.X is None and from_disk.targets is None
    for one, other in zip((loaded[1]), from_disk[1], strict=True):
        assert torch.equal(one, other)
    assert len(load(folder, split="validation")) == 1
    assert load(folder, classes=["sky", "car", "tree", "dog"]).classes == ["sky", "car", "tree", "dog"]


def test_numbers_with_gaps_and_ignored_ones(pairs):
    folder, ids = pairs
    loaded = load(folder, classes={"2": "tree", "0": "sky"}, ignore=[1, 255])
    assert loaded.classes == ["tree", "sky"]
    expected = torch.full_like(ids, IGNORED)
    expected[ids == 2], expected[ids == 0] = 0, 1
    assert torch.equal(loaded.targets[0], expected)


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_masks_of_colours_and_of_palettes(tmp_path, mode):
    ids = np.array([[0, 1, 2], [2, 2, 1]])
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]])
    pixels = ids if mode == "P" else colours[ids]
    if mode == "RGBA":
        pixels = np.concatenate([pixels, np.full((2, 3, 1), 255)], 2)
    write(tmp_path / "masks" / "a.png", pixels, mode)
    write(tmp_path / "images" / "a.png", np.zeros((2, 3, 3)))
    if mode == "P":
        assert torch.equal(load(tmp_path).targets[0], torch.from_numpy(ids).byte())
    loaded = load(tmp_path, palette=colours.tolist(), classes=["a", "b", "c"])
    assert loaded.classes == ["a", "b", "c"] and torch.equal(loaded.targets[0], torch.from_numpy(ids).byte())
    partly = load(tmp_path, palette=colours[:2].tolist(), ignore=colours[2].tolist())
    assert torch.equal(
        partly.targets[0], torch.where(torch.from_numpy(ids) == 2, IGNORED, torch.from_numpy(ids)).byte()
    )


def test_everything_wrong_with_masks_is_reported_at_once(pairs):
    folder, ids = pairs
    write(folder / "masks" / "train2017" / "a.png", np.where(ids == 2, 7, ids))
    write(folder / "masks" / "train2017" / "b.png", np.zeros((5, 8)))
    write(folder / "images" / "train2017" / "d.png", np.zeros((6, 8, 3)))
    for when in ("training", "--check"):
        with pytest.raises(IngredientsError) as error:
            if when == "--check":
                loader = made("load_masks", images=folder / "images", masks=folder / "masks", classes=["x", "y"])
                loader.check()
            load(folder, classes=["x", "y"])
        for text in ("a.png: 6 pixels are 7", "b.png: has 5 x 8 pixels, but its image", "d.png: has no mask"):
            assert text in str(error.value)
    (folder / "masks" / "train2017" / "b.png").unlink()
    assert len(load(folder, classes=list("abcdefgh"), unlabelled="skip")) == 1
    write(folder / "masks" / "train2017" / "e.png", ids)
    with pytest.raises(IngredientsError, match="e.png: has no image"):
        load(folder)
    write(folder / "masks" / "train2017" / "e.png", np.zeros((6, 8, 3)))
    write(folder / "images" / "train2017" / "e.png", np.zeros((6, 8, 3)))
    with pytest.raises(IngredientsError, match=r"e.png: .*mode RGB.* set palette"):
        load(folder, unlabelled="skip")
    with pytest.raises(IngredientsError, match=r"pixels are \[0, 0, 0\]"):
        load(folder, unlabelled="skip", palette=[[7, 7, 7]])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"image_size": [0, 8]}, "height, width"),
        ({"palette": [[0, 0]]}, "is not a colour"),
        ({"palette": [[0, 0, 0], [0, 0, 0]]}, "the same colour"),
        ({"palette": [[0, 0, 0]], "classes": ["a", "b"]}, "1 colours for 2 classes"),
        ({"classes": {"x": "a"}}, "number in the files"),
        ({"ignore": 256}, "256 .* must be in .0, 255."),
        ({"classes": [str(index) for index in range(256)]}, "256 classes, at most 255"),
    ],
)
def test_settings_of_masks_are_checked(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        made("load_masks", images=tmp_path, masks=tmp_path, **settings)


def test_images_and_masks_are_resized_alike(tmp_path):
    for name, size in (("wide", (30, 47)), ("tall", (61, 20)), ("small", (7, 5))):
        mask = np.zeros(size)
        mask[size[0] // 2 :] = 1
        write(tmp_path / "masks" / f"{name}.png", mask)
        write(tmp_path / "images" / f"{name}.png", np.repeat(mask[..., None] * 255, 3, 2))
    with pytest.raises(IngredientsError, match="of 3 sizes; set image_size"):
        load(tmp_path)
    loaded = load(tmp_path, image_size=[32, 32])
    for image, mask in zip(loaded.X, loaded.targets, strict=True):
        outside = mask == IGNORED
        assert (image[:, outside] == GREY).all() and 0 < outside.sum() < 900
        assert ((image[0] > 127) == (mask == 1))[~outside].float().mean() > 0.94  # but for a blurred row
        assert set(mask.unique().tolist()) == {0, 1, IGNORED}


def test_later_polygons_cover_earlier_ones(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((20, 40, 3)))
    (tmp_path / "labels").mkdir()
    square, wide = "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75", "1 0.4 0.5 1 0.5 1 1 0.4 1"
    (tmp_path / "labels" / "a.txt").write_text(f"{square}\n{wide}\n")
    settings = {"images": tmp_path / "images", "labels": tmp_path / "labels", "classes": ["dog", "cat"]}
    loaded = made("load_yolo_masks", **settings)()
    assert loaded.classes == ["background", "dog", "cat"] and loaded.targets.shape == (1, 20, 40)
    assert [int(loaded.targets[0, y, x]) for y, x in ((2, 2), (7, 15), (12, 18), (18, 35))] == [0, 1, 2, 2]
    boxed = made("load_yolo_masks", **settings, image_size=[20, 20])()
    assert [int(boxed.targets[0, y, x]) for y, x in ((1, 1), (3, 7), (9, 17), (10, 5))] == [0, 1, 2, IGNORED]
    objects = [
        {"id": number, "image_id": 1, "category_id": number, "bbox": box, "segmentation": [outline]}
        for number, box, outline in (
            (1, [10, 5, 10, 10], [10, 5, 20, 5, 20, 15, 10, 15]),
            (2, [16, 10, 24, 10], [16, 10, 40, 10, 40, 20, 16, 20]),
        )
    ]
    listed = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": objects}
    listed["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    (tmp_path / "coco.json").write_text(json.dumps(listed))
    of_coco = made("load_coco_masks", images=tmp_path / "images", annotations=tmp_path / "coco.json")
    assert torch.equal(of_coco().targets, loaded.targets) and of_coco().classes == loaded.classes
    (tmp_path / "labels" / "a.txt").write_text("5 0.1 0.1 0.2 0.1 0.2 0.2")
    with pytest.raises(IngredientsError, match="there is no class number 5"):
        made("load_yolo_masks", **settings).check()
