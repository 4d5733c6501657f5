"""Download: an archive, fetched once and unpacked safely."""

import errno
import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

from core import IngredientsError, registry
from pantry.images import is_visible

ARCHIVES = ".archive"  # hidden, and no archive's name may start with a dot: archive.zip has to unpack beside it
SUFFIXES = (".tar.gz", ".tar.xz", ".tgz", ".tar", ".zip")
MARKER = ".complete"
SMALL = 200_000_000  # bytes that any archive may unpack to
LONGEST_NAME = 100_000  # bytes of a header of a tar that says more of the next one
MACHINE_ERRORS = ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EIO", "EMFILE", "ENOMEM")  # not the archive's fault


@registry.download_function.register("download_archive")
def download_archive(
    source: str, root: Path, sha256: str = "", timeout: float = 30.0, tries: int = 3, max_ratio: float = 200.0
):
    """`download() -> Path`: fetch and unpack `source` once; returns `<root>/<archive name without suffix>`.

    source: https://..., http://..., file:path (from the current folder) or file:///path; .tgz .tar.gz .tar .tar.xz .zip
    sha256: of the archive, 64 hex digits; empty: the archive is not verified
    timeout: seconds to wait for an answer or a byte; tries: attempts before giving up
    max_ratio: times the archive's size that its files may take, so that a bomb is not unpacked

    A downloaded archive is kept in `<root>/.archive/`, a `file:` one is read in place. The folder gets its name when it
    is complete, and is made again if source, sha256 or the `file:` archive changed.
    Raises IngredientsError, and leaves no part of a folder or of an archive behind.
    """
    name, stem, local = _read_source(source)
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 = {sha256}: expected 64 hexadecimal digits")
    if not (timeout > 0 and tries >= 1 and max_ratio > 0):
        raise ValueError(f"timeout = {timeout}, tries = {tries}, max_ratio = {max_ratio}: must be above 0")
    store = Path(root).absolute() / ARCHIVES / hashlib.sha256(source.encode()).hexdigest()[:8]
    return Archive(source, name, local, sha256.lower(), timeout, tries, max_ratio, store, Path(root) / stem)


@dataclass
class Archive:
    """What `download_archive` returns. store: a folder for this source alone, so that a file in it needs no marker."""

    source: str
    name: str  # of its file
    local: Path | None  # its file, if it is not downloaded
    sha256: str
    timeout: float
    tries: int
    max_ratio: float
    store: Path
    dest: Path

    def __call__(self) -> Path:
        if self.check():  # asked again under the lock; here it lets folders be read that cannot be written
            return self.dest
        try:
            self.run_locked()
        except IngredientsError:
            shutil.rmtree(self.store, ignore_errors=True)
            with suppress(OSError):  # other archives are kept there
                self.store.parent.rmdir()
            raise
        except OSError as error:
            raise IngredientsError(f"{self.source}: cannot be unpacked into {self.dest}: {error}") from error
        return self.dest

    def run_locked(self) -> None:
        """Fetch and unpack under fastdownload's lock: of several processes one works, and the others wait.

        force=True leaves it to `check` whether anything is to be done: fastdownload takes any folder for complete.
        """
        from fastcore.xtras import Config
        from fastdownload import FastDownload

        class Steps(FastDownload):
            def download(steps, url, force=False):
                pass  # `unpack` asks for the archive

            def extract(steps, url, extract_key="data", force=False):
                if not self.check():
                    self.unpack(self.local or self.fetch())

        folders = {"data": str(self.store.parent), "archive": str(self.store)}
        config = Config(self.store, "none.ini", create=folders, save=False, interpolation=None)
        Steps(config).get(self.name, force=True)

    def check(self) -> bool:
        """Whether the folder is there. Raises IngredientsError if a call cannot work; the network is not asked."""
        dest, local = self.dest, self.local
        if self.is_unpacked():
            return True
        if os.path.lexists(dest) and not (dest / MARKER).is_file() and not (dest.is_dir() and not os.listdir(dest)):
            raise IngredientsError(f"{dest}: has files that were not unpacked here; move it, or choose another root")
        if local is not None and not local.is_file():
            raise IngredientsError(f"{self.source}: there is no such file (looked for {local.absolute()})")
        return False

    def is_unpacked(self) -> bool:
        """Whether the folder is complete, and from this archive. A sha256 counts more than the address."""
        try:
            made = json.loads((self.dest / MARKER).read_text("utf-8"))
            if self.sha256:
                return made["sha256"] == self.sha256
            same = self.local is None or not self.local.exists() or made["stamp"] == self.stamp()
            return made["source"] == self.source and same
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def stamp(self) -> list[int] | None:
        return [self.local.stat().st_size, self.local.stat().st_mtime_ns] if self.local else None

    def fetch(self) -> Path:
        """The downloaded archive; a run before this one may have left it."""
        archive = self.store / self.name
        if archive.is_file() and self.sha256 and _digest(archive) != self.sha256:
            archive.unlink()
        if not archive.is_file():
            from pantry._fetch import fetch

            fetch(self.source, archive, self.timeout, self.tries)
        return archive

    def unpack(self, archive: Path) -> None:
        """Unpack on the same disk, then rename; the marker is inside before the folder has its name."""
        work, old = self.store / "unpacked", self.store / "old"
        for left in (work, old):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        work.mkdir()
        try:
            digest = _digest(archive)
            if self.sha256 and digest != self.sha256:
                raise ValueError(f"its sha256 is {digest}, expected {self.sha256}")
            made = _extract(archive, work, self.max_ratio)
            marker = {"source": self.source, "sha256": digest, "stamp": self.stamp()}
            (made / MARKER).write_text(json.dumps(marker), "utf-8")
            if os.name == "posix":
                os.sync()  # one for all: fsync of each of 70,000 files takes minutes
            if self.dest.is_dir():
                self.dest.rename(old)
            made.rename(self.dest)
        except ValueError as error:
            kept = "The file is left as it is" if self.local else "It was deleted; check source in [project.data]"
            raise IngredientsError(f"{self.source}: the archive is refused: {error}. {kept}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _read_source(source: str) -> tuple[str, str, Path | None]:
    """Name of the archive, the same without its suffix, and its path if it is a local file. Raises ValueError."""
    from urllib.parse import unquote, urlsplit
    from urllib.request import url2pathname

    address, local = urlsplit(source), None
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        is_url = source[5:7] == "//"
        local = Path(url2pathname(address.path) if is_url else source[5:]).expanduser()
    elif address.scheme not in ("http", "https") or not address.netloc:
        raise ValueError(f"source = {source}: expected https://..., http://... or file:path/to/archive.tgz")
    name = PurePath(unquote(address.path)).name if local is None else local.name
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    stem = name[: -len(suffix)]
    if not suffix:
        raise ValueError(f"source = {source}: expected an archive, {' '.join(SUFFIXES)}")
    if not stem or stem.startswith("."):
        raise ValueError(f"source = {source}: the archive's name must start with a letter, since it names the folder")
    return name, stem, local


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _extract(archive: Path, folder: Path, max_ratio: float) -> Path:
    """Unpack into `folder`; returns the one folder that the archive consists of, or `folder`.

    Raises ValueError for an archive that is damaged, writes elsewhere, or is a bomb.
    """
    limit = max(SMALL, int(max_ratio * archive.stat().st_size))
    try:
        extract = _extract_zip if archive.name.lower().endswith(".zip") else _extract_tar
        if not extract(archive, folder, limit):
            raise ValueError("it holds no files")
        shown = [path for path in folder.iterdir() if is_visible(path.name)]
        made = shown[0] if len(shown) == 1 and shown[0].is_dir() and not shown[0].is_symlink() else folder
        _refuse_links_out_of(made)
        return made
    except Exception as error:  # damaged archives raise anything from EOFError to zlib.error and NotImplementedError
        machine = isinstance(error, OSError) and errno.errorcode.get(error.errno) in MACHINE_ERRORS
        if machine or type(error) in (ValueError, MemoryError):
            raise
        text = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"it is damaged or no archive at all ({text})") from error


def _extract_zip(archive: Path, folder: Path, limit: int) -> int:
    """Unpack a zip; returns the number of its files."""
    import stat
    import zipfile

    from tqdm import tqdm

    with zipfile.ZipFile(archive) as pack:
        members = pack.infolist()
        for member in members:
            _check_name(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{member.filename} is a link, which zipfile cannot make")
        _check_size(sum(member.file_size for member in members), limit, folder)
        for member in tqdm(members, desc="unpack", unit=" files", leave=False, disable=None):
            pack.extract(member, folder)  # no more than file_size, and compares the CRC
    return sum(not member.is_dir() for member in members)


def _extract_tar(archive: Path, folder: Path, limit: int) -> int:
    """Unpack a tar in one pass; returns the number of its files."""
    import tarfile

    from tqdm import tqdm

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buffer, encoding, errors):
            try:
                header = super().frombuf(buffer, encoding, errors)
            except tarfile.HeaderError as error:
                if isinstance(error, tarfile.EOFHeaderError):  # two blocks of zeros
                    raise
                raise ValueError("it is damaged or cut short") from error  # tarfile would take that for the end
            if header.size < 0 or (header.type in b"xgXLK" and header.size > LONGEST_NAME):  # pax, or a long name
                raise ValueError(f"the header of {header.name} names a size of {header.size} bytes")
            return header

    count, total = 0, 0
    with tarfile.open(archive, tarinfo=Header) as tar:
        for member in tqdm(tar, desc="unpack", unit=" files", leave=False, disable=None):
            _check_name(member.name)
            total += member.size + tarfile.BLOCKSIZE
            _check_size(total if member.size >= 0 else limit + 1, limit, folder)
            try:
                tar.extract(member, folder, filter="data")  # which refuses devices, and links that leave the folder
            except tarfile.FilterError as error:
                raise ValueError(f"its member {member.name} leaves the folder, or is a device: {error}") from error
            count += member.isreg()
        while block := tar.fileobj.read(1 << 20):  # gzip and xz compare their checksums at the end
            total += len(block)
            _check_size(total, limit, folder)
    return count


def _check_size(size: int, limit: int, folder: Path) -> None:
    if size > limit:
        raise ValueError(f"its files take more than {limit:,} bytes, far more than the archive; or raise max_ratio")
    if size > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _check_name(name: str) -> None:
    if ".." in re.split(r"[\\/]", name) or re.match(r"[\\/]|[A-Za-z]:", name):
        raise ValueError(f"its member {name} leaves the folder")


def _refuse_links_out_of(folder: Path) -> None:
    """Refuse links that leave the folder through other links."""
    top = os.path.realpath(folder)
    for here, folders, files in os.walk(folder):
        for path in (os.path.join(here, name) for name in folders + files):
            if os.path.islink(path) and not os.path.realpath(path).startswith(top + os.sep):
                raise ValueError(f"the link {os.path.relpath(path, folder)} leaves the folder")
