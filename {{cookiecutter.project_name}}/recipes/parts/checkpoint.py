"""Checkpoint files that are complete or absent: written beside their name, flushed, renamed, and hashed."""

import hashlib
import os
from pathlib import Path

import torch

from core import IngredientsError

DIGEST = 64  # hex characters of the sha256, which is the comment of the zip file that torch.save writes


class _Hashing:
    """A file that hashes what is written to it, so that no second copy of a checkpoint is held in memory."""

    def __init__(self, file):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save(path: Path, state: dict) -> None:
    """Write `state` (tensors and plain values). A crash leaves the file as it was before."""

    def write(file):
        hashing = _Hashing(file)
        torch.save(state, hashing)
        file.seek(-2, os.SEEK_END)  # a zip file ends with the length of its comment
        file.write(DIGEST.to_bytes(2, "little") + hashing.sha256.hexdigest().encode())

    _replace(path, write)


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    _replace(path, lambda file: file.write(text.encode()))


def _replace(path: Path, write) -> None:
    """Let `write(file)` fill a file beside `path`, flush it to the disk, and give it the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # which cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _is_intact(file) -> bool:
    """Whether a file ends with the sha256 of what was there before the comment was added."""
    left, sha256 = os.fstat(file.fileno()).st_size - DIGEST - 2, hashlib.sha256()
    while left > 0 and (block := file.read(min(left, 1 << 20))):
        sha256.update(block)
        left -= len(block)
    sha256.update(b"\0\0")
    return left == 0 and file.read()[2:] == sha256.hexdigest().encode()


def rotate(folder: Path, state: dict) -> None:
    """Write `state` as last.pt; the one before stays as previous.pt, so that there always is an intact one."""
    if (folder / "last.pt").exists():
        link(folder / "last.pt", folder / "previous.pt")
    save(folder / "last.pt", state)


def load_newest(folder: Path) -> tuple[dict, list[str]]:
    """The state of last.pt or, if that is damaged, of previous.pt; and what is wrong with those passed over."""
    errors = []
    for name in ("last.pt", "previous.pt"):
        try:
            return load(folder / name), errors
        except IngredientsError as error:
            errors.append(str(error))
    raise IngredientsError("\n".join(errors))


def link(source: Path, path: Path) -> None:
    """Give a written file a second name: without a second copy if the disk can do that."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        part.write_bytes(source.read_bytes())
    os.replace(part, path)
    _flush_folder(path.parent)
