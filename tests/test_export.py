"""An exported file answers as the run that it is from, or is not there."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from core import IngredientsError, parse
from recipes import detection, export
from recipes.parts import exported, exporting
from recipes.parts.predictor import open_predictor
from recipes.parts.samples import scale
from recipes.parts.trained import open_trained
from recipes.settings import Architecture
from test_multilabel import CHANGES, load_stripes

SUFFIXES = tuple(exported.READERS)


@pytest.fixture
def run_export(monkeypatch, capsys):
    """run_export(folder, *arguments) -> (exit code, what was printed, what is on stderr)."""

    monkeypatch.setattr(exporting, "milliseconds", lambda pipeline, samples: 0.0)

    def run(folder, *arguments):
        monkeypatch.setattr("sys.argv", ["export", str(folder / "ingredients.ini"), "--run", str(folder), *arguments])
        capsys.readouterr()
        try:
            export.main()
            code = 0
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def rows_of(printed: str) -> dict:
    """The rows of the table: {name: [metric, difference]}."""
    lines = [line.split() for line in printed.splitlines()[1:]]
    return {line[0]: [float(line[-4]), float(line[-3])] for line in lines if len(line) >= 5}


def test_every_format_answers_as_the_run(train, run_export, tmp_path):
    folder = train({"training.scheme.epochs": "2", "training.scheme.ema": "0.9", "testing.views.@views": "flip_views"})
    code, printed, wrong = run_export(folder)
    assert code == 0 and not wrong, wrong
    rows = rows_of(printed)
    assert list(rows) == ["original", *export.FILES]
    assert {metric for metric, _ in rows.values()} == {rows["original"][0]}
    assert rows["safetensors"][1] == 0 and all(difference < 1e-5 for _, difference in rows.values())
    assert sorted(path.name for path in (folder / "export").iterdir()) == sorted(export.FILES.values())

    ingredients = parse(folder / "ingredients.ini")
    original = open_predictor(str(folder), ingredients, top=3)
    for suffix in SUFFIXES:
        predictor = open_predictor(str(folder / f"export/model{suffix}"), ingredients, top=3)
        for size in ((8, 8), (16, 16), (20, 31)):
            for count in (1, 3, 8):
                samples = list(torch.randint(0, 256, (count, 1, *size), dtype=torch.uint8))
                answers = original([original.prepare(sample) for sample in samples])
                found = predictor([predictor.prepare(sample) for sample in samples])
                assert [one["class"] for one in found] == [one["class"] for one in answers]
                for one, other in zip(found, answers, strict=True):
                    assert one["top"] == pytest.approx(other["top"], abs=1e-5)
                assert predictor.facts["parameters"] == original.facts["parameters"]

    for suffix, read in exported.READERS.items():
        metadata, _ = read(folder / f"export/model{suffix}")
        assert metadata["classes"] == ["class-0", "class-1", "class-2"] and metadata["task"] == "classification"
        assert metadata["input"] == {"dtype": "uint8", "shape": ["N", 1, 8, 8]}
        assert metadata["preprocess"]["size"] == [16, 16] and metadata["outputs"] == "probabilities (N, classes)"
        assert metadata["versions"]["torch"] == torch.__version__
        assert json.loads(json.dumps(metadata["meta"])) == metadata["meta"]
        for damaged in (b"", b"\x00\xff" * 40, (folder / f"export/model{suffix}").read_bytes()[:3000]):
            (tmp_path / f"damaged{suffix}").write_bytes(damaged)
            with pytest.raises(IngredientsError, match="damaged, or not exported here") as told:
                exported.open_exported(tmp_path / f"damaged{suffix}")
            assert "\n" not in str(told.value)


def test_a_folder_that_cannot_be_made_is_named(train, run_export, tmp_path):
    (tmp_path / "file").touch()
    code, _, wrong = run_export(train({"training.scheme.epochs": "1"}), "--output", str(tmp_path / "file"))
    assert (code, wrong) == (1, f"{tmp_path}/file: File exists\n")


def test_what_differs_is_removed(train, run_export, monkeypatch):
    """The comparison can fail: of weights that are altered on the way into the file."""
    folder = train({"training.scheme.epochs": "1"})
    opened = exporting.Comparison.write

    def altered(self, *arguments):
        weights = next(self.pipeline.model.parameters())
        before = weights.detach().clone()
        with torch.no_grad():
            weights[0] += 0.5
            try:
                opened(self, *arguments)
            finally:
                weights.copy_(before)

    monkeypatch.setattr(exporting.Comparison, "write", altered)
    (folder / "export").mkdir()
    (folder / "export/model.onnx").write_bytes(b"from before")
    code, printed, wrong = run_export(folder, "--format", "safetensors", "onnx")
    assert code == 1 and wrong.count("differ from the original") == 2 and not list((folder / "export").iterdir())
    assert len(rows_of(printed)) == 3


def test_a_preprocess_that_cannot_be_traced_is_refused(train, run_export, own):
    def by_numpy():
        return lambda sample: torch.from_numpy(sample.numpy() / 255).float()

    own.preprocess("by_numpy")(by_numpy)
    plain = {"training.preprocess.@preprocess": "by_numpy", "testing.preprocess.@preprocess": "by_numpy"}
    folder = train(plain | {"training.preprocess.size": None, "testing.preprocess.size": None})
    code, printed, wrong = run_export(folder)
    assert code == 1 and wrong.count("[testing.preprocess]") == 2 and "operations of torch alone" in wrong
    assert [path.name for path in (folder / "export").iterdir()] == ["model.safetensors"]
    assert open_trained(str(folder), parse(folder / "ingredients.ini"))


def test_a_detector_finds_the_same_objects(tmp_path, one_thread):
    torch.manual_seed(0)
    model = detection.build_model(Architecture("fcos", {"body": "small"}, 3), [3, 64, 64], 3)
    model.score_thresh = 0.001  # which nothing reaches else, as it is not trained
    ask = {"testing.preprocess": scale, "testing.views": None}
    experiment = SimpleNamespace(model=model, task=detection, functions=SimpleNamespace(at=ask.get))
    experiment.preprocess = lambda split: (scale, "")
    pipeline = exporting.Pipeline(experiment)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    detection.write_onnx(tmp_path / "model.onnx", pipeline, images[:1], {exported.KEY: "{}"})
    _, run = exported.READERS[".onnx"](tmp_path / "model.onnx")
    with torch.inference_mode():
        for image in (images[:1], images[1:], torch.randint(0, 256, (1, 3, 48, 80), dtype=torch.uint8)):
            [expected] = pipeline(image)
            assert len(expected[0]) > 10 and exporting.difference(run(image), expected) < exporting.TOLERANCE
            model.forward, forward = partial(detection.restored, model, run), model.forward
            assert exporting.difference(detection.exported(model, image), [expected]) < exporting.TOLERANCE
            model.forward = forward


def test_several_labels(train, run_export, own):
    """Probabilities of labels, each by itself, with a metric of them."""
    own.load_dataset("load_stripes")(load_stripes)
    folder = train(CHANGES | {"training.scheme.epochs": "1"})
    code, printed, wrong = run_export(folder, "--format", "torch", "onnx")
    assert code == 0, wrong
    assert len({metric for metric, _ in rows_of(printed).values()}) == 1
    ingredients, sample = parse(folder / "ingredients.ini"), torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    answers = [
        predictor([predictor.prepare(sample)])[0]["labels"]
        for name in ("", "export/model.pt2", "export/model.onnx")
        for predictor in [open_predictor(str(folder / name), ingredients)]
    ]
    assert answers[1] == pytest.approx(answers[0], abs=1e-5) and answers[2] == pytest.approx(answers[0], abs=1e-5)
