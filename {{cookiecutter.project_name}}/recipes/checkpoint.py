"""Files of weights that are whole or not there: written beside their name, flushed, renamed, and hashed."""

import hashlib
import io
import os
from pathlib import Path

import torch

from core import IngredientsError

_DIGEST = 64  # hex characters of sha256, kept as the comment of the zip file that torch.save writes


def save(path: Path, state: dict) -> None:
    """Write `state` (tensors and plain values). A crash leaves the file as it was before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = bytearray(buffer.getvalue())
    digest = hashlib.sha256(data).hexdigest().encode()
    data[-2:] = len(digest).to_bytes(2, "little")  # the length of the zip comment ends a zip file
    replace(path, bytes(data) + digest)


def replace(path: Path, data: bytes) -> None:
    """Write `data` to a file beside `path`, flush it to the disk, and give it the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
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
    """Read a file of `save`. Raises IngredientsError where it is missing or was changed by a single bit."""
    try:
        data = bytearray(Path(path).read_bytes())
    except OSError as error:
        raise IngredientsError(
            f"{path}: cannot be read ({error.strerror}); name a run folder or a .pt file in it"
        ) from None
    digest = bytes(data[-_DIGEST:])
    del data[-_DIGEST:]
    data[-2:] = b"\0\0"
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise IngredientsError(f"{path}: is damaged, or no checkpoint of this project (its sha256 does not fit)")
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def rotate(folder: Path, state: dict) -> None:
    """Write `state` as last.pt; the one before stays as previous.pt, so that there always is a good one."""
    if (folder / "last.pt").exists():
        link(folder / "last.pt", folder / "previous.pt")
    save(folder / "last.pt", state)


def name(folder: Path, epoch: int, is_best: bool, keep_all: bool) -> None:
    """best.pt, and one for each epoch, as further names of last.pt."""
    if is_best:
        link(folder / "last.pt", folder / "best.pt")
    if keep_all:
        link(folder / "last.pt", folder / f"epoch-{epoch:03}.pt")


def load_newest(folder: Path) -> tuple[dict, list[str]]:
    """The state of last.pt or, where that is damaged, of previous.pt; and what is wrong with those passed over."""
    told = []
    for name in ("last.pt", "previous.pt"):
        try:
            return load(folder / name), told
        except IngredientsError as error:
            told.append(str(error))
    raise IngredientsError("\n".join(told))


def link(source: Path, path: Path) -> None:
    """Give a written file a second name: without a second copy where the disk can do that."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        part.write_bytes(source.read_bytes())
    os.replace(part, path)
    _flush_folder(path.parent)
