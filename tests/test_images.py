"""Folders of images: what is read, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from core import IngredientsError, parse_string, registry
from core.registry import resolve
from pantry import images as shelf
from pantry.images import decode_image, find_files, load_image_folder
from PIL import Image

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"


# ---------------------------------------------------------------------------------------------- image folders


def save(path: Path, image=None, mode="L", size=(4, 6), **options) -> Path:
    """An image file of random pixels, the same for the same name; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image is None:
        generator = numpy.random.default_rng(list(path.name.encode()))
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
        image = Image.fromarray(pixels).convert(mode)
    image.save(path, **options)
    return path


@pytest.fixture
def images(tmp_path):
    """training: a 2, b 1; testing: a 1, b 1."""
    folder = tmp_path / "images"
    for name in ("training/b/1.png", "training/a/2.png", "training/a/10.png", "testing/a/4.png", "testing/b/5.png"):
        save(folder / name)
    return folder


def test_images_are_read_in_order(images):
    loaded = load_image_folder(images)()
    assert loaded.classes == ["a", "b"] and len(loaded) == 3
    assert [path.removeprefix(f"{images}/") for path in loaded.paths] == [
        "training/a/10.png",
        "training/a/2.png",
        "training/b/1.png",
    ]
    assert loaded.targets.tolist() == [0, 0, 1] and loaded.targets.dtype == torch.int64
    for index, path in enumerate(loaded.paths):
        image, target = loaded[index]
        assert image.shape == (1, 6, 4) and image.dtype == torch.uint8 and target == loaded.targets[index]
        assert numpy.array_equal(image[0].numpy(), numpy.asarray(Image.open(path)))
    with pytest.raises(IndexError):
        loaded[3]


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("training", "valid", "testing"), ("Train", "validation", "Test")]
)
def test_the_names_of_splits(tmp_path, names):
    for name in names:
        save(tmp_path / name / "a" / f"{name}.png")
    for name, split in zip(names, ("training", "validation", "testing"), strict=True):
        assert load_image_folder(tmp_path, split)().paths == [str(tmp_path / name / "a" / f"{name}.png")]


def test_class_folders_alone_are_for_training(images):
    assert load_image_folder(images / "training")().classes == ["a", "b"]
    for split, wanted in (("validation", "val/ or valid/ or validation/"), ("testing", "test/ or testing/")):
        message = f"training: there is no {wanted} in it, but a, b$"
        with pytest.raises(IngredientsError, match=message):
            load_image_folder(images / "training", split)()
        assert load_image_folder(images / "training", split, optional=True)() is None


def test_a_file_of_names_in_place_of_a_folder(images):
    (images / "all.csv").write_text("image,label\ntraining/a/10.png,x\ntraining/b/1.png,y\n")
    assert load_image_folder(images / "all.csv")().classes == ["x", "y"]
    assert load_image_folder(images / "all.csv", "testing", optional=True)() is None


def test_hidden_files_other_files_and_folders_in_classes(images):
    for name in (".hidden.png", "Thumbs.db", "notes.txt", ".git/x.png", "__MACOSX/y.png"):
        (images / "training/a" / name).parent.mkdir(exist_ok=True)
        (images / "training/a" / name).write_bytes(b"no image")
    save(images / ".cache/a/9.png")
    save(images / "training/.cache/9.png")
    save(images / "training/a/2024/May/3.JPG", format="JPEG")
    loaded = load_image_folder(images)()
    assert [Path(path).name for path in loaded.paths] == ["10.png", "2.png", "3.JPG", "1.png"]
    assert loaded.targets.tolist() == [0, 0, 0, 1]


def test_a_colour_image_among_grey_ones_makes_all_rgb(images):
    save(images / "training/b/9.png", mode="RGB")
    loaded = load_image_folder(images)()
    assert loaded.channels == 3 and loaded[0][0].shape == (3, 6, 4)
    assert torch.equal(loaded[0][0][0], loaded[0][0][2])  # the grey one
    assert torch.equal(loaded[3][0], decode_image(images / "training/b/9.png", 3))
    assert load_image_folder(images, channels=1)()[3][0].shape == (1, 6, 4)


def test_no_such_folder(tmp_path):
    save(tmp_path / "digits" / "a" / "1.png")
    with pytest.raises(
        IngredientsError, match=rf"digit: there is no such folder; {tmp_path} holds digits[.] Expected .*digit/<class>/"
    ):
        load_image_folder(tmp_path / "digit")()


def test_no_class_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngredientsError, match="empty: there are no class folders in it, but nothing"):
        load_image_folder(tmp_path / "empty")()
    save(tmp_path / "flat" / "train" / "1.png")
    with pytest.raises(IngredientsError, match="flat/train: there are no class folders in it, but 1.png"):
        load_image_folder(tmp_path / "flat")()


def test_all_that_is_wrong_with_the_folders_is_said_at_once(images):
    (images / "training/c").mkdir()
    (images / "training/d").mkdir()
    (images / "training/d/notes.txt").write_text("")
    with pytest.raises(IngredientsError) as caught:
        load_image_folder(images)()
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert len(lines) == 2 and lines[0].startswith(f"{images / 'training/c'}: there is no image in this class folder (")
    assert lines[1].startswith(f"{images / 'training/d'}: there is no") and lines[1].endswith("), but notes.txt")


def test_a_split_may_lack_classes_of_training_but_has_no_others(images):
    save(images / "training/0/7.png")
    loaded, classes = load_image_folder(images, "testing")(), load_image_folder(images)().classes
    assert loaded.classes == classes and {classes[label] for label in loaded.targets} == {*classes} - {"0"}
    (images / "testing/c").mkdir()
    with pytest.raises(IngredientsError, match=f"{images}/testing: {images}/training has no such classes: c$"):
        load_image_folder(images, "testing")()


def test_a_class_may_be_named_as_a_split(tmp_path):
    for name in ("car/1", "train/2"):
        save(tmp_path / f"{name}.png")
    assert load_image_folder(tmp_path)().classes == ["car", "train"]
    assert load_image_folder(tmp_path, "testing", optional=True)() is None


def test_photos_of_formats_that_are_not_read_are_not_passed_over(images):
    (images / "training/a/1.HEIC").write_bytes(b"....ftypheic")
    with pytest.raises(IngredientsError, match="1 of . samples .*\n.*1.HEIC: this is no image of a known format"):
        load_image_folder(images)()


def test_two_names_of_one_split(images):
    save(images / "train/a/1.png")
    with pytest.raises(IngredientsError, match="train and training mean the same split; keep one"):
        load_image_folder(images)()


def test_a_source_one_folder_too_high(images, tmp_path):
    with pytest.raises(IngredientsError, match=f"is one folder too high; write source = {images}"):
        load_image_folder(tmp_path)()
    for name in ("images/a/1", "images/b/1"):
        save(tmp_path / f"above/{name}.png")
    with pytest.raises(IngredientsError, match=f"is one folder too high; write source = {tmp_path}/above/images"):
        load_image_folder(tmp_path / "above")()


def test_images_of_different_sizes(images):
    save(images / "training/b/9.png", size=(7, 5))
    message = r"b/9.png: 5 x 7 pixels, but .*/a/10.png has 6 x 4; set image_size = \[height, width\]"
    with pytest.raises(IngredientsError, match=message):
        load_image_folder(images)()
    assert load_image_folder(images, image_size=[6, 4])()[3][0].shape == (1, 6, 4)


def test_images_that_cannot_be_used_are_all_named(images):
    folder = images / "training/b"
    (folder / "bytes.png").write_bytes(b"no image at all")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.png").symlink_to(folder / "not there")
    save(folder / "float.tif", Image.fromarray(numpy.zeros((6, 4), dtype=numpy.float32)))
    whole = save(folder / "cut.png", size=(64, 64)).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    expected = {
        "bytes.png": "this is no image of a known format",
        "empty.jpg": "this is no image of a known format",
        "folder.png": "No such file",
        "float.tif": "the range of its values is unknown (mode F); save it with 8 or 16 bits",
        "cut.png": "cannot be read",
    }
    with pytest.raises(IngredientsError) as caught:
        load_image_folder(images, image_size=[6, 4])()
    head, *lines = str(caught.value).splitlines()
    assert head == "5 of 8 samples cannot be used:"
    assert {Path(line.split(":")[0]).name for line in lines} == set(expected)
    for line in lines:
        assert expected[Path(line.split(":")[0]).name] in line
    with pytest.raises(IngredientsError, match="cut.png: the image cannot be read"):
        decode_image(folder / "cut.png", 1)


@pytest.mark.parametrize("good", [True, False], ids=["some are good", "none is good"])
def test_ten_problems_are_shown_and_the_others_counted(tmp_path, good):
    for index in range(13):
        path = save(tmp_path / f"a/{index:02d}.png")
        if index or not good:
            path.write_bytes(b"bad")
    with pytest.raises(IngredientsError) as caught:
        load_image_folder(tmp_path)()
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{12 if good else 13} of 13 samples cannot be used:" and len(lines) == 12
    assert lines[-1].strip() == f"... and {2 if good else 3} more"


@pytest.mark.parametrize("limit", [100, 150])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    path = save(tmp_path / "bomb.png", size=(20, 12))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # Pillow itself raises above twice the limit, and else warns
    with (
        pytest.raises(IngredientsError, match="bomb.png: the image cannot be read: .*(MAX_IMAGE_PIXELS|bomb)"),
        pytest.warns(Image.DecompressionBombWarning) if limit == 150 else open(os.devnull),
    ):
        decode_image(path, 1)


@pytest.mark.parametrize("settings", [{"image_size": [3]}, {"image_size": [0, 4]}])
def test_settings_of_the_loader_that_cannot_work_are_refused(images, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        load_image_folder(images, **settings)


def test_the_loader_comes_through_the_registry(images):
    text = f"[a]\n@load_dataset = load_image_folder\nsource = {images}\nsplit = testing\nimage_size = [3, 2]\n"
    assert resolve(parse_string(text)).a()[1][0].shape == (1, 3, 2)
    assert "load_image_folder" in registry.load_dataset and "download_archive" in registry.download_function
    with pytest.raises(IngredientsError, match='<text>:4: a.split = test\n.*"training" or "validation" or "testing"'):
        resolve(parse_string(text.replace("testing", "test")))


# ------------------------------------------------------------------------------------------------- decode_image


def test_a_palette_becomes_rgb(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    path = save(tmp_path / "p.png", image)
    assert decode_image(path, 3).tolist() == [[[255, 0]], [[0, 0]], [[0, 255]]]
    assert decode_image(path, 1).tolist() == [[[76, 29]]]


@pytest.mark.parametrize("mode, pixel", [("RGBA", (200, 0, 0, 0)), ("LA", (90, 0)), ("P", 1)])
def test_what_is_transparent_is_white(tmp_path, mode, pixel):
    image = Image.new(mode, (1, 1), pixel)
    if mode == "P":
        image.putpalette([9, 9, 9, 7, 7, 7])
    path = save(tmp_path / "t.png", image, **({"transparency": 1} if mode == "P" else {}))
    assert decode_image(path, 3).flatten().tolist() == [255, 255, 255]
    assert decode_image(path, 1).flatten().tolist() == [255]


def test_half_transparent_is_blended(tmp_path):
    path = save(tmp_path / "t.png", Image.new("LA", (1, 1), (0, 51)))
    assert decode_image(path, 1).item() == 204


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_on_its_side_is_put_upright(tmp_path, suffix):
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 16, 16))  # the left half: on top, once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a" / f"x.{suffix}", image, exif=exif)
    upright = decode_image(path, 3)
    assert upright.shape == (3, 32, 16)
    assert upright[:, :12].min() > 200 and upright[:, 20:].max() < 50
    assert load_image_folder(tmp_path)()[0][0].shape == (3, 32, 16)


def test_a_black_and_white_image_is_grey(tmp_path):
    save(tmp_path / "a/x.png", Image.new("1", (2, 2), 1))
    assert load_image_folder(tmp_path)()[0][0].tolist() == [[[255, 255], [255, 255]]]


def test_a_resized_image_has_height_before_width(tmp_path):
    path = save(tmp_path / "x.png", size=(40, 30))
    assert decode_image(path, 1, [10, 20]).shape == (1, 10, 20)
    assert decode_image(path, 3, [10, 20]).is_contiguous()


def test_a_decoded_image_is_ones_own_to_change(tmp_path):
    path = save(tmp_path / "x.png")
    image = decode_image(path, 1)
    image += 1
    assert not torch.equal(image, decode_image(path, 1))


def test_no_other_program_is_started_for_a_file(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(IngredientsError, match="x.png: this is no image of a known format"):
        decode_image(tmp_path / "x.png", 1)


def test_files_that_are_no_images_are_named(tmp_path):
    for name, message in (("none.png", "No such file"), ("", "Is a directory")):
        with pytest.raises(IngredientsError, match=f"{tmp_path / name}: the image cannot be read: {message}"):
            decode_image(str(tmp_path / name), 3)


def test_importing_is_cheap():
    code = "import sys, pantry; print({'torch', 'PIL', 'numpy', 'tqdm', 'fastdownload'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr


@pytest.mark.parametrize("options", [{}, {"channels": 3}, {"image_size": [5, 3]}])
def test_cache_gives_the_same_images_and_follows_the_files(images, tmp_path, monkeypatch, options):
    cache = tmp_path / "cache"
    plain, first = load_image_folder(images, **options)(), load_image_folder(images, cache=cache, **options)()
    assert first.channels == plain.channels and len(list(cache.iterdir())) == 1
    same = [plain[index] for index in range(3)]
    decoded, decode = [], shelf.decode_image
    monkeypatch.setattr(shelf, "decode_image", lambda path, *settings: decoded.append(path) or decode(path, *settings))
    again = load_image_folder(images, cache=cache, **options)()
    for index in range(3):
        assert torch.equal(again[index][0], first[index][0]) and again[index][1] == same[index][1]
        again[index][0].fill_(0)  # one's own to change
    assert all(torch.equal(again[index][0], same[index][0]) for index in range(3)) and not decoded
    save(images / "training/a/10.png", Image.fromarray(numpy.full((6, 4), 7, numpy.uint8)))
    assert (load_image_folder(images, cache=cache, **options)()[0][0] == 7).all() and decoded
    (images / "training/a/2.png").write_text("broken")
    with pytest.raises(IngredientsError, match="2.png: this is no image"):
        load_image_folder(images, cache=cache, **options)()
    assert not list(cache.glob("*.part"))


# ------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_of_16_bits_the_upper_8_are_taken(tmp_path, suffix):
    deep = numpy.array([[0, 255, 256], [32768, 40000, 65535]], dtype=numpy.uint16)
    path = tmp_path / f"a/x.{suffix}"
    path.parent.mkdir()
    if suffix == "pgm":
        path.write_bytes(b"P5 3 2 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(path)
    assert decode_image(path, 1).tolist() == [[[0, 0, 1], [128, 156, 255]]]
    assert decode_image(path, 3)[2].tolist() == [[0, 0, 1], [128, 156, 255]]
    assert load_image_folder(tmp_path)().channels == 1


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK")
    assert (decode_image(save(tmp_path / "c.tif", image), 3)[:, 0, 0] - torch.tensor([200, 30, 30])).abs().max() <= 2


def test_a_large_jpeg_decoded_in_part_is_close_to_one_decoded_whole(tmp_path):
    small = numpy.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=numpy.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
    path = save(tmp_path / "x.jpg", image, quality=95, exif=exif)
    part, whole = decode_image(path, 3, [64, 48]), decode_image(path, 3)
    whole = torch.nn.functional.interpolate(whole[None], (64, 48), mode="bilinear", antialias=True)[0]
    assert part.shape == (3, 64, 48) and (part.int() - whole.int()).abs().float().mean() < 2


# ------------------------------------------------------------------------------------------------------------- skipped


def damaged(images):
    """Three files that cannot be decoded: cut off, no image, with another byte in the middle."""
    folder = images / "training/a"
    whole = save(folder / "cut.jpg", size=(64, 64), mode="RGB").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    flipped = bytearray(save(folder / "flipped.png", size=(64, 64)).read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (folder / "flipped.png").write_bytes(flipped)
    return images


def test_a_link_to_a_folder_around_it_is_not_followed(images):
    before = find_files(images)
    (images / "training" / "up").symlink_to("..")
    (images / "training" / "here").symlink_to(".")
    assert find_files(images) == before
    (images / "more").symlink_to(images / "training")
    assert len(find_files(images)) > len(before)  # other links are


def test_check_takes_a_cache_that_is_there_and_makes_none(images, tmp_path, monkeypatch):
    load = load_image_folder(images, cache=tmp_path / "cache", image_size=[6, 4])
    load.check()
    assert not (tmp_path / "cache").exists()
    load()
    monkeypatch.setattr("pantry.images.read_header", None)
    assert load.check().cached is not None


@pytest.mark.parametrize("cached", [False, True])
def test_corrupt_images_are_skipped_if_asked(images, tmp_path, capsys, cached):
    options = {"image_size": [6, 4], "cache": tmp_path / "cache" if cached else None}
    plain = load_image_folder(images, **options)()
    whole = [plain[index] for index in range(3)]
    for _ in range(2):
        loaded = load_image_folder(damaged(images), skip_corrupt=True, **options)()
        said = capsys.readouterr().out
        assert said.startswith("note: skipped 3 of 6 images that cannot be read: ") and "text.png" in said
        assert loaded.paths == plain.paths and loaded.targets.tolist() == [0, 0, 1]
        assert all(torch.equal(loaded[index][0], whole[index][0]) for index in range(3))


def test_nothing_but_corrupt_images_is_refused(tmp_path):
    save(tmp_path / "a/1.png").write_bytes(b"no image")
    with pytest.raises(IngredientsError, match="1.png: this is no image"):
        load_image_folder(tmp_path, skip_corrupt=True)()
