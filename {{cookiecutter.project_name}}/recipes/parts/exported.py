"""Exported files: each opens as an experiment whose model is called as the original.

A .safetensors file holds the weights of the model that its ingredients describe; a .pt2 or .onnx file the graph from
samples as they are read to outputs. Only .pt2 may run code when it is opened: open none that you do not trust.
"""

import json
import logging
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from core import IngredientsError, parse_string
from pantry.preprocess import to_image
from recipes.experiment import Experiment, build, configure
from recipes.parts.calling import carried
from recipes.parts.samples import is_ids
from recipes.parts.trained import Functions
from recipes.run import CHECKPOINTS
from recipes.settings import check_sections, declared_paths, import_functions

KEY = "metadata.json"  # under which each file holds its metadata


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
        raise IngredientsError(f'{path}: needs a package: pip install ".[{path.suffix[1:]}]" ({error})') from None
    except Exception as error:  # a damaged file may raise anything
        reason = "no such file" if not path.exists() else f"damaged, or not exported here ({type(error).__name__})"
        raise IngredientsError(f"{path}: {reason}") from error
    finally:
        logging.disable(disabled)
    run_folder = path.absolute().parent.parent
    import_functions(run_folder if (run_folder / CHECKPOINTS).is_dir() else Path())
    ingredients = parse_string(
        meta["ingredients"], overrides, declared_paths(), [check_sections], f"settings in {path}"
    )
    is_graph = callable(content)
    # The model of a graph has new weights, but calls the graph; it is there for what else is asked of it.
    experiment = configure(ingredients, Functions(ingredients), "cpu" if is_graph else None)
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
    experiment.autocast = nullcontext()
    experiment.functions.made |= {"testing.preprocess": as_read, "testing.views": None}
    return experiment


def as_read(sample) -> torch.Tensor:
    """The preprocess of a file that has its own: none, but that bytes become floats."""
    sample = to_image(sample)
    return sample if is_ids(sample) else sample.float()


as_read.of_batch = lambda samples: samples


def _read_safetensors(path: Path) -> tuple:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[KEY]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _read_pt2(path: Path) -> tuple:
    extra, forced = {KEY: ""}, "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # as far as torch allows, without pickled code
    before = os.environ.get(forced, "0")
    os.environ[forced] = "1"
    try:
        module = torch.export.load(path, extra_files=extra).module(check_guards=False)
    finally:
        os.environ[forced] = before
    return json.loads(extra[KEY]), lambda samples: module(samples)


def _read_onnx(path: Path) -> tuple:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(samples):
        outputs = [torch.from_numpy(found) for found in session.run(None, dict.fromkeys(names, samples.numpy()))]
        return outputs if len(outputs) > 1 else outputs[0]

    return json.loads(session.get_modelmeta().custom_metadata_map[KEY]), run


READERS = {".safetensors": _read_safetensors, ".pt2": _read_pt2, ".onnx": _read_onnx}
