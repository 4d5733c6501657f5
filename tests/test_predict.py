"""A prediction sees an image as training saw it, however the file is; what cannot be read stops nothing else."""

import csv
import io
import json
import os
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from core import IngredientsError, parse
from pantry._fetch import fetch_bytes
from PIL import Image
from recipes import classification, detection, predict, segmentation, text
from recipes.parts import checkpoint
from recipes.parts.predictor import Upload, in_words, open_predictor
from tests.helpers import metrics_of


@pytest.fixture
def ask(monkeypatch, capfdbinary):
    """ask(folder, arguments) -> (exit code, standard output, standard error) of a prediction."""

    def ask(folder, *arguments):
        monkeypatch.setattr("sys.argv", ["predict", *map(str, arguments), "--ingredients", f"{folder}/ingredients.ini"])
        capfdbinary.readouterr()
        code = 0
        try:
            predict.main()
        except SystemExit as left:
            code = left.code
        printed = capfdbinary.readouterr()
        return code, printed.out.decode(errors="surrogateescape"), printed.err.decode()

    return ask


def test_the_preprocess_of_testing_is_applied(train, tmp_path, ask):
    """An image of another size, and in colour, is brought to what the network was trained with."""
    folder = train({"testing.preprocess.size": "[8, 8]", "training.scheme.epochs": "2"})
    Image.new("L", (8, 8), 90).save(tmp_path / "small.png")
    Image.new("RGB", (32, 48), (90, 90, 90)).save(tmp_path / "large.png")
    _, lines, _ = ask(folder, tmp_path / "small.png", tmp_path / "large.png")
    small, large = map(str.split, lines.splitlines())
    assert small[1:] == large[1:]


def test_images_are_resized_as_the_loader_resized_them(train, tmp_path, ask):
    """Whatever preprocess does besides."""
    sizes = {"training.load_dataset.image_size": "[16, 16]", "testing.load_dataset.image_size": "[16, 16]"}
    plain = {"training.preprocess.@preprocess": "divide_by_255", "testing.preprocess.@preprocess": "divide_by_255"}
    unsized = {"training.preprocess.size": None, "testing.preprocess.size": None}
    folder = train(sizes | plain | unsized)
    images = sorted((tmp_path / "data/tiny/testing").glob("*/*.png"))
    Image.open(images[0]).resize((40, 40), Image.Resampling.NEAREST).save(images[0])
    lines = [json.loads(line) for line in ask(folder, *images, "--format", "json")[1].splitlines()]
    right = [line["class"] == Path(line["input"]).parent.name for line in lines]
    tested = next(line for line in metrics_of(folder) if line.get("split") == "testing")
    assert sum(right) / len(right) == tested["accuracy"] > 0.9


def test_formats_names_and_files_that_cannot_be_read(train, ask):
    folder = train({"training.scheme.epochs": "1"})
    names = ["a.png", "b\n\x1b[2J,.png", os.fsdecode(b"\xff.png"), "ä.png", "zz.png"]
    for name in names:
        Image.new("L", (8, 8)).save(name)
    Path("a2.png").write_bytes(b"no image")
    inputs = [names[0], "a2.png", *names[1:], "none.png"]

    code, table, wrong = ask(folder, *inputs)
    assert code == 1 and "a2.png: this is no image" in wrong
    assert "none.png: the image cannot be read: No such file" in wrong
    lines = table.splitlines()
    assert len(lines) == 5 and lines[0].startswith("a.png  ") and "\x1b" not in table
    assert lines[1].startswith(r"b\n\x1b[2J,.png  class-") and lines[2].startswith(r"\udcff.png  ")

    code, printed, _ = ask(folder, *inputs, "--format", "json", "--top", "2")
    found = [json.loads(line) for line in printed.splitlines()]
    assert code == 1 and [each["input"] for each in found] == names
    assert next(iter(found[0]["top"].items())) == (found[0]["class"], found[0]["probability"])
    assert [len(each["top"]) for each in found] == [2] * 5

    code, printed, _ = ask(folder, *names, "--output", "new/out.csv", "--batch-size", "2")
    with open("new/out.csv", newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert (code, printed) == (0, "") and [row["input"] for row in rows] == names
    assert all(row["class"] == each["class"] for row, each in zip(rows, found, strict=True))

    ask(folder, *names, "--output", "out.jsonl")
    assert [json.loads(line)["input"] for line in Path("out.jsonl").read_text().splitlines()] == names
    for wrong in (["--top", "0"], ["--batch-size", "0"], ["--output", "a.png/out.csv"]):
        code, _, said = ask(folder, "a.png", *wrong)
        assert code == 1 and said.count("\n") == 1 and said.startswith(("--", "a.png"))


def test_pictures_of_predictions(train, ask, tmp_path):
    folder = train({"training.scheme.epochs": "1"})
    for name in ("x/1.png", "y/1.png", "y/1.jpg", "y/a\n?.png", "1.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 200), "red").save(name)
    Path("y/sub").mkdir()
    inputs = ["x/1.png", "y", f"{tmp_path}/x/1.png", "y/sub/../../1.png"]
    assert ask(folder, *inputs, "--draw", "z/drawn", "--top", "3")[0] == 0
    drawn = sorted(str(path.relative_to("z/drawn")) for path in Path("z").rglob("*.*"))
    above = str(tmp_path).lstrip("/")
    assert drawn == sorted(
        ["x/1.png", "y/1.png", "y/1.jpg.png", "y/a%0A%3F.png", f"{above}/x/1.png", "y/sub/%2E%2E/%2E%2E/1.png"]
    )
    with Image.open("z/drawn/x/1.png") as picture:
        assert (
            picture.width == 300 and picture.height > 200 and picture.getpixel((150, picture.height - 1)) == (255, 0, 0)
        )
    code, _, wrong = ask(folder, "x/1.png", "--draw", ".")
    assert code == 1 and "would replace x/1.png" in wrong
    with Image.open("x/1.png") as picture:
        assert picture.size == (300, 200)


def test_thresholds_views_and_postprocess_are_used(train, own, ask):
    called = []

    def postprocess():
        return lambda prediction: prediction | {"group": prediction["class"][:5]}

    own.create("postprocess").register("groups")(postprocess)
    own.views.register("spy")(lambda: lambda inputs: called.append(inputs.shape) or [inputs])
    folder = train(
        {
            "training.scheme.epochs": "1",
            "testing.views.@views": "spy",
            "testing.postprocess.@postprocess": "groups",
        }
    )
    called.clear()
    best = folder / "checkpoints/best.pt"
    state = checkpoint.load(best)
    state["meta"]["thresholds"] = {"class-0": 1.1, "class-1": 1.1, "class-2": 1.1}
    checkpoint.save(best, state)
    image = next(Path("data/tiny/testing").rglob("*.png"))
    found = json.loads(ask(folder, image, "--run", folder, "--format", "json")[1])
    assert found["group"] == "class" and found["sure"] is False and called == [(1, 1, 16, 16)]
    assert "  sure: False  class" in ask(folder, image, "--run", folder)[1]
    code, _, wrong = ask(folder, image, "--testing.postprocess.@postprocess", "grups")
    assert code == 1 and "Did you mean groups?" in wrong


def test_standard_input(train, ask, monkeypatch):
    folder = train({"training.scheme.epochs": "1"})
    images = sorted(map(str, Path("data/tiny/testing").rglob("*.png")))[:3]

    def send(content: bytes):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))

    send("\r\n".join(images).encode() + b"\n\n")
    _, listed, _ = ask(folder, "-")
    assert [line.split()[0] for line in listed.splitlines()] == images
    send(Path(images[0]).read_bytes())
    _, one, _ = ask(folder, "-")
    assert one.split()[0] == "-" and one.split()[1:] == listed.splitlines()[0].split()[1:]
    send(b"a text\nhttp://no.address/\n\xff\n")
    assert list(predict.find_inputs(["-"], text)) == ["a text", "http://no.address/", "\udcff"]
    assert text.read_sample("\udcff", {}).tolist() == [256]


def test_an_upload_is_read_as_a_file_is(train):
    folder = train({"training.scheme.epochs": "1"})
    image = next(Path("data/tiny/testing").rglob("*.png"))
    predictor = open_predictor(str(folder), parse(folder / "ingredients.ini"))
    [(_, sample)], [(name, other)] = predictor.read(image), predictor.read(Upload("../x.png", image.read_bytes()))
    assert name == "../x.png" and (sample == other).all()
    with pytest.raises(IngredientsError, match=r"\.\./x\.png: this is no image"):
        predictor.read(Upload("../x.png", b"<html>"))
    one, two = predictor([predictor.prepare(sample)] * 2)
    assert one == two and one["class"] in predictor.classes
    with pytest.raises(IngredientsError, match=r"\[3, 5, 5\] after preprocess, but \[1, 16, 16\] in training"):
        predictor([torch.zeros(3, 5, 5)])


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            self.server.released.wait(5)
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
        else:
            self.send_response(200 if self.path != "/none" else 404)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        """Nothing."""


def test_addresses(monkeypatch):
    stream = io.BytesIO()
    Image.new("L", (4, 4), 9).save(stream, "PNG")
    server = HTTPServer(("127.0.0.1", 0), Server)
    server.content, server.released = stream.getvalue(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    start = f"http://127.0.0.1:{server.server_port}"
    try:
        assert fetch_bytes(f"{start}/a.png") == server.content
        assert len(fetch_bytes(f"{start}/a.png", most=len(server.content))) == len(server.content)
        for address, settings, message in (
            ("/none", {}, "404"),
            ("/a.png", {"most": 10}, "larger than 10 bytes"),
            ("/elsewhere", {}, "302"),
            ("/slow", {"timeout": 0.05}, "timed out"),
        ):
            with pytest.raises(IngredientsError, match=f"{start}{address}: cannot be fetched: .*{message}"):
                fetch_bytes(start + address, **settings)
        predictor = types.SimpleNamespace(
            task=classification,
            prepare=lambda sample: sample,
            read=lambda source: [(str(source), Image.open(source).size)],
        )
        server.released.set()
        [(source, name, size), (_, _, error)] = predict.read_ahead(predictor, [f"{start}/a.png", "ftp://a/b"], 4)
        assert isinstance(source, Upload) and name == f"{start}/a.png" and size == (4, 4)
        assert "ftp://a/b: cannot be fetched: only http and https" in str(error)
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


def test_equal_shapes_share_a_forward_pass_and_answers_keep_their_order():
    passes, sources = [], []

    def model(inputs):
        passes.append(len(inputs))
        if inputs[0].shape == (3,):
            raise IngredientsError("cannot take [3]")
        return [{"value": float(each[0])} for each in inputs]

    def read(source):
        if source % 10 == 7:
            raise IngredientsError(f"{source}: bad")
        return [(str(source), torch.full((1 + source % 3,), float(source)))]

    model.read, model.prepare, model.task = read, lambda sample: sample, classification
    counted = (sources.append(number) or number for number in range(100))
    seen = []
    for batch in predict.predict_batches(model, counted, 8):
        seen += batch
        assert len(batch) <= 8 and len(sources) <= len(seen) + 8 + 1  # however many there are
    for number, (source, name, found) in enumerate(seen):
        assert source == number and name == str(number)
        expected = "bad" if number % 10 == 7 else "cannot take" if number % 3 == 2 else None
        assert (found == {"value": float(number)}) if expected is None else expected in str(found)
    assert max(passes) <= 4 and len(seen) == 100


def test_a_prediction_in_words():
    assert in_words({"class": "7", "probability": 0.98, "sure": True}) == "7  0.9800  sure: True"
    assert in_words({"class": "7", "probability": 0.9, "top": {"7": 0.9, "1": 0.1}}) == "7 0.900, 1 0.100"
    assert in_words({"value": 214.26, "unit": "points", "_mask": None}) == "214.3  points"
    assert in_words({"objects": []}) == "nothing" and in_words({"labels": {}}) == "none"
    assert in_words({"objects": [{"class": "a", "score": 0.5, "box": [1.2, 3.7]}]}) == "a 0.50 [1, 4]"


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    scandir = os.scandir

    def closed(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", closed)
    image, error = predict.find_inputs([str(tmp_path)], classification)
    assert image == f"{tmp_path}/a.png" and str(error) == f"{tmp_path}/closed: cannot be read: Permission denied"
    [error] = predict.find_inputs([f"{tmp_path}/closed"], classification)
    assert "Permission denied" in str(error)


class Finder(torch.nn.Module):
    """A detector that always returns the same three objects."""

    first_label = 1

    def forward(self, images):
        boxes = torch.tensor([[100.0, 200.0, 300.0, 400.0], [0.0, 0.0, 9.0, 9.0], [50.0, 60.0, 70.0, 80.0]])
        found = {"boxes": boxes, "labels": torch.tensor([1, 1, 2]), "scores": torch.tensor([0.9, 0.4, 0.3])}
        return [found for _ in images]


def test_objects_above_their_threshold_are_written_and_drawn():
    [all_of_a] = detection.predict(Finder(), torch.zeros(1, 3, 40, 60), ["a", "b"])
    assert all_of_a == {"objects": [{"class": "a", "score": 0.9, "box": [100.0, 200.0, 300.0, 400.0]}]}
    [found] = detection.predict(Finder(), torch.zeros(1, 3, 40, 60), ["a", "b"], thresholds={"b": 0.2})
    first, second = detection.rows(found, ["a", "b"])
    assert list(first.values()) == ["a", 0.9, 100.0, 200.0, 300.0, 400.0] and second["class"] == "b"
    [empty] = detection.rows({"objects": []}, ["a", "b"])
    assert list(empty) == list(first) and not any(empty.values())
    drawn = detection.draw_prediction(torch.zeros(3, 1300, 1400, dtype=torch.uint8), found, ["a", "b"], 2)
    assert drawn.shape == (3, 650, 700) and drawn[:, 150, 50].tolist() == [0, 255, 0]  # half of y 300 and x 100
    assert json.dumps(found)


def test_a_mask_is_drawn_in_the_size_of_the_file():
    mask = torch.zeros(20, 10, dtype=torch.uint8)
    mask[:, 5:] = 2
    pixels = torch.full((3, 400, 200), 100, dtype=torch.uint8)
    drawn = segmentation.draw_prediction(pixels, {"_mask": mask}, ["ground", "dog", "cat"], 1)[:, 14:]
    half = torch.tensor(segmentation.colour_of(2), dtype=torch.uint8) // 2
    assert drawn.shape == (3, 400, 200) and drawn[:, 200, 99].tolist() == [50] * 3
    assert (drawn[:, 200, 100] - half).tolist() == [50] * 3
    assert segmentation.rows({"shares": {"cat": 0.5}}, ["ground", "cat"]) == [{"ground": 0.0, "cat": 0.5}]
