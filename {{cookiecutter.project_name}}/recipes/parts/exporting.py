"""Exported files that recipes/export.py writes: what is in them, and how they compare with the original."""

import io
import json
import warnings
from contextlib import redirect_stderr
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.utils._pytree import tree_leaves

from core import IngredientsError
from pantry.preprocess import to_image
from recipes.experiment import Experiment, load_splits
from recipes.parts.calling import carried
from recipes.parts.exported import KEY, as_read
from recipes.parts.samples import as_input, scale

TOLERANCE = 1e-4  # of an output; of one larger than 1, this share
OPSET = 20  # of ONNX


def scale_batch(samples) -> torch.Tensor:
    """As `scale` does each sample."""
    return samples / 255 if samples.dtype == torch.uint8 else samples


class Pipeline(torch.nn.Module):
    """From samples as they are read to what the task exports, such as probabilities."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        preprocess, _ = experiment.preprocess("testing")
        self.preprocess = carried(preprocess, "of_batch") or (scale_batch if preprocess is scale else preprocess)
        self.model, self.views = experiment.model, experiment.functions.at("testing.views")
        self.exported = carried(experiment.task, "exported") or (lambda model, inputs, views: model(inputs))
        self.eval()

    def forward(self, samples):
        return self.outputs(self.preprocess(samples))

    def outputs(self, inputs):
        return self.exported(self.model, inputs, self.views)


class Comparison:
    """Of exported files with the original, on the validation data; each is a row of a table."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.pipeline = experiment, Pipeline(experiment)
        preprocess, self.section = experiment.preprocess("testing")

        def keep(sample):
            self.read = sample  # before preprocess
            return preprocess(sample)

        keep.of_batch = carried(preprocess, "of_batch")
        experiment.functions.made |= {"training.preprocess": keep, "testing.preprocess": keep}
        self.samples = load_splits(experiment)[1]
        self.size = min(experiment.evaluation_batch_size, len(self.samples))
        read, _ = next(self.batches(as_read))
        self.batch = read.to(torch.uint8) if to_image(self.read).dtype == torch.uint8 else read
        self.metric = (experiment.selection or [experiment.scheme.best or experiment.task.BEST])[0]
        print(f"{'':<11} {'MB':>8} {self.metric:>12} {'difference':>11} {'ms alone':>9} {f'in {self.size}':>9}")
        self.add("original", experiment, sum(part.nbytes for part in experiment.model.state_dict().values()) / 1e6)

    def batches(self, preprocess, pipeline=None, differences=()):
        """(inputs, targets) for an exported model, whose outputs are compared with those of the original."""

        def sample(index: int) -> tuple:
            known, target = self.samples.read(index)
            return as_input(preprocess(self.read)), target, known

        collate = self.samples.collate or torch.utils.data.default_collate
        for _, group in groupby(map(sample, range(len(self.samples))), lambda sample: sample[0].shape):
            while batch := list(islice(group, self.size)):
                inputs, targets = collate([sample[:2] for sample in batch])
                if pipeline:
                    expected = self.pipeline.outputs(torch.stack([known for *_, known in batch]))
                    differences.append(difference(pipeline.outputs(inputs), expected))
                yield inputs, targets

    def add(self, name: str, experiment: Experiment, size: float) -> None:
        """Evaluate a model and print its row. Raises IngredientsError if its outputs differ from the original's."""
        if "forward" in vars(experiment.model):  # of a graph, whose metrics may need more of the model, as of tables
            experiment.model.load_state_dict(self.pipeline.model.state_dict())
        pipeline, differences = self.pipeline if experiment is self.experiment else Pipeline(experiment), []
        batches = self.batches(experiment.preprocess("testing")[0], pipeline, differences)
        value = self.experiment.evaluate(experiment.model, batches, pipeline.views)[self.metric]
        most = float(torch.tensor(differences).max())  # which is nan if one is
        alone, each = milliseconds(pipeline, self.batch[:1]), milliseconds(pipeline, self.batch)
        print(f"{name:<11} {size:>8.2f} {value:>12.4f} {most:>11.1e} {alone:>9.2f} {each:>9.3f}")
        if not most <= TOLERANCE:
            raise IngredientsError(f"its outputs differ from the original's, by up to {most:.1e}; it is removed")

    def write(self, path: Path) -> None:
        """Write a file of the format of its suffix."""
        text = json.dumps(self.metadata(), default=str)
        if path.suffix == ".safetensors":
            from safetensors.torch import save

            state = self.pipeline.model.state_dict()
            state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
            path.write_bytes(save(state, {KEY: text}))  # save_file would write one that nobody else can read
        elif path.suffix == ".pt2":
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "No complete tensor")  # of weights with channels last; they are whole
                torch.export.save(self.program, path, extra_files={KEY: text})
        elif write := carried(self.experiment.task, "write_onnx"):
            write(path, self.pipeline, self.batch[:1], {KEY: text})
        else:
            names = {"input_names": ["samples"], "output_names": ["outputs"]}
            program = torch.onnx.export(self.program, dynamo=True, verbose=False, opset_version=OPSET, **names)
            program.model.metadata_props[KEY] = text
            program.save(path, external_data=False)

    def metadata(self) -> dict:
        """What the files say of the model."""
        experiment, ingredients = self.experiment, self.experiment.ingredients
        dtype = str(self.batch.dtype).removeprefix("torch.")
        versions = {"project": ingredients.at("project.version"), "model": ingredients.at("model.version")}
        return {
            "task": ingredients.at("project.meta.task", "classification"),
            "classes": experiment.meta["classes"],
            "input": {"dtype": dtype, "shape": ["N", *self.batch.shape[1:]]},
            "preprocess": dict(ingredients.at(self.section)) if "preprocess" in self.section else "bytes / 255",
            "outputs": self.pipeline.exported.__doc__ or "as of the network",
            "thresholds": experiment.meta.get("thresholds", {}),
            "versions": versions | {"torch": torch.__version__},
            "meta": experiment.meta,
        }

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The graph, for batches of any size, of images of any size where the network allows it."""
        samples = self.batch[:2] if len(self.batch) > 1 else self.batch.repeat_interleave(2, 0)
        for axes in ([0, 2, 3], [0])[samples.ndim != 4 :]:
            try:
                sizes = dict.fromkeys(axes, torch.export.Dim.AUTO)
                with redirect_stderr(io.StringIO()):  # where torch prints all of the graph if it fails
                    return torch.export.export(self.pipeline, (samples,), dynamic_shapes=(sizes,))
            except Exception as error:  # of torch, or of the user's own functions
                reason = str(error).partition("\n")[0]
        advice = f"if that is of [{self.section}], its function has to take batches, with operations of torch alone"
        raise IngredientsError(f"torch.export cannot trace it: {reason}; {advice}")


def difference(outputs, expected) -> float:
    """The largest difference between outputs; of those above 1 as a share. inf if their shapes differ."""
    pairs = list(zip(tree_leaves(outputs), tree_leaves(expected), strict=True))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return torch.inf
    shares = [(ours - theirs).abs() / theirs.abs().max().clamp(min=1) for ours, theirs in pairs if theirs.numel()]
    return float(torch.cat([share.flatten() for share in shares]).max()) if shares else 0.0


def milliseconds(pipeline: Pipeline, samples) -> float:
    """That a sample takes, the median of 3 calls or more."""
    seconds = []
    with torch.inference_mode():
        while len(seconds) < 3 or (sum(seconds) < 0.2 and len(seconds) < 100):
            started = perf_counter()
            pipeline(samples)
            seconds.append(perf_counter() - started)
    return 1000 * median(seconds) / len(samples)
