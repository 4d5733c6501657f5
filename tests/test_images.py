"""Folders of images: what is read, and what is refused."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
import torch
from core import IngredientsError, parse_string, registry
from core.registry import resolve
from pantry import images as shelf
from pantry.images import decode_image, load_image_folder
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


def test_images_are_read_in_order_into_memory(images):
    loaded = load_image_folder(images)()
    assert loaded.classes == ["a", "b"] and len(loaded) == 3
    assert [path.removeprefix(f"{images}/") for path in loaded.paths] == [
        "training/a/10.png",
        "training/a/2.png",
        "training/b/1.png",
    ]
    assert loaded.targets.tolist() == [0, 0, 1] and loaded.targets.dtype == torch.int64
    assert loaded.X.shape == (3, 1, 6, 4) and loaded.X.dtype == torch.uint8
    for index, path in enumerate(loaded.paths):
        assert numpy.array_equal(loaded.X[index, 0].numpy(), numpy.asarray(Image.open(path)))
    x, y = loaded[2]
    assert torch.equal(x, loaded.X[2]) and y == 1 and type(y) is int
    with pytest.raises(IndexError):
        loaded[3]


@pytest.mark.parametrize(
    "options", [{}, {"channels": 3}, {"image_size": [5, 3]}, {"image_size": [3, 2], "channels": 3}]
)
def test_memory_and_disk_give_the_same(images, options):
    kept, read = load_image_folder(images, **options)(), load_image_folder(images, memory=0.0, **options)()
    assert kept.X is not None and read.X is None and read.targets.tolist() == kept.targets.tolist()
    assert kept.X.shape[1:] == (options.get("channels", 1), *options.get("image_size", [6, 4]))
    assert len(read) == 3
    for index in range(3):
        assert torch.equal(read[index][0], kept[index][0]) and read[index][1] == kept[index][1]


def test_what_fits_exactly_is_kept(images):
    assert load_image_folder(images, memory=3 * 24 / 1e9)().X is not None
    assert load_image_folder(images, memory=(3 * 24 - 1) / 1e9)().X is None


def test_large_images_read_by_threads_are_the_same(images, monkeypatch):
    for index in range(150):
        save(images / f"training/b/more{index}.png", mode="RGB")
    one = load_image_folder(images)()
    monkeypatch.setattr(shelf, "SMALL", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = threading.active_count()
    seen = []
    decode = shelf._decode
    monkeypatch.setattr(shelf, "_decode", lambda *a: (seen.append(threading.current_thread().name), decode(*a))[1])
    many = load_image_folder(images)()
    assert torch.equal(one.X, many.X) and threading.active_count() == before
    assert threading.main_thread().name not in seen


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
        message = f"training: there is no {wanted} in it, but a, b; all its class folders count as training"
        with pytest.raises(IngredientsError, match=message):
            load_image_folder(images / "training", split)()


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
    for memory in (2.0, 0.0):
        loaded = load_image_folder(images, memory=memory)()
        assert loaded.channels == 3 and loaded[0][0].shape == (3, 6, 4)
        assert torch.equal(loaded[0][0][0], loaded[0][0][2])  # the grey one
        assert torch.equal(loaded[3][0], decode_image(images / "training/b/9.png", 3))
    assert load_image_folder(images, channels=1)().X.shape == (4, 1, 6, 4)


def test_no_such_folder(tmp_path):
    save(tmp_path / "digits" / "a" / "1.png")
    with pytest.raises(IngredientsError, match=rf"digit: there is no such folder; {tmp_path} holds digits$"):
        load_image_folder(tmp_path / "digit")()


def test_no_class_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(IngredientsError, match="empty: there are no class folders in it, but nothing"):
        load_image_folder(tmp_path / "empty")()
    save(tmp_path / "flat" / "train" / "1.png")
    with pytest.raises(IngredientsError, match="flat/train: there are no class folders in it, but 1.png"):
        load_image_folder(tmp_path / "flat")()


def test_all_that_is_wrong_with_the_folders_is_said_at_once(images):
    (images / "testing/c").mkdir()
    (images / "testing/d").mkdir()
    (images / "testing/d/notes.txt").write_text("")
    save(images / "training/z/7.png")
    with pytest.raises(IngredientsError) as caught:
        load_image_folder(images, "testing")()
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"{images / 'testing/c'}: there is no image in this class folder (.png .jpg")
    assert lines[1].startswith(f"{images / 'testing/d'}: there is no image in this class folder")
    assert lines[2] == f"{images / 'testing'}: {images / 'training'} has no such classes: c, d"
    assert lines[3] == f"{images / 'training'}: {images / 'testing'} has no such classes: z"


def test_two_names_of_one_split(images):
    save(images / "train/a/1.png")
    with pytest.raises(IngredientsError, match="train and training mean the same split; keep one"):
        load_image_folder(images)()


def test_a_source_one_folder_too_high(images, tmp_path):
    with pytest.raises(IngredientsError, match=f"is one folder too high; write source = {images}"):
        load_image_folder(tmp_path)()


def test_images_of_different_sizes(images):
    save(images / "training/b/9.png", size=(7, 5))
    message = r"b/9.png: 5 x 7 pixels, but .*/a/10.png has 6 x 4; set image_size = \[height, width\]"
    for memory in (2.0, 0.0):
        with pytest.raises(IngredientsError, match=message):
            load_image_folder(images, memory=memory)()
    assert load_image_folder(images, image_size=[6, 4])().X.shape == (4, 1, 6, 4)


def test_images_that_cannot_be_used_are_all_named(images):
    folder = images / "training/b"
    (folder / "bytes.png").write_bytes(b"no image at all")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "folder.png").symlink_to(folder / "not there")
    save(folder / "sixteen.png", Image.fromarray(numpy.full((6, 4), 40_000, dtype=numpy.uint16)))
    save(folder / "float.tif", Image.fromarray(numpy.zeros((6, 4), dtype=numpy.float32)))
    whole = save(folder / "cut.png", size=(64, 64)).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    expected = {
        "bytes.png": "this is no image of a known format",
        "empty.jpg": "this is no image of a known format",
        "folder.png": "No such file",
        "sixteen.png": "16-bit and float images (mode I;16)",
        "float.tif": "16-bit and float images (mode F)",
        "cut.png": "cannot be read",
    }
    with pytest.raises(IngredientsError) as caught:
        load_image_folder(images, image_size=[6, 4])()
    head, *lines = str(caught.value).splitlines()
    assert head == "6 of 9 images cannot be used:"
    assert {Path(line.split(":")[0]).name for line in lines} == set(expected)
    for line in lines:
        assert expected[Path(line.split(":")[0]).name] in line
    with pytest.raises(IngredientsError, match="5 of 9 images"):  # a header does not tell that pixels are missing,
        load_image_folder(images, image_size=[6, 4], memory=0.0)()
    with pytest.raises(IngredientsError, match="cut.png: the image cannot be read"):  # decoding does
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
    assert lines[0] == f"{12 if good else 13} of 13 images cannot be used:" and len(lines) == 12
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


@pytest.mark.parametrize("settings", [{"image_size": [3]}, {"image_size": [0, 4]}, {"memory": -1.0}])
def test_settings_of_the_loader_that_cannot_work_are_refused(images, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        load_image_folder(images, **settings)


def test_the_loader_comes_through_the_registry(images):
    text = f"[a]\n@load_dataset = load_image_folder\nsource = {images}\nsplit = testing\nimage_size = [3, 2]\n"
    assert resolve(parse_string(text)).a().X.shape == (2, 1, 3, 2)
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
    for memory in (2.0, 0.0):
        assert load_image_folder(tmp_path, memory=memory)()[0][0].shape == (3, 32, 16)


def test_a_black_and_white_image_is_grey(tmp_path):
    save(tmp_path / "a/x.png", Image.new("1", (2, 2), 1))
    assert load_image_folder(tmp_path)().X.tolist() == [[[[255, 255], [255, 255]]]]


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


def test_cache_gives_the_same_images_and_follows_the_files(tmp_path, monkeypatch):
    import numpy as np
    import pantry.images
    import torch
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(2):
        for index in range(3):
            path = tmp_path / f"images/training/{label}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 6, 3 if index else 1), dtype=np.uint8).squeeze()).save(path)
    source, cache = tmp_path / "images", tmp_path / "cache"
    plain = load_image_folder(source)()
    assert plain.channels == 3
    first = load_image_folder(source, cache=cache)()
    assert torch.equal(first.X, plain.X) and len(list(cache.iterdir())) == 1
    decoded = []
    original = pantry.images._decode
    monkeypatch.setattr(
        pantry.images, "_decode", lambda path, *settings: decoded.append(path) or original(path, *settings)
    )
    again = load_image_folder(source, cache=cache)()
    on_disk = load_image_folder(source, cache=cache, memory=0.0)()
    assert not decoded and torch.equal(again.X, plain.X) and on_disk.X is None
    assert all(torch.equal(on_disk[index][0], plain.X[index]) for index in range(6))
    Image.fromarray(np.full((8, 6), 7, np.uint8)).save(tmp_path / "images/training/0/0.png")
    assert (load_image_folder(source, cache=cache)().X[0] == 7).all() and decoded
    (tmp_path / "images/training/0/1.png").write_text("broken")
    with pytest.raises(IngredientsError, match="1.png: this is no image"):
        load_image_folder(source, cache=cache)()
    assert not list(cache.glob("*.part"))
