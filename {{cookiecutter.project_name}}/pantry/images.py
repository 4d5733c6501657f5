"""Folders of images, and what every loader of image files needs: to find, check and decode them.

Whatever is heavy is imported inside the functions, so that reading the ingredients stays quick.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry

SPLITS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "testing": ("test", "testing"),
}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_SUFFIXES += (".heic", ".heif", ".avif")  # which have to be converted: better refused than passed over
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow starts other programs for some others
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}  # bytes near the end of a complete file
DEEP = ("I", "I;16", "I;16L", "I;16B")  # modes of Pillow for 16 bits
GREY, ALPHA = ("1", "L", "LA", "La", *DEEP), ("LA", "La", "PA", "RGBA", "RGBa")
SMALL = 128 * 128  # pixels; of smaller images threads decode half as many a second as no threads


class Arrays(tuple):
    """`(X, y)`, as a loader may return it, and what else it knows: `Arrays(X, y, classes=["no", "yes"])`.

    classes: names, in the order of their numbers; paths: of the N samples, for messages; input_format: a dict that
    `read_sample` of the task is given when something is predicted
    """

    def __new__(cls, X, y, **known):
        pair = super().__new__(cls, (X, y))
        pair.__dict__.update(known)
        return pair


LAYOUT = "Expected {0}/<class>/*.jpg, or such class folders in {0}/train/, {0}/val/ and {0}/test/"


class NotHere(IngredientsError):
    """There is no data yet where it is expected, which --check allows."""


def refuse(problems: list[str], most: int = 20) -> None:
    """Raise IngredientsError with the problems, if there are any."""
    if problems:
        more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
        raise IngredientsError("\n    ".join([*problems[:most], *more]))


def read_text(source: Path) -> str:
    """The text of a file, without the mark with which spreadsheets begin one."""
    try:
        return source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise IngredientsError(f"{source}: is not UTF-8 text; save it as CSV UTF-8") from error
    except OSError as error:
        raise IngredientsError(f"{source}: cannot be read: {error.strerror}") from error


def refuse_size(image_size: list[int] | None) -> None:
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"image_size = {image_size}: [height, width] in pixels is needed")


@registry.load_dataset.register("load_image_folder")
def load_image_folder(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    image_size: list[int] | None = None,
    channels: Literal[1, 3] | None = None,
    cache: Path | None = None,
    skip_corrupt: bool = False,
    optional: bool = False,
):
    """`load() -> ImageFolder`: the images of `<source>/<split>/<class>/`, or of `<source>/<class>/` for training.

    source: a folder; or a file for load_image_csv
    split: also found as train, val, valid or test; folders inside a class folder are read too, hidden names are not
    image_size: [height, width] in pixels to resize to; None: as in the files, which then must agree
    channels: 1 grey, 3 RGB; None: 1 if every image is grey, else 3
    cache: folder for decoded images, one file a split, made anew when an image changes; None: decode them each time
    skip_corrupt: leave out images that cannot be read, and print how many; all are decoded once to find them
    optional: return None if there is no such split

    Raises IngredientsError with all folders, or all images, that cannot be used.
    """
    refuse_size(image_size)
    source = Path(source)

    def load(fill: bool = True) -> ImageFolder | None:
        if source.is_file():
            settings = {"image_size": image_size, "channels": channels, "skip_corrupt": skip_corrupt}
            settings["cache"] = cache if fill else None
            return registry.load_dataset.get("load_image_csv")(source, split, optional=optional, **settings)()
        found = list_images(source, split, optional)
        return found and ImageFolder(*found, image_size, channels, cache, skip_corrupt, fill)

    load.check = lambda: load(fill=False)  # looks at the files, decodes none
    return load


class ImageFolder:
    """A map-style data set of image files: `dataset[i] -> (uint8 tensor (C, H, W), target)`.

    classes: names, in the order of the class indices; paths: of the N files; targets: class indices (N,), or floats
        (N, K) of K labels each
    resized: [H, W] to which images are brought, None: as they are; threads: how many may read at once
    fill: whether to fill a cache that is not there, or to do without
    """

    def __init__(
        self, classes, paths, labels, image_size=None, channels=None, cache=None, skip_corrupt=False, fill=True
    ):
        import torch

        self.classes, self.paths, self.targets = classes, paths, torch.tensor(labels)
        self.resized, self.image_size, self.channels = image_size, image_size, channels
        self.wanted, self.skip_corrupt, self.cached = (image_size, channels), skip_corrupt, None
        if cache is not None:
            from pantry.image_sets import open_cache

            self.cached = open_cache(Path(cache), self, visit_all, fill)
        if self.cached is None:
            self.check()
        else:
            self.channels, self.threads = self.cached.shape[1], 1

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import torch

        if self.cached is not None:
            return torch.from_numpy(self.cached[index].copy()), self.targets[index]
        return decode_image(self.paths[index], self.channels, self.image_size), self.targets[index]

    def check(self) -> None:
        """Refuse files that are damaged, as far as header and end tell; find out size and channels of the images."""
        if self.skip_corrupt:
            from pantry.image_sets import skip_corrupt

            good = skip_corrupt(self.paths, decode_image, visit_all, processors())
            self.paths, self.targets = [self.paths[index] for index in good], self.targets[good]
        headers = visit_all(lambda index: read_header(self.paths[index], complete=not self.skip_corrupt), len(self))
        height, width, _ = headers[0]
        if self.image_size is None:
            first = f"but {self.paths[0]} has {height} x {width}; set image_size = [height, width] to resize all"
            sizes = zip(self.paths, headers, strict=True)
            refuse([f"{path}: {h} x {w} pixels, {first}" for path, (h, w, _) in sizes if (h, w) != (height, width)], 10)
        self.image_size = self.image_size or [height, width]
        self.channels = self.channels or max(channels for *_, channels in headers)
        self.threads = processors() if height * width > SMALL else 1


def processors(most: int = 16) -> int:
    """How many processors this process may use."""
    try:
        return min(len(os.sched_getaffinity(0)), most)
    except AttributeError:  # not on this system
        return min(os.cpu_count() or 1, most)


def visit_all(visit, n: int, threads: int = 1) -> list:
    """`[visit(0), ..., visit(n - 1)]`, under a bar. Raises IngredientsError with all that could not be visited."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    def attempt(index: int):
        try:
            return visit(index)
        except IngredientsError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        visited = (pool.map if threads > 1 else map)(attempt, range(n))
        visited = list(tqdm(visited, "reading", n, leave=False, disable=None, mininterval=0.5))
    problems = [str(error) for error in visited if isinstance(error, IngredientsError)]
    refuse([f"{len(problems)} of {n} samples cannot be used:", *problems] if problems else [], most=11)
    return visited


# ------------------------------------------------------------------------------------------------------------ decoding


def decode_image(path: str | Path, channels: int, image_size: list[int] | None = None):
    """One image file as a uint8 tensor (C, H, W): upright by its EXIF tag, on white where it is transparent.

    channels: 1 or 3; image_size: [height, width] in pixels to resize to, bilinear, or None
    Of 16 bits the upper 8 are taken: 0 to 65535 becomes 0 to 255.
    Raises IngredientsError naming a file that is missing, damaged, no image, or of floats.
    """
    import numpy
    import torch
    from PIL import Image, ImageOps

    with open_image(path) as image:
        if image_size:  # JPEG files decode several times as fast to a fraction of their size, here to twice that needed
            image.draft(None, (2 * max(image_size),) * 2)
        image.load()  # PNG may keep its tags behind the pixels
        if image.info or image.format != "PNG":  # a tenth of the time of a small image goes into looking for tags
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in DEEP:
            is_inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0  # white is zero, which Pillow overlooks
            deep = numpy.asarray(image) ^ (65535 * is_inverted)
            opaque = 255 * (deep != image.info.get("transparency"))
            image = Image.fromarray(numpy.stack([deep >> 8, opaque], 2).astype(numpy.uint8))
        if image.mode in ALPHA or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        pixels = torch.from_numpy(numpy.array(image.convert("RGB" if channels == 3 else "L")))
    pixels = pixels.permute(2, 0, 1) if channels == 3 else pixels[None]
    if image_size and list(pixels.shape[1:]) != list(image_size):  # by torch, in a third of Pillow's time
        resize = torch.nn.functional.interpolate
        pixels = resize(pixels[None], size=tuple(image_size), mode="bilinear", antialias=True)[0]
    return pixels.contiguous()


def read_header(path, complete: bool = False) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of an image, without decoding it.

    complete: decode it after all if it does not end as its format does, so that a file that was cut off is refused
    """
    with open_image(path) as image:
        width, height = image.size
        channels = 1 if image.mode in GREY else 3
        tagged = image.format != "PNG" or "exif" in image.info  # a PNG without them would be decoded to search on
        if tagged and image.getexif().get(0x0112, 1) >= 5:  # orientation: on its side
            width, height = height, width
        if complete:
            image.fp.seek(-min(os.path.getsize(path), 1024), os.SEEK_END)
            if image.format not in ENDS or ENDS[image.format] not in image.fp.read():
                decode_image(path, channels)
        return height, width, channels


@contextmanager
def open_image(path):
    """The Pillow image, header read, pixels not; whatever goes wrong with it becomes an IngredientsError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # these hold 16 bits
                raise ValueError(f"the range of its values is unknown (mode {image.mode}); save it with 8 or 16 bits")
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")) or max(image.size) > 1_000_000:
                raise ValueError(f"{image.size} pixels are more than PIL.Image.MAX_IMAGE_PIXELS, or 1,000,000 a side")
            yield image
    except IngredientsError:
        raise
    except UnidentifiedImageError as error:
        raise IngredientsError(f"{path}: this is no image of a known format ({', '.join(IMAGE_FORMATS)})") from error
    except Exception as error:  # damaged images raise anything from SyntaxError to struct.error
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise IngredientsError(f"{path}: the image cannot be read: {reason}") from error


# ------------------------------------------------------------------------------------------------------------- finding


def list_images(source: Path, split: str, optional: bool = False) -> tuple | None:
    """Names of the classes, paths of the images, class index of each; or one error with all that is wrong.

    None if there is no such split and it is `optional`.
    """
    folders = _find_splits(source)
    if split not in folders and optional:
        return None
    if split not in folders:
        wanted = " or ".join(f"{name}/" for name in SPLITS[split])
        raise IngredientsError(f"{source}: there is no {wanted} in it, but {_held(source)}")
    folder = folders[split]
    images = {name: find_files(folder / name) for name in _subfolders(folder)}
    if not images:
        tables = sorted(folder.glob("*.csv"))
        advice = f"If {tables[0]} lists them, write it as source" if tables else LAYOUT.format(source)
        raise IngredientsError(f"{folder}: there are no class folders in it, but {_held(folder)}. {advice}")
    inner = [folder / name for name in images if len(_find_splits(folder / name)) > 1]
    inner = inner or [folder / name for name in images if len(images) == 1 and len(_subfolders(folder / name)) > 1]
    if folder == source and inner:
        raise IngredientsError(f"{source}: is one folder too high; write source = {inner[0]}")
    training = folders.get("training", folder)
    names = _subfolders(training)
    suffixes = " ".join(IMAGE_SUFFIXES)
    empty = [folder / name for name in images if not images[name]]
    empty = empty if folder == training or len(empty) == len(images) else []  # another split may lack classes
    problems = [f"{path}: there is no image in this class folder ({suffixes}), but {_held(path)}" for path in empty]
    if only := [name for name in images if name not in names]:
        problems.append(f"{folder}: {training} has no such classes: {', '.join(only)}")
    refuse(problems)
    paths = [path for name in names for path in images.get(name, ())]
    labels = [index for index, name in enumerate(names) for _ in images.get(name, ())]
    return names, paths, labels


def _find_splits(source: Path) -> dict[str, Path]:
    """Split -> its folder; a source without any is a training folder itself."""
    if not source.is_dir():
        near = next(parent for parent in source.absolute().parents if parent.is_dir())
        raise NotHere(f"{source}: there is no such folder; {near} holds {_held(near)}. {LAYOUT.format(source)}")
    inside = _subfolders(source)
    found = {split: [name for name in inside if name.lower() in SPLITS[split]] for split in SPLITS}
    named = sum(found.values(), [])
    if len(named) < len(inside) and not any(_subfolders(source / name) for name in named):
        return {"training": source}  # of cars, trains and buses
    double = [" and ".join(names) for names in found.values() if len(names) > 1]
    refuse([f"{source}: {names} mean the same split; keep one of them" for names in double])
    return {split: source / names[0] for split, names in found.items() if names} or {"training": source}


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:  # which know what they are: a folder of a class may hold thousands of files
        return sorted(entry.name for entry in entries if is_visible(entry.name) and entry.is_dir())


def find_files(folder: Path, suffixes: str | tuple[str, ...] = IMAGE_SUFFIXES, onerror=None) -> list[str]:
    """The files of these suffixes in a folder and those in it, sorted, without hidden ones; onerror: of os.walk."""
    found = []
    for here, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        around = {Path(here).resolve(), *Path(here).resolve().parents}  # a link to one of these would never end
        folders[:] = [name for name in folders if is_visible(name) and Path(here, name).resolve() not in around]
        found += [os.path.join(here, name) for name in files if is_visible(name) and name.lower().endswith(suffixes)]
    return sorted(found)


def _held(folder: Path, most: int = 10) -> str:
    names = sorted(path.name for path in folder.iterdir() if is_visible(path.name))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
