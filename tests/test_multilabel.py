"""recipes/multilabel.py: several labels for each image."""

import json
import types

import pytest
import torch
from core import IngredientsError
from recipes import multilabel
from recipes.parts.samples import load

CHANGES = {
    "project.meta.task": "multilabel",
    "project.meta.n_classes": "2",
    "training.load_dataset.@load_dataset": "load_stripes",
    "training.load_dataset.source": "data/tiny",
    "testing.load_dataset.@load_dataset": "load_stripes",
    "testing.load_dataset.source": "data/tiny",
    "testing.load_dataset.split": "testing",
    "training.loss.@loss": "torch.nn.BCEWithLogitsLoss",
    "training.augment.@augment": "random_shift",
    "training.scheme.epochs": "6",
}


def load_stripes(source="data/tiny", split="training"):
    """The tiny data's classes as two labels: stripes along rows, and along columns; plain images have none."""
    from pantry.images import Arrays, load_image_folder

    def load():
        folder = load_image_folder(source, split)()
        images = torch.stack([folder[index][0] for index in range(len(folder))])
        labels = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[torch.as_tensor(folder.targets)]
        both = torch.maximum(images, images.flip(0))  # rows and columns in one image
        targets = torch.maximum(labels, labels.flip(0))
        return Arrays(torch.cat([images, both]), torch.cat([labels, targets]), classes=["rows", "columns"])

    return load


def test_it_trains_evaluates_and_predicts(train, own):
    own.load_dataset("load_stripes")(load_stripes)
    run = train(CHANGES)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(line["map"] for line in lines if "map" in line) > 0.95
    assert {"loss", "map", "f1"} <= set(lines[0]) and (run / "predictions.png").is_file()


def test_labels_that_are_predicted_are_named():
    model = torch.nn.Identity()
    logits = torch.tensor([[3.0, 2.0, -1.0], [-1.0, -2.0, -3.0]])
    a_and_b = {"labels": {"a": 0.952574, "b": 0.880797}}
    assert multilabel.predict(model, logits, ["a", "b", "c"]) == [a_and_b, {"labels": {}}]
    limits = {"a": 0.96, "c": 0.2}
    found = multilabel.predict(model, logits, ["a", "b", "c"], thresholds=limits)
    assert [list(each["labels"]) for each in found] == [["b", "c"], []]


@pytest.mark.parametrize("targets", [torch.tensor([0, 1]), torch.tensor([[0.5, 1.0], [0.0, 1.0]])])
def test_other_targets_are_refused(targets):
    samples = load(lambda: (torch.zeros(2, 1, 4, 4), targets), lambda sample: sample, memory=1.0)
    with pytest.raises(IngredientsError, match=r"training.load_dataset(.|\n)*targets \(N, labels\) of 0 and 1"):
        multilabel.check_data(types.SimpleNamespace(output_classes=None), samples)


def test_a_loss_for_classes_is_refused(train, own):
    own.load_dataset("load_stripes")(load_stripes)
    with pytest.raises(IngredientsError, match="one class for each sample"):
        train(CHANGES | {"training.loss.@loss": "cross_entropy"})
