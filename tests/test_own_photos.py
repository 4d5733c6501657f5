"""Projects rendered with `data = folder`: one setting, the place of the photos, is all that they need."""

import shutil

import forked
import numpy
import pytest
from PIL import Image

TASKS = ("classification", "detection", "segmentation")
SHORT = ["--model.architecture.weights", "None", "--training.scheme.epochs", "1", "--training.scheme.workers", "0"]
SHORT += ["--training.load_dataset.image_size", "[64, 64]", "--training.scheme.batch_size", "4"]
BOX = "<bndbox><xmin>4</xmin><ymin>6</ymin><xmax>{}</xmax><ymax>30</ymax></bndbox>"
XML = f"<annotation><object><name>{{}}</name>{BOX}</object></annotation>"
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def projects(cookies_session, template):
    """Task -> the project that was baked for it."""
    baked = {}
    for task in TASKS:
        answers = {"task": task, "data": "folder"}
        result = cookies_session.bake(extra_context=answers, template=str(template))
        assert result.exception is None, result.exception
        baked[task] = result.project_path
    return baked


def photo(path, label: int, number: int, size=(40, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy.random.default_rng(number).integers(0, 80, (*size, 3), dtype=numpy.uint8)
    pixels[6:30, 4:24, label] += 150
    Image.fromarray(pixels).save(path)


def mask(path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = numpy.zeros((40, 50), numpy.uint8)
    pixels[6:30, 4:24] = label + 1
    Image.fromarray(pixels).save(path)


def write(root, task: str, split: str = "", count: int = 10) -> None:
    """`count` photos of a split in a layout of the task."""
    for number in range(count):
        label, name = number % 2, f"{split}{number}"
        if task == "classification":
            photo(root / split / CLASSES[label] / f"{name}.jpg", label, number)
            continue
        photo(root / "images" / split / f"{name}.jpg", label, number)
        if task == "segmentation":
            mask(root / "masks" / split / f"{name}.png", label)
        else:
            place = root / "annotations" / split / f"{name}.xml"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(XML.format(CLASSES[label], 24))


@pytest.mark.parametrize("task", TASKS)
def test_one_setting_is_enough(projects, tmp_path, user_env, task):
    project, photos = projects[task], tmp_path / "photos"
    write(photos, task)
    for split, count in (("train", 6), ("valid", 4), ("test", 2)):
        write(tmp_path / "split", task, split, count)
    env = user_env | {"HOME": str(tmp_path)}
    train = ["train.py", *SHORT]
    ran = forked.run(
        project,
        ("train.py", "--check"),
        (*train, "--project.data.source", "~/photos"),
        ("recipes.validate", "--on", "testing"),
        (*train, "--project.data.source", str(tmp_path / "split")),
        ("train.py", "--check", "--project.data.source", str(tmp_path / "split")),
        ("recipes.predict", str(next((tmp_path / "photos").rglob("*.jpg")))),
        ("train.py", "--check", "--project.data.source", "~/photoes"),
        env=env,
    )
    before, one_folder, no_test, split, check, predicted, mistyped = ran
    assert before[0] == 0 and "the data is not here yet (photos)" in before[1], before[1]
    assert "not checked: the weights pretrained" in before[1], "nothing is downloaded"
    classes = "3 classes" if task == "segmentation" else "2 classes"
    assert one_folder[0] == 0 and f"8 training and 2 validation samples, {classes}" in one_folder[1], one_folder[1]
    assert "photos: training" in one_folder[1] and "20% of it held back for validation; no test split" in one_folder[1]
    assert "validation_fraction" not in one_folder[1], "it is in use"
    assert no_test[0] == 1 and "testing.load_dataset" in no_test[1] and "no such split in ~/photos" in no_test[1]
    assert no_test[1].startswith("settings in runs/") and "/best.pt:" in no_test[1], no_test[1]
    assert split[0] == 0 and f"6 training and 4 validation samples, {classes}" in split[1], split[1]
    assert "train/; validation in" in split[1] and "test/, 2 samples" in split[1], split[1]
    assert "on 2 test samples" in split[1]
    assert check[0] == 0 and check[1].splitlines()[-1].startswith("ok"), check[1]
    assert predicted[0] == 0, predicted[1]
    assert mistyped[0] == 1 and "command line: project.data.source = ~/photoes\n" in mistyped[1], mistyped[1]
    assert mistyped[1].count("there is no such folder") == 1 and "held back" not in before[1] + mistyped[1]


def one_class(root):
    write(root, "classification")
    shutil.rmtree(root / "dog")


def unlike_validation(root):
    write(root, "classification", "train")
    write(root, "classification", "val")
    (root / "val/dog").rename(root / "val/dgo")


def unlike_testing(root):
    write(root, "classification", "train")
    write(root, "classification", "test")
    (root / "test/dog").rename(root / "test/dgo")


def corrupt(root):
    write(root, "classification")
    for number in (0, 3):
        path = root / CLASSES[number % 2] / f"{number}.jpg"
        path.write_bytes(path.read_bytes()[:400])


def empty(root):
    root.mkdir()


def table_beside_photos(root):
    photo(root / "1.jpg", 0, 0)
    (root / "labels.csv").write_text("image,label\n1.jpg,cat\n")


REFUSED = {  # what is wrong with the folder, and what the message says
    lambda root: None: ["there is no such folder", "<class>/*.jpg"],
    empty: ["there are no class folders in it", "<class>/*.jpg"],
    one_class: ["has one class alone, cat"],
    unlike_validation: ["no such classes: dgo"],
    unlike_testing: ["no such classes: dgo"],
    corrupt: ["0.jpg: the image cannot be read", "3.jpg: the image cannot be read"],
    table_beside_photos: ["labels.csv lists them, write it as source"],
}


def test_folders_that_cannot_be_used_are_refused_before_training(projects, tmp_path, user_env):
    commands = []
    for number, make in enumerate(REFUSED):
        make(tmp_path / str(number))
        commands.append(("train.py", *SHORT, "--project.data.source", str(tmp_path / str(number))))
    ran = forked.run(projects["classification"], *commands, env=user_env)
    for (code, printed), expected in zip(ran, REFUSED.values(), strict=True):
        assert code == 1 and "Traceback" not in printed and "epoch" not in printed, printed
        assert all(text in printed for text in expected), printed


def test_the_home_folder_in_every_path(projects, tmp_path, user_env):
    write(tmp_path / "photos", "classification")
    saved = ["--add", "training.model.runs=~/runs", "--training.model.save_name", "~/kept/m.pth"]
    ran = forked.run(
        projects["classification"],
        ("train.py", *SHORT, "--project.data.source", "~/photos", *saved),
        ("train.py", "--check", "--project.data.source", "~/photos", "--model.architecture.weights", "~/kept/m.pth"),
        env=user_env | {"HOME": str(tmp_path)},
    )
    assert [code for code, _ in ran] == [0, 0] and "of ~/kept/m.pth" in ran[1][1], ran
    assert list(tmp_path.glob("runs/*/*/log.txt")) and not (projects["classification"] / "~").exists()


def test_a_class_that_validation_lacks_is_reported(projects, tmp_path, user_env):
    write(tmp_path / "one", "classification")
    photo(tmp_path / "one/single/0.jpg", 0, 0)
    for split, count in (("train", 6), ("val", 4)):
        write(tmp_path / "two", "classification", split, count)
    shutil.rmtree(tmp_path / "two/val/dog")
    commands = [("train.py", "--check", "--project.data.source", str(tmp_path / name)) for name in ("one", "two")]
    one, two = forked.run(projects["classification"], *commands, env=user_env)
    assert one[0] == 0 and "\nnote: no validation sample of single\n" in one[1], one[1]
    assert two[0] == 0 and "2 classes\n" in two[1] and "\nnote: no validation sample of dog\n" in two[1], two[1]


def test_photos_that_cannot_be_read_are_left_out_if_asked(projects, tmp_path, user_env):
    corrupt(tmp_path)
    source = ["--project.data.source", str(tmp_path), "--training.load_dataset.skip_corrupt", "True"]
    printed = forked.run_one(projects["classification"], "train.py", *SHORT, *source, env=user_env)
    assert "skipped 2 of 10 images" in printed and "6 training and 2 validation samples" in printed, printed


@pytest.mark.parametrize("task", TASKS[1:])
def test_no_annotations_are_refused_with_the_layout(projects, tmp_path, user_env, task):
    photo(tmp_path / "bare/1.jpg", 0, 0)
    (tmp_path / "empty").mkdir()
    commands = [("train.py", *SHORT, "--project.data.source", str(tmp_path / name)) for name in ("bare", "empty", "no")]
    bare, empty, missing = forked.run(projects[task], *commands, env=user_env)
    assert f"no {'annotations' if task == 'detection' else 'masks or polygons'} of the same names" in bare[1]
    kind = "annotations/1.xml" if task == "detection" else "masks/1.png"
    assert "there is no image in it" in empty[1] and f"empty/{kind}" in empty[1], empty[1]
    assert "there is no such folder" in missing[1] and f"no/{kind}" in missing[1], missing[1]
    assert [code for code, _ in (bare, empty, missing)] == [1, 1, 1]


@pytest.mark.parametrize("task", TASKS[1:])
def test_annotated_photos_that_cannot_be_used_are_refused_before_training(projects, tmp_path, user_env, task):
    """Those that are corrupt, all at once; one class of masks. A class that training lacks is noted."""
    for name in ("corrupt", "unlike", "one"):
        write(tmp_path / name, task, "train", 4)
        write(tmp_path / name, task, "val", 2)
    for place in ("images/train/train0.jpg", "images/val/val1.jpg"):
        (tmp_path / "corrupt" / place).write_bytes((tmp_path / "corrupt" / place).read_bytes()[:400])
    changed = {}
    for file in (tmp_path / "unlike").rglob("val1.*"):
        changed[file.suffix] = mask(file, 2) if file.suffix == ".png" else file
    if task == "detection":
        changed[".xml"].write_text(XML.format("fox", 24))
    for file in (tmp_path / "one").rglob("*.png"):
        mask(file, -1)
    commands = [("train.py", *SHORT, "--project.data.source", str(tmp_path / name)) for name in ("corrupt", "unlike")]
    commands += [(*commands[0][:-1], str(tmp_path / "one"), "--check"), (*commands[0], "--check")]
    corrupt, unlike, one, checked = forked.run(projects[task], *commands, env=user_env)
    assert corrupt[0] == 1 and "train0.jpg: the image cannot" in corrupt[1] and "val1.jpg: the image" in corrupt[1]
    assert checked[0] == 1 and checked[1].count("train0.jpg") == checked[1].count("val1.jpg") == 1, checked[1]
    absent = "1 of 3 classes are in no image for training: fox" if task == "detection" else "1 of 4 classes"
    assert unlike[0] == 0 and f"note: {absent}" in unlike[1], unlike[1]
    if task == "segmentation":
        assert one[0] == 1 and "masks have one class, 0; at least 2 are needed" in one[1], one[1]


def test_files_of_names_are_sources_too(projects, tmp_path, user_env):
    write(tmp_path / "photos", "classification")
    files = sorted((tmp_path / "photos").rglob("*.jpg"))
    rows = [(path.relative_to(tmp_path), path.parent.name) for path in files]
    (tmp_path / "all.csv").write_text("image,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    for split, chosen in (("train", rows[::2]), ("val", rows[1::2])):
        (tmp_path / f"{split}.txt").write_text("".join(f"{path} {label}\n" for path, label in chosen))
    commands = [
        ("train.py", *SHORT, "--project.data.source", str(tmp_path / name)) for name in ("all.csv", "train.txt")
    ]
    table, lists = forked.run(projects["classification"], *commands, env=user_env)
    assert table[0] == 0 and "8 training and 2 validation samples, 2 classes" in table[1], table[1]
    assert lists[0] == 0 and "5 training and 5 validation samples, 2 classes" in lists[1], lists[1]


@pytest.mark.parametrize("task", TASKS)
def test_the_project_passes_its_own_tests(projects, user_env, task):
    forked.run_one(projects[task], "pytest", "-q", "tests/test_photos.py", "tests/test_ingredients.py", env=user_env)
