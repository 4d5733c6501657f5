"""Texts: what a file may hold, token ids that pass as they are, and the task from training to a language."""

import json
from pathlib import Path

import pytest
import torch

from core import IngredientsError, resolve
from pantry.texts import load_texts, to_ids
from recipes import data, predict, validate
from recipes.parts.backbone import find_backbone
from recipes.settings import read_ingredients
from recipes.train import train as train_recipe

HERE = Path(__file__).parent.parent
INI = next(HERE / name for name in ("ingredients.text.ini", "ingredients.ini") if (HERE / name).is_file())
LANGUAGES = ["Danish", "Dutch", "English", "French", "German", "Italian", "Portuguese", "Spanish", "Swedish"]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train({"a.b": "5"}) -> the folder of a short run, in a scratch folder."""
    monkeypatch.chdir(tmp_path)
    fixed = {"project.name": "words", "project.data.root": f"{HERE}/data/", "training.scheme.epochs": "3"}

    def run(changes=None):
        ingredients = read_ingredients(INI, [(path, text, True) for path, text in (fixed | (changes or {})).items()])
        return train_recipe(ingredients, resolve(ingredients))

    return run


# ------------------------------------------------------------------------------------------------------- the files


def test_texts_are_those_of_the_file_as_bytes():
    loaded = load_texts(HERE / "data" / "udhr", "testing", length=8)()
    first = (HERE / "data/udhr/testing.tsv").read_text(encoding="utf-8").splitlines()[0].partition("\t")[2]
    assert loaded.classes == LANGUAGES and loaded[0].dtype == torch.int64 and loaded[0].shape == (265, 8)
    assert bytes((loaded[0][0] - 1).tolist()) == first.encode()[:8] and loaded.paths[0].endswith("testing.tsv:1")
    assert sorted({*loaded[1].tolist()}) == [*range(9)]


def test_splits_have_no_articles_in_common():
    files = [(HERE / f"data/udhr/{split}.tsv") for split in ("training", "validation", "testing")]
    texts = [line for file in files for line in {*file.read_text(encoding="utf-8").splitlines()}]
    assert len(texts) > 1600 and len(texts) - len({*texts}) <= 1  # the Declaration says some words twice


def test_ids_are_bytes_and_zeros():
    assert to_ids("a\u00e9", 5).tolist() == [98, 196, 170, 0, 0]
    assert to_ids("abc", 2).tolist() == [98, 99] and to_ids("", 2).tolist() == [0, 0]
    assert int(to_ids("".join(map(chr, range(0x110))), 600).max()) <= 256


def write(folder, **texts):
    for split, text in texts.items():
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def test_all_that_is_wrong_with_texts_is_told_at_once(tmp_path):
    folder = write(tmp_path, training="yes\tb\n\nno\ta\n", validation="yes\n\tx\nno\t \n", testing="ye\tx\nq\tz\n")
    assert load_texts(folder)().classes == ["no", "yes"] and load_texts(folder)()[1].tolist() == [1, 0]
    with pytest.raises(IngredientsError) as told:
        load_texts(folder, "validation")()
    assert [f"validation.tsv:{line}: a class, a tab and a text" in str(told.value) for line in (1, 2, 3)] == [True] * 3
    with pytest.raises(IngredientsError) as told:
        load_texts(folder, "testing")()
    assert "testing.tsv:1: training has no class ye. Did you mean yes?" in str(told.value)
    assert "testing.tsv:2: training has no class q" in str(told.value)
    with pytest.raises(IngredientsError, match=r"training\.tsv: cannot be read: No such file"):
        load_texts(tmp_path / "none")()
    with pytest.raises(IngredientsError, match="there are no texts in it"):
        load_texts(write(tmp_path, training="\n"))()
    with pytest.raises(ValueError, match="length = 0: write"):
        load_texts(tmp_path, length=0)


def test_rows_of_whole_numbers_pass_as_they_are_and_images_do_not():
    for kind in (torch.int64, torch.int32):
        row = torch.tensor([3, 300], dtype=kind)
        assert data.as_input(data.scale(row)).dtype == torch.int64 and data.as_input(row).tolist() == [3, 300]
    for refused in (torch.zeros(3, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(IngredientsError, match="a model takes floats: divide by 255"):
            data.as_input(refused)
        assert data.as_input(data.scale(refused)).is_floating_point()


# ------------------------------------------------------------------------------------------- the network, the task


def test_text_cnn_looks_at_words_wherever_they_are():
    torch.manual_seed(0)
    model = find_backbone("text_cnn", {"width": 8, "span": 3})(10, 4).eval()
    row = torch.zeros(2, 12, dtype=torch.int64)
    row[0, 2:5] = row[1, 6:9] = torch.tensor([5, 6, 7])
    assert model(row).shape == (2, 4) and torch.allclose(*model(row))
    assert not torch.allclose(*model(row.flip(1) + torch.tensor([[0], [1]])))
    with pytest.raises(ValueError, match="width = 0"):
        find_backbone("text_cnn", {"width": 0})(10, 4)


def test_task_learns_and_is_measured_again_and_names_the_language_of_a_text(train, monkeypatch, capsys):
    run = train()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line["accuracy"] for line in lines if "train_loss" in line) > 0.8
    tested = (run / "log.txt").read_text().partition("on 265 test samples: ")[2].splitlines()[0]
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["validate", str(run / "ingredients.ini"), "--run", str(run), "--on", "testing"])
    validate.main()
    assert capsys.readouterr().out == f"testing: {tested} (265 samples)\n"
    texts = {
        "alle Menschen sind frei und gleich an Rechten geboren": "German",
        "tout individu a droit à la vie": "French",
    }
    monkeypatch.setattr("sys.argv", ["predict", *texts, "--run", str(run), "--ingredients", str(INI)])
    predict.main()
    said = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert {text: language for text, language, _ in said} == texts


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"project.meta.n_classes": "8"}, r"the data has 9 classes \(Danish, Dutch, .*\); write 9"),
        ({"model.architecture.backbone": "text_cmn"}, "Did you mean text_cnn"),
        ({"training.load_dataset.length": "4", "model.architecture.options": '{"span": 9}'}, None),
        ({"validation.load_dataset.length": "20"}, r"a sample is \[20\], but in training \[72\]"),
        ({"training.preprocess.@preprocess": "halves"}, r"a sample is torch.float32 \[72\]; a row of token ids"),
    ],
)
def test_what_does_not_fit_is_refused(train, own, changes, told):
    own.preprocess("halves")(lambda: lambda row: row / 2)
    if told is None:  # a span that is longer than the text is filled up
        train({"training.scheme.epochs": "1"} | changes)
        return
    with pytest.raises(IngredientsError, match=told):
        train({"training.scheme.epochs": "1"} | changes)


def test_ids_for_a_network_of_images_are_refused(train):
    changes = {"project.meta.task": "classification", "model.architecture.backbone": "text_cnn"}
    with pytest.raises(IngredientsError, match=r"a sample is torch.int64 \[72\]; a network takes floats"):
        train(changes)
