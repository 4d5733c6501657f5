"""What some sets of images need: corrupt files left out, decoded images in a file."""

import hashlib
import os
from pathlib import Path

import numpy

from core import IngredientsError


def skip_corrupt(paths: list[str], decode_image, visit_all, threads: int) -> list[int]:
    """The indices of the images that can be decoded; prints how many cannot, and which."""

    def decode(index: int) -> str:
        try:
            decode_image(paths[index], 1)
        except IngredientsError as error:
            return str(error)
        return ""

    problems = visit_all(decode, len(paths), threads)
    good = [index for index, problem in enumerate(problems) if not problem]
    if not good:
        raise IngredientsError("\n    ".join(["no image can be read:", *problems[:10]]))
    skipped = [path for path, problem in zip(paths, problems, strict=True) if problem]
    if skipped:
        names = ", ".join(skipped[:10]) + (", ..." if len(skipped) > 10 else "")
        print(f"note: skipped {len(skipped)} of {len(paths)} images that cannot be read: {names}")
    return good


def open_cache(folder: Path, dataset, visit_all, fill: bool) -> numpy.ndarray | None:
    """The decoded images of an ImageFolder, uint8 (N, C, H, W), mapped from a file.

    If no file fits the images it is made, or with `fill` False, None is returned.
    """
    file = folder / f"{_fingerprint(dataset)}.npy"
    if not (fill or file.exists()):
        return None
    if not file.exists():
        dataset.check()
        file = folder / f"{_fingerprint(dataset)}.npy"  # corrupt images may be left out now
    if not file.exists():
        _fill(file, dataset, visit_all)
    return numpy.asarray(numpy.load(file, mmap_mode="r"))  # a memmap itself is slow to index


def _fill(file: Path, dataset, visit_all) -> None:
    shape = (len(dataset), dataset.channels, *dataset.image_size)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        pixels = numpy.lib.format.open_memmap(part, mode="w+", dtype=numpy.uint8, shape=shape)

        def fill(index: int) -> None:
            pixels[index] = dataset[index][0]

        visit_all(fill, len(dataset), dataset.threads)
        pixels.flush()
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def _fingerprint(dataset) -> str:
    """What decoded images depend on: the files, by name, size and time of change, and what is made of them."""
    digest = hashlib.sha256(repr((2, *dataset.wanted, os.getcwd())).encode())  # 2: the format of the file
    for path in dataset.paths:
        status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
