"""Every mode that an image file can have becomes the pixels that a viewer shows."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from core import IngredientsError
from pantry.images import decode_image
from PIL import Image

RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def png(width, height, depth, kind, rows, *chunks) -> bytes:
    """A PNG, of which Pillow cannot write every kind: its rows as bytes, further chunks before them."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*each) for each in chunks) + data + chunk(b"IEND", b"")


def saved(image, kind, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def palette(*colours, **options) -> bytes:
    """A row of a GIF or PNG with one pixel of each colour."""
    image = Image.new("P", (len(colours), 1))
    image.putpalette(sum(colours, ()))
    image.putdata(list(range(len(colours))))
    return saved(image, options.pop("kind", "PNG"), **options)


def row(mode, *pixels):
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def tiff(bits, data, width) -> bytes:
    """A row of a TIFF in which white is zero, as of scanners."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def turned(orientation, kind) -> bytes:
    """An image of 2 x 1 pixels, red on the left, after it is turned upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # of Image.Transpose
    image = row("RGB", RED, GREEN)
    image = image if undo is None else image.transpose(Image.Transpose(undo))
    return saved(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


deep = np.array([[0, 255, 256, 0x80FF, 65535]], np.uint16)
GREYS = [(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]
MOVING = [row("P", 0, 1), row("P", 1, 0)]
for _frame in MOVING:
    _frame.putpalette(RED + GREEN)
FILES = {  # the bytes of a file -> its pixels, red, green and blue
    "grey": (saved(row("L", 0, 90, 255), "PNG"), [(0,) * 3, (90,) * 3, (255,) * 3]),
    "one bit": (saved(row("1", 0, 255), "PNG"), [BLACK, WHITE]),
    "one bit TIFF": (saved(row("1", 0, 255), "TIFF"), [BLACK, WHITE]),
    "two bits": (png(4, 1, 2, 0, [b"\x1b"]), [(level,) * 3 for level in (0, 85, 170, 255)]),
    "palette": (palette(RED, GREEN, (1, 2, 3)), [RED, GREEN, (1, 2, 3)]),
    "palette, one transparent": (palette(RED, GREEN, transparency=1), [RED, WHITE]),
    "palette, half transparent": (palette(RED, BLACK, transparency=b"\xff\x80"), [RED, (127,) * 3]),
    "RGB": (saved(row("RGB", RED, (1, 2, 3)), "PNG"), [RED, (1, 2, 3)]),
    "RGB, one transparent": (png(2, 1, 8, 2, [bytes(RED + GREEN)], (b"tRNS", b"\0\0\0\xff\0\0")), [RED, WHITE]),
    "grey, one transparent": (png(2, 1, 8, 0, [b"\x00\x5a"], (b"tRNS", b"\0\x5a")), [BLACK, WHITE]),
    "one bit, one transparent": (png(2, 1, 1, 0, [b"\x40"], (b"tRNS", b"\0\0")), [WHITE, WHITE]),
    "RGBA": (saved(row("RGBA", (*RED, 255), (*RED, 0), (*BLACK, 128)), "PNG"), [RED, WHITE, (127,) * 3]),
    "RGBA TIFF": (saved(row("RGBA", (*RED, 255), (*RED, 0)), "TIFF"), [RED, WHITE]),
    "grey and alpha": (saved(row("LA", (90, 255), (90, 0), (0, 128)), "PNG"), [(90,) * 3, WHITE, (127,) * 3]),
    "16 bits": (saved(Image.fromarray(deep), "PNG"), GREYS),
    "16 bits TIFF": (saved(Image.fromarray(deep), "TIFF"), GREYS),
    "16 bits PGM": (b"P5 5 1 65535\n" + deep.astype(">u2").tobytes(), GREYS),
    "16 bits RGB": (png(1, 1, 16, 2, [struct.pack(">3H", 0xFF00, 0x80FF, 0xFF)]), [(255, 128, 0)]),
    "16 bits RGBA": (png(1, 1, 16, 6, [struct.pack(">4H", 0xFF00, 0, 0, 0)]), [WHITE]),
    "16 bits and alpha": (png(2, 1, 16, 4, [struct.pack(">4H", 0x8000, 65535, 0, 0)]), [(128,) * 3, WHITE]),
    "16 bits, one transparent": (png(2, 1, 16, 0, [b"\x80\x01\x80\x02"], (b"tRNS", b"\x80\2")), [(128,) * 3, WHITE]),
    "white is zero": (tiff(8, bytes([0, 55, 255, 5]), 4), [(255 - level,) * 3 for level in (0, 55, 255, 5)]),
    "16 bits, white is zero": (tiff(16, struct.pack("<2H", 0, 0x7F00), 2), [WHITE, (128,) * 3]),
    "CMYK TIFF": (saved(row("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), "TIFF"), [RED, BLACK]),
    "YCbCr TIFF": (saved(row("YCbCr", (255, 128, 128), (0, 128, 128)), "TIFF"), [WHITE, BLACK]),
    "GIF": (palette(RED, GREEN, kind="GIF"), [RED, GREEN]),
    "animated GIF": (saved(MOVING[0], "GIF", save_all=True, append_images=MOVING[1:], duration=9), [RED, GREEN]),
    "animated PNG": (
        saved(row("RGB", RED, GREEN), "PNG", save_all=True, append_images=[row("RGB", GREEN, RED)]),
        [RED, GREEN],
    ),
    "BMP": (saved(row("RGB", RED, GREEN), "BMP"), [RED, GREEN]),
    "WebP": (saved(row("RGBA", (*RED, 255), (*RED, 0)), "WEBP", lossless=True, exact=True), [RED, WHITE]),
    **{
        f"turned {number} {kind}": (turned(number, kind), [RED, GREEN])
        for number in range(1, 9)
        for kind in ("PNG", "TIFF", "WEBP")
    },
}


def test_every_mode(tmp_path):
    wrong = {}
    for name, (content, expected) in FILES.items():
        path = tmp_path / "x"
        path.write_bytes(content)
        try:
            colour, grey = (decode_image(path, channels).permute(1, 2, 0).tolist() for channels in (3, 1))
        except IngredientsError as error:
            wrong[name] = str(error)
            continue
        luma = [round(0.299 * red + 0.587 * green + 0.114 * blue) for red, green, blue in expected]
        if colour != [list(map(list, expected))] or any(
            abs(one[0] - other) > 1 for one, other in zip(grey[0], luma, strict=True)
        ):
            wrong[name] = f"{colour} {grey}, expected {expected} {luma}"
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())


def test_cmyk_of_jpeg(tmp_path):
    """Files of Adobe's programs hold inverted inks, which Pillow takes for granted, and itself writes."""
    path = tmp_path / "x.jpg"
    for colour in (RED, GREEN, WHITE, BLACK, (200, 100, 50)):
        inks = tuple(255 - level for level in colour) + (0,)
        Image.new("CMYK", (16, 16), inks).save(path, quality=95)
        assert b"Adobe" in path.read_bytes()[:600]
        assert (decode_image(path, 3)[:, 8, 8].int() - torch.tensor(colour)).abs().max() <= 4, colour


@pytest.mark.parametrize("image", [Image.new("F", (2, 2)), Image.new("I", (2, 2))])
def test_values_of_unknown_range_are_refused(tmp_path, image):
    image.save(tmp_path / "x.tif")
    with pytest.raises(IngredientsError, match=r"x\.tif: .*range of its values"):
        decode_image(tmp_path / "x.tif", 3)
