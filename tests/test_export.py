"""An exported file answers as the run that it is from, or is not there."""

import json

import pytest
import torch
from core import IngredientsError, parse
from recipes import export
from recipes.parts import exported
from recipes.parts.predictor import open_predictor
from recipes.parts.trained import open_trained

SUFFIXES = tuple(exported.READERS)


@pytest.fixture
def run_export(monkeypatch, capsys):
    """run_export(folder, *arguments) -> (exit code, what was printed, what is on stderr)."""

    monkeypatch.setattr(export, "speed", lambda pipeline, samples: 0.0)

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
    assert list(rows) == ["original", *export.FORMATS]
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
            with pytest.raises(IngredientsError, match="damaged, or not exported by this project") as told:
                exported.open_exported(tmp_path / f"damaged{suffix}")
            assert "\n" not in str(told.value)


def test_what_differs_is_removed(train, run_export, monkeypatch):
    """The comparison can fail: of weights that are altered on the way into the file."""
    folder = train({"training.scheme.epochs": "1"})
    opened = export.Comparison.write

    def altered(self, *arguments):
        weights = next(self.pipeline.model.parameters())
        before = weights.detach().clone()
        with torch.no_grad():
            weights[0] += 0.5
            try:
                opened(self, *arguments)
            finally:
                weights.copy_(before)

    monkeypatch.setattr(export.Comparison, "write", altered)
    (folder / "export").mkdir()
    (folder / "export/model.onnx").write_bytes(b"from before")
    code, printed, wrong = run_export(folder, "--format", "safetensors", "onnx")
    assert code == 1 and wrong.count("differ by up to") == 2 and not list((folder / "export").iterdir())
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
