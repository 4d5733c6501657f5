"""Data: folders of images as uint8 tensors.

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
GREY, ALPHA = ("1", "L", "LA", "La"), ("LA", "La", "PA", "RGBA", "RGBa")  # modes of Pillow
SMALL = 128 * 128  # pixels; of smaller images threads decode half as many a second as no threads


class Arrays(tuple):
    """`(X, y)`, as a loader may give it, and what else it knows: `Arrays(X, y, classes=["no", "yes"])`.

    classes: names, in the order of their numbers; paths: of the N samples, for messages; input_format: a dict that
    `read_sample` of the task is given when something is predicted
    """

    def __new__(cls, X, y, **known):
        pair = super().__new__(cls, (X, y))
        pair.__dict__.update(known)
        return pair


def refuse(problems: list[str], most: int = 20) -> None:
    """Raise IngredientsError with the problems, where there are any."""
    if problems:
        more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
        raise IngredientsError("\n    ".join([*problems[:most], *more]))


@registry.load_dataset.register("load_image_folder")
def load_image_folder(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    image_size: list[int] | None = None,
    channels: Literal[1, 3] | None = None,
    memory: float = 2.0,
    cache: Path | None = None,
):
    """`load() -> ImageFolder`: the images of `<source>/<split>/<class>/`, or of `<source>/<class>/` for training.

    split: also found as train, val, valid or test; folders inside a class folder are read too, hidden names are not
    image_size: [height, width] in pixels to resize to; None: as in the files, which then have to agree
    channels: 1 grey, 3 RGB; None: 1 if every image is grey, else 3
    memory: GB (1e9 bytes) that decoded images may take; a larger set is read from disk as needed
    cache: folder to keep decoded images in, one file for all of a split; it is read where no image file has changed
        since. Delete it when you like. None: images are decoded each time

    Raises IngredientsError with all folders, or all images, that cannot be used.
    """
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise ValueError(f"image_size = {image_size}: [height, width] in pixels is needed")
    if not memory >= 0:
        raise ValueError(f"memory = {memory}: 0 GB or more is needed")

    def load(memory: float | None = memory) -> ImageFolder:
        classes, paths, labels = list_images(Path(source), split)
        return ImageFolder(classes, paths, labels, image_size, channels, memory, None if memory is None else cache)

    load.check = lambda: load(memory=None)  # the same without pixels, for --check
    return load


@registry.load_dataset.register("load_idx")
def load_idx(images: Path, labels: Path):
    """`load() -> (X, y)`: files of MNIST's own format, as Fashion-MNIST and KMNIST come too, packed (.gz) or not.

    X: uint8 (N, H, W); y: uint8 (N,). Raises IngredientsError with all files that are missing or are no such.
    """

    def load():
        arrays, problems = [], []
        for path in (images, labels):
            try:
                arrays.append(_read_idx(Path(path)))
            except (OSError, EOFError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                problems.append(f"{path}: cannot be read as an IDX file of bytes: {reason}")
        if problems:
            raise IngredientsError("\n".join(problems))
        return tuple(arrays)

    return load


def _read_idx(path: Path):
    """The bytes of a file: two zeros, the type (8: bytes), the number of axes, the length of each, then the values."""
    import gzip
    import math

    import numpy
    import torch

    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        head = file.read(4)
        if head[:3] != b"\0\0\x08":
            raise ValueError("its first bytes are others")
        shape = [int.from_bytes(file.read(4), "big") for _ in range(head[3])]
        values = numpy.frombuffer(bytearray(file.read()), numpy.uint8)
    if len(values) != math.prod(shape):
        raise ValueError(f"it holds {len(values)} values, but tells of {shape}")
    return torch.from_numpy(values).reshape(shape)


class ImageFolder:
    """A map-style data set: `dataset[i] -> (uint8 tensor (C, H, W), class index)`, in the order of the sorted paths.

    classes: names, in the order of the indices; paths: N files; y: int64 (N,)
    X: uint8 (N, C, H, W), or None where it would not fit into `memory` (GB); all black where that is None: then one
        header alone is read
    channels, image_size: C and [H, W] of every image; resized: [H, W] if they were brought to it, else None
    """

    def __init__(self, classes, paths, labels, image_size=None, channels=None, memory: float | None = 2.0, cache=None):
        import torch

        self.classes, self.paths, self.targets = classes, paths, torch.tensor(labels, dtype=torch.int64)
        first, (height, width, found) = _first_readable(paths)
        self.image_size, self.channels = list(image_size or (height, width)), channels or found
        self.resized, self.X, self.decoded = image_size, None, None
        if memory is None:
            self.X = torch.zeros((), dtype=torch.uint8).expand(len(paths), self.channels, *self.image_size)
            return
        threads = min(os.cpu_count() or 1, 8) if height * width > SMALL else 1
        first = None if image_size else first
        native = channels is None and found == 1  # grey, until an image in colour is met
        file = None if cache is None else Path(cache) / f"{_fingerprint(paths, image_size, channels)}.npy"
        if file is None or not file.exists():
            self.X = self._read(memory, threads, first, native, file)
            if native and self.channels == 3:
                self.X = self._read(memory, threads, first, native=False, cache=file)
        if file is not None:
            self._open(file, memory)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        if self.X is not None:
            return self.X[index], int(self.targets[index])
        if self.decoded is not None:
            import torch

            return torch.from_numpy(self.decoded[index].copy()), int(self.targets[index])
        return decode_image(self.paths[index], self.channels, self.image_size), int(self.targets[index])

    def _open(self, file: Path, memory: float) -> None:
        """Take the decoded images of a cache: into memory where they fit, else a view of the file."""
        import numpy
        import torch

        self.decoded = numpy.load(file, mmap_mode="r")  # (N, C, H, W)
        self.channels = self.decoded.shape[1]
        if self.decoded.nbytes <= memory * 1e9:
            self.X, self.decoded = torch.from_numpy(numpy.load(file)), None

    def _read(self, memory: float, threads: int, first: str | None, native: bool, cache: Path | None):
        """X, or None after a look at every header; every image has to be of the size of `first`, if there is one.

        With a cache they are decoded into it, whatever their number.
        """
        import math

        import numpy
        import torch

        shape, X = (len(self.paths), self.channels, *self.image_size), None
        if cache is not None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            part = cache.with_suffix(f".{os.getpid()}.part")
            pixels = numpy.lib.format.open_memmap(part, mode="w+", dtype=numpy.uint8, shape=shape)
        else:
            X = torch.empty(shape, dtype=torch.uint8) if math.prod(shape) <= memory * 1e9 else None
            pixels = None if X is None else X.numpy()  # the same memory

        def visit(index: int) -> None:
            path = self.paths[index]
            if pixels is None:
                height, width, found = read_header(path)
            else:
                image = _decode(path, None if native else self.channels, None if first else self.image_size)
                found, height, width = image.shape
            if first and [height, width] != self.image_size:
                sizes = f"{height} x {width} pixels, but {first} has {self.image_size[0]} x {self.image_size[1]}"
                raise IngredientsError(f"{path}: {sizes}; set image_size = [height, width] to resize all")
            if native and found == 3:
                self.channels = 3
            elif pixels is not None:
                pixels[index] = image

        try:
            visit_all(visit, len(self.paths), threads)
            if cache is not None and not (native and self.channels == 3):
                pixels.flush()
                os.replace(part, cache)
        finally:
            if cache is not None:
                part.unlink(missing_ok=True)
        return X


def _fingerprint(paths: list[str], image_size, channels) -> str:
    """What the decoded images depend on: the files, by name, size and time of change, and what is made of them."""
    import hashlib

    digest = hashlib.sha256(repr((1, image_size, channels, os.getcwd())).encode())  # 1: the form of the cache
    for path in paths:
        status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def decode_image(path: str | Path, channels: int, image_size: list[int] | None = None):
    """One image file as a uint8 tensor (C, H, W): upright by its EXIF tag, on white where it is transparent.

    channels: 1 or 3; image_size: [height, width] in pixels to resize to, bilinear, or None
    Raises IngredientsError naming a file that is missing, damaged, no image, 16-bit or float.
    """
    import numpy
    import torch

    return torch.from_numpy(numpy.array(_decode(path, channels, image_size), order="C"))  # Pillow's is read-only


def _decode(path, channels: int | None, image_size):
    """The same as a view on Pillow's memory; channels = None: 1 for a grey image, 3 for any other."""
    import numpy
    from PIL import Image, ImageOps

    with open_image(path) as image:
        mode = "RGB" if channels == 3 or (channels is None and image.mode not in GREY) else "L"
        image.load()  # PNG may keep its tags behind the pixels
        if image.info or image.format != "PNG":  # a tenth of the time of a small image goes into looking for tags
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ALPHA or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode != mode:
            image = image.convert(mode)
        pixels = numpy.asarray(image)
    pixels = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
    if not image_size or list(pixels.shape[1:]) == list(image_size):
        return pixels
    import torch

    pixels = torch.from_numpy(numpy.array(image))  # (H, W) or (H, W, C): a copy, since Pillow's is read-only
    resized = pixels[None] if mode == "L" else pixels.permute(2, 0, 1)
    size = tuple(image_size)  # by torch, in a third of Pillow's time
    return torch.nn.functional.interpolate(resized[None], size=size, mode="bilinear", antialias=True)[0].numpy()


def read_header(path) -> tuple[int, int, int]:
    """Height, width and channels (1 or 3) of an image, without decoding it."""
    with open_image(path) as image:
        width, height = image.size
        tagged = image.format != "PNG" or "exif" in image.info  # a PNG without them would be decoded to search on
        if tagged and image.getexif().get(0x0112, 1) >= 5:  # orientation: on its side
            width, height = height, width
        return height, width, 1 if image.mode in GREY else 3


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
    except UnidentifiedImageError as error:
        raise IngredientsError(f"{path}: this is no image of a known format ({', '.join(IMAGE_FORMATS)})") from error
    except Exception as error:  # damaged images raise anything from SyntaxError to struct.error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise IngredientsError(f"{path}: the image cannot be read: {reason}") from error


def _first_readable(paths: list[str]) -> tuple[str, tuple[int, int, int]]:
    problems = []
    for path in paths:
        try:
            return path, read_header(path)
        except IngredientsError as error:
            problems.append(str(error))
    raise unusable(problems, len(paths))


def visit_all(visit, n: int, threads: int, chunk: int = 64) -> None:
    """Call `visit(index)` for all n images under one bar; their errors become one."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    def visit_chunk(indices: range) -> list[str]:
        problems = []
        for index in indices:
            try:
                visit(index)
            except IngredientsError as error:
                problems.append(str(error))
        return problems

    chunks, problems = [range(start, min(start + chunk, n)) for start in range(0, n, chunk)], []
    with ThreadPoolExecutor(threads) as pool, tqdm(desc="images", total=n, leave=False, disable=None) as bar:
        for indices, found in zip(chunks, (pool.map if threads > 1 else map)(visit_chunk, chunks), strict=True):
            problems += found
            bar.update(len(indices))
    if problems:
        raise unusable(problems, n)


def unusable(problems: list[str], n: int, most: int = 10) -> IngredientsError:
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return IngredientsError("\n    ".join([f"{len(problems)} of {n} images cannot be used:", *problems[:most], *more]))


def list_images(source: Path, split: str) -> tuple[list[str], list[str], list[int]]:
    """Names of the classes, paths of the images, class index of each; or one error with all that is wrong."""
    folders = _split_folders(source)
    if split not in folders:
        advice = "; all its class folders count as training" if folders.get("training") == source else ""
        wanted = " or ".join(f"{name}/" for name in SPLITS[split])
        raise IngredientsError(f"{source}: there is no {wanted} in it, but {_held(source)}{advice}")
    folder, training = folders[split], folders.get("training", folders[split])
    classes = _subfolders(folder)
    images = {name: find_images(folder / name) for name in classes}
    problems = [] if classes else [f"{folder}: there are no class folders in it, but {_held(folder)}"]
    problems += [
        f"{folder / name}: there is no image in this class folder ({' '.join(IMAGE_SUFFIXES)})"
        for name in classes
        if not images[name]
    ]
    for here, there in ((folder, training), (training, folder)) if classes else ():
        if only := [name for name in _subfolders(here) if name not in _subfolders(there)]:
            problems.append(f"{here}: {there} has no such classes: {', '.join(only)}")
    if not problems and folder == source and (inner := [name for name in classes if _find_splits(folder / name)]):
        problems.append(f"{source}: is one folder too high; write source = {source / inner[0]}")
    if problems:
        raise IngredientsError("\n".join(problems))
    paths = [path for name in classes for path in images[name]]
    labels = [index for index, name in enumerate(classes) for _ in images[name]]
    return classes, paths, labels


def _split_folders(source: Path) -> dict[str, Path]:
    """Split -> its folder; a source without any is a training folder itself."""
    if not source.is_dir():
        near = next(parent for parent in source.absolute().parents if parent.is_dir())
        raise IngredientsError(f"{source}: there is no such folder; {near} holds {_held(near)}")
    found = _find_splits(source)
    for names in found.values():
        if len(names) > 1:
            raise IngredientsError(f"{source}: {' and '.join(names)} mean the same split; keep one of them")
    return {split: source / names[0] for split, names in found.items()} or {"training": source}


def _find_splits(folder: Path) -> dict[str, list[str]]:
    names = _subfolders(folder)
    found = {split: [name for name in names if name.lower() in known] for split, known in SPLITS.items()}
    return {split: names for split, names in found.items() if names}


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_visible(path.name) and path.is_dir())


def find_images(folder: Path) -> list[str]:
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if is_visible(name)]
        known = [name for name in files if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        found += [os.path.join(here, name) for name in known if is_visible(name)]
    return sorted(found)


def _held(folder: Path, most: int = 10) -> str:
    names = sorted(path.name for path in folder.iterdir() if is_visible(path.name))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
