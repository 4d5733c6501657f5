"""Export a trained model, and compare each file with it on the validation data.

python -m recipes.export                        all formats that are installed, into export/ of the newest run
python -m recipes.export --format onnx --run runs/digits/2026-01-31_12-00-00 --output exported

model.safetensors holds weights and settings. model.pt2 (torch.export) and model.onnx hold preprocessing, network and
softmax: they take samples as they are read (bytes of images), in batches of any size. A file that differs is removed.
"""

import importlib.util
import json
import tempfile
import warnings
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from statistics import median
from time import perf_counter

from core import IngredientsError
from recipes.parts.command import Command

FORMATS = {"safetensors": "safetensors", "torch": "torch", "onnx": "onnxscript"}  # and the package that each needs
FILES = {"safetensors": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
OPSET = 20  # of ONNX
TOLERANCE = 1e-4  # most that outputs may differ, as a share of the largest one if that is above 1
FIXED = [("training.scheme.device", "cpu", True), ("training.scheme.precision", "float32", True)]


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        command.add_argument("--format", nargs="+", choices=FORMATS, help="default: all that are installed")
        command.add_argument("--output", metavar="DIR", help="default: export/ in the run folder")
        arguments, ingredients = command.read(with_functions=False)
        installed = [name for name, package in FORMATS.items() if importlib.util.find_spec(package)]
        if missing := [name for name in arguments.format or () if name not in installed]:
            raise IngredientsError(f'{missing[0]} needs packages: pip install ".[{missing[0]}]"')
        from recipes.parts.trained import find_trained, open_trained

        experiment = open_trained(arguments.run, ingredients, [*command.overrides, *FIXED])
        command.ingredients = experiment.ingredients
        folder = arguments.output or find_trained(arguments.run, ingredients).parent.parent / "export"
        export(experiment, Path(folder), arguments.format or installed)


def export(experiment, folder: Path, formats: list[str]) -> None:
    """Write a file of each format and compare it. Raises IngredientsError with what cannot be written, or differs."""
    from recipes.parts import checkpoint
    from recipes.parts.exported import open_exported

    comparison, problems = Comparison(experiment), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in formats:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as place:
            file, part = folder / FILES[name], Path(place) / FILES[name]
            try:
                comparison.write(name, part)
                comparison.add(name, open_exported(part, FIXED), part.stat().st_size / 1e6)
                checkpoint.link(part, file)
            except IngredientsError as error:
                file.unlink(missing_ok=True)
                problems.append(f"{file}: {error}")
    if problems:
        raise IngredientsError("\n".join(problems))
    print(f"written to {folder}")


class Comparison:
    """Of exported models with the original, on the validation data; each is a row of a table."""

    def __init__(self, experiment):
        import torch

        from pantry.preprocess import to_image
        from recipes.experiment import load_splits
        from recipes.parts.exported import Pipeline, metadata_of, untouched

        preprocess, self.section = experiment.preprocess("testing")

        def tap(sample):
            self.read = sample
            return preprocess(sample)

        self.experiment, self.pipeline = experiment, Pipeline(experiment)
        tap.of_batch = self.pipeline.of_batch
        experiment.functions.made |= {"training.preprocess": tap, "testing.preprocess": tap}
        self.samples = load_splits(experiment)[1]
        self.size = min(experiment.evaluation_batch_size, len(self.samples))
        raw = next(self.batches(untouched))[0]
        self.raw = raw.to(torch.uint8) if to_image(self.read).dtype == torch.uint8 else raw
        self.metadata = metadata_of(experiment, self.section, self.raw)
        self.metric = (experiment.selection or [experiment.scheme.best or experiment.task.BEST])[0]
        print(f"{'':<11} {'MB':>8} {self.metric:>12} {'difference':>11} {'ms alone':>9} {f'in {self.size}':>10}")
        self.add("original", experiment)

    def batches(self, preprocess, pipeline=None, differences=()):
        """(inputs, targets) for an exported model, whose outputs are compared with those of the original."""
        import torch

        from recipes.parts.samples import as_input

        def pair(index):
            known, target = self.samples.read(index)
            return as_input(preprocess(self.read)), target, known

        collate = self.samples.collate or torch.utils.data.default_collate
        for _, group in groupby(map(pair, range(len(self.samples))), lambda pair: pair[0].shape):
            while batch := list(islice(group, self.size)):
                inputs, targets = collate([pair[:2] for pair in batch])
                if pipeline is not None:
                    known = torch.stack([known for _, _, known in batch])
                    differences.append(difference(pipeline.outputs(inputs), self.pipeline.outputs(known)))
                yield inputs, targets

    def add(self, name: str, experiment, size: float = 0.0) -> None:
        """Evaluate a model and print its row. Raises IngredientsError if its outputs differ from the original's."""
        import torch

        from recipes.parts.exported import Pipeline

        if name != "original" and next(iter(experiment.model.parameters())).is_meta:  # metrics may ask for its buffers
            experiment.model.load_state_dict(self.pipeline.model.state_dict(), assign=True)
        pipeline, differences = Pipeline(experiment), []
        batches = self.batches(experiment.preprocess("testing")[0], pipeline, differences)
        value = self.experiment.evaluate(experiment.model, batches, pipeline.views)[self.metric]
        most, largest = torch.tensor(differences).amax(0).tolist()
        alone, each = speed(pipeline, self.raw[:1]), speed(pipeline, self.raw)
        print(f"{name:<11} {size:>8.2f} {value:>12.4f} {most:>11.1e} {alone:>9.2f} {each:>10.3f}")
        if not most <= TOLERANCE * max(1.0, largest):  # nan too
            raise IngredientsError(f"its outputs differ by up to {most:.1e} from the original, so it is removed")

    def write(self, name: str, path: Path) -> None:
        import torch

        from recipes.parts.exported import KEY

        text = json.dumps(self.metadata | ({"opset": OPSET} if name == "onnx" else {}), default=str)
        if name == "safetensors":
            from safetensors.torch import save_file

            state = self.pipeline.model.state_dict()
            save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path, {KEY: text})
        elif name == "torch":
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", "No complete tensor"
                )  # of weights whose channels are last; they are on the CPU
                torch.export.save(self.program, path, extra_files={KEY: text})
        else:
            names = {"input_names": ["samples"], "output_names": ["outputs"]}
            program = torch.onnx.export(self.program, dynamo=True, verbose=False, opset_version=OPSET, **names)
            program.model.metadata_props[KEY] = text
            program.save(path, external_data=False)

    @cached_property
    def program(self):
        """The graph of torch.export, for batches of any size; of images of any size where the network allows it."""
        import torch

        samples = self.raw[:2] if len(self.raw) > 1 else self.raw.repeat(2, *[1] * (self.raw.ndim - 1))
        known = torch.stack([self.samples.read(index)[0] for index in range(min(2, len(self.samples)))])
        try:
            fits = torch.allclose(self.pipeline.prepare(samples[: len(known)]), known, atol=TOLERANCE)
        except Exception:  # of numpy or Pillow, or anything else
            fits = False
        if not fits:
            message = (
                "its function cannot take a batch of tensors, as a graph has to; give it `of_batch`, see contracts.py"
            )
            raise IngredientsError(f"[{self.section}]: {message}")
        free, reason = torch.export.Dim.AUTO, ""
        for axes in ([0, 2, 3], [0])[samples.ndim != 4 :]:
            try:
                program = torch.export.export(self.pipeline, (samples,), dynamic_shapes=(dict.fromkeys(axes, free),))
            except Exception as error:
                reason = str(error).partition("\n")[0]
                continue
            [first] = [node for node in program.graph.nodes if node.name == "samples"]
            if not isinstance(first.meta["val"].shape[0], int):
                return program
            reason = "it works for one size of batch alone"
        message = (
            f"torch.export cannot trace it: {reason}. A function of [{self.section}] can use operations of torch alone"
        )
        raise IngredientsError(message)


def difference(outputs, expected) -> tuple[float, float]:
    """(the largest difference between outputs, the largest of them)."""
    import torch
    from torch.utils._pytree import tree_leaves

    pairs = list(zip(tree_leaves(outputs), tree_leaves(expected), strict=True))
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        return torch.inf, 1.0
    return tuple(
        float(torch.cat([part.double().abs().flatten() for part in parts]).max())
        for parts in ([ours - theirs for ours, theirs in pairs], [theirs for _, theirs in pairs])
    )


def speed(pipeline, samples) -> float:
    """Milliseconds a sample, the median of some calls."""
    import torch

    seconds = []
    with torch.inference_mode():
        while len(seconds) < 3 or (len(seconds) < 50 and sum(seconds) < 0.5):
            started = perf_counter()
            pipeline(samples)
            seconds.append(perf_counter() - started)
    return 1000 * median(seconds) / len(samples)


if __name__ == "__main__":
    main()
