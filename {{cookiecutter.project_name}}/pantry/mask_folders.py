"""Masks as people have them: one folder of images with mask files, or with polygons of COCO or YOLO."""

import functools
import os
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from pantry.box_folders import (
    Part,
    choose,
    find_parts,
    image_folders,
    read_lists,
    read_names,
    read_numbered_names,
    read_part,
    split_of,
)
from pantry.boxes import refuse_size
from pantry.images import SPLITS, open_image, visit_all
from pantry.masks import MaskedImages, class_table, decode_mask, draw_masks, pair_masks, read_masks

LAYOUT = "Expected images and masks of the same names, such as {0}/images/1.jpg and {0}/masks/1.png"
MOST = 255  # classes that the bytes of a mask can name


@registry.load_dataset.register("load_mask_folder")
def load_mask_folder(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    image_size: list[int] | None = None,
    optional: bool = False,
    memory: float = 2.0,
):
    """`load() -> MaskedImages`: the images of a split anywhere below `source`, with mask files or polygons.

    source: a folder. A mask has the name of its image, in another folder; its grey values, palette indices or colours
        are the classes, 255 is ignored; images without a mask are left out. Names of the classes are read from a .yaml
        file or classes.txt. Without mask files polygons of COCO or YOLO are drawn. For splits see `load_box_folder`
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    optional: return None if there is no such split
    memory: GB (1e9 bytes) of images and masks to keep; a larger set is read from disk as needed
    """
    refuse_size(image_size)

    def load(memory: float = memory) -> MaskedImages | None:
        folder = Path(source).expanduser()
        parts = find_mask_parts(folder)
        kind, parts = ("masks", parts) if parts else find_parts(folder, polygons=True)
        listed = read_lists(folder)
        chosen = choose(parts, listed, split)
        if not chosen and optional:
            return None
        if not chosen:
            raise IngredientsError(f"{folder}: has no images for {split}; name a folder {' or '.join(SPLITS[split])}")
        if kind != "masks":
            names, found, problems = read_names(kind, folder, parts), [], []
            for part in chosen:
                some, _, its_problems = read_part(kind, part, names, True)
                found += [one for one in some if not listed or listed.get(Path(one.path).stem) == split]
                problems += its_problems
            return draw_masks(found, names, problems, image_size, memory, folder)
        pairs = [pair for part in chosen for pair in pair_masks(part.images, part.annotations, "training", "skip")]
        pairs = [pair for pair in pairs if not listed or listed.get(Path(pair[0]).stem) == split]
        table, names, colours = find_classes(folder, tuple(parts))
        decode = functools.partial(decode_mask, known=table, colours=colours)
        return read_masks(pairs, folder, decode, names, image_size, memory)

    load.check = lambda: load(memory=0.0)
    return load


def find_mask_parts(source: Path) -> list[Part]:
    """The folders of images below `source` with the folders of their masks."""
    images, masks = image_folders(source, LAYOUT)
    parts = []
    for folder, stems in images.items():
        split = split_of(source, folder)
        fitting = {other: len(stems & own) for other, own in masks.items() if split_of(source, other) == split}
        if fitting and max(fitting.values()):
            parts.append(Part(split, folder, max(fitting, key=fitting.get)))
    return parts


@functools.cache
def find_classes(source: Path, parts: tuple[Part, ...]) -> tuple[dict[int, int], list[str], bool]:
    """(class of each value in the mask files of all splits, names of the classes, whether the values are colours)."""
    files = [file for part in parts for _, file in pair_masks(part.images, part.annotations, "training", "skip")]
    values, colours = [set() for _ in files], []

    def look(index: int) -> None:
        import numpy

        with open_image(files[index]) as image:
            if image.mode in ("L", "P", "1"):
                values[index] = set(numpy.unique(numpy.asarray(image, dtype=numpy.uint8)).tolist())
            else:
                counted = image.convert("RGB").getcolors(MOST)
                if counted is None:
                    raise IngredientsError(f"{files[index]}: has more than {MOST} colours, so it holds no classes")
                values[index] = {colour for _, colour in counted}
                colours.append(index)

    visit_all(look, len(files), min(os.cpu_count() or 1, 8))
    if colours and len(colours) < len(files):
        raise IngredientsError(f"{files[colours[0]]}: is a mask of colours, but others hold class numbers")
    found = sorted(set().union(*values) - {255})
    if len(found) > MOST:
        raise IngredientsError(f"{source}: its masks have {len(found)} colours, {MOST} at most can be classes")
    if colours:
        return class_table([list(colour) for colour in found], None, None), [str(colour) for colour in found], True
    names = read_numbered_names(source, parts[0].annotations)
    table = class_table(None, {str(value): "" for value in found}, 255)
    return table, [names.get(value, str(value)) for value in found], False
