"""Boxes as people have them: one folder in the layout of Pascal VOC, COCO or YOLO, which is found out."""

import json
import re
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from core import IngredientsError, registry
from pantry.boxes import BoxedImages, checked, read_coco, read_voc, read_yolo, refuse_size
from pantry.images import SPLITS, NotHere, find_files, refuse

LAYOUT = "Expected images and annotations of the same names, such as {0}/images/1.jpg and {0}/annotations/1.xml"
KINDS = {".xml": "Pascal VOC", ".json": "COCO", ".txt": "YOLO"}  # the suffix of annotations, in order of preference


class Part(NamedTuple):
    """A folder of images with its annotations: a folder, or a file of COCO."""

    images: Path
    annotations: Path


class Item(NamedTuple):
    """An image, what is known of it, and the split that its folder is named after."""

    split: str | None
    path: str
    known: object


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
        folder = Path(source)
        found, names = read_objects(folder, split, optional, masks)
        return checked(found, names, [], image_size, masks, memory, folder) if found else None

    load.check = lambda: load(memory=None)
    return load


def read_objects(source: Path, split: str, optional: bool, polygons: bool, crowds: bool = False) -> tuple:
    """(list of Annotated of a split, class names of all splits). All splits are read, and refused if one is wrong."""
    kind, parts = find_parts(source, polygons)
    names = read_class_names(source, parts[0].annotations) if kind == "YOLO" else {}
    names = {number: name for number, name in names.items() if isinstance(number, int)}
    given = [names.get(number, str(number)) for number in range(max(names) + 1)] if names else None
    found, known, problems = {}, [], []  # found: by path, as those of an inner folder were read for an outer one too
    for part in parts:
        if kind == "COCO":
            find = nearest_image(source, part.annotations)
            some, own, wrong = read_coco(find, part.annotations, None, polygons, crowds)
            twice = found.keys() & {one.path for one in some}
            wrong += [f"{path}: is in {part.annotations} and in another file; keep one of them" for path in twice]
        elif kind == "YOLO":
            some, own, wrong = read_yolo(part.images, part.annotations, "training", given, polygons)
        else:
            some, own, wrong = read_voc(part.images, part.annotations, "training", None)
        for one in some:
            place = Path(one.path).parent
            places = (part.annotations, place) if kind == "COCO" else (place, part.annotations)
            found[one.path] = Item(split_of(source, *places), one.path, (one, own))
        known, problems = [*known, own], [*problems, *wrong]
    # a class that one split lacks has the same label in all of them
    names = list(dict.fromkeys(name for own in sorted(known, key=len, reverse=True) for name in own))
    names = sorted(names) if kind == "Pascal VOC" else names
    if split == "training":
        refuse(list(dict.fromkeys(problems)))
    chosen = of_split(source, list(found.values()), split, optional)
    if chosen:  # else what is wrong is reported for training
        refuse(list(dict.fromkeys(problems)))
    chosen = [replace(one, labels=[names.index(own[label]) for label in one.labels]) for one, own in chosen]
    note_absent(source, split, names, {label for one in chosen for label in one.labels})
    return chosen, names


def of_split(source: Path, items: list[Item], split: str, optional: bool) -> list:
    """What is known of the images of a split; without splits all are for training."""
    if listed := read_lists(source, items):
        chosen = [item.known for item in items if listed.get(Path(item.path).stem) == split]
    elif any(item.split for item in items):
        chosen = [item.known for item in items if item.split == split]
    else:
        chosen = [item.known for item in items if split == "training"]
    if not chosen and not optional:
        raise IngredientsError(f"{source}: has no images for {split}; name a folder {' or '.join(SPLITS[split])}")
    return chosen


def note_absent(source: Path, split: str, names: list[str], present: set[int]) -> None:
    """Print which classes cannot be learned; refuse a training split without any."""
    if split == "training" and not present:
        raise IngredientsError(f"{source}: no image for training has an object")
    absent = [name for label, name in enumerate(names) if label not in present]
    if split == "training" and absent:
        shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        print(f"note: {len(absent)} of {len(names)} classes are in no image for training: {shown}")


# ------------------------------------------------------------------------------------------------------------- layouts


def find_parts(source: Path, polygons: bool = False) -> tuple[str, list[Part]]:
    """The kind of the annotations below `source`, and its folders of images with theirs."""
    images = image_folders(source)
    for suffix, kind in KINDS.items():
        if suffix == ".json":
            parts = [Part(source, file) for file in _coco_files(source)]
        elif polygons and suffix == ".xml":
            continue
        else:
            most = {}  # folder of images -> (number of annotations, Part)
            for place, stems in _annotations(source, suffix, polygons).items():
                for folder in folders_of(source, place, stems, images):
                    count = len(stems & images[folder].keys())
                    most[folder] = max(most.get(folder, (0,)), (count, Part(folder, place)), key=lambda one: one[0])
            parts = [part for _, part in sorted(most.values(), key=lambda one: one[1])]
        if parts:
            return kind, parts
    kinds = "JSON files of COCO, or text files of YOLO"
    what, kinds = ("masks or polygons", kinds) if polygons else ("annotations", f"XML files of Pascal VOC, {kinds}")
    raise IngredientsError(f"{source}: has images, but no {what} of the same names: expected {kinds}")


def image_folders(source: Path, layout: str = LAYOUT) -> dict[Path, dict[str, str]]:
    """The folders of images below `source` with {stem: path} of their files; those named after masks come last."""
    if not source.is_dir():
        raise NotHere(f"{source}: there is no such folder. {layout.format(source)}")
    found: dict[Path, dict[str, str]] = {}
    for path in map(Path, find_files(source)):
        found.setdefault(path.parent, {})[path.stem] = str(path)
    if not found:
        raise IngredientsError(f"{source}: there is no image in it. {layout.format(source)}")
    once = {}  # a folder and links to it hold the same images
    for folder in sorted(found, key=lambda folder: folder.resolve() != source.resolve() / folder.relative_to(source)):
        once.setdefault(folder.resolve(), folder)
    order = sorted(once.values(), key=lambda folder: (bool(is_of_masks(source, folder)), -len(found[folder]), folder))
    return {folder: found[folder] for folder in order}


def is_of_masks(source: Path, folder: Path) -> bool | None:
    """Whether the innermost folder that is named after images or masks is named after masks; None: none is."""
    for name in reversed(folder.relative_to(source).parts):
        if re.search("mask|label|annot|segment|ground.?truth|(?<![a-z])gt(?![a-z])", name, re.IGNORECASE):
            return True
        if re.search("image|photo|jpe?g", name, re.IGNORECASE):
            return False
    return None


def folders_of(source: Path, place: Path, stems: set[str], images: dict) -> list:
    """The keys of `images` that a folder of annotations is for: the nearest, then others for what that one lacks."""
    found, near, split = [], set(place.parts), split_of(source, place)
    fitting = {folder for folder in images if not split or split_of(source, folder) in (None, split)}
    ranked = [folder for folder in images if folder in fitting]
    while stems and ranked:
        best = max(ranked, key=lambda folder: (len(near & set(folder.parts)), len(stems & images[folder].keys())))
        ranked.remove(best)
        if stems & images[best].keys():
            found, stems = [*found, best], stems - images[best].keys()
    return found


def _annotations(source: Path, suffix: str, polygons: bool) -> dict[Path, set[str]]:
    """The folders of annotations with the stems of their files."""
    folders: dict[Path, set[str]] = {}
    for path in map(Path, find_files(source, suffix)):
        if not polygons or _has_polygons(path):
            folders.setdefault(path.parent, set()).add(path.stem)
    return folders


def _has_polygons(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        return len(file.readline().split()) > 6


def _coco_files(source: Path) -> list[Path]:
    """The COCO files with boxes; those named instances, if there are others, such as those of key points."""
    found = []
    for path in map(Path, find_files(source, ".json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["images"] and content["categories"] and any("bbox" in item for item in content["annotations"]):
                found.append(path)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another kind of JSON file
    return [path for path in found if path.name.startswith("instances")] or found


def nearest_image(source: Path, file: Path):
    """`find(file_name) -> path or None`: of the images below `source` that is meant which shares most of the path."""
    split, by_name = split_of(source, file), {}
    for path in map(Path, find_files(source)):
        by_name.setdefault(path.name, []).append(path)

    def find(name: str) -> Path | None:
        parts = PurePath(name).parts
        wanted = {*parts, *file.parts}

        def rank(path: Path) -> tuple:
            return split_of(source, path.parent) == split, len(wanted & set(path.parts))

        return max(by_name.get(parts[-1], []), key=rank, default=None)

    return find


def split_of(source: Path, *places: Path) -> str | None:
    """The split that a folder or file below `source` is named after, the innermost first."""
    for place in places:
        for part in reversed(place.relative_to(source).parts):
            words = re.findall("[a-z]+", part.lower())
            for split, known in SPLITS.items():
                if any(word in known for word in words):
                    return split
    return None


def read_lists(source: Path, items: list[Item]) -> dict[str, str]:
    """The split of each image, by the stem of its file, from text files that are named after splits."""
    listed, stems = {}, {Path(item.path).stem for item in items}
    for path in map(Path, find_files(source, ".txt")):
        split = next((split for split, known in SPLITS.items() if path.stem.lower() in known), None)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if split else ()
        names = [Path(name) for line in lines if line.strip() for name in (line.split()[0], line.strip())]
        listed |= {stem: split for name in names for stem in (name.stem, name.name) if stem in stems}
    return listed


def read_class_names(source: Path, near: Path) -> dict:
    """The class names by number, or by colour, from the nearest file of them: see `_names_in`."""
    for folder in (near, *near.parents):
        for file in sorted(folder.iterdir()):
            if found := _names_in(file):
                return found
        if folder == source:
            break
    return {}


def _names_in(file: Path) -> dict:
    """Those of classes.txt, *.names, *.yaml with `names:` or `classes:`, _classes.csv, labelmap.txt."""
    if not re.fullmatch(r"_?classes\.(txt|csv)|labelmap\.txt|.+\.(names|ya?ml)", file.name):
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix in (".yaml", ".yml"):
        return _names_in_yaml(text)
    if file.suffix == ".csv":  # of Roboflow: number, name
        return {int(number): name for number, name in re.findall(r"^(\d+)\s*,\s*(.+?)\s*$", text, re.MULTILINE)}
    if file.name == "labelmap.txt":  # of CVAT: name:red,green,blue:parts:actions
        colours = re.findall(r"^([^#:\n]+):(\d+),(\d+),(\d+):", text, re.MULTILINE)
        return {tuple(map(int, colour)): name for name, *colour in colours}
    return dict(enumerate(map(str.strip, text.strip().splitlines())))


def _names_in_yaml(text: str) -> dict[int, str]:
    text = re.sub(r"\s#.*", "", text)
    after = re.split(r"^(?:names|classes):", text, maxsplit=1, flags=re.MULTILINE)
    after = re.split(r"\n(?=\w)", after[-1])[0] if len(after) > 1 else ""  # up to the next key
    inline = re.match(r"\s*[\[{]([^\]}]*)", after)
    items = inline[1].split(",") if inline else re.findall(r"^[ ]*(?:- )?[ ]*(\S.*)$", after, re.MULTILINE)
    items = [item.strip() for item in items if item.strip()]
    numbered = [re.match(r"['\"]?(\d+)['\"]?\s*:\s*(.*)", item) for item in items]
    if items and all(numbered):
        return {int(found[1]): found[2].strip("'\" ") for found in numbered}
    return {number: item.strip("'\" ") for number, item in enumerate(items)}
