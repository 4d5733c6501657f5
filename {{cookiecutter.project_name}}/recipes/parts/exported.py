"""Exported files, as recipes/export.py writes them: each opens as an experiment whose model is called as the original.

A .safetensors file holds the weights of the model that its ingredients describe; a .pt2 or .onnx file the graph from
samples as they are read to outputs. Only .pt2 may run code when it is opened: open none that you do not trust.
"""

import json
import logging
import os
from functools import partial
from pathlib import Path

import torch

from core import IngredientsError, parse_string
from pantry.preprocess import to_image
from recipes.experiment import Experiment, build, configure
from recipes.parts.calling import carried
from recipes.parts.samples import is_ids, scale
from recipes.parts.trained import Functions
from recipes.run import CHECKPOINTS
from recipes.settings import check_sections, declared_paths, import_functions

KEY = "metadata.json"  # under which a file holds its metadata


def open_exported(path: str | Path, overrides=()) -> Experiment:
    """The experiment of an exported file. Raises IngredientsError if the file is damaged, or another one.

    Functions of your own are those of the run folder that the file is in, else of the project.
    """
    path, disabled = Path(path), logging.root.manager.disable
    logging.disable()  # torch logs the traceback of what is reported below
    try:
        metadata, content = READERS[path.suffix](path)
        meta, dtype = metadata["meta"], getattr(torch, metadata["input"]["dtype"])
    except ImportError as error:
        extra = path.suffix[1:]
        raise IngredientsError(f'{path}: reading it needs a package: pip install ".[{extra}]" ({error})') from None
    except Exception as error:  # a damaged file may raise anything
        reason = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise IngredientsError(f"{path}: damaged, or not exported by this project ({reason})") from error
    finally:
        logging.disable(disabled)
    home = path.absolute().parent.parent
    import_functions(home if (home / CHECKPOINTS).is_dir() else Path())
    ingredients = parse_string(
        meta["ingredients"], overrides, declared_paths(), [check_sections], f"settings in {path}"
    )
    is_graph = not isinstance(content, dict)
    # Of a graph, the model tells what is to be known of it, and has no weights.
    experiment = configure(ingredients, Functions(ingredients), "meta" if is_graph else None)
    build(experiment, meta=meta)
    if not is_graph:
        experiment.model.load_state_dict(content)
        return experiment

    def run(samples):
        try:
            return content(samples.to(dtype))
        except Exception as error:  # a runtime may raise anything for samples of another size
            raise RuntimeError(str(error)) from error

    undo = carried(carried(experiment.task, "exported"), "undo") or (lambda outputs: outputs)
    restored = carried(experiment.task, "restored") or (lambda model, run, samples: undo(run(samples)))
    experiment.model.forward = partial(restored, experiment.model, run)
    experiment.device = torch.device("cpu")
    experiment.functions.made |= {"testing.preprocess": untouched, "testing.views": None}
    return experiment


def untouched(sample) -> torch.Tensor:
    """The preprocess of a file that has its own: a sample as it was read, as floats or token ids."""
    sample = to_image(sample)
    return sample if is_ids(sample) else sample.float()


untouched.of_batch = lambda samples: samples


def _scale(samples):
    return samples / 255 if samples.dtype == torch.uint8 else samples


class Pipeline(torch.nn.Module):
    """From samples as they are read to what the task exports, such as probabilities."""

    def __init__(self, experiment):
        super().__init__()
        preprocess, _ = experiment.preprocess("testing")
        self.of_batch = carried(preprocess, "of_batch")
        self.prepare = self.of_batch or (_scale if preprocess is scale else preprocess)
        self.model, self.views = experiment.model.eval(), experiment.functions.at("testing.views")
        self.exported = carried(experiment.task, "exported") or (lambda model, inputs, views: model(inputs))

    def forward(self, samples):
        return self.outputs(self.prepare(samples))

    def outputs(self, inputs):
        return self.exported(self.model, inputs, self.views)


def metadata_of(experiment, section: str, raw) -> dict:
    """What the files say of a model. raw: samples as they are read."""
    ingredients, meta = experiment.ingredients, experiment.meta
    exported = carried(experiment.task, "exported")
    return {
        "task": ingredients.at("project.meta.task", "classification"),
        "classes": meta["classes"],
        "input": {"dtype": str(raw.dtype).removeprefix("torch."), "shape": ["N", *raw.shape[1:]]},
        "preprocess": dict(ingredients.at(section) or {}),
        "outputs": exported.__doc__ if exported else "as the network returns them",
        "thresholds": meta.get("thresholds", {}),
        "versions": {
            "project": ingredients.at("project.version"),
            "model": ingredients.at("model.version"),
            "torch": torch.__version__,
        },
        "meta": meta,
    }


def _read_safetensors(path: Path) -> tuple:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[KEY]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_pt2(path: Path) -> tuple:
    extra, forced = {KEY: ""}, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}  # no pickled code
    before = {name: os.environ.pop(name) for name in forced if name in os.environ}
    os.environ |= forced
    try:
        module = torch.export.load(path, extra_files=extra).module(check_guards=False)
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        os.environ |= before
    return json.loads(extra[KEY]), lambda samples: module(samples)


def _read_onnx(path: Path) -> tuple:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(samples):
        outputs = [torch.from_numpy(found) for found in session.run(None, dict.fromkeys(names, samples.numpy()))]
        return outputs[0] if len(outputs) == 1 else outputs

    return json.loads(session.get_modelmeta().custom_metadata_map[KEY]), run


READERS = {".safetensors": _read_safetensors, ".pt2": _read_pt2, ".onnx": _read_onnx}
