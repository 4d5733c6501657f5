"""Predictions of a trained model, a dict for each input, as `predict` of the task returns them.

predictor = open_predictor("runs/digits/2026-01-31_12-00-00", ingredients)
[(name, sample)] = predictor.read("7.png")
[prediction] = predictor([predictor.prepare(sample)])  # {"class": "7", "probability": 0.98}
"""

import io
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image

from core import Ingredients, IngredientsError
from pantry.images import decode_image
from recipes.parts.calling import blame, carried
from recipes.parts.pictures import as_pixels, captioned
from recipes.parts.samples import as_input, scale

EXPORTED = (".safetensors", ".pt2", ".onnx")  # files that recipes/parts/exported.py opens


class Upload(io.BytesIO):
    """The bytes of an image, table or text that lie in no file; `str(upload)` is its name, for messages."""

    def __init__(self, name: str, data: bytes):
        super().__init__(data)
        self.name = name

    def __str__(self) -> str:
        return self.name


@dataclass
class Predictor:
    """What predicts: a model, and all that lies between a file and its prediction. Reading is safe in threads."""

    task: ModuleType
    model: torch.nn.Module
    meta: dict  # classes, input_format, shape; thresholds: {class: lowest probability}, if there are any
    facts: dict  # about the model, for people
    ingredients: Ingredients | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 32  # that fits
    preprocess: object = scale
    views: object = None
    postprocess: object = None
    autocast: AbstractContextManager = field(default_factory=nullcontext)
    top: int = 1  # classes in a prediction

    @property
    def classes(self) -> list[str]:
        return self.meta["classes"]

    def read(self, source: str | Path | Upload) -> list[tuple]:
        """(name, sample before preprocess) of each sample in a file or upload; IngredientsError names what is wrong."""
        source = source if isinstance(source, Upload) else str(source)
        sample = self.task.read_sample(source, self.meta["input_format"])
        return list(sample.items()) if isinstance(sample, dict) else [(str(source), sample)]

    def prepare(self, sample) -> torch.Tensor:
        """A sample after [testing.preprocess], as the network takes it."""
        with blame("testing.preprocess"):
            return as_input(self.preprocess(sample))

    def __call__(self, inputs: list[torch.Tensor]) -> list[dict]:
        """The prediction for each of inputs of one shape, in one forward pass."""
        batch, limits = torch.stack(inputs).to(self.device), self.meta.get("thresholds")
        try:
            with self.autocast:
                found = self.task.predict(self.model, batch, self.classes, self.views, self.top, limits)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            shapes = f"{list(batch.shape[1:])} after preprocess, but {self.meta['shape']} in training"
            raise IngredientsError(f"{shapes}; resize in [testing.preprocess]") from error
        if self.postprocess:
            with blame("testing.postprocess"):
                found = list(map(self.postprocess, found))
        return found

    def draw(self, source: str | Path | Upload, prediction: dict) -> torch.Tensor:
        """The image of a file or upload with its prediction, (3, H, W) bytes."""
        pixels = decode_image(source, 3)
        if drawn := carried(self.task, "draw_prediction"):
            return drawn(pixels, prediction, self.classes)
        return captioned(as_pixels(pixels / 255), as_text(prediction))


def open_predictor(path: str | None, ingredients: Ingredients, overrides=(), top: int = 1) -> Predictor:
    """The predictor of a run folder, checkpoint or exported file; None: of the newest run. See `find_trained`."""
    if Path(path or "").suffix in EXPORTED:
        from recipes.parts.exported import open_exported

        experiment = open_exported(path, overrides)
    else:
        from recipes.parts.trained import find_trained, open_trained

        path = find_trained(path, ingredients)
        experiment = open_trained(str(path), ingredients, overrides)
    facts = {
        "weights": str(path),
        "task": experiment.task.__name__.rpartition(".")[2],
        "backbone": experiment.architecture.backbone,
        "parameters": sum(weight.numel() for weight in experiment.model.parameters()),
        "device": str(experiment.device),
        "classes": experiment.meta["classes"],
        "shape": experiment.meta["shape"],
        "thresholds": experiment.meta.get("thresholds", {}),
    }
    return Predictor(
        task=experiment.task,
        model=experiment.model,
        meta=experiment.meta,
        facts=facts,
        ingredients=experiment.ingredients,
        device=experiment.device,
        batch_size=experiment.evaluation_batch_size,
        preprocess=experiment.preprocess("testing")[0],
        views=experiment.functions.at("testing.views"),
        postprocess=experiment.functions.at("testing.postprocess"),
        autocast=experiment.autocast,
        top=top,
    )


def without_tensors(prediction: dict) -> dict:
    """A prediction as it goes to JSON: keys that begin with _ are for drawing."""
    return {key: value for key, value in prediction.items() if key[0] != "_"}


def as_text(value) -> str:
    """A prediction, or a value in it, on one line for people."""
    if isinstance(value, bool):
        return "sure" if value else "not sure"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(item, float | int) for item in value):
        return f"[{', '.join(f'{item:.0f}' for item in value)}]"
    if isinstance(value, list):
        return "; ".join(" ".join(map(as_text, item.values())) for item in value) or "nothing"
    if not isinstance(value, dict):
        return str(value)
    shown = without_tensors(value)
    return "  ".join(
        (", ".join(f"{name} {as_text(share)}" for name, share in part.items()) or "none")
        if isinstance(part, dict)
        else as_text(part)
        for part in shown.values()
    )


def read_image(source, input_format: dict):
    """An image file or upload in the format of the training data, before preprocess (see samples.py)."""
    image = decode_image(source, input_format["channels"], input_format["size"])
    if input_format["float"]:
        image = image / 255 if input_format["divided"] else image.float()
    if input_format["kind"] == "image":
        return Image.fromarray((image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy())
    if input_format["axes"] == 2:
        image = image[0]
    elif input_format["channels_last"]:
        image = image.permute(1, 2, 0)
    return image.numpy() if input_format["kind"] == "array" else image
