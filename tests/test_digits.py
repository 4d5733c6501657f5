"""The digits that ship with the project are those of scikit-learn, and can be built again."""

import gzip
import importlib.util
import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "{{cookiecutter.project_name}}" / "data"
ARCHIVE = DATA / "digits.tgz"
# per class 0 to 9, a share of 297 / 1797 each
TESTING = [29, 30, 29, 30, 30, 30, 30, 30, 29, 30]
TRAINING = [149, 152, 148, 153, 151, 152, 151, 149, 145, 150]


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    with tarfile.open(ARCHIVE) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


@pytest.fixture(scope="module")
def builder():
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("build_digits", ROOT / "tools" / "build_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_archive_is_small_and_has_every_image_once(members):
    assert ARCHIVE.stat().st_size <= 1_500_000
    images = [name.split("/") for name in members if name.endswith(".png")]
    assert len(members) == 1 + len(images) == 1 + 1797
    assert sorted(parts[3] for parts in images) == [f"{row:04d}.png" for row in range(1797)]
    counts = Counter((split, digit) for _, split, digit, _ in images)
    assert [counts["testing", str(digit)] for digit in range(10)] == TESTING
    assert [counts["training", str(digit)] for digit in range(10)] == TRAINING


def test_the_source_and_licence_travel_with_the_digits(members):
    text = (DATA / "README.md").read_text("utf-8")
    assert members["digits/README.md"].decode("utf-8") == text
    for part in ("Alpaydin", "Kaynak", "UCI Machine Learning Repository, 1998", "10.24432/C50P49", "CC BY 4.0"):
        assert part in text


def test_nothing_in_the_archive_tells_when_and_by_whom_it_was_made():
    assert ARCHIVE.read_bytes()[4:8] == bytes(4)  # gzip's time
    with tarfile.open(ARCHIVE) as tar:
        names = tar.getnames()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}
    assert names == sorted(names)


def test_the_pixels_are_those_of_scikit_learn(members):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    image_module = pytest.importorskip("PIL.Image")
    images, labels = sklearn_datasets.load_digits(return_X_y=True)
    compared = 0
    for name, content in members.items():
        if name.endswith(".png"):
            _, _, digit, file = name.split("/")
            image = image_module.open(io.BytesIO(content))
            row = int(file.removesuffix(".png"))
            assert (image.mode, image.size, int(digit)) == ("L", (8, 8), labels[row])
            assert list(image.tobytes()) == [round(value * 255 / 16) for value in images[row]]
            compared += 1
    assert compared == len(labels)


def test_a_rebuild_gives_the_same_bytes(builder):
    built = builder.build()
    assert built == builder.build()
    # zlib and its successors pack gzip's bytes each in their own way; what is packed is the same everywhere
    assert gzip.decompress(built) == gzip.decompress(ARCHIVE.read_bytes())
