"""Texts: lines of class and text as rows of token ids, and a network for them."""

from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from core.errors import suggest
from pantry.images import Arrays, refuse

IDS = 257  # 0 is padding, 1 to 256 are the bytes of UTF-8: every language, and no vocabulary to keep


@registry.load_dataset.register("load_texts")
def load_texts(source: Path, split: Literal["training", "validation", "testing"] = "training", length: int = 128):
    """`load() -> Arrays`: the texts of `<source>/<split>.tsv`, a class, a tab and a text on each line.

    X: int64 (N, length), see `to_ids`; y: int64 (N,), the index of the class among those of training, sorted
    length: of a row; longer texts are truncated to as many bytes

    Raises IngredientsError with all lines that cannot be used.
    """
    if length < 1:
        raise ValueError(f"length = {length}: must be at least 1")

    def load() -> Arrays:
        import torch

        file = Path(source) / f"{split}.tsv"
        lines = read_lines(file)
        training = lines if split == "training" else read_lines(Path(source) / "training.tsv")
        classes = sorted({name for _, name, _ in training})
        unknown = [(number, name) for number, name, _ in lines if name not in classes]
        refuse([f"{file}:{number}: training has no class {name}. {suggest(name, classes)}" for number, name in unknown])
        X = torch.stack([to_ids(text, length) for *_, text in lines])
        y = torch.tensor([classes.index(name) for _, name, _ in lines])
        paths = [f"{file}:{number}" for number, *_ in lines]
        return Arrays(X, y, classes=classes, paths=paths, input_format={"length": length})

    load.check = load  # reading texts takes no time
    return load


def read_lines(file: Path) -> list[tuple[int, str, str]]:
    """(line number, class, text) of each line that is not blank."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise IngredientsError(f"{file}: cannot be read: {error}") from error
    lines = [(number, *line.partition("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    bad = [number for number, name, _, text in lines if not (name.strip() and text.strip())]
    refuse([f"{file}:{number}: expected a class, a tab and a text" for number in bad])
    refuse([] if lines else [f"{file}: has no texts"])
    return [(number, name.strip(), text.strip()) for number, name, _, text in lines]


def to_ids(text: str, length: int):
    """int64 (length,): 1 + each byte of the text in UTF-8, truncated or padded with 0."""
    import torch

    ids = [1 + byte for byte in text.encode(errors="surrogateescape")[:length]]
    return torch.tensor(ids + [0] * (length - len(ids)))


@registry.backbone.register("text_cnn")
def text_cnn(in_channels: int, output_classes: int, ids: int = IDS, width: int = 128, span: int = 5):
    """Embedding, one convolution over `span` ids, max over time, a linear head (Kim 2014, arXiv:1408.5882):
    rows of ids (N, L) -> logits (N, classes).

    in_channels: L, not used; ids: size of the vocabulary; width: channels of the convolution
    """
    import torch.nn.functional as F
    from torch import nn

    if min(ids, width, span) < 1:
        raise ValueError(f"ids = {ids}, width = {width}, span = {span}: must be at least 1")

    class Channels(nn.Module):
        def forward(self, embedded):  # (N, L, C) -> (N, C, L)
            return embedded.movedim(-1, 1)

    class MaxOverTime(nn.Module):  # nn.AdaptiveMaxPool1d has no gradient that repeats on GPUs
        def forward(self, features):  # (N, C, L) -> (N, C, 1)
            return F.max_pool1d(features, features.shape[2])

    return nn.Sequential(
        nn.Embedding(ids, 32, padding_idx=0),
        Channels(),
        nn.Conv1d(32, width, span, padding=span // 2),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        MaxOverTime(),
        nn.Flatten(),
        nn.Linear(width, output_classes),
    )
