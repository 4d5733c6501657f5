"""Checkpoint files that are complete or absent: written beside their name, flushed, renamed, and hashed."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch

from core import IngredientsError

DIGEST = 64  # hex characters of the sha256, which is the comment of the zip file that torch.save writes


class _Hashing:
    """A file that hashes what is written to it, so that no second copy of a checkpoint is held in memory."""

    def __init__(self, file):
        self.file, self.flush, self.sha256 = file, file.flush, hashlib.sha256()

    def write(self, data) -> int:
        self.sha256.update(data)
        return self.file.write(data)


def save(path: Path, state: dict) -> None:
    """Write `state` (tensors and plain values). A crash leaves the file as it was before."""
    with replacing(path) as file:
        hashing = _Hashing(file)
        torch.save(state, hashing)
        file.seek(-2, os.SEEK_END)  # a zip file ends with the length of its comment
        file.write(DIGEST.to_bytes(2, "little") + hashing.sha256.hexdigest().encode())


@contextmanager
def replacing(path: Path):
    """A file to write, which gets the name `path` once all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with naming(path):
            with open(part, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path):
    """Errors of writing from inside name the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save raises another over it
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error


def _rename(part: Path, path: Path) -> None:
    os.replace(part, path)
    if os.name != "nt":  # which cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def link(source: Path, path: Path) -> None:
    """Give a written file a second name: without a second copy if the disk can do that."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with naming(path):
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
        _rename(part, path)


def load(path: Path, device="cpu") -> dict:
    """Read a file of `save`. Raises IngredientsError if it is missing or a single bit of it has changed."""
    try:
        with open(path, "rb") as file:
            if _is_intact(file):
                file.seek(0)
                return torch.load(file, map_location=device, weights_only=True)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); name a run folder or a .pt file in it"
        raise IngredientsError(message) from None
    raise IngredientsError(f"{path}: damaged, or not a checkpoint of this project (its sha256 does not match)")


def may_replace(path: Path) -> bool:
    """Whether `save` would destroy nothing but a checkpoint: the file is absent, empty, or ends as those of `save`."""
    if not path.exists():
        return True
    if not path.is_file():  # a device
        return False
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - DIGEST - 2))
        length, digest = file.read(2), file.read()
    return size == 0 or (length == DIGEST.to_bytes(2, "little") and len(digest) == DIGEST and digest.isalnum())


def _is_intact(file) -> bool:
    """Whether a file ends with the sha256 of what was there before the comment was added."""
    left, sha256 = os.fstat(file.fileno()).st_size - DIGEST - 2, hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        sha256.update(block)
        left -= len(block)
    sha256.update(b"\0\0")
    return left == 0 and file.read()[2:] == sha256.hexdigest().encode()
