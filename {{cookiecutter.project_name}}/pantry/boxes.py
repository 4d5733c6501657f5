"""Data: images with boxes and polygons from Pascal VOC, COCO and YOLO files.

Each loader reads all annotations first and raises one error that lists every mistake in them, by file, line and reason.
Images become uint8 tensors, kept in memory if they fit. Heavy modules are imported inside the functions.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from core.errors import suggest
from pantry.images import (
    IMAGE_SUFFIXES,
    SPLITS,
    decode_image,
    find_files,
    is_visible,
    open_image,
    processors,
    read_header,
    refuse,
    refuse_size,
    visit_all,
)

GREY = 114  # what fills an image up to its size, as YOLO does (github.com/ultralytics/yolov5, letterbox)


@dataclass
class Annotated:
    """One image: its file, (height, width) in pixels, and of each object a box x1, y1, x2, y2 and a class index."""

    path: str
    size: tuple[int, int]
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    polygons: list = field(default_factory=list)  # of each object: outlines x1, y1, x2, y2, ..., or run lengths of COCO


class BoxedImages:
    """A map-style data set: `dataset[i] -> (image, target)`.

    image: uint8 tensor (3, H, W), the same size for all; target: {"boxes": tv_tensors.BoundingBoxes (M, 4), x1, y1,
    x2, y2 in pixels, "labels": int64 (M,)}, with masks also {"masks": tv_tensors.Mask (M, H, W)}. M may be 0.
    classes: names in the order of the labels; paths: N files; image_size: [H, W], to which images are resized with
    their aspect ratio kept (the rest is grey), or None
    memory: GB (1e9 bytes) of decoded images to keep; None: the images are black and no file is read, for --check
    """

    def __init__(self, found: list[Annotated], classes: list[str], image_size, masks: bool, memory: float | None):
        import torch

        self.found, self.classes, self.masks = found, classes, masks
        self.paths, self.X = [one.path for one in found], None
        sizes = {one.size for one in found}
        if image_size is None and len(sizes) > 1:
            raise IngredientsError(f"images are of {len(sizes)} sizes; set image_size = [height, width] to resize all")
        self.image_size = tuple(image_size or next(iter(sizes)))
        shape = (len(found), 3, *self.image_size)
        if memory is None:
            self.X = torch.zeros((), dtype=torch.uint8).expand(shape)
        elif math.prod(shape) <= memory * 1e9:
            self.X = torch.stack(visit_all(self._image, len(found), processors()))

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int):
        import torch
        from torchvision import tv_tensors

        one, (height, width) = self.found[index], self.image_size
        scale = fit(one.size, self.image_size)
        boxes = torch.tensor(one.boxes).reshape(-1, 4) * scale
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.tensor(one.labels, dtype=torch.int64),
        }
        if self.masks:
            drawn = [draw_polygons(outlines, scale, self.image_size) for outlines in one.polygons]
            empty = torch.zeros(0, height, width, dtype=torch.uint8)
            target["masks"] = tv_tensors.Mask(torch.stack(drawn) if drawn else empty)
        return tv_tensors.Image(self._image(index) if self.X is None else self.X[index]), target

    def _image(self, index: int):
        return letterbox(decode_image(self.paths[index], 3), self.image_size)

    @staticmethod
    def collate(pairs):
        """A batch: images (N, 3, H, W), and a list of N targets."""
        import torch

        images, targets = zip(*pairs, strict=True)
        return torch.stack(images), list(targets)


def fit(size, into) -> float:
    """The factor by which an image of (height, width) is resized into another with its aspect ratio kept."""
    return min(into[0] / size[0], into[1] / size[1])


def letterbox(image, size):
    """An image (C, H, W) of bytes resized into `size`, at its top left; the rest is grey."""
    import torch
    import torch.nn.functional as F

    if list(image.shape[1:]) == list(size):
        return image
    scale = fit(image.shape[1:], size)
    inner = tuple(min(most, max(1, round(side * scale))) for side, most in zip(image.shape[1:], size, strict=True))
    boxed = torch.full((image.shape[0], *size), GREY, dtype=torch.uint8)
    boxed[:, : inner[0], : inner[1]] = F.interpolate(image[None], size=inner, mode="bilinear", antialias=True)[0]
    return boxed


def draw_polygons(outlines, scale: float, size):
    """The uint8 mask (H, W) of an object, 1 inside any of its outlines x1, y1, x2, y2, ..., or of its run lengths."""
    import numpy
    import torch
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (size[1], size[0]))
    if isinstance(outlines, dict):
        mask = Image.fromarray(decode_runs(outlines))
        canvas.paste(mask.resize([max(1, round(side * scale)) for side in mask.size], Image.Resampling.NEAREST))
    else:
        for outline in outlines:
            ImageDraw.Draw(canvas).polygon([value * scale for value in outline], fill=1)
    return torch.from_numpy(numpy.array(canvas))


def decode_runs(mask: dict):
    """The uint8 mask (H, W) of run lengths as COCO has them: {"size": [H, W], "counts": of 0, 1, 0, ... by columns}.

    A string of counts holds 5 bits a character, the lowest first, from the third on the difference to the one but last.
    """
    import numpy

    (height, width), counts = mask["size"], mask["counts"]
    if isinstance(counts, str):
        counts, value, shift = [], 0, 0
        for bits in (ord(character) - 48 for character in mask["counts"]):
            value, shift = value | (bits & 31) << shift, shift + 5
            if not bits & 32:  # the last of this number, whose highest bit is the sign
                value -= (bits & 16 > 0) << shift
                counts.append(value + (counts[-2] if len(counts) > 2 else 0))
                value = shift = 0
    return numpy.repeat(numpy.arange(len(counts), dtype=numpy.uint8) % 2, counts).reshape(width, height).T


# ---------------------------------------------------------------------------------------------------------- Pascal VOC


@registry.load_dataset.register("load_voc")
def load_voc(
    images: Path,
    annotations: Path,
    split: Literal["training", "validation", "testing"] = "training",
    classes: list[str] | None = None,
    image_size: list[int] | None = None,
    memory: float = 2.0,
):
    """`load() -> BoxedImages`: the images that XML files of Pascal VOC describe, found by file name.

    images, annotations: folders; of folders in them named after splits (train, val, test, ...) that of `split` is read,
        without such folders everything is for training
    classes: names in the order of the labels; None: all names in the files, sorted
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    memory: GB (1e9 bytes) of decoded images to keep; a larger set is read from disk as needed
    """
    refuse_size(image_size)

    def load(memory: float | None = memory) -> BoxedImages:
        found, names, problems = read_voc(Path(images), Path(annotations), split, classes)
        return checked(found, names, problems, image_size, False, memory, annotations)

    load.check = lambda: load(memory=None)
    return load


def read_voc(images: Path, annotations: Path, split: str, classes: list[str] | None) -> tuple:
    """(list of Annotated, class names, problems) of XML files."""
    found, problems = [], []
    paths = {Path(path).name: path for path in find_files(split_folder(images, split))}
    stems = {Path(name).stem: path for name, path in paths.items()}
    read = [(file, _read_xml(file, problems)) for file in find_files(split_folder(annotations, split), ".xml")]
    names = list(classes or sorted({name for _, root in read for name, _, _ in _voc_objects(root)}))
    for file, root in read:
        if root is None:
            continue
        path = stems.get(Path(file).stem) or paths.get(root.findtext("filename", ""))
        if path is None:
            problems.append(f"{file}: there is no image {Path(file).stem}.* in {images}")
            continue
        if one := _open(path, problems):
            _refuse_turned(one, file, [root.findtext(f"size/{side}") for side in ("height", "width")], problems)
            for name, box, line in _voc_objects(root):
                _add(one, file, line, name, names, box, problems)
            found.append(one)
    return found, names, problems


def _read_xml(file: str, problems: list):
    from xml.etree import ElementTree

    try:
        return ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:
        problems.append(f"{file}: not valid XML: {error}")


def _voc_objects(root) -> list[tuple]:
    """(class name, corners, "object N") of each object of a file."""
    found = []
    for number, item in enumerate([] if root is None else root.iter("object"), 1):
        corners = [item.findtext(f"bndbox/{name}", "nothing") for name in ("xmin", "ymin", "xmax", "ymax")]
        found.append((item.findtext("name", ""), corners, f"object {number}"))
    return found


# ---------------------------------------------------------------------------------------------------------------- COCO


@registry.load_dataset.register("load_coco")
def load_coco(
    images: Path,
    annotations: Path,
    classes: list[str] | None = None,
    image_size: list[int] | None = None,
    masks: bool = False,
    memory: float = 2.0,
):
    """`load() -> BoxedImages`: the images of a COCO JSON file, as Label Studio, CVAT and others export it.

    images: the folder of the images; annotations: the file
    classes: names in the order of the labels; None: the categories of the file in the order of their ids
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    masks: read the polygons as well, for instance segmentation
    memory: GB (1e9 bytes) of decoded images to keep; a larger set is read from disk as needed
    """
    refuse_size(image_size)

    def load(memory: float | None = memory) -> BoxedImages:
        found, names, problems = read_coco(image_in(Path(images)), Path(annotations), classes, masks)
        return checked(found, names, problems, image_size, masks, memory, annotations)

    load.check = lambda: load(memory=None)
    return load


def read_coco(find, annotations: Path, classes: list[str] | None, polygons: bool, crowds: bool = False) -> tuple:
    """(list of Annotated, class names, problems) of a COCO JSON file. Raises IngredientsError if it is none.

    find: `find(file_name) -> path or None` of an image; crowds: read groups of objects as well (iscrowd)
    """
    import json

    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        categories = {item["id"]: item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}
        listed, objects = {item["id"]: item["file_name"] for item in content["images"]}, content["annotations"]
        sizes = {item["id"]: [str(item.get(side)) for side in ("height", "width")] for item in content["images"]}
        hash(tuple((item.get("image_id"), item.get("category_id")) for item in objects))  # ids are no lists
        if not all(isinstance(name, str) for name in (*listed.values(), *categories.values())):
            raise TypeError("a file_name or the name of a category is not a string")
    except OSError as error:
        raise IngredientsError(f"{annotations}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise IngredientsError(
            f"{annotations}: not a COCO file of images, annotations and categories: {reason}"
        ) from error
    names, problems, found = list(classes or categories.values()), [], {}
    for number, name in listed.items():
        path = find(name.replace("\\", "/"))
        if path is None:
            problems.append(f"{annotations}: there is no image {name}")
        elif one := _open(str(path), problems):
            _refuse_turned(one, annotations, sizes[number], problems)
            found[number] = one
    for item in objects:
        where = f"annotation {item.get('id', '?')}"
        if item.get("image_id") not in listed:
            problems.append(f"{annotations}: {where}: there is no image of id {item.get('image_id')}")
        elif item["image_id"] in found and (crowds or not item.get("iscrowd")):
            one, box, outlines = found[item["image_id"]], item.get("bbox", ()), item.get("segmentation")
            if not (isinstance(box, list) and len(box) == 4 and all(isinstance(x, int | float) for x in box)):
                problems.append(f"{annotations}: {where}: bbox is {box}, expected [x, y, width, height]")
                continue
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            name = categories.get(item.get("category_id"), f"of category id {item.get('category_id')}")
            _add(one, annotations, where, name, names, box, problems, outlines if polygons else None)
    return list(found.values()), names, problems


def image_in(images: Path):
    """`find(file_name) -> path or None` in one folder."""

    def find(name: str) -> Path | None:
        return next((path for path in (images / name, images / Path(name).name) if path.is_file()), None)

    return find


# ---------------------------------------------------------------------------------------------------------------- YOLO


@registry.load_dataset.register("load_yolo")
def load_yolo(
    images: Path,
    labels: Path,
    split: Literal["training", "validation", "testing"] = "training",
    classes: list[str] | None = None,
    image_size: list[int] | None = None,
    masks: bool = False,
    memory: float = 2.0,
):
    """`load() -> BoxedImages`: images with text files of YOLO, lines `class x y width height` or `class x1 y1 x2 ...`.

    images, labels: folders with the same file names; of folders in them named after splits (train2017, val, ...) that
        of `split` is read, without such folders everything is for training. An image without a text file has no
        objects; a text file without an image is ignored, unless no image has one
    classes: names in the order of their numbers; None: numbers up to the largest one in the files
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    masks: keep the polygons as well, for instance segmentation
    memory: GB (1e9 bytes) of decoded images to keep; a larger set is read from disk as needed
    """
    refuse_size(image_size)

    def load(memory: float | None = memory) -> BoxedImages:
        found, names, problems = read_yolo(Path(images), Path(labels), split, classes, masks)
        return checked(found, names, problems, image_size, masks, memory, labels)

    load.check = lambda: load(memory=None)
    return load


def read_yolo(images: Path, labels: Path, split: str, classes: list[str] | None, polygons: bool) -> tuple:
    """(list of Annotated, class names, problems) of YOLO text files."""
    found, problems, lines = [], [], []
    folder, label_folder = split_folder(images, split), split_folder(labels, split)
    texts = {bare(file, label_folder): file for file in find_files(label_folder, ".txt")}
    for path in find_files(folder):
        file, one = texts.pop(bare(path, folder), None), _open(path, problems)
        if one is None:
            continue
        found.append(one)
        for number, line in enumerate(_read_text(file, problems).splitlines() if file else (), 1):
            lines += [(one, file, f"line {number}", line.split())] if line.strip() else []
    if texts and not lines:  # a few are left over in many sets; all of them is a mistake
        problems += [f"{file}: there is no image of this name in {folder}" for file in texts.values()]
    numbers = [int(words[0]) for _, _, _, words in lines if words[0].isdecimal()]
    names = list(classes or map(str, range(max(numbers, default=0) + 1)))
    for one, file, where, (label, *rest) in lines:
        try:
            values = [float(word) for word in rest]
        except ValueError:
            values = []
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            expected = "expected 4 of a box, or a polygon of 3 points or more"
            problems.append(f"{file}: {where}: {len(rest)} values after the class, {expected}")
            continue
        if polygons and len(values) == 4:
            problems.append(f"{file}: {where}: a box, expected a polygon of 3 points or more")
            continue
        (height, width), outline = one.size, None
        if len(values) == 4:
            x, y, w, h = values
            box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        else:
            xs, ys = [x * width for x in values[::2]], [y * height for y in values[1::2]]
            box, outline = (
                [min(xs), min(ys), max(xs), max(ys)],
                [value for point in zip(xs, ys, strict=True) for value in point],
            )
        number = int(label) if label.isdecimal() else -1
        name = names[number] if 0 <= number < len(names) else f"number {label}"
        _add(one, file, where, name, names, box, problems, [outline] if polygons else None)
    return found, names, problems


# ------------------------------------------------------------------------------------------------------------- helpers


def bare(path: str, folder: Path) -> str:
    """The path of a file in a folder, without its suffix."""
    return os.path.splitext(os.path.relpath(path, folder))[0]


def _open(path: str, problems: list) -> Annotated | None:
    """An image without objects yet, or a problem if it cannot be read."""
    try:
        return Annotated(path, read_header(path, complete=True)[:2])
    except IngredientsError as error:
        problems.append(str(error))


def _refuse_turned(one: Annotated, file, size: list, problems: list) -> None:
    """A problem if an image was annotated as it is stored, in `size`, but its EXIF tag turns it on its side."""
    upright = [str(side) for side in one.size]
    if size == upright[::-1] != upright:  # some files give width for height: only the tag decides
        with open_image(one.path) as image:
            if size == [str(image.height), str(image.width)]:
                message = "was annotated as it is stored, but its EXIF tag turns it; remove that tag from the image"
                problems.append(f"{file}: {one.path} {message}")


def _read_text(file: str, problems: list) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return ""


def split_folder(folder: Path, split: str) -> Path:
    """The folder of a split in `folder`, such as train, train2017 or val; `folder` for training if there is none."""
    if not folder.is_dir():
        raise IngredientsError(f"{folder}: there is no such folder")
    inner = sorted(path for path in folder.iterdir() if is_visible(path.name) and path.is_dir())
    splits = {
        known: [path for path in inner if path.name.lower().rstrip("0123456789") in SPLITS[known]] for known in SPLITS
    }
    if len(splits[split]) > 1:
        raise IngredientsError(f"{folder}: {' and '.join(path.name for path in splits[split])} are the same split")
    if splits[split]:
        return splits[split][0]
    if any(splits.values()) or split != "training":
        raise IngredientsError(f"{folder}: there is no {' or '.join(SPLITS[split])} in it")
    return folder


def _add(one: Annotated, file, where: str, name: str, names: list, box, problems: list, outlines=None) -> None:
    """Add an object, or a problem. A box may reach one pixel beyond the image, from rounding, and is clipped."""
    before = len(problems)
    if name not in names:
        problems.append(f"{file}: {where}: there is no class {name}. {suggest(name, names)}")
    try:
        box = [float(value) for value in box]
    except (TypeError, ValueError, OverflowError):
        box = [math.nan]
    if not all(map(math.isfinite, box)):
        problems.append(f"{file}: {where}: a corner of the box is not a number")
        return
    (height, width), (x1, y1, x2, y2) = one.size, box
    size = f"({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
    if x2 < x1 or y2 < y1:
        problems.append(f"{file}: {where}: the box {size} is reversed, expected x1 < x2 and y1 < y2")
    elif min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
        problems.append(f"{file}: {where}: the box {size} reaches beyond the image of {width} x {height} pixels")
    elif min(x2, width) - max(x1, 0) <= 0 or min(y2, height) - max(y1, 0) <= 0:
        problems.append(f"{file}: {where}: the box {size} has no area")
    if isinstance(outlines, dict):
        try:
            if decode_runs(outlines).shape != one.size:
                problems.append(f"{file}: {where}: its run lengths are of {outlines['size']}, the image of {one.size}")
        except (KeyError, ValueError, TypeError) as error:
            problems.append(f"{file}: {where}: these are not run lengths of a mask: {error}")
    elif outlines is not None and not (isinstance(outlines, list) and outlines and all(map(_is_outline, outlines))):
        problems.append(f"{file}: {where}: a polygon needs 3 points or more")
    if len(problems) == before:
        one.boxes.append([max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))])
        one.labels.append(names.index(name))
        one.polygons += [] if outlines is None else [outlines]


def _is_outline(line) -> bool:
    return isinstance(line, list) and len(line) >= 6 and all(isinstance(value, int | float) for value in line)


def checked(found: list, names: list, problems: list, image_size, masks: bool, memory, where) -> BoxedImages:
    """The data set, or one error with all problems."""
    refuse(problems)
    if not found:
        raise IngredientsError(f"{where}: describes no image ({' '.join(IMAGE_SUFFIXES)})")
    return BoxedImages(found, names, image_size, masks, memory)
