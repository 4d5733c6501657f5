"""Bad uploads for recipes.serve: name -> (headers, body); those that no client would send stand in test_serve.py."""

import io
import struct
import zipfile
import zlib

from PIL import Image

BOUNDARY = "e5f0c1"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PNG = {"Content-Type": "image/png"}


def part(content: bytes, name='filename="a.png"', headers="Content-Type: image/png") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; {name}\r\n{headers}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def image(mode="L", size=(8, 8), format="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=8, height=8, pixels=b"\0" * 72, depth=8, *extra: bytes, packed=b"") -> bytes:
    """A PNG as its parts say, which need not agree."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    packed = packed or zlib.compress(pixels, 9)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def one_bit(side: int) -> bytes:
    return png(side, side, b"\0" * (side * (side // 8 + 1)), 1)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("../../evil.py", "print(1)")
    return file.getvalue()


GOOD = image()
HTML = b"<!DOCTYPE html><script>alert(1)</script>"
GIF = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0" + struct.pack("<HH", 65535, 65535)
TRAVERSAL = [f'filename="{name}"' for name in ("../../x.png", "/etc/cron.d/x", "..\\..\\x.png", "x" * 3000, "a\0b.png")]


def cases(large: bool = True) -> dict[str, tuple[dict, bytes]]:
    """large: with those that take seconds to make."""
    photo, exif = image("RGB", (64, 64), "JPEG"), Image.Exif()
    exif[0x0112] = 99
    column = 25_000_000 if large else 1
    bomb = zlib.compress(b"\0" * (100_000_000 if large else 1_000), 1)
    found = {
        "empty body": (PNG, b""),
        "empty form": (FORM, b""),
        "form of nothing": (FORM, form()),
        "empty file": (FORM, form(part(b""))),
        "truncated PNG": (PNG, GOOD[:40]),
        "truncated JPEG": (PNG, photo[:300]),
        "PNG without its end": (PNG, image("L", (300, 300))[:-60]),
        "HTML as PNG": (PNG, HTML),
        "HTML as a file": (FORM, form(part(HTML))),
        "14,000 x 14,000 of one bit": (PNG, one_bit(14_000 if large else 8)),
        "just above the pixels": (PNG, one_bit(5_008)),
        "polyglot: PNG and zip": (PNG, GOOD + archive()),
        "polyglot: zip and PNG": (PNG, archive() + GOOD),
        "polyglot: GIF and script": (PNG, b"GIF89a/*" + HTML + b"*/=1;"),
        "polyglot: JPEG and HTML": (PNG, photo[:20] + HTML + photo[20:]),
        "no end": (FORM, part(GOOD)),
        "no end of a second part": (FORM, part(GOOD) + part(GOOD)[:-9]),
        "10,000 files": (FORM, form(*[part(GOOD)] * 10_000)),
        "10,000 fields": (FORM, form(*[part(b"x", 'title="x"')] * 10_000)),
        "a field instead of a file": (FORM, form(part(GOOD, 'title="x"'))),
        "a field of 3 MB": (FORM, form(part(b"x" * 3_000_000, 'title="x"'))),
        "PNG that unpacks to 100 MB": (PNG, png(8, 8, packed=bomb)),
        "text that unpacks to 100 MB": (
            PNG,
            png(8, 8, b"\0" * 72, 8, chunk(b"zTXt", b"a\0\0" + bomb)),
        ),
        "colours that unpack to 100 MB": (
            PNG,
            png(8, 8, b"\0" * 72, 8, chunk(b"iCCP", b"a\0\0" + bomb)),
        ),
        "GIF with a huge canvas": ({"Content-Type": "image/gif"}, GIF + b"\0\2\2\x44\1\0;"),
        "PNG of no pixels": (PNG, png(0, 0, b"")),
        "PNG of 2^31 pixels": (PNG, png(2**31 - 1, 2**31 - 1)),
        "PNG with a wrong checksum": (PNG, GOOD[:45] + bytes([GOOD[45] ^ 255]) + GOOD[46:]),
        "JPEG of 65,500 x 65,500": (
            PNG,
            photo.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 65500, 65500), 1),
        ),
        "JPEG of 20,000 scans": (PNG, photo[:-2] + photo[photo.rindex(b"\xff\xda") : -2] * 20_000),
        "a column of 25 million pixels": (
            PNG,
            png(1, column, b"\0" * 2 * column),
        ),
        "PPM of 10^10 pixels": (PNG, b"P6 99999 99999 255\n" + b"\0" * 100),
        "TIFF that points to itself": (PNG, b"II*\0\x08\0\0\0" + b"\1\0" + b"\xff" * 12 + b"\x08\0\0\0"),
        "TIFF of floats": (PNG, image("F", (8, 8), "TIFF")),
        "BMP of negative size": (PNG, image("RGB", (8, 8), "BMP")[:18] + struct.pack("<ii", -8, -(2**31)) + b"\0" * 99),
        "WebP of nothing": (PNG, b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 16),
        "EPS": (PNG, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
        "SVG": (
            {"Content-Type": "image/svg+xml"},
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        ),
        "EXIF of no sense": (PNG, image("RGB", (8, 8), "JPEG", exif=exif)),
        "JSON": ({"Content-Type": "application/json"}, b'{"path": "/etc/passwd"}'),
        "no type": ({}, GOOD),
        "an unknown type": ({"Content-Type": "application/x-www-form-urlencoded"}, b"image=1"),
        "a type of 3,000 characters": ({"Content-Type": "image/" + "x" * 3000}, HTML),
        "form without a boundary": ({"Content-Type": "multipart/form-data"}, form(part(GOOD))),
        "form with another boundary": ({"Content-Type": "multipart/form-data; boundary=other"}, form(part(GOOD))),
        "form of noise": (FORM, bytes(range(256)) * 40),
        "part with 1,000 headers": (FORM, form(part(GOOD, headers="\r\n".join(f"X-{i}: 1" for i in range(1000))))),
        "part with a long header": (FORM, form(part(GOOD, headers="X-A: " + "x" * 500_000))),
        "part without a name": (FORM, form(part(GOOD).replace(b'name="image"; ', b""))),
        "base64 that is none": (FORM, form(part(b"\xff$$$", headers="Content-Transfer-Encoding: base64"))),
        "gzip": (PNG | {"Content-Encoding": "gzip"}, zlib.compress(GOOD)),
    }
    if not large:
        found = {name: case for name, case in found.items() if "100 MB" not in name and "14,000" not in name}
    return found | {f"name {name[:30]!r}": (FORM, form(part(GOOD, name))) for name in TRAVERSAL}
