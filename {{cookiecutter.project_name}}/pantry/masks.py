"""Data: images with a mask, the class of each pixel: from mask files, or drawn from polygons of COCO and YOLO files.

Each loader looks at all masks first and refuses all that are wrong at once, by file and reason. In a mask that a loader
gives, 255 is a pixel that counts nowhere. What is heavy is imported inside the functions.
"""

import math
import os
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from pantry.boxes import draw_polygons, fit, letterbox, read_coco, read_yolo, refuse, refuse_size, split_folder
from pantry.images import IMAGE_SUFFIXES, SMALL, decode_image, find_images, open_image, read_header, visit_all

IGNORED = 255  # of pixels that count nowhere


class MaskedImages:
    """A map-style data set: `dataset[i] -> (image, mask)`, uint8 tensors (3, H, W) and (H, W) of one size for all.

    A mask holds class indices, or 255 where a pixel counts nowhere.
    paths: N files; sizes: their (height, width); classes: names in the order of the indices, None: not known
    read_mask: `(index, [H, W]) -> mask` as an image of that size has it
    image_size: [H, W], to which images are brought without a change of their proportions (the rest is grey, its mask
    255), or None: as they are; memory: GB (1e9 bytes) that images and masks may take
    X: uint8 (N, 3, H, W), y: uint8 (N, H, W), or both None where they would not fit into `memory`
    """

    def __init__(self, paths: list[str], sizes: list, classes, read_mask, image_size, memory: float):
        import torch

        self.paths, self.sizes, self.classes, self.read_mask, self.X, self.targets = (
            paths,
            sizes,
            classes,
            read_mask,
            None,
            None,
        )
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
    """The height and width that `letterbox` gives an image of `size`."""
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
    """`load() -> MaskedImages`: images, and for each a PNG (or other lossless file) that holds the class of each pixel.

    images, masks: folders with the same names in them, but for their endings; where they hold folders named after
        splits (train2017, val, ...) that of `split` is read, else all is for training
    palette: colours [red, green, blue] of class 0, 1, ..., of masks in RGB; None: masks hold class numbers, as grey
        values or as indices of a palette of their own
    classes: names of class 0, 1, ...; or {"number in the files": "name", ...}, classes in this order; None: any number
        is a class, and output_classes tells how many there are
    ignore: the number, or list of numbers, of pixels that count nowhere; with a palette their colour
    unlabelled: what to do with images that have no mask
    image_size: [height, width] in pixels to bring images to, proportions kept; None: as they are
    memory: GB (1e9 bytes) that images and masks may take; a larger set is read from disk as needed

    Raises IngredientsError with all masks that are missing, of another size than their image, or of unknown classes.
    """
    refuse_size(image_size)
    known = _known(palette, classes, ignore)  # number or colour -> class

    def load(memory: float = memory) -> MaskedImages:
        pairs = _pairs(Path(images), Path(masks), split, unlabelled)
        sizes = [None] * len(pairs)

        def look(index: int) -> None:
            path, file = pairs[index]
            if file is None:
                raise IngredientsError(f"{path}: there is no mask of its name in {masks}; or set unlabelled = skip")
            mask, size = _decode_mask(file, known, palette is not None), read_header(path)[:2]
            if mask.shape != size:
                shapes = [" x ".join(map(str, shape)) for shape in (mask.shape, size)]
                raise IngredientsError(f"{file}: has {shapes[0]} pixels, but its image {path} has {shapes[1]}")
            sizes[index] = size

        visit_all(look, len(pairs), min(os.cpu_count() or 1, 8))

        def read_mask(index: int, size):
            import torch
            import torch.nn.functional as F

            mask = torch.from_numpy(_decode_mask(pairs[index][1], known, palette is not None))
            return F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]

        names = classes.values() if isinstance(classes, dict) else classes
        names = None if names is None else list(names)
        return MaskedImages([path for path, _ in pairs], sizes, names, read_mask, image_size, memory)

    load.check = lambda: load(memory=0.0)  # all masks are looked at, but no image is read
    return load


def _known(palette, classes, ignore) -> dict[int, int]:
    """The class of each number in a mask file, or of each colour as a number."""
    count = len(classes or palette or range(255))
    if count > 255:
        raise ValueError(f"classes: {count} of them are more than the 255 that bytes can tell beside those ignored")
    if palette is not None:
        if classes is not None and len(classes) != len(palette):
            raise ValueError(f"palette: {len(palette)} colours, but {len(classes)} classes; write a colour for each")
        if isinstance(classes, dict):
            raise ValueError("classes: with a palette write a list of names, in the order of the colours")
        ignored = [ignore] if isinstance(ignore, list) else []
        if wrong := [one for one in [*palette, *ignored] if len(one) != 3 or not 0 <= min(one) <= max(one) <= 255]:
            raise ValueError(f"palette: {wrong[0]} is no colour; write [red, green, blue], each from 0 to 255")
        numbers, ignored = [_colour(*one) for one in palette], [_colour(*one) for one in ignored]
        if len(set(numbers)) < len(numbers):
            raise ValueError("palette: a colour stands for two classes")
    else:
        ignored = ignore if isinstance(ignore, list) else [] if ignore is None else [ignore]
        try:
            numbers = [int(number) for number in classes] if isinstance(classes, dict) else list(range(count))
        except ValueError:
            raise ValueError('classes: write {"number in the files": "name", ...}, or a list of names') from None
        if wrong := [one for one in [*numbers, *ignored] if not 0 <= one <= 255]:
            raise ValueError(f"classes, ignore: {wrong[0]} is no number of a mask of bytes, 0 to 255")
    return {number: index for index, number in enumerate(numbers)} | dict.fromkeys(ignored, IGNORED)


def _colour(red, green, blue):
    return (red * 256 + green) * 256 + blue


def _pairs(images: Path, masks: Path, split: str, unlabelled: str) -> list[tuple]:
    """(image file, mask file or None) by name. Raises IngredientsError with all masks that have no image."""
    image_folder, mask_folder = split_folder(images, split), split_folder(masks, split)
    by_name = {_name(file, mask_folder): file for file in find_images(mask_folder)}
    pairs = [(path, by_name.pop(_name(path, image_folder), None)) for path in find_images(image_folder)]
    refuse([f"{file}: there is no image of its name in {image_folder}" for file in by_name.values()])
    pairs = [pair for pair in pairs if pair[1] or unlabelled == "refuse"]
    if not pairs:
        what = "no image" if unlabelled == "refuse" else "no image that has a mask"
        raise IngredientsError(f"{image_folder}: there is {what} in it ({' '.join(IMAGE_SUFFIXES)})")
    return pairs


def _name(path: str, folder: Path) -> str:
    return os.path.splitext(os.path.relpath(path, folder))[0]


def _decode_mask(file: str, known: dict[int, int], colours: bool):
    """A mask file as an array (H, W) of bytes: classes, or 255. Raises IngredientsError with unknown values."""
    import numpy

    with open_image(file) as image:
        if colours:
            numbers = _colour(*numpy.moveaxis(numpy.asarray(image.convert("RGB"), dtype=numpy.int32), 2, 0))
        elif image.mode in ("L", "P", "1"):
            numbers = numpy.asarray(image, dtype=numpy.uint8)
        else:
            raise ValueError(f"a mask of colours (mode {image.mode}) needs their classes: set palette")
    order = numpy.array(sorted(known))
    at = numpy.searchsorted(order, numbers).clip(max=len(order) - 1)
    if (wrong := order[at] != numbers).any():
        values = numpy.unique(numbers[wrong]).tolist()
        said = [str([value >> 16, value >> 8 & 255, value & 255] if colours else value) for value in values[:5]]
        said = f"{', '.join(said)}{', …' if len(values) > 5 else ''}"
        raise IngredientsError(f"{file}: {int(wrong.sum())} pixels are {said}, which is no class and not ignored")
    return numpy.array([known[number] for number in order.tolist()], dtype=numpy.uint8)[at]


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

    Class 0 is the background, class 1 the first name, and so on; the arguments are those of `load_coco`.
    """
    refuse_size(image_size)

    def load(memory: float = memory) -> MaskedImages:
        return _drawn(*read_coco(Path(images), Path(annotations), classes, True), image_size, memory, annotations)

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

    Class 0 is the background, class 1 the first name, and so on; the arguments are those of `load_yolo`.
    """
    refuse_size(image_size)

    def load(memory: float = memory) -> MaskedImages:
        return _drawn(*read_yolo(Path(images), Path(labels), split, classes, True), image_size, memory, labels)

    load.check = lambda: load(memory=0.0)
    return load


def _drawn(found: list, names: list[str], problems: list[str], image_size, memory: float, where) -> MaskedImages:
    """The data set of `Annotated` images, or one error with all that is wrong."""
    refuse(problems)
    if not found:
        raise IngredientsError(f"{where}: no image is described in it ({' '.join(IMAGE_SUFFIXES)})")

    def read_mask(index: int, size):
        import torch

        one, mask = found[index], torch.zeros(size, dtype=torch.uint8)
        for label, outlines in zip(one.labels, one.polygons, strict=True):
            mask[draw_polygons(outlines, fit(one.size, size), size) > 0] = label + 1
        return mask

    paths, sizes = [one.path for one in found], [one.size for one in found]
    return MaskedImages(paths, sizes, ["background", *names], read_mask, image_size, memory)
