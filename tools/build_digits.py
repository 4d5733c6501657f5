# /// script
# requires-python = ">=3.11"
# dependencies = ["scikit-learn", "pillow"]
# ///
"""Build data/digits.tgz, the handwritten digits that ship with the project: `uv run tools/build_digits.py [ARCHIVE]`.

1,797 grey PNGs of 8 x 8 pixels in digits/{training,testing}/<digit>/<nnnn>.png; nnnn is the row in
sklearn.datasets.load_digits(). The same rows always go to testing, each class in its share. Prints the sha256.
"""

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"
TESTING = 297
SEED = 0


def main() -> None:
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else PROJECT / "data" / "digits.tgz"
    content = build()
    archive.write_bytes(content)
    print(f"{hashlib.sha256(content).hexdigest()}  {archive} ({len(content):,} bytes)")


def build() -> bytes:
    """The archive: sorted members, no times and no owners, so that the same digits give the same bytes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)  # (1797, 64) float 0 ... 16, (1797,) int
    testing = choose_testing(labels.tolist())
    files = {"digits/README.md": (PROJECT / "data" / "README.md").read_bytes()}
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = "testing" if row in testing else "training"
        files[f"digits/{split}/{label}/{row:04d}.png"] = encode_png(image)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as pack:
        for name in sorted(files):
            member = tarfile.TarInfo(name)  # mtime, uid and gid are 0
            member.size = len(files[name])
            pack.addfile(member, io.BytesIO(files[name]))
    return gzip.compress(tar.getvalue(), compresslevel=9, mtime=0)


def choose_testing(labels: list[int]) -> set[int]:
    """Rows for testing: every class in its share, picked by a hash, which no version of a library changes."""
    shares = {label: TESTING * labels.count(label) / len(labels) for label in sorted(set(labels))}
    wanted = {label: int(share) for label, share in shares.items()}
    by_remainder = sorted(shares, key=lambda label: wanted[label] - shares[label])
    for label in by_remainder[: TESTING - sum(wanted.values())]:
        wanted[label] += 1
    rows = sorted(range(len(labels)), key=lambda row: hashlib.sha256(f"{SEED}/{row}".encode()).digest())
    return {row for label in wanted for row in [r for r in rows if labels[r] == label][: wanted[label]]}


def encode_png(image) -> bytes:
    """8 x 8 values of 0 ... 16 as an 8-bit grey PNG. Not compressed: that would depend on the version of zlib."""
    import numpy
    from PIL import Image

    pixels = numpy.round(image.reshape(8, 8) * 255 / 16).astype(numpy.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


if __name__ == "__main__":
    main()
