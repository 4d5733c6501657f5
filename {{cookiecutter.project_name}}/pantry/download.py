"""Download: an archive, fetched and unpacked safely.

Whatever is heavy is imported inside the functions, so that reading the ingredients stays quick.
"""

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path, PurePath

from core import IngredientsError, registry

registry.create("download_function")

ARCHIVES = ".archive"  # hidden, and no archive's name may start with a dot: archive.zip has to unpack beside it
ARCHIVE_SUFFIXES = (".tar.gz", ".tar.xz", ".tgz", ".tar", ".zip")
MARKER = ".complete"
PAUSE = 1.0  # seconds before the second try; each later pause is twice the one before
MACHINE_ERRORS = ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EIO", "EMFILE", "ENOMEM")  # not the archive's fault


@registry.download_function.register("download_archive")
def download_archive(source: str, root: Path, sha256: str = "", timeout: float = 30.0, tries: int = 3):
    """`download() -> Path`: fetch and unpack `source` once, and give the folder `<root>/<archive name without suffix>`.

    source: https://..., http://..., file:path (from the current folder) or file:///path; .tgz .tar.gz .tar .tar.xz .zip
    sha256: of the archive, 64 hex digits; without it the archive is not verified
    timeout: seconds without an answer or a byte; tries: how often before giving up

    A downloaded archive is kept in `<root>/.archive/`, a `file:` one is read where it lies. The folder appears under
    its name when it is complete, and is made again when source, sha256 or the `file:` archive changed.
    Raises IngredientsError, and leaves no part of a folder or of an archive behind.
    """
    name, stem, local = _read_source(source)
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 = {sha256} is no sha256: 64 hexadecimal digits are needed")
    if not timeout > 0 or tries < 1:
        raise ValueError(f"timeout = {timeout} (seconds) and tries = {tries} have to be above 0")
    store, dest, sha256 = Path(root).absolute() / ARCHIVES, Path(root) / stem, sha256.lower()

    def is_complete() -> bool:
        return _is_made_from(dest / MARKER, source, sha256, local)

    def check() -> bool:
        """Is the folder there already? IngredientsError where `download` cannot work; the network is not asked."""
        if is_complete():
            return True
        _check_free(dest)
        if local is not None and not local.is_file():
            raise IngredientsError(f"{source}: there is no such file (looked for {local.absolute()})")
        return False

    def fetch() -> None:
        if not check() and local is None:
            _fetch(source, store / name, sha256, timeout, tries)

    def unpack() -> None:
        if not is_complete():
            _unpack(source, local or store / name, sha256, local, store / f"{name}.unpacked", dest)

    def download() -> Path:
        if is_complete():  # asked again under the lock below; here it lets folders that cannot be written be read
            return dest
        try:
            _run_locked(store, name, fetch, unpack)
        except IngredientsError:
            (store / f"{name}.lock").unlink(missing_ok=True)
            with suppress(OSError):  # other archives are kept there
                store.rmdir()
            raise
        except OSError as error:
            raise IngredientsError(f"{source}: cannot be unpacked into {dest}: {error}") from error
        return dest

    download.check = check  # for --check
    return download


def _run_locked(store: Path, name: str, download, unpack) -> None:
    """Both steps under fastdownload's lock for the archive, so that of several processes one works and others wait.

    With force=True `get` asks these two what is there: its own test takes any folder, even an empty one, as complete.
    """
    from fastcore.xtras import Config
    from fastdownload import FastDownload

    class Steps(FastDownload):
        def download(self, url, force=False):
            download()

        def extract(self, url, extract_key="data", force=False):
            unpack()

    folders = {"data": str(store.parent), "archive": str(store)}
    Steps(Config(store, "none.ini", create=folders, save=False, interpolation=None)).get(name, force=True)


def _read_source(source: str) -> tuple[str, str, Path | None]:
    """Name of the archive, the same without its suffix, and its path if it is a file here; or a ValueError."""
    from urllib.parse import unquote, urlsplit
    from urllib.request import url2pathname

    address, local = urlsplit(source), None
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        is_url = source[5:7] == "//"
        local = Path(url2pathname(address.path) if is_url else source[5:]).expanduser()
    elif address.scheme not in ("http", "https") or not address.netloc:
        raise ValueError(f"source = {source} is no address: write https://..., http://... or file:path/to/archive.tgz")
    name = PurePath(unquote(address.path)).name if local is None else local.name
    suffix = next((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), "")
    if not suffix:
        raise ValueError(f"source = {source} is no archive that can be unpacked: {' '.join(ARCHIVE_SUFFIXES)} can")
    stem = name[: -len(suffix)]
    if not stem or stem.startswith("."):
        raise ValueError(f"source = {source}: the archive's name has to begin with a letter, it names the folder")
    return name, stem, local


def _is_made_from(marker: Path, source: str, sha256: str, local: Path | None = None) -> bool:
    """Was the thing beside `marker` finished, and from this archive? With a sha256 the address does not matter."""
    import json

    try:
        made = json.loads(marker.read_text("utf-8"))
        if sha256:
            return made["sha256"] == sha256
        return made["source"] == source and (local is None or not local.exists() or made["stamp"] == _stamp(local))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stamp(file: Path | None) -> list[int] | None:
    return [file.stat().st_size, file.stat().st_mtime_ns] if file else None


def _write_marker(marker: Path, source: str, digest: str, local: Path | None = None) -> None:
    import json

    marker.unlink(missing_ok=True)
    marker.write_text(json.dumps({"source": source, "sha256": digest, "stamp": _stamp(local)}), "utf-8")


def _check_free(dest: Path) -> None:
    """Refuse to touch what was not unpacked here: it may be somebody's work."""
    ours = (dest / MARKER).is_file() or not os.path.lexists(dest)
    if not ours and not (dest.is_dir() and not any(dest.iterdir())):
        raise IngredientsError(f"{dest}: holds files that were not unpacked here; move it away, or choose another root")


def _digest(file: Path) -> str:
    import hashlib

    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(url: str, archive: Path, sha256: str, timeout: float, tries: int) -> None:
    """Have `archive` complete, with a marker beside it; one that an earlier call got from the same place is kept."""
    from http.client import HTTPException, responses
    from urllib.error import HTTPError

    part, marker = archive.with_name(archive.name + ".part"), archive.with_name(archive.name + ".json")
    if archive.is_file() and _is_made_from(marker, url, sha256):
        return
    archive.unlink(missing_ok=True)  # before its marker changes: one does not speak for the other at any moment
    for attempt in range(1, tries + 1):
        try:
            _save(url, part, timeout)
            _write_marker(marker, url, _digest(part))
            part.replace(archive)
            return
        except (OSError, HTTPException, ValueError) as error:
            code = error.code if isinstance(error, HTTPError) else 0
            if attempt == tries or (code in range(400, 500) and code not in (408, 429)):  # these two pass
                reason = getattr(error, "reason", error) or type(error).__name__
                reason = f"the server answered {code} {responses.get(code, '')}" if code else reason
                raise IngredientsError(
                    f"{url}: cannot be downloaded ({attempt} of {tries} tries): {reason}. Check source in "
                    f"[project.data], or download it yourself and write source = file:/path/to/{archive.name}"
                ) from error
        finally:
            part.unlink(missing_ok=True)
        time.sleep(PAUSE * 2 ** (attempt - 1))


def _save(url: str, file: Path, timeout: float) -> None:
    """One try. The loop is ours: fastcore's urlsave raises NameError where it means to report a short read."""
    from fastcore.net import urlopen
    from tqdm import tqdm

    with urlopen(url, timeout=timeout) as response, open(file, "wb") as stream:
        size = response.headers.get("Content-Length")
        size = None if size is None else int(size)
        with tqdm(desc=file.stem, total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            while block := response.read(1 << 16):
                stream.write(block)
                bar.update(len(block))
        if size is not None and stream.tell() != size:
            raise ConnectionError(f"the connection ended after {stream.tell():,} of {size:,} bytes")
        stream.flush()
        os.fsync(stream.fileno())


def _unpack(source: str, archive: Path, sha256: str, local: Path | None, work: Path, dest: Path) -> None:
    """Unpack in `work`, on the same disk, and rename; the marker is inside before the folder has its name."""
    old = work.with_suffix(".old")
    for left in (work, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    work.mkdir()
    try:
        digest = _digest(archive)
        if sha256 and digest != sha256:
            raise ValueError(f"its sha256 is {digest}, but {sha256} is expected")
        _extract(archive, work)
        shown = [path for path in work.iterdir() if is_visible(path.name)]
        made = shown[0] if len(shown) == 1 and shown[0].is_dir() and not shown[0].is_symlink() else work
        _check_links(made)
        _write_marker(made / MARKER, source, digest, local)
        if hasattr(os, "sync"):
            os.sync()  # one for all: fsync of each of 70,000 files takes minutes
        if dest.is_dir():
            dest.rename(old)
        made.rename(dest)
    except ValueError as error:
        if local is None:
            archive.unlink()
            archive.with_name(archive.name + ".json").unlink(missing_ok=True)
        kept = (
            "The file was left as it is"
            if local
            else "It was deleted; check the source in [project.data] and run again"
        )
        raise IngredientsError(f"{source}: the archive is refused: {error}. {kept}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    """Unpack into `folder`; ValueError with the reason for an archive that is damaged or writes elsewhere."""
    import errno

    machine = [getattr(errno, name, None) for name in MACHINE_ERRORS]
    try:
        unpack = _extract_zip if archive.name.lower().endswith(".zip") else _extract_tar
        unpack(archive, folder)
    except Exception as error:  # damaged archives raise anything from EOFError to zlib.error and NotImplementedError
        if type(error) in (ValueError, MemoryError) or (isinstance(error, OSError) and error.errno in machine):
            raise
        text = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"it is damaged or no archive at all ({text})") from error


def _extract_zip(archive: Path, folder: Path) -> None:
    import stat
    import zipfile

    from tqdm import tqdm

    with zipfile.ZipFile(archive) as pack:
        members = pack.infolist()
        for member in members:
            _check_name(member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"{member.filename} is a link, which zipfile cannot make")
        if all(member.is_dir() for member in members):
            raise ValueError("it holds no files")
        for member in tqdm(members, desc="unpacking", unit=" files", leave=False, disable=None):
            pack.extract(member, folder)  # compares the CRC


def _extract_tar(archive: Path, folder: Path) -> None:
    import tarfile

    from tqdm import tqdm

    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # new in 3.11.4; the checks below stand alone
        members = tar.getmembers()
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(512) != bytes(512):  # tarfile takes a broken header for the end, without a word
            raise ValueError("it is damaged or cut short")
        while tar.fileobj.read(1 << 20):
            pass  # gzip and xz compare their checksums when they meet the end
        _check_members(members)
        tar.extractall(folder, tqdm(members, desc="unpacking", unit=" files", leave=False, disable=None))


def _check_members(members: list) -> None:
    """ValueError for a tar whose members would be written outside of the folder, or are neither file, folder nor link.

    Nothing may be written through a link, so names alone tell where each member goes.
    """
    from posixpath import dirname, isabs, join, normpath

    links = {normpath(member.name).casefold() for member in members if member.issym() or member.islnk()}
    for member in members:
        _check_name(member.name)
        name = normpath(member.name).casefold()
        if member.issym() or member.islnk():
            target = normpath(join(dirname(member.name) if member.issym() else "", member.linkname))
            if isabs(target) or target.split("/")[0] == "..":
                raise ValueError(f"the link {member.name} -> {member.linkname} leaves the folder")
        elif not member.isreg() and not member.isdir():
            raise ValueError(f"{member.name} is a device")
        elif name in links:
            raise ValueError(f"{member.name} is written through a link")
        while links and (name := dirname(name)):
            if name in links:
                raise ValueError(f"{member.name} is written through a link")
    if not any(member.isreg() for member in members):
        raise ValueError("it holds no files")


def _check_name(name: str) -> None:
    if ".." in re.split(r"[\\/]", name) or re.match(r"[\\/]|[A-Za-z]:", name):
        raise ValueError(f"its member {name} leaves the folder")


def _check_links(folder: Path) -> None:
    """Where do links lead that pass through other links? The disk knows best."""
    top = os.path.realpath(folder)
    for here, folders, files in os.walk(folder):
        for path in (os.path.join(here, name) for name in folders + files):
            if os.path.islink(path) and not os.path.realpath(path).startswith(top + os.sep):
                raise ValueError(f"the link {os.path.relpath(path, folder)} leaves the folder")


def is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
