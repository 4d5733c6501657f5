"""Texts: files, token ids, and a run from training to a prediction."""

from pathlib import Path

import pytest
import torch
from helpers import metrics_of

from core import IngredientsError
from pantry.texts import load_texts, to_ids
from recipes import predict, validate
from recipes.parts import samples
from recipes.parts.backbone import find_backbone
from recipes.settings import call_functions, read_ingredients
from recipes.train import train as train_recipe

HERE = Path(__file__).parent.parent
INI = next(HERE / name for name in ("ingredients.text.ini", "ingredients.ini") if (HERE / name).is_file())
LANGUAGES = ["Danish", "Dutch", "English", "French", "German", "Italian", "Portuguese", "Spanish", "Swedish"]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(changes) -> the folder of a short run in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    short = {"project.name": "words", "project.data.root": f"{HERE}/data/", "training.scheme.epochs": "3"}

    def run(changes=None):
        overrides = [(path, text, True) for path, text in (short | (changes or {})).items()]
        ingredients = read_ingredients(INI, overrides)
        return train_recipe(ingredients, call_functions(ingredients))

    return run


# --------------------------------------------------------------------------------------------------------------- files


def test_texts_are_bytes():
    loaded = load_texts(HERE / "data" / "udhr", "testing", length=8)()
    first = (HERE / "data/udhr/testing.tsv").read_text(encoding="utf-8").splitlines()[0].partition("\t")[2]
    assert loaded.classes == LANGUAGES and loaded[0].dtype == torch.int64 and loaded[0].shape == (265, 8)
    assert bytes((loaded[0][0] - 1).tolist()) == first.encode()[:8] and loaded.paths[0].endswith("testing.tsv:1")
    assert sorted({*loaded[1].tolist()}) == [*range(9)]
    assert to_ids("a\u00e9", 5).tolist() == [98, 196, 170, 0, 0]
    assert to_ids("abc", 2).tolist() == [98, 99] and to_ids("", 2).tolist() == [0, 0]
    assert int(to_ids("".join(map(chr, range(0x110))), 600).max()) <= 256


def write(folder, **texts):
    for split, text in texts.items():
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def test_everything_wrong_with_texts_is_reported_at_once(tmp_path):
    folder = write(tmp_path, training="yes\tb\n\nno\ta\n", validation="yes\n\tx\nno\t \n", testing="ye\tx\nq\tz\n")
    assert load_texts(folder)().classes == ["no", "yes"] and load_texts(folder)()[1].tolist() == [1, 0]
    for split, expected in (
        ("validation", [f"validation.tsv:{line}: expected a class, a tab and a text" for line in (1, 2, 3)]),
        ("testing", ["testing.tsv:1: training has no class ye. Did you mean yes?", "testing.tsv:2: training has no"]),
    ):
        with pytest.raises(IngredientsError) as error:
            load_texts(folder, split)()
        assert [part for part in expected if part not in str(error.value)] == []
    with pytest.raises(IngredientsError, match=r"training\.tsv: cannot be read: .*No such file"):
        load_texts(tmp_path / "none")()
    with pytest.raises(IngredientsError, match="has no texts"):
        load_texts(write(tmp_path, training="\n"))()
    with pytest.raises(ValueError, match="length = 0: must be at least 1"):
        load_texts(tmp_path, length=0)


def test_rows_of_integers_stay_and_images_do_not():
    for kind in (torch.int64, torch.int32):
        row = torch.tensor([3, 300], dtype=kind)
        assert samples.as_input(samples.scale(row)).dtype == torch.int64
        assert samples.as_input(row).tolist() == [3, 300]
    for refused in (torch.zeros(3, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(IngredientsError, match="divide by 255"):
            samples.as_input(refused)
        assert samples.as_input(samples.scale(refused)).is_floating_point()


# ---------------------------------------------------------------------------------------------------------------- runs


def test_text_cnn_finds_words_anywhere():
    torch.manual_seed(0)
    model = find_backbone("text_cnn", {"width": 8, "span": 3})(10, 4).eval()
    row = torch.zeros(2, 12, dtype=torch.int64)
    row[0, 2:5] = row[1, 6:9] = torch.tensor([5, 6, 7])
    assert model(row).shape == (2, 4) and torch.allclose(*model(row))
    assert not torch.allclose(*model(row.flip(1) + torch.tensor([[0], [1]])))


def test_a_run_learns_is_evaluated_again_and_names_the_language_of_a_text(train, monkeypatch, capsys):
    run = train()
    assert max(line["accuracy"] for line in metrics_of(run) if "train_loss" in line) > 0.8
    tested = (run / "log.txt").read_text().partition("on 265 test samples: ")[2].splitlines()[0]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["validate", str(run / "ingredients.ini"), "--run", str(run), "--on", "testing"])
    validate.main()
    assert capsys.readouterr().out.startswith(f"testing: {tested} (265 samples)\n")
    texts = {
        "alle Menschen sind frei und gleich an Rechten geboren": "German",
        "tout individu a droit à la vie": "French",
    }
    monkeypatch.setattr("sys.argv", ["predict", *texts, "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    predicted = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert {text: language for text, language, _ in predicted} == texts


@pytest.mark.parametrize(
    "changes, path, message",
    [
        ({"project.meta.n_classes": "8"}, "model.architecture.output_classes", "set it to 9"),
        ({"model.architecture.backbone": "text_cmn"}, "model.architecture.backbone", "Did you mean text_cnn"),
        ({"validation.load_dataset.length": "20"}, "validation.load_dataset", "[20]"),
        ({"training.preprocess.@preprocess": "halves"}, "training.load_dataset", "torch.float32 [72]"),
        ({"project.meta.task": "classification"}, "", "[72]"),
    ],
)
def test_what_does_not_fit_is_refused(train, own, changes, path, message):
    own.preprocess("halves")(lambda: lambda row: row / 2)
    with pytest.raises(IngredientsError) as error:
        train({"training.scheme.epochs": "1"} | changes)
    assert any(path in problem.key and message in problem.message for problem in error.value.problems), error.value
