"""Predictions of a trained model: a dict for each input, as `predict` of the task returns it.

predictor = open_predictor("runs/digits/2026-01-31_12-00-00", ingredients)
[(name, sample)] = predictor.read("7.png")
[prediction] = predictor([predictor.prepare(sample)])  # {"class": "7", "probability": 0.98}
"""

import textwrap
from pathlib import Path

import torch
from PIL import Image

from core import Ingredients, IngredientsError
from pantry._fetch import Upload
from pantry.images import decode_image
from recipes.parts.calling import blame, carried
from recipes.parts.pictures import as_pixels, captioned
from recipes.parts.samples import as_input

EXPORTED = (".safetensors", ".pt2", ".onnx")  # files that recipes/parts/exported.py opens
LARGEST = 640  # pixels of the longer side from which on pictures of predictions are made smaller


class Predictor:
    """A model, and what lies between a file and its prediction. `read` and `prepare` may be called by threads.

    weights: the name of its file; top: classes to name; facts: about the model, for people
    """

    def __init__(self, experiment, weights="", top: int = 1):
        self.experiment, self.task, self.meta = experiment, experiment.task, experiment.meta
        self.classes, self.top = self.meta["classes"], top
        self.preprocess, _ = experiment.preprocess("testing")
        self.views, self.postprocess = (experiment.functions.at(f"testing.{name}") for name in ("views", "postprocess"))
        self.facts = {
            "weights": str(weights),
            "task": self.task.__name__.rpartition(".")[2],
            "backbone": experiment.architecture.backbone,
            "parameters": sum(weight.numel() for weight in experiment.model.parameters()),
            "device": str(experiment.device),
            "thresholds": self.meta.get("thresholds", {}),  # {class: lowest probability or score}
        } | {key: self.meta[key] for key in ("classes", "shape")}

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
        batch = torch.stack(inputs).to(self.experiment.device)
        settings = self.classes, self.views, self.top, self.facts["thresholds"]
        try:
            with self.experiment.autocast:
                found = self.task.predict(self.experiment.model, batch, *settings)
        except RuntimeError as error:
            message = f"{list(batch.shape[1:])} after preprocess, but {self.meta['shape']} in training; resize in "
            message += "[testing.preprocess]"
            if isinstance(error, torch.OutOfMemoryError):
                message = f"out of memory with {len(inputs)} inputs at once; lower their number"
            raise IngredientsError(message) from error
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

        return Predictor(open_exported(path, overrides), path, top)
    from recipes.parts.trained import find_trained, open_trained

    path = find_trained(path, ingredients)
    return Predictor(open_trained(str(path), ingredients, overrides), path, top)


def without_tensors(prediction: dict) -> dict:
    """A prediction as JSON takes it: keys that begin with _ are for drawing."""
    return {key: value for key, value in prediction.items() if key[0] != "_"}


def in_words(prediction: dict) -> str:
    """A prediction on one line."""
    hidden = ("class", "probability") if "top" in prediction else ()
    shown = [pair for pair in without_tensors(prediction).items() if pair[0] not in hidden]
    return "  ".join(f"{key}: {value}" if isinstance(value, bool) else _in_words(value) for key, value in shown)


def _in_words(value, digits: int = 4) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(each, 3)}" for name, each in value.items()) or "none"
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        return "; ".join(" ".join(_in_words(part, 2) for part in each.values()) for each in value) or "nothing"
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
