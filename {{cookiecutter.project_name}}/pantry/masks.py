"""Data: images with a mask, the class of each pixel: from mask files, or drawn from polygons of COCO and YOLO files.

Each loader reads all masks first and raises one error that lists every mistake in them, by file and reason. In the
masks that loaders return, 255 is a pixel to ignore. Heavy modules are imported inside the functions.
"""

import math
import os
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from pantry.boxes import (
    bare,
    draw_polygons,
    fit,
    image_in,
    letterbox,
    read_coco,
    read_yolo,
    refuse_size,
    split_folder,
)
from pantry.images import (
    DEEP,
    IMAGE_SUFFIXES,
    SMALL,
    decode_image,
    find_files,
    open_image,
    read_header,
    refuse,
    visit_all,
)

IGNORED = 255  # in masks


class MaskedImages:
    """A map-style data set: `dataset[i] -> (image, mask)`, uint8 tensors (3, H, W) and (H, W) of one size for all.

    A mask holds class indices, or 255 for pixels to ignore.
    paths: N files; sizes: their (height, width); classes: names in the order of the indices, None: not known
    read_mask: `(index, [H, W]) -> mask`, resized to that
    image_size: [H, W], to which images are resized with their aspect ratio kept (the rest is grey, its mask 255); None:
    no resizing
    memory: GB (1e9 bytes) of images and masks to keep
    X, targets: uint8 (N, 3, H, W) and uint8 (N, H, W); both None if they do not fit in `memory`
    """

    def __init__(self, paths: list[str], sizes: list, classes, read_mask, image_size, memory: float):
        import torch

        self.paths, self.sizes, self.classes, self.read_mask = paths, sizes, classes, read_mask
        self.X, self.targets = None, None
        if image_size is None and len(found := set(sizes)) > 1:
            raise IngredientsError(f"images are of {len(found)} sizes; set image_size = [height, width] to resize all")
        self.resized, self.image_size = image_size, list(image_size or sizes[0])
        shape = (len(paths), *self.image_size)
        if 4 * math.prod(shape) <= memory * 1e9:
            X, y = torch.empty(shape[0], 3, *shape[1:], dtype=torch.uint8), torch.empty(shape, dtype=torch.uint8)

            def read(index: int) -> None:
                X[index], y[index] = self[index]

            visit_all(read, len(paths), _threads(sizes[0]))
            self.X, self.targets = X, y

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import torch

        if self.X is not None:
            return self.X[index], self.targets[index]
        mask = torch.full(self.image_size, IGNORED, dtype=torch.uint8)
        height, width = inner_size(self.sizes[index], self.image_size)
        mask[:height, :width] = self.read_mask(index, (height, width))
        return letterbox(decode_image(self.paths[index], 3), self.image_size), mask


def inner_size(size, into) -> tuple[int, int]:
    """The height and width to which `letterbox` resizes an image of `size`."""
    scale = fit(size, into)
    return tuple(min(most, max(1, round(side * scale))) for side, most in zip(size, into, strict=True))


def _threads(size) -> int:
    return min(os.cpu_count() or 1, 8) if math.prod(size) > SMALL else 1


# ---------------------------------------------------------------------------------------------------------- mask files


@registry.load_dataset.register("load_masks")
def load_masks(
    images: Path,
    masks: Path,
    split: Literal["training", "validation", "testing"] = "training",
    palette: list[list[int]] | None = None,
    classes: list[str] | dict[str, str] | None = None,
    ignore: int | list[int] | None = 255,
    unlabelled: Literal["refuse", "skip"] = "refuse",
    image_size: list[int] | None = None,
    memory: float = 2.0,
):
    """`load() -> MaskedImages`: images, and for each a PNG (or other lossless file) with the class of each pixel.

    images, masks: folders with the same file names, whatever their suffixes; of folders in them named after splits
        (train2017, val, ...) that of `split` is read, without such folders everything is for training
    palette: colours [red, green, blue] of class 0, 1, ..., of masks in RGB; None: masks hold class numbers, as grey
        values or as indices of a palette of their own
    classes: names of class 0, 1, ...; or {"number in the files": "name", ...}, classes in this order; None: any number
        is a class, and output_classes is the number of classes
    ignore: the number, or list of numbers, of pixels to ignore; with a palette their colour
    unlabelled: what to do with images that have no mask
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    memory: GB (1e9 bytes) of images and masks to keep; a larger set is read from disk as needed

    Raises IngredientsError with all masks that are missing, of another size than their image, or of unknown classes.
    """
    refuse_size(image_size)
    known = class_table(palette, classes, ignore)  # number or colour -> class
    names = None if classes is None else list(classes.values() if isinstance(classes, dict) else classes)

    def decode(file: str):
        return decode_mask(file, known, palette is not None)

    def load(memory: float = memory) -> MaskedImages:
        pairs = pair_masks(Path(images), Path(masks), split, unlabelled)
        return read_masks(pairs, masks, decode, names, image_size, memory)

    load.check = lambda: load(memory=0.0)  # all masks are read, but no image
    return load


def read_masks(pairs: list[tuple], masks: Path, decode, names, image_size, memory: float) -> MaskedImages:
    """The data set of (image file, mask file), of which `decode(file)` gives the classes as an array (H, W)."""
    sizes = _check_masks(pairs, masks, decode)

    def read_mask(index: int, size):
        import torch
        import torch.nn.functional as F

        mask = torch.from_numpy(decode(pairs[index][1]))
        return F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]

    return MaskedImages([path for path, _ in pairs], sizes, names, read_mask, image_size, memory)


def _check_masks(pairs: list[tuple], masks: Path, decode) -> list[tuple]:
    """The (height, width) of each image. Raises IngredientsError with all masks that cannot be used."""
    sizes = [None] * len(pairs)

    def check(index: int) -> None:
        path, file = pairs[index]
        if file is None:
            raise IngredientsError(f"{path}: has no mask of the same name in {masks}; add it, or set unlabelled = skip")
        mask, sizes[index] = decode(file), read_header(path, complete=True)[:2]
        if mask.shape != sizes[index]:
            shapes = [" x ".join(map(str, shape)) for shape in (mask.shape, sizes[index])]
            raise IngredientsError(f"{file}: has {shapes[0]} pixels, but its image {path} has {shapes[1]}")

    visit_all(check, len(pairs), min(os.cpu_count() or 1, 8))
    return sizes


def class_table(palette, classes, ignore) -> dict[int, int]:
    """The class of each number in a mask file, or of each colour as a number."""
    count = len(classes or palette or range(255))
    if count > 255:
        raise ValueError(f"classes: {count} classes, at most 255 fit in a byte beside the ignored value")
    if palette is not None:
        if classes is not None and len(classes) != len(palette):
            raise ValueError(f"palette: {len(palette)} colours for {len(classes)} classes; set one for each class")
        if isinstance(classes, dict):
            raise ValueError("classes: with a palette, set a list of names in the order of the colours")
        ignored = [ignore] if isinstance(ignore, list) else []
        if wrong := [one for one in [*palette, *ignored] if len(one) != 3 or not 0 <= min(one) <= max(one) <= 255]:
            raise ValueError(f"palette: {wrong[0]} is not a colour; set [red, green, blue], each in [0, 255]")
        numbers, ignored = [_colour(*one) for one in palette], [_colour(*one) for one in ignored]
        if len(set(numbers)) < len(numbers):
            raise ValueError("palette: two classes have the same colour")
    else:
        ignored = ignore if isinstance(ignore, list) else [] if ignore is None else [ignore]
        try:
            numbers = [int(number) for number in classes] if isinstance(classes, dict) else list(range(count))
        except ValueError:
            raise ValueError('classes: must be {"number in the files": "name", ...} or a list of names') from None
        if wrong := [one for one in [*numbers, *ignored] if not 0 <= one <= 255]:
            raise ValueError(f"classes, ignore: {wrong[0]} cannot be in a mask of bytes; must be in [0, 255]")
    return {number: index for index, number in enumerate(numbers)} | dict.fromkeys(ignored, IGNORED)


def _colour(red, green, blue):
    return (red * 256 + green) * 256 + blue


def pair_masks(images: Path, masks: Path, split: str, unlabelled: str) -> list[tuple]:
    """(image file, mask file or None), matched by name. Raises IngredientsError with all masks without an image."""
    image_folder, mask_folder = split_folder(images, split), split_folder(masks, split)
    by_name = {bare(file, mask_folder): file for file in find_files(mask_folder)}
    pairs = [(path, by_name.pop(bare(path, image_folder), None)) for path in find_files(image_folder)]
    refuse([f"{file}: has no image of the same name in {image_folder}" for file in by_name.values()])
    pairs = [pair for pair in pairs if pair[1] or unlabelled == "refuse"]
    if not pairs:
        what = "no image" if unlabelled == "refuse" else "no image with a mask"
        raise IngredientsError(f"{image_folder}: contains {what} ({' '.join(IMAGE_SUFFIXES)})")
    return pairs


def decode_mask(file: str, known: dict[int, int], colours: bool):
    """A mask file as an array (H, W) of bytes: classes, or 255. Raises IngredientsError with unknown values."""
    import numpy

    with open_image(file) as image:
        if colours:
            numbers = _colour(*numpy.moveaxis(numpy.asarray(image.convert("RGB"), dtype=numpy.int32), 2, 0))
        elif (numbers := read_numbers(image)) is None:
            raise ValueError(f"a mask in colours (mode {image.mode}); set palette to their classes")
    order = numpy.array(sorted(known))
    at = numpy.searchsorted(order, numbers).clip(max=len(order) - 1)
    if (wrong := order[at] != numbers).any():
        values = numpy.unique(numbers[wrong]).tolist()
        shown = [str([value >> 16, value >> 8 & 255, value & 255] if colours else value) for value in values[:5]]
        shown = f"{', '.join(shown)}{', …' if len(values) > 5 else ''}"
        raise IngredientsError(f"{file}: {int(wrong.sum())} pixels are {shown}, neither a class nor ignored")
    return numpy.array([known[number] for number in order.tolist()], dtype=numpy.uint8)[at]


def read_numbers(image):
    """The numbers (H, W) in a mask, None if it holds colours. In a JPEG file only black and white can be told apart."""
    import numpy

    if image.format == "JPEG":
        grey = numpy.asarray(image.convert("L"))
        if ((grey > 64) & (grey < 192)).mean() > 0.01:
            raise ValueError("JPEG does not keep the classes of pixels; save masks as PNG")
        return numpy.where(grey < 128, 0, 255).astype(numpy.uint8)
    if image.mode in ("L", "P", "1"):
        return numpy.asarray(image, dtype=numpy.uint8)
    return numpy.asarray(image, dtype=numpy.int32) if image.mode in DEEP else None


# ------------------------------------------------------------------------------------------------------------ polygons


@registry.load_dataset.register("load_coco_masks")
def load_coco_masks(
    images: Path,
    annotations: Path,
    classes: list[str] | None = None,
    image_size: list[int] | None = None,
    memory: float = 2.0,
):
    """`load() -> MaskedImages`: the polygons of a COCO JSON file drawn as masks, later ones over earlier ones.

    Class 0 is the background, class 1 the first name, and so on. Arguments: see `load_coco`.
    """
    refuse_size(image_size)

    def load(memory: float = memory) -> MaskedImages:
        read = read_coco(image_in(Path(images)), Path(annotations), classes, True, crowds=True)
        return draw_masks(*read, image_size, memory, annotations)

    load.check = lambda: load(memory=0.0)
    return load


@registry.load_dataset.register("load_yolo_masks")
def load_yolo_masks(
    images: Path,
    labels: Path,
    split: Literal["training", "validation", "testing"] = "training",
    classes: list[str] | None = None,
    image_size: list[int] | None = None,
    memory: float = 2.0,
):
    """`load() -> MaskedImages`: the polygons of YOLO text files drawn as masks, later ones over earlier ones.

    Class 0 is the background, class 1 the first name, and so on. Arguments: see `load_yolo`.
    """
    refuse_size(image_size)

    def load(memory: float = memory) -> MaskedImages:
        return draw_masks(*read_yolo(Path(images), Path(labels), split, classes, True), image_size, memory, labels)

    load.check = lambda: load(memory=0.0)
    return load


def draw_masks(found: list, names: list[str], problems: list[str], image_size, memory: float, where) -> MaskedImages:
    """The data set of `Annotated` images, or one error with all problems."""
    refuse(problems)
    if not found:
        raise IngredientsError(f"{where}: describes no image ({' '.join(IMAGE_SUFFIXES)})")

    def read_mask(index: int, size):
        import torch

        one, mask = found[index], torch.zeros(size, dtype=torch.uint8)
        for label, outlines in zip(one.labels, one.polygons, strict=True):
            mask[draw_polygons(outlines, fit(one.size, size), size) > 0] = label + 1
        return mask

    paths, sizes = [one.path for one in found], [one.size for one in found]
    return MaskedImages(paths, sizes, ["background", *names], read_mask, image_size, memory)
