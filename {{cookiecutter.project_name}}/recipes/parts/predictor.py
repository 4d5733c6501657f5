"""Predictions of a trained model: a dict for each input, as `predict` of the task returns it.

predictor = open_predictor("runs/digits/2026-01-31_12-00-00", ingredients)
[(name, sample)] = predictor.read("7.png")
[prediction] = predictor([predictor.prepare(sample)])  # {"class": "7", "probability": 0.98}
"""

import io
import textwrap
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image

from core import Ingredients, IngredientsError
from pantry.images import decode_image
from recipes.parts.calling import blame, carried
from recipes.parts.pictures import as_pixels, captioned
from recipes.parts.samples import as_input

EXPORTED = (".safetensors", ".pt2", ".onnx")  # files that recipes/parts/exported.py opens
LARGEST = 640  # pixels of the longer side, at least, of a picture with a prediction


class Upload(io.BytesIO):
    """The bytes of an image or table that is no file; `str(upload)` is its name, for messages."""

    def __init__(self, name: str, content: bytes):
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


@dataclass
class Predictor:
    """A model, and what lies between a file and its prediction. `read` and `prepare` may be called by threads.

    meta: classes, input_format, shape and, if there are any, thresholds: {class: lowest probability or score}
    """

    task: ModuleType
    model: torch.nn.Module
    meta: dict
    facts: dict  # about the model, for people
    device: torch.device
    preprocess: object
    autocast: object = nullcontext()
    views: object = None
    postprocess: object = None
    batch_size: int = 32  # that is known to fit
    top: int = 1  # classes to name
    ingredients: Ingredients | None = None

    @property
    def classes(self) -> list[str]:
        return self.meta["classes"]

    def read(self, source: str | Path | Upload) -> list[tuple]:
        """(name, sample before preprocess) of all samples of a source. IngredientsError names what is wrong."""
        source = source if isinstance(source, Upload) else str(source)
        sample = self.task.read_sample(source, self.meta["input_format"])
        return list(sample.items()) if isinstance(sample, dict) else [(str(source), sample)]

    def prepare(self, sample) -> torch.Tensor:
        """A sample after [testing.preprocess]: an input of the network."""
        with blame("testing.preprocess"):
            return as_input(self.preprocess(sample))

    def __call__(self, inputs: list[torch.Tensor]) -> list[dict]:
        """The predictions for inputs of one shape, in one forward pass."""
        batch, thresholds = torch.stack(inputs).to(self.device), self.meta.get("thresholds")
        try:
            with self.autocast:
                found = self.task.predict(self.model, batch, self.classes, self.views, self.top, thresholds)
        except torch.OutOfMemoryError as error:
            raise IngredientsError(f"out of memory with {len(inputs)} inputs at once; lower their number") from error
        except RuntimeError as error:
            shapes = f"{list(batch.shape[1:])} after preprocess, but {self.meta['shape']} in training"
            raise IngredientsError(f"{shapes}; resize in [testing.preprocess]") from error
        with blame("testing.postprocess"):
            return list(map(self.postprocess, found)) if self.postprocess else found

    def draw(self, source: str | Path | Upload, prediction: dict) -> Image.Image:
        """The image of a source with its prediction: as `draw_prediction` of the task does it, or written above it."""
        pixels = decode_image(source, 3)
        step = max(1, max(pixels.shape) // LARGEST)
        if drawn := carried(self.task, "draw_prediction"):
            pixels = drawn(pixels, prediction, self.classes, step)
        else:
            pixels = as_pixels(pixels[:, ::step, ::step] / 255)
            for line in reversed(textwrap.wrap(in_words(prediction), pixels.shape[2] // 6)):
                pixels = captioned(pixels, line)
        return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def open_predictor(path: str | None, ingredients: Ingredients, overrides=(), top: int = 1) -> Predictor:
    """The predictor of a run folder, a checkpoint or an exported file; None: of the newest run."""
    if Path(path or "").suffix in EXPORTED:
        from recipes.parts.exported import open_exported

        experiment = open_exported(path, overrides)
    else:
        from recipes.parts.trained import find_trained, open_trained

        path = find_trained(path, ingredients)
        experiment = open_trained(str(path), ingredients, overrides)
    meta, functions = experiment.meta, experiment.functions
    facts = {
        "weights": str(path),
        "task": experiment.task.__name__.rpartition(".")[2],
        "device": str(experiment.device),
    }
    facts |= {"backbone": experiment.architecture.backbone, "classes": meta["classes"], "shape": meta["shape"]}
    facts["parameters"] = sum(weight.numel() for weight in experiment.model.parameters())
    facts["thresholds"] = meta.get("thresholds", {})
    settings = {"preprocess": experiment.preprocess("testing")[0], "autocast": experiment.autocast}
    settings |= {name: functions.at(f"testing.{name}") for name in ("views", "postprocess")}
    settings |= {"batch_size": experiment.evaluation_batch_size, "top": top, "ingredients": experiment.ingredients}
    return Predictor(experiment.task, experiment.model, meta, facts, experiment.device, **settings)


def without_tensors(prediction: dict) -> dict:
    """A prediction as JSON takes it: keys that begin with _ are for drawing."""
    return {key: value for key, value in prediction.items() if key[0] != "_"}


def in_words(prediction: dict) -> str:
    """A prediction on one line."""
    told = ("class", "probability") if "top" in prediction else ()
    shown = {key: value for key, value in without_tensors(prediction).items() if key not in told}
    return "  ".join(
        f"{'' if value else 'not '}{key}" if isinstance(value, bool) else _in_words(value)
        for key, value in shown.items()
    )


def _in_words(value) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return "; ".join(" ".join(map(_in_words, each.values())) for each in value) or "nothing"
    return str(list(map(round, value))) if isinstance(value, list) else str(value)


def read_image(source, input_format: dict):
    """An image file in the format of the training data, before preprocess (see samples.py)."""
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
