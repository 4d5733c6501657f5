"""Boxes as people have them: one folder in the layout of Pascal VOC, COCO or YOLO, which is found out."""

import json
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from core import IngredientsError, registry
from pantry.boxes import BoxedImages, checked, read_coco, read_voc, read_yolo, refuse_size
from pantry.images import SPLITS, NotHere, find_images

LAYOUT = "Expected images and annotations of the same names, such as {0}/images/1.jpg and {0}/annotations/1.xml"
KINDS = {".xml": "Pascal VOC", ".json": "COCO", ".txt": "YOLO"}  # the suffix of annotations, in order of preference


class Part(NamedTuple):
    """A folder of images with its annotations: a folder, or a file of COCO."""

    split: str | None
    images: Path
    annotations: Path


@registry.load_dataset.register("load_box_folder")
def load_box_folder(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    image_size: list[int] | None = None,
    masks: bool = False,
    optional: bool = False,
    memory: float = 2.0,
):
    """`load() -> BoxedImages`: the images of a split anywhere below `source`, with annotations of VOC, COCO or YOLO.

    source: a folder; splits are those that folders or COCO files are named after (train, train2017, valid, test, ...),
        or text files of names such as train.txt or ImageSets/Main/val.txt; without any all is for training
    image_size: [height, width] in pixels to resize images to, aspect ratio kept; None: no resizing
    masks: read polygons as well (COCO, YOLO), for instance segmentation
    optional: return None if there is no such split
    memory: GB (1e9 bytes) of decoded images to keep; a larger set is read from disk as needed

    Raises IngredientsError if there are no annotations, or with all that cannot be used.
    """
    refuse_size(image_size)

    def load(memory: float | None = memory) -> BoxedImages | None:
        folder = Path(source).expanduser()
        kind, parts = find_parts(folder, polygons=masks)
        listed = read_lists(folder)
        chosen = choose(parts, listed, split)
        if not chosen and optional:
            return None
        if not chosen:
            raise IngredientsError(f"{folder}: has no images for {split}; name a folder {' or '.join(SPLITS[split])}")
        found, names, problems = [], read_names(kind, folder, parts), []
        for part in chosen:
            some, _, its_problems = read_part(kind, part, names, masks)
            found += [one for one in some if not listed or listed.get(Path(one.path).stem) == split]
            problems += its_problems
        return checked(found, names, problems, image_size, masks, memory, folder)

    load.check = lambda: load(memory=None)
    return load


def choose(parts: list[Part], listed: dict, split: str) -> list[Part]:
    """The parts with images of a split; all of them if text files list the names, or for training without splits."""
    if listed:
        return parts if split in listed.values() else []
    named = [part for part in parts if part.split]
    return [part for part in parts if part.split == split] if named else parts if split == "training" else []


def read_part(kind: str, part: Part, names: list[str] | None, polygons: bool) -> tuple:
    """(list of Annotated, class names, problems)"""
    if kind == "COCO":
        return read_coco(part.images, part.annotations, names, polygons)
    if kind == "YOLO":
        return read_yolo(part.images, part.annotations, "training", names, polygons)
    return read_voc(part.images, part.annotations, "training", names)


def read_names(kind: str, source: Path, parts: list[Part]) -> list[str]:
    """The class names of all splits, so that a class that one of them lacks has the same label everywhere."""
    if kind == "YOLO" and (numbered := read_numbered_names(source, parts[0].annotations)):
        return [numbered.get(number, str(number)) for number in range(max(numbered) + 1)]
    found = [read_part(kind, part, None, False)[1] for part in parts]
    if kind == "Pascal VOC":
        return sorted({name for names in found for name in names})
    return max(found, key=len)


# ------------------------------------------------------------------------------------------------------------- layouts


def find_parts(source: Path, polygons: bool = False) -> tuple[str, list[Part]]:
    """The kind of the annotations below `source`, and its folders of images with theirs."""
    images, _ = image_folders(source)
    for suffix, kind in KINDS.items():
        pairs = {}  # folder of images -> (how many have annotations, annotations)
        for place, stems in _annotations(source, suffix, polygons):
            for folder, own in images.items():
                pairs[folder] = max(pairs.get(folder, (0, place)), (len(own & stems), place))
        parts = [Part(split_of(source, folder, place), folder, place) for folder, (n, place) in pairs.items() if n]
        if parts:
            return kind, parts
    kinds = "XML files of Pascal VOC, JSON files of COCO, or text files of YOLO"
    raise IngredientsError(f"{source}: has images, but no annotations of the same names: expected {kinds}")


def image_folders(source: Path, layout: str = LAYOUT) -> tuple[dict[Path, set], dict[Path, set]]:
    """The folders of images below `source` with the stems of their files; and those of masks.

    Masks have the names of other images of the same split, and fewer of them, or a folder that is named after masks.
    """
    if not source.is_dir():
        raise NotHere(f"{source}: there is no such folder. {layout.format(source)}")
    found: dict[Path, set[str]] = {}
    for path in map(Path, find_images(source)):
        found.setdefault(path.parent, set()).add(path.stem)
    if not found:
        raise IngredientsError(f"{source}: there is no image in it. {layout.format(source)}")
    images, masks = {}, {}
    word = re.compile("mask|label|annotation|segment|ground.?truth", re.IGNORECASE)
    named = {folder: bool(word.search(str(folder.relative_to(source)))) for folder in found}
    for folder in sorted(found, key=lambda folder: (named[folder], -len(found[folder]), folder)):
        split = split_of(source, folder)
        is_mask = any(split == split_of(source, other) and found[folder] & images[other] for other in images)
        (masks if is_mask else images)[folder] = found[folder]
    return images, masks


def _annotations(source: Path, suffix: str, polygons: bool):
    """(folder, stems of its files), or of each COCO file (file, stems of the images that it lists)."""
    folders: dict[Path, set[str]] = {}
    for here, _, files in os.walk(source):
        for path in (Path(here, name) for name in sorted(files) if name.lower().endswith(suffix)):
            if suffix == ".json":
                try:
                    content = json.loads(path.read_text(encoding="utf-8"))
                    yield path, {Path(item["file_name"]).stem for item in content["images"] if content["annotations"]}
                except (OSError, ValueError, KeyError, TypeError, AttributeError):
                    continue  # another kind of JSON file
            elif suffix == ".xml" or not polygons or _has_polygons(path):
                folders.setdefault(path.parent, set()).add(path.stem)
    yield from folders.items()


def _has_polygons(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return len(file.readline().split()) > 6


def split_of(source: Path, *places: Path) -> str | None:
    """The split that a folder or file below `source` is named after, the innermost first."""
    for place in places:
        for part in reversed(place.relative_to(source).parts):
            words = re.findall("[a-z]+", part.lower())
            for split, known in SPLITS.items():
                if any(word in known for word in words):
                    return split
    return None


def read_lists(source: Path) -> dict[str, str]:
    """The split of each image, by the stem of its file, from text files that are named after splits."""
    listed, stems = {}, {Path(path).stem for path in find_images(source)}
    for path in sorted(source.rglob("*.txt")):
        split = next((split for split, known in SPLITS.items() if path.stem.lower() in known), None)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if split else ()
        names = [Path(line.split()[0]) for line in lines if line.strip()]
        listed |= {stem: split for name in names for stem in (name.stem, name.name) if stem in stems}
    return listed


def read_numbered_names(source: Path, labels: Path) -> dict[int, str]:
    """The class names by their numbers, from `names:` or `classes:` of a .yaml file, or the lines of classes.txt."""
    for folder in (labels, *labels.parents):
        if (file := folder / "classes.txt").is_file():
            return dict(enumerate(file.read_text(encoding="utf-8").split("\n")[:-1]))
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            after = re.split(r"^(?:names|classes):", file.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)
            after = re.split(r"\n(?=\w)", after[-1])[0] if len(after) > 1 else ""  # up to the next key
            inline = re.match(r"\s*\[([^\]]*)\]", after)
            items = inline[1].split(",") if inline else re.findall(r"^[ ]*(?:- )?[ ]*(\S.*)$", after, re.MULTILINE)
            numbered = [re.match(r"(\d+)\s*:\s*(.*)", item.strip()) for item in items]
            if items and all(numbered):
                return {int(found[1]): found[2].strip("'\" ") for found in numbered}
            if items:
                return {number: item.strip("'\" ") for number, item in enumerate(items)}
        if folder == source:
            break
    return {}
