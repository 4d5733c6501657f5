"""A prediction sees an image as training saw it, however the file is."""

from pathlib import Path

from PIL import Image
from recipes import predict
from tests.helpers import metrics_of


def predicted(monkeypatch, capsys, folder, images):
    """[(file, class, probability)] of a run."""
    ini = ["--ingredients", str(folder / "ingredients.ini")]
    monkeypatch.setattr("sys.argv", ["predict", *map(str, images), *ini])
    capsys.readouterr()
    predict.main()
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_preprocess_of_testing_is_applied(train, tmp_path, monkeypatch, capsys):
    """An image of another size, and in colour, is brought to what the network was trained with."""
    folder = train({"testing.preprocess.size": "[8, 8]", "training.scheme.epochs": "2"})
    Image.new("L", (8, 8), 90).save(tmp_path / "small.png")
    Image.new("RGB", (32, 48), (90, 90, 90)).save(tmp_path / "large.png")
    small, large = predicted(monkeypatch, capsys, folder, [tmp_path / "small.png", tmp_path / "large.png"])
    assert small[1:] == large[1:]


def test_images_are_resized_as_the_loader_resized_them(train, tmp_path, monkeypatch, capsys):
    """Whatever preprocess does besides."""
    sizes = {"training.load_dataset.image_size": "[16, 16]", "testing.load_dataset.image_size": "[16, 16]"}
    plain = {"training.preprocess.@preprocess": "divide_by_255", "testing.preprocess.@preprocess": "divide_by_255"}
    unsized = {"training.preprocess.size": None, "testing.preprocess.size": None}
    folder = train(sizes | plain | unsized)
    images = sorted((tmp_path / "data/tiny/testing").glob("*/*.png"))
    Image.open(images[0]).resize((40, 40), Image.Resampling.NEAREST).save(images[0])
    right = [label == Path(name).parent.name for name, label, *_ in predicted(monkeypatch, capsys, folder, images)]
    tested = next(line for line in metrics_of(folder) if line.get("split") == "testing")
    assert sum(right) / len(right) == tested["accuracy"] > 0.9
