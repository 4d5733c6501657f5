"""Archives that are fetched and unpacked. Each failure also has to leave nothing behind."""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import types
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from core import IngredientsError, parse_string
from core.registry import resolve
from pantry import _fetch
from pantry.download import download_archive

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
FILES = {"set/training/a/1.png": b"one", "set/training/b/2.png": b"two", "set/README": b"read me"}
UNPACKED = {"training/a/1.png", "training/b/2.png", "README"}


def pack(path: Path, files=None, extra=(), mode="w:gz") -> Path:
    """A tar of files (name -> bytes) and of extra TarInfos, in that order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in (FILES if files is None else files).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def pack_zip(path: Path, files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def listed(folder: Path, hidden=False) -> set[str]:
    """All files and links under the folder, and empty folders; markers and locks only where hidden is asked for."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        shown = hidden or not (path.name == ".complete" or path.suffix == ".lock" or name == ".archive")
        if shown and (path.is_symlink() or path.is_file() or not any(path.iterdir())):
            found.add(name)
    return found


def kept(source: str, *names: str) -> set[str]:
    """Where files of a source are kept, the archive unless others are named."""
    folder = f".archive/{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    return {f"{folder}/{name}" for name in names or ("set.tgz",)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Server:
    """Answers GET /<behaviour>/<name>; `answers` holds what a plain one sends, `requests` what was asked."""

    def __init__(self):
        self.answers, self.requests, self.release = {}, [], threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                behaviour, name = self.path.split("?")[0].strip("/").split("/")
                getattr(server, behaviour)(self, server.answers.get(name, b""))

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def send(self, handler, content, code=200, length=None):
        handler.send_response(code)
        if length is not False:
            handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    def good(self, handler, content):
        self.send(handler, content)

    def slow(self, handler, content):
        self.release.wait(0.5)
        self.send(handler, content)

    def missing(self, handler, content):
        self.send(handler, b"<html>a long page</html>", 404)

    def flaky(self, handler, content):
        self.send(handler, content, 500 if len(self.requests) == 1 else 200)

    def broken(self, handler, content):
        self.send(handler, b"", 503)

    def short(self, handler, content):
        self.send(handler, content[:40], length=len(content))

    def stalled(self, handler, content):
        self.send(handler, content[:40], length=len(content))
        self.release.wait(3)  # who waits longer than he was told to gets it all
        with contextlib.suppress(OSError):
            handler.wfile.write(content[40:])

    def unsized(self, handler, content):
        self.send(handler, content, length=False)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_fetch, "PAUSE", 0)
    server = Server()
    yield server
    server.release.set()
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def packed(tmp_path, server):
    """An archive on disk that the server also has, as set.tgz."""
    path = pack(tmp_path / "elsewhere" / "set.tgz")
    server.answers["set.tgz"] = path.read_bytes()
    return path


# ---------------------------------------------------------------------------------------------------- download


def test_a_url_is_unpacked_once_and_its_archive_kept(server, packed, root):
    fetch = download_archive(f"{server.address}/good/set.tgz", root, sha256(packed).upper())
    assert fetch() == root / "set" == fetch()
    assert listed(root) == {f"set/{name}" for name in UNPACKED} | kept(f"{server.address}/good/set.tgz")
    assert (root / "set/training/b/2.png").read_bytes() == b"two"
    assert server.requests == ["/good/set.tgz"]


def test_the_kept_archive_is_used_when_the_folder_is_gone(server, packed, root):
    fetch = download_archive(f"{server.address}/good/set.tgz", root)
    (fetch() / "README").unlink()
    (root / "set").rename(root / "gone")
    assert (fetch() / "README").read_bytes() == b"read me"
    assert len(server.requests) == 1


def test_a_url_with_a_query_names_the_folder_by_its_path(server, packed, root):
    assert download_archive(f"{server.address}/good/set.tgz?key=a/b.zip", root)() == root / "set"
    assert len(list(root.glob(".archive/*/set.tgz"))) == 1


@pytest.mark.parametrize("name, mode", [("s.tgz", "w:gz"), ("s.tar.gz", "w:gz"), ("s.tar", "w"), ("s.tar.xz", "w:xz")])
def test_every_kind_of_tar_is_unpacked_without_doubling_its_folder(tmp_path, root, name, mode):
    archive = pack(tmp_path / name, mode=mode)
    assert download_archive(f"file:{archive}", root)() == root / "s"
    assert listed(root) == {f"s/{name}" for name in UNPACKED}  # and no copy of the archive


def test_a_zip_is_unpacked_and_what_macos_adds_is_left_out(tmp_path, root):
    archive = pack_zip(tmp_path / "s.zip", FILES | {"__MACOSX/._set": b"", ".DS_Store": b""})
    download_archive(f"file:{archive}", root)()
    assert listed(root) == {f"s/{name}" for name in UNPACKED}


def test_several_top_folders_stay(tmp_path, root):
    archive = pack(tmp_path / "s.tgz", {"train/a/1.png": b"1", "test/a/2.png": b"2"})
    download_archive(f"file:{archive}", root)()
    assert listed(root) == {"s/train/a/1.png", "s/test/a/2.png"}


def test_an_archive_called_archive_does_not_meet_our_own_folder(tmp_path, root):
    assert download_archive(f"file:{pack_zip(tmp_path / 'archive.zip', FILES)}", root)() == root / "archive"
    assert listed(root) == {f"archive/{name}" for name in UNPACKED}


def test_file_sources_relative_absolute_and_as_a_url(packed, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spaced = pack(tmp_path / "with space" / "set.tgz")
    for index, source in enumerate(["file:elsewhere/set.tgz", f"file:{packed}", spaced.as_uri()]):
        download_archive(source, root / str(index))()
        assert listed(root / str(index)) == {f"set/{name}" for name in UNPACKED}
    assert "%20" in spaced.as_uri()


def test_fastdownload_leaves_no_settings_behind_and_reads_none(packed, root):
    root.mkdir()
    (root / "config.ini").write_text("[DEFAULT]\narchive = /nowhere\n")
    download_archive(f"file:{packed}", root)()
    (root / "config.ini").unlink()
    assert listed(root, hidden=True) == {f"set/{name}" for name in {*UNPACKED, ".complete"}} | kept(
        f"file:{packed}", "set.tgz.lock"
    )


def test_a_percent_sign_in_the_folder_is_a_percent_sign(packed, tmp_path):
    assert (download_archive(f"file:{packed}", tmp_path / "100%(x)s")() / "README").is_file()


@pytest.mark.parametrize("behaviour", ["missing", "broken", "short"])
def test_a_dead_url_is_named_with_the_way_out(server, packed, root, behaviour):
    url = f"{server.address}/{behaviour}/set.tgz"
    reason = {"missing": "404 Not Found", "broken": "503 Service Unavailable", "short": "after 40 of"}[behaviour]
    with pytest.raises(IngredientsError, match=reason) as caught:
        download_archive(url, root)()
    assert url in str(caught.value) and "file:/path/to/set.tgz" in str(caught.value)
    assert "[project.data]" in str(caught.value) and "long page" not in str(caught.value)
    assert len(server.requests) == {"missing": 1, "broken": 3, "short": 3}[behaviour]
    assert listed(root, hidden=True) == set()


def test_nobody_listens(root, server):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(IngredientsError, match=r"2 of 2 tries\): .*refused"):
        download_archive(f"{server.address}/good/set.tgz", root, tries=2)()
    assert listed(root) == set()


def test_a_server_that_stalls_is_left_after_the_timeout(server, packed, root):
    with pytest.raises(IngredientsError, match="timed out"):
        download_archive(f"{server.address}/stalled/set.tgz", root, timeout=0.1, tries=2)()
    assert len(server.requests) == 2
    assert listed(root) == set()


def test_an_error_of_the_server_is_tried_again(server, packed, root):
    assert (download_archive(f"{server.address}/flaky/set.tgz", root)() / "README").is_file()
    assert len(server.requests) == 2


@pytest.mark.parametrize("behaviour", ["good", "unsized"])
def test_no_bar_off_a_terminal(server, packed, root, behaviour, capfd):
    download_archive(f"{server.address}/{behaviour}/set.tgz", root)()
    assert listed(root) >= {"set/README"}
    assert capfd.readouterr() == ("", "")


def test_a_wrong_sha256_deletes_the_download_and_names_both(server, packed, root):
    with pytest.raises(IngredientsError, match=f"sha256 is {sha256(packed)}, expected {'0' * 64}") as caught:
        download_archive(f"{server.address}/good/set.tgz", root, "0" * 64)()
    assert f"{server.address}/good/set.tgz" in str(caught.value)
    assert listed(root) == set()


def test_a_wrong_sha256_of_a_file_leaves_the_file(packed, root):
    with pytest.raises(IngredientsError, match="The file is left as it is"):
        download_archive(f"file:{packed}", root, "0" * 64)()
    assert packed.is_file() and listed(root) == set()


def test_a_corrupt_download_is_deleted_and_the_next_call_fetches_again(server, packed, root):
    good, server.answers["set.tgz"] = server.answers["set.tgz"], b"<html>please log in</html>" * 100
    fetch = download_archive(f"{server.address}/good/set.tgz", root)
    with pytest.raises(
        IngredientsError, match=r"/good/set.tgz: the archive is refused: it is damaged .*It was deleted"
    ):
        fetch()
    assert listed(root) == set()
    server.answers["set.tgz"] = good
    assert (fetch() / "README").is_file()


def damaged_archives(folder: Path):
    """Damage that tarfile and zipfile meet in different places, one archive each."""
    noise = {f"set/{i}.png": os.urandom(4000) for i in range(5)}
    whole = pack(folder / "w.tgz", noise).read_bytes()
    plain = pack(folder / "w.tar", noise, mode="w").read_bytes()
    zipped = pack_zip(folder / "w.zip", noise).read_bytes()
    header = bytearray(plain)
    header[2 * 4608 + 150] ^= 0xFF  # in the checksum of the third member: tarfile stops there without a word
    stored = bytearray(zipped)
    stored[2000] ^= 0xFF
    yield "cut.tgz", whole[: len(whole) // 2]
    yield "crc.tgz", whole[:-8] + b"\0\0\0\0" + whole[-4:]
    yield "cut.tar", plain[: 2 * 4608]  # between two members
    yield "header.tar", bytes(header)
    yield "text.tar.xz", b"not an archive"
    yield "empty.tgz", b""
    yield "nothing.tgz", pack(folder / "n.tgz", {}).read_bytes()
    yield "crc.zip", bytes(stored)
    yield "cut.zip", zipped[:-30]


def test_damaged_archives_are_named_and_nothing_is_unpacked(tmp_path, root):
    for name, content in damaged_archives(tmp_path / "made"):
        archive = tmp_path / name
        archive.write_bytes(content)
        with pytest.raises(IngredientsError, match=f"{name}: the archive is refused: it (is damaged|holds no files)"):
            download_archive(f"file:{archive}", root)()
        assert archive.read_bytes() == content, name
        assert listed(root) == set(), name


def headers(kind: bytes, size: int, name="set/a") -> bytes:
    """The header of a member that claims a size."""
    info = member(name, kind)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 0 else size.to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return bytes(header)


def hostile_archives():
    """Archives that are small and ask for much: memory, disk, or time without end."""
    zeros = bytes(1 << 20)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("set/a"))
        info = member("set/b")
        info.pax_headers = {"size": "-1024"}
        tar.addfile(info)
    with gzip.open(packed := io.BytesIO(), "wb", 1) as file:
        file.write(headers(tarfile.REGTYPE, 300 << 20))
        for _ in range(300):
            file.write(zeros)
    with gzip.open(trailing := io.BytesIO(), "wb", 1) as file:
        file.write(plain.getvalue()[:512] + bytes(1024))
        for _ in range(300):
            file.write(zeros)
    with zipfile.ZipFile(zipped := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/a", bytes(300 << 20))
    yield "negative.tar", headers(tarfile.REGTYPE, -512) + bytes(1024), "size of -512 bytes"
    yield "negative_pax.tar", plain.getvalue(), "take more than"
    yield "pax.tar", headers(b"x", 2 << 30) + zeros, f"size of {2 << 30} bytes"
    yield "name.tar", headers(tarfile.GNUTYPE_LONGNAME, 2 << 30) + zeros, f"size of {2 << 30} bytes"
    yield "bomb.tgz", packed.getvalue(), "take more than 200,000,000 bytes"
    yield "trailing.tgz", trailing.getvalue(), "take more than 200,000,000 bytes"
    yield "bomb.zip", zipped.getvalue(), "take more than 200,000,000 bytes"


def test_hostile_archives_are_refused_at_once(tmp_path, root):
    for name, content, reason in hostile_archives():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IngredientsError, match=f"{name}: the archive is refused: .*{reason}"):
            download_archive(f"file:{tmp_path / name}", root, max_ratio=1.0)()
        assert listed(root) == set(), name


def test_what_does_not_fit_on_the_disk_is_not_begun(packed, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(IngredientsError, match="cannot be unpacked into .*No space left"):
        download_archive(f"file:{packed}", root)()
    assert listed(root / "set") == set()


ESCAPES = {
    "parent": [member("set/../../evil")],
    "absolute": [member("/tmp/evil-from-a-tar")],
    "absolute link": [member("set/link", tarfile.SYMTYPE, "/etc/passwd")],
    "link to the parent": [member("set/link", tarfile.SYMTYPE, "../../evil")],
    "hard link to the parent": [member("set/link", tarfile.LNKTYPE, "../evil")],
    "through a link to the parent": [member("set/link", tarfile.SYMTYPE, ".."), member("set/link/../../evil")],
    "links that add up": [
        member("set/training/up", tarfile.SYMTYPE, ".."),
        member("set/link", tarfile.SYMTYPE, "training/up/../../x"),
    ],
    "link to the folder above": [member("set/link", tarfile.SYMTYPE, "..")],
    "device": [member("set/null", tarfile.CHRTYPE)],
    "pipe": [member("set/pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("extra", ESCAPES.values(), ids=ESCAPES.keys())
def test_members_that_leave_the_folder_are_refused(server, tmp_path, root, extra):
    server.answers["set.tgz"] = pack(tmp_path / "made" / "set.tgz", extra=extra).read_bytes()
    before = listed(tmp_path)
    with pytest.raises(IngredientsError, match=r"set.tgz: the archive is refused: .*(leaves|device)"):
        download_archive(f"{server.address}/good/set.tgz", root)()
    assert listed(tmp_path) - {"data"} == before  # the archive is gone too
    assert not Path("/tmp/evil-from-a-tar").exists()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-from-a-zip", "set/../../evil", "..\\evil", "C:\\evil"])
def test_zip_members_that_leave_the_folder_are_refused(tmp_path, root, name):
    archive = pack_zip(tmp_path / "set.zip", FILES | {name: b"x"})
    with pytest.raises(IngredientsError, match="leaves the folder"):
        download_archive(f"file:{archive}", root)()
    assert listed(tmp_path) - {"data"} == {"set.zip"}


def test_a_link_in_a_zip_is_refused(tmp_path, root):
    link = zipfile.ZipInfo("set/link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(IngredientsError, match="set/link is a link"):
        download_archive(f"file:{tmp_path / 'set.zip'}", root)()
    assert listed(root) == set()


def test_links_inside_of_the_archive_are_kept(tmp_path, root):
    links = [
        member("set/link", tarfile.SYMTYPE, "training/a"),
        member("set/deep/link", tarfile.SYMTYPE, "set/../../training"),  # leads nowhere, but nowhere outside
        member("set/hard", tarfile.LNKTYPE, "set/README"),
    ]
    folder = download_archive(f"file:{pack(tmp_path / 'set.tgz', extra=links)}", root)()
    assert (folder / "link/1.png").read_bytes() == b"one"
    assert (folder / "deep/link").is_symlink() and (folder / "hard").read_bytes() == b"read me"


def test_an_empty_folder_is_not_the_data(packed, root):
    (root / "set").mkdir(parents=True)
    assert (download_archive(f"file:{packed}", root)() / "README").is_file()


def test_a_folder_with_the_users_files_is_refused_and_left(server, packed, root):
    (root / "set").mkdir(parents=True)
    (root / "set/mine.txt").write_text("work")
    with pytest.raises(IngredientsError, match="set: has files that were not unpacked here; move it"):
        download_archive(f"{server.address}/good/set.tgz", root)()
    assert listed(root) == {"set/mine.txt"} and server.requests == []


def test_another_source_replaces_the_folder(server, packed, root):
    download_archive(f"{server.address}/good/set.tgz", root)()
    server.answers["set.tgz"] = pack(packed, {"set/other/3.png": b"three"}).read_bytes()
    download_archive(f"{server.address}/good/set.tgz?v=2", root)()
    assert listed(root / "set") == {"other/3.png"}
    assert len(server.requests) == 2


def test_the_same_sha256_from_another_source_is_the_same_data(server, packed, root):
    download_archive(f"{server.address}/good/set.tgz", root)()
    assert download_archive("http://nowhere.invalid/set.tgz", root, sha256(packed))() == root / "set"


def test_another_sha256_fetches_again(server, packed, root):
    download_archive(f"{server.address}/good/set.tgz", root)()
    server.answers["set.tgz"] = pack(packed, {"set/other/3.png": b"three"}).read_bytes()
    download_archive(f"{server.address}/good/set.tgz", root, sha256(packed))()
    assert listed(root / "set") == {"other/3.png"}


def test_a_file_that_changed_is_unpacked_again_and_one_that_is_gone_is_not(packed, root):
    fetch = download_archive(f"file:{packed}", root)
    fetch()
    pack(packed, {"set/other/3.png": b"three"})
    assert listed(fetch()) == {"other/3.png"}
    packed.unlink()
    assert listed(fetch()) == {"other/3.png"}


def test_when_the_new_source_fails_the_old_folder_stays_but_is_not_taken_for_the_new(server, packed, root):
    download_archive(f"{server.address}/good/set.tgz", root)()
    for _ in range(2):
        with pytest.raises(IngredientsError, match="404"):
            download_archive(f"{server.address}/missing/set.tgz", root)()
    assert listed(root) == {f"set/{name}" for name in UNPACKED} | kept(f"{server.address}/good/set.tgz")


def test_a_full_disk_is_no_fault_of_the_archive(server, packed, root, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    fetch = download_archive(f"{server.address}/good/set.tgz", root)
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", fail)
        with pytest.raises(IngredientsError, match="cannot be unpacked into .*No space left"):
            fetch()
    assert listed(root) == kept(f"{server.address}/good/set.tgz")
    assert (fetch() / "README").is_file() and len(server.requests) == 1


def test_a_root_that_is_a_file_is_named(packed, root):
    root.write_text("")
    with pytest.raises(IngredientsError, match="cannot be unpacked into .*data/set"):
        download_archive(f"file:{packed}", root)()


def test_data_that_is_there_needs_no_right_to_write(packed, root):
    download_archive(f"file:{packed}", root)()
    shutil.rmtree(root / ".archive")
    download_archive(f"file:{packed}", root)()
    assert listed(root, hidden=True) == {f"set/{name}" for name in {*UNPACKED, ".complete"}}


def test_a_file_that_is_not_there_is_named(root):
    with pytest.raises(IngredientsError, match=r"file:no/such.tgz: there is no such file \(looked for /.*such.tgz\)"):
        download_archive("file:no/such.tgz", root)()
    assert listed(root) == set()


@pytest.mark.parametrize(
    "source, message",
    [
        ("data/set.tgz", "expected https"),
        ("ftp://host/set.tgz", "expected https"),
        ("file://data/set.tgz", "expected https"),
        ("https:///set.tgz", "expected https"),
        ("https://host/set.rar", "expected an archive, .tar.gz"),
        ("https://host/set", "expected an archive"),
        ("https://host/..tgz", "start with a letter"),
        ("https://host/...tgz", "start with a letter"),
        ("https://host/.archive.tgz", "start with a letter"),
    ],
)
def test_sources_that_cannot_work_are_refused_before_anything_is_done(root, source, message):
    with pytest.raises(ValueError, match=message) as caught:
        download_archive(source, root)
    assert source in str(caught.value) and not root.exists()


@pytest.mark.parametrize("settings", [{"sha256": "abc"}, {"timeout": 0.0}, {"tries": 0}])
def test_settings_that_cannot_work_are_refused(root, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        download_archive("https://host/set.tgz", root, **settings)


def test_an_encoded_slash_does_not_lead_out_of_the_folder(server, packed, root):
    server.answers["..%2F..%2Fset.tgz"] = packed.read_bytes()
    assert download_archive(f"{server.address}/good/..%2F..%2Fset.tgz", root)() == root / "set"


def test_a_mistake_in_the_ingredients_has_its_line():
    text = "[project.data.download]\n@download_function = download_archive\nsource = set.rar\nroot = data/\n"
    with pytest.raises(IngredientsError, match=r"<text>:2: project.data.download\n    source = set.rar: expected"):
        resolve(parse_string(text))


# ------------------------------------------------------------------------------------------- several processes


def start(*lines: str) -> subprocess.Popen:
    """A process that runs these lines after the imports of `code`."""
    code = "\n".join(["from pathlib import Path", "from pantry import _fetch, download", *lines])
    options = {"cwd": PROJECT, "env": os.environ | {"no_proxy": "127.0.0.1"}, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **options)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()


def test_a_process_killed_while_unpacking_leaves_nothing_that_counts(server, packed, root):
    source = f"{server.address}/good/set.tgz"
    process = start(
        "import os, time",
        "os.sync = lambda: (print('unpacked', flush=True), time.sleep(60))",  # all is written, nothing is renamed
        f"download.download_archive({source!r}, Path({str(root)!r}))()",
    )
    assert process.stdout.readline() == "unpacked\n"
    kill(process)
    assert not (root / "set").exists() and len(list(root.glob(".archive/*/unpacked/set/README"))) == 1
    download_archive(source, root)()
    assert listed(root) == {f"set/{name}" for name in UNPACKED} | kept(f"{server.address}/good/set.tgz")


def test_a_process_killed_while_downloading_leaves_nothing_that_counts(server, packed, root):
    process = start(
        "import time",
        "save = _fetch.save",
        "_fetch.save = lambda *a: (save(*a), print('saved', flush=True), time.sleep(60))",
        f"download.download_archive({server.address!r} + '/good/set.tgz', Path({str(root)!r}))()",
    )
    assert process.stdout.readline() == "saved\n"
    kill(process)
    [part] = root.glob(".archive/*/set.tgz.part")
    part.write_bytes(b"half")
    download_archive(f"{server.address}/good/set.tgz", root)()
    assert listed(root) == {f"set/{name}" for name in UNPACKED} | kept(f"{server.address}/good/set.tgz")
    assert len(server.requests) == 2


def test_two_processes_download_once(server, packed, root):
    line = f"print(download.download_archive({server.address!r} + '/slow/set.tgz', Path({str(root)!r}))())"
    processes = [start(line) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{root / 'set'}\n"] * 2
    assert server.requests == ["/slow/set.tgz"]
