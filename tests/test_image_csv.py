"""pantry/image_csv.py: images that a file lists, with their labels."""

import numpy
import pytest
import torch
from core import IngredientsError
from pantry.image_csv import load_image_csv
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    for index in range(12):
        path = tmp_path / ("cat" if index % 3 else "dog") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(numpy.full((4, 4), index, numpy.uint8)).save(path)
    return tmp_path


def write(folder, text, name="labels.csv"):
    (folder / name).write_text(text)
    return folder / name


def names_of(index):
    return f"{'cat' if index % 3 else 'dog'}/{index}.png"


def rows(separator=",", tail=lambda index: ""):
    lines = [f"{names_of(i)}{separator}{'b' if i % 2 else 'a'}{tail(i)}" for i in range(12)]
    return "\n".join(lines) + "\n"


def pixels(loaded):
    return [int(loaded[index][0].max()) for index in range(len(loaded))]


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("column", ["image", "filename", "path"])
def test_a_file_and_a_label_in_each_row(folder, separator, column):
    source = write(folder, f"\ufeff{column}{separator}label\n{rows(separator)}")
    loaded = load_image_csv(source)()
    assert loaded.classes == ["a", "b"] and pixels(loaded) == [*range(12)]
    assert loaded.targets.tolist() == [0, 1] * 6 and loaded.targets.dtype == torch.int64
    assert load_image_csv(source, classes=["b", "a"])().targets.tolist() == [1, 0] * 6


def test_images_of_another_folder_and_columns_by_name(folder):
    (folder / "tables").mkdir()
    source = write(folder / "tables", f"who,what\n{rows()}")
    loaded = load_image_csv(source, images=folder, file="who", label="what")()
    assert pixels(loaded) == [*range(12)] and loaded.classes == ["a", "b"]


def test_numbers_as_labels_are_in_the_order_of_numbers(folder):
    text = "".join(f"{names_of(i)},{[10, 2, 9][i % 3]}\n" for i in range(12))
    assert load_image_csv(write(folder, f"image,label\n{text}"))().classes == ["2", "9", "10"]


def test_several_columns_are_several_labels(folder):
    text = "".join(f"{names_of(i)},{i % 2},{int(i > 5)},1\n" for i in range(12))
    source = write(folder, f"image,red,big,seen\n{text}")
    loaded = load_image_csv(source, label=["red", "big"])()
    assert loaded.classes == ["red", "big"] and loaded.targets.dtype == torch.float32
    assert loaded.targets.tolist() == [[float(i % 2), float(i > 5)] for i in range(12)]
    source.write_text(source.read_text().replace("cat/1.png,1", "cat/1.png,yes"))
    with pytest.raises(IngredientsError, match=r"labels.csv:3: labels are yes, 0, expected 0 or 1"):
        load_image_csv(source, label=["red", "big"])()


def test_the_column_split_says_which_rows(folder):
    splits = ["train", "val", "Testing", "training"]
    source = write(folder, f"image,label,split\n{rows(tail=lambda index: ',' + splits[index % 4])}")
    found = {split: pixels(load_image_csv(source, split)()) for split in ("training", "validation", "testing", "all")}
    assert found["validation"] == [1, 5, 9] and found["testing"] == [2, 6, 10] and found["all"] == [*range(12)]
    assert found["training"] == [0, 3, 4, 7, 8, 11]
    source.write_text(source.read_text().replace("val", "vall", 1))
    with pytest.raises(IngredientsError, match="labels.csv:3: split is 'vall', expected one of train, training"):
        load_image_csv(source, "training")()


def test_without_a_column_all_rows_are_for_training(folder):
    source = write(folder, f"image,label\n{rows()}")
    assert pixels(load_image_csv(source, "training")()) == [*range(12)]
    assert load_image_csv(source, "validation", optional=True)() is None
    with pytest.raises(IngredientsError, match="no row is of the split testing"):
        load_image_csv(source, "testing")()


def test_text_files_that_are_named_after_splits(folder):
    for split, part in (("train", range(8)), ("val", range(8, 12))):
        write(folder, "\n".join(map(names_of, part)), f"{split}.txt")
    for name in ("train.txt", "val.txt"):
        assert pixels(load_image_csv(folder / name, "training")()) == [*range(8)]
        assert pixels(load_image_csv(folder / name, "validation")()) == [*range(8, 12)]
        assert load_image_csv(folder / name, "testing", optional=True)() is None


def test_a_text_file_of_names(folder):
    loaded = load_image_csv(write(folder, "\n".join(map(names_of, range(12))), "all.txt"))()
    assert loaded.classes == ["cat", "dog"] and loaded.targets.tolist() == [int(i % 3 == 0) for i in range(12)]
    loaded = load_image_csv(write(folder, rows(" "), "labelled.txt"))()
    assert loaded.classes == ["a", "b"] and pixels(loaded) == [*range(12)]
    (folder / "cat").rename(folder / "Persian cat")
    for text, classes in ((rows(" "), ["a", "b"]), ("\n".join(map(names_of, range(12))), ["Persian cat", "dog"])):
        loaded = load_image_csv(write(folder, text.replace("cat/", "Persian cat/"), "blanks.txt"))()
        assert loaded.classes == classes and pixels(loaded) == [*range(12)]


@pytest.mark.parametrize(
    "text, settings, message",
    [
        ("image,label\n", {}, "there are no rows"),
        ("image,lable\ncat/1.png,a\n", {}, "there is no column label. Did you mean lable"),
        ("cat/1.png,a\n", {}, "there is no column image"),
        ("image,label\ncat/1.png,a\ncat/2.png,\n", {}, "labels.csv:3: the label is empty"),
        ("image,label\ncat/1.png,a\ncat/2.png\n", {}, "labels.csv:3: the label is empty"),
        ("image,label\ncat/1.png,aple\n", {"classes": ["apple", "pear"]}, "labels.csv:2: .*apple"),
        ("image,label\ncat/1.png,a\ncat/99.png,b\nno.png,b\n", {}, "2 of 3 samples .*\n.*99.png.*\n.*no.png"),
    ],
)
def test_what_cannot_be_used_is_named(folder, text, settings, message):
    with pytest.raises(IngredientsError, match=message):
        load_image_csv(write(folder, text), **settings)()


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(IngredientsError, match="no.csv: cannot be read: No such file"):
        load_image_csv(tmp_path / "no.csv")()
