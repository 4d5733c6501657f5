"""Folders of images, and what every loader of image files needs: to find, check and decode them.

Whatever is heavy is imported inside the functions, so that reading the ingredients stays quick.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from pantry.download import is_visible

registry.create("load_dataset")

SPLITS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "testing": ("test", "testing"),
}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow starts other programs for some others
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}  # bytes near the end of a complete file
GREY, ALPHA = ("1", "L", "LA", "La"), ("LA", "La", "PA", "RGBA", "RGBa")  # modes of Pillow
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


def refuse(problems: list[str], most: int = 20) -> None:
    """Raise IngredientsError with the problems, if there are any."""
    if problems:
        more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
        raise IngredientsError("\n    ".join([*problems[:most], *more]))


@registry.load_dataset.register("load_image_folder")
def load_image_folder(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    image_size: list[int] | None = None,
    channels: Literal[1, 3] | None = None,
    cache: Path | None = None,
):
    """`load() -> ImageFolder`: the images of `<source>/<split>/<class>/`, or of `<source>/<class>/` for training.

    split: also found as train, val, valid or test; folders inside a class folder are read too, hidden names are not
    image_size: [height, width] in pixels to resize to; None: as in the files, which then must agree
    channels: 1 grey, 3 RGB; None: 1 if every image is grey, else 3
    cache: folder for decoded images, one file a split, made anew when an image changes; None: decode them each time

    Raises IngredientsError with all folders, or all images, that cannot be used.
    """
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"image_size = {image_size}: [height, width] in pixels is needed")

    def load(cache: Path | None = cache) -> ImageFolder:
        return ImageFolder(*list_images(Path(source), split), image_size, channels, cache)

    load.check = lambda: load(cache=None)  # looks at the files, decodes none
    return load


class ImageFolder:
    """A map-style data set of image files: `dataset[i] -> (uint8 tensor (C, H, W), target)`.

    classes: names, in the order of the class indices; paths: of the N files; targets: class indices (N,)
    resized: [H, W] to which images are brought, None: as they are; threads: how many may read at once
    """

    def __init__(self, classes, paths, labels, image_size=None, channels=None, cache: Path | None = None):
        import numpy
        import torch

        self.classes, self.paths, self.targets = classes, paths, torch.tensor(labels)
        self.resized, self.image_size, self.channels = image_size, image_size, channels
        self.threads, self.cached = 1, None
        file = cache and Path(cache) / f"{_fingerprint(paths, image_size, channels)}.npy"
        if not (file and file.exists()):
            self._check()
            if file:
                self._fill(file)
        if file:
            self.cached, self.threads = numpy.load(file, mmap_mode="r"), 1  # (N, C, H, W)
            self.channels = self.cached.shape[1]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import torch

        if self.cached is not None:
            return torch.from_numpy(self.cached[index].copy()), self.targets[index]
        return decode_image(self.paths[index], self.channels, self.image_size), self.targets[index]

    def _check(self) -> None:
        """Check all files and find out their size and channels."""
        headers = visit_all(lambda index: read_header(self.paths[index], complete=True), len(self))
        height, width, _ = headers[0]
        if self.image_size is None:
            first = f"but {self.paths[0]} has {height} x {width}; set image_size = [height, width] to resize all"
            sizes = zip(self.paths, headers, strict=True)
            refuse([f"{path}: {h} x {w} pixels, {first}" for path, (h, w, _) in sizes if (h, w) != (height, width)], 10)
        self.image_size = self.image_size or [height, width]
        self.channels = self.channels or max(channels for *_, channels in headers)
        self.threads = min(os.cpu_count() or 1, 8) if height * width > SMALL else 1

    def _fill(self, file: Path) -> None:
        """Decode all images into the file of a cache."""
        import numpy

        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            shape = (len(self), self.channels, *self.image_size)
            pixels = numpy.lib.format.open_memmap(part, mode="w+", dtype=numpy.uint8, shape=shape)
            visit_all(lambda index: pixels.__setitem__(index, self[index][0]), len(self), self.threads)
            pixels.flush()
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def _fingerprint(paths: list[str], image_size, channels) -> str:
    """What decoded images depend on: the files, by name, size and time of change, and what is made of them."""
    import hashlib

    digest = hashlib.sha256(repr((2, image_size, channels, os.getcwd())).encode())  # 2: the format of the cache
    for path in paths:
        status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


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
    Raises IngredientsError naming a file that is missing, damaged, no image, 16-bit or float.
    """
    import numpy
    import torch
    from PIL import Image, ImageOps

    with open_image(path) as image:
        image.load()  # PNG may keep its tags behind the pixels
        if image.info or image.format != "PNG":  # a tenth of the time of a small image goes into looking for tags
            ImageOps.exif_transpose(image, in_place=True)
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
            if image.mode[0] in "IF":
                raise ValueError(f"16-bit and float images (mode {image.mode}) lose their range; save it with 8 bits")
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):  # Pillow only warns
                raise ValueError(f"{image.width} x {image.height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS")
            yield image
    except IngredientsError:
        raise
    except UnidentifiedImageError as error:
        raise IngredientsError(f"{path}: this is no image of a known format ({', '.join(IMAGE_FORMATS)})") from error
    except Exception as error:  # damaged images raise anything from SyntaxError to struct.error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise IngredientsError(f"{path}: the image cannot be read: {reason}") from error


# ------------------------------------------------------------------------------------------------------------- finding


def list_images(source: Path, split: str) -> tuple[list[str], list[str], list[int]]:
    """Names of the classes, paths of the images, class index of each; or one error with all that is wrong."""
    folders = _find_splits(source)
    if split not in folders:
        advice = "; all its class folders count as training" if folders.get("training") == source else ""
        wanted = " or ".join(f"{name}/" for name in SPLITS[split])
        raise IngredientsError(f"{source}: there is no {wanted} in it, but {_held(source)}{advice}")
    folder, training = folders[split], folders.get("training", folders[split])
    images = {name: find_images(folder / name) for name in _subfolders(folder)}
    problems = [] if images else [f"{folder}: there are no class folders in it, but {_held(folder)}"]
    suffixes = " ".join(IMAGE_SUFFIXES)
    problems += [
        f"{folder / name}: there is no image in this class folder ({suffixes})" for name in images if not images[name]
    ]
    for here, there in ((folder, training), (training, folder)) if images else ():
        if only := sorted({*_subfolders(here)} - {*_subfolders(there)}):
            problems.append(f"{here}: {there} has no such classes: {', '.join(only)}")
    if (
        not problems
        and folder == source
        and (inner := [name for name in images if source / name not in _find_splits(source / name).values()])
    ):
        problems.append(f"{source}: is one folder too high; write source = {source / inner[0]}")
    refuse(problems)
    paths = [path for name in images for path in images[name]]
    return list(images), paths, [index for index, name in enumerate(images) for _ in images[name]]


def _find_splits(source: Path) -> dict[str, Path]:
    """Split -> its folder; a source without any is a training folder itself."""
    if not source.is_dir():
        near = next(parent for parent in source.absolute().parents if parent.is_dir())
        raise IngredientsError(f"{source}: there is no such folder; {near} holds {_held(near)}")
    found = {split: [name for name in _subfolders(source) if name.lower() in SPLITS[split]] for split in SPLITS}
    double = [" and ".join(names) for names in found.values() if len(names) > 1]
    refuse([f"{source}: {names} mean the same split; keep one of them" for names in double])
    return {split: source / names[0] for split, names in found.items() if names} or {"training": source}


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_visible(path.name) and path.is_dir())


def find_images(folder: Path) -> list[str]:
    """The image files in a folder and those inside it, sorted; hidden ones are left out."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if is_visible(name)]
        found += [
            os.path.join(here, name) for name in files if is_visible(name) and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(found)


def _held(folder: Path, most: int = 10) -> str:
    names = sorted(path.name for path in folder.iterdir() if is_visible(path.name))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
