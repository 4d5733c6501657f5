"""Masks as people have them: one folder of images with mask files, or with polygons of COCO or YOLO."""

import functools
import re
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from pantry.box_folders import (
    Item,
    folders_of,
    image_folders,
    is_of_masks,
    note_absent,
    of_split,
    read_class_names,
    read_objects,
    split_of,
)
from pantry.boxes import refuse_size
from pantry.images import open_image, processors, read_header, refuse, visit_all
from pantry.masks import MaskedImages, class_table, decode_mask, draw_masks, read_masks, read_numbers

LAYOUT = "Expected images and masks of the same names, such as {0}/images/1.jpg and {0}/masks/1.png"
MOST = 255  # classes that the bytes of a mask can name
SUFFIX = re.compile("[_-](mask|label|seg|gt)s?$", re.IGNORECASE)  # of names of masks, as 1_mask.png
FLAT = 64  # colours at most that show that an image is a mask, if it has the name of another one


@registry.load_dataset.register("load_mask_folder")
def load_mask_folder(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    image_size: list[int] | None = None,
    optional: bool = False,
    memory: float = 2.0,
):
    """`load() -> MaskedImages`: the images of a split anywhere below `source`, with mask files or polygons.

    source: a folder. A mask has the name of its image, in another folder, or with _mask behind it; its grey values,
        palette indices or colours are the classes, 255 is ignored unless all else is 0; images without a mask are left
        out. Names of the classes are read from a .yaml file or classes.txt. Without mask files polygons of COCO or YOLO
        are drawn. For splits see `load_box_folder`
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    optional: return None if there is no such split
    memory: GB (1e9 bytes) of images and masks to keep; a larger set is read from disk as needed
    """
    refuse_size(image_size)

    def load(memory: float = memory) -> MaskedImages | None:
        folder = Path(source)
        items, problems = find_masks(folder)
        if not items:
            found, names = read_objects(folder, split, optional, polygons=True, crowds=True)
            return draw_masks(found, names, [], image_size, memory, folder) if found else None
        pairs = of_split(folder, items, split, optional)
        if not pairs:
            return None
        refuse(problems)
        table, names, colours, present = find_classes(folder, tuple(item.known for item in items))
        note_absent(folder, split, names, {label for _, mask in pairs for label in present[mask]})
        decode = functools.partial(decode_mask, known=table, colours=colours)
        return read_masks(pairs, folder, decode, names, image_size, memory)

    load.check = lambda: load(memory=0.0)
    return load


def find_masks(source: Path) -> tuple[list[Item], list[str]]:
    """The images below `source` that have a mask, known: (image file, mask file); and masks without an image."""
    images, masks, found, problems = {}, [], {}, []
    folders = image_folders(source, LAYOUT)
    named = {folder: is_of_masks(source, folder) for folder in folders}
    flat = {
        folder: _is_flat(min(folders[folder].values())) if named[folder] is None else named[folder]
        for folder in folders
    }
    for folder in sorted(folders, key=flat.get):
        files = {stem: path for stem, path in folders[folder].items() if not SUFFIX.search(stem)}
        suffixed = {SUFFIX.sub("", stem): path for stem, path in folders[folder].items() if stem not in files}
        masks += [(folder, suffixed)] if suffixed else []
        if flat[folder] and folders_of(source, folder, files.keys(), images):
            masks.append((folder, files))
        elif files:
            images[folder] = files
    for folder, files in masks:
        left = files
        for place in folders_of(source, folder, files.keys(), images):
            for stem in files.keys() & images[place].keys():
                path, split = images[place][stem], split_of(source, place, folder)
                found.setdefault(path, Item(split, path, (path, files[stem])))
            left = {stem: path for stem, path in left.items() if stem not in images[place]}
        if len(left) < len(files):
            problems += [f"{path}: has no image of the same name in {source}" for path in left.values()]
    return [found[path] for path in sorted(found)], problems


def _is_flat(path: str) -> bool:
    try:
        with open_image(path) as image:
            return image.getcolors(FLAT) is not None
    except IngredientsError:
        return False


@functools.cache
def find_classes(source: Path, pairs: tuple[tuple[str, str], ...]) -> tuple[dict, list[str], bool, dict[str, set]]:
    """(class of each value in masks, names of the classes, whether values are colours, classes in each mask file)."""
    values, colours = {}, []

    def look(index: int) -> None:
        import numpy

        image_file, file = pairs[index]
        with open_image(file) as image:
            if (numbers := read_numbers(image)) is not None:
                values[file] = set(numpy.unique(numbers).tolist())
            else:
                counted = image.convert("RGB").getcolors(MOST)
                if counted is None:
                    raise IngredientsError(f"{file}: has more than {MOST} colours, so it holds no classes")
                values[file] = {colour for _, colour in counted}
                colours.append(file)
        read_header(image_file, complete=True)

    visit_all(look, len(pairs), processors())
    if colours and len(colours) < len(pairs):
        raise IngredientsError(f"{colours[0]}: is a mask of colours, but others hold class numbers")
    every = set().union(*values.values())
    ignored = set() if every <= {0, 255} else {255}  # black and white are two classes
    found = sorted(every - ignored)
    if len(found) > MOST:
        raise IngredientsError(f"{source}: its masks have {len(found)} colours, {MOST} at most can be classes")
    names = read_class_names(source, Path(pairs[0][1]).parent)
    labels = {value: label for label, value in enumerate(found)}
    alias = {255: 1, (0, 0, 0): 0, (255, 255, 255): 1} if len(found) == 2 else {}  # black and white in a list of two
    listed = [names.get(value, names.get(alias.get(value), str(value))) for value in found]
    palette, numbers = (
        ([list(colour) for colour in found], None) if colours else (None, {str(value): "" for value in found})
    )
    table = class_table(palette, numbers, None if colours or not ignored else 255)
    present = {file: {labels[value] for value in values[file] - ignored} for file in values}
    return table, listed, bool(colours), present
