"""Export a trained model, and compare each file with it on the validation data.

python -m recipes.export                      all formats that are installed, into export/ of the newest run
python -m recipes.export --format onnx --run runs/digits/2026-01-31_12-00-00 --output exported

model.safetensors holds weights and settings; model.pt2 (torch.export) and model.onnx hold preprocessing, network and
softmax, and take samples as they are read. A file whose outputs differ from those of the original is removed.
"""

import importlib.util
import shutil
import tempfile
from pathlib import Path

from core import IngredientsError
from core.errors import escaped
from recipes.parts.command import Command

FILES = {"safetensors": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}
PACKAGES = {"safetensors": "safetensors", "torch": "torch", "onnx": "onnxscript"}  # that each format needs


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("ingredients", nargs="?", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--run", metavar="PATH", help="a run folder or a checkpoint; default: the newest run")
        command.add_argument("--format", nargs="+", choices=FILES, help="default: all that are installed")
        command.add_argument("--output", metavar="DIR", help="default: export/ in the run folder")
        arguments, ingredients = command.read(with_functions=False)
        installed = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
        if missing := [name for name in arguments.format or () if name not in installed]:
            raise IngredientsError(f'{missing[0]} needs packages: pip install ".[{missing[0]}]"')
        from recipes.parts.calling import carried
        from recipes.parts.trained import find_trained, open_trained
        from recipes.run import CHECKPOINTS

        # As the files work: on the CPU, in full precision.
        overrides = [("training.scheme.device", "cpu", True), ("training.scheme.precision", "float32", True)]
        experiment = open_trained(arguments.run, ingredients, [*command.overrides, *overrides])
        command.ingredients = experiment.ingredients
        place = find_trained(arguments.run, ingredients).parent
        folder = arguments.output or (place.parent if place.name == CHECKPOINTS else place) / "export"
        formats = [name for name in carried(experiment.task, "EXPORTS") or FILES if name in installed]
        export(experiment, Path(folder), arguments.format or formats, overrides)


def export(experiment, folder: Path, formats: list[str], overrides) -> None:
    """Write a file of each format and compare it. Raises IngredientsError with what cannot be written, or differs."""
    from recipes.parts import checkpoint
    from recipes.parts.exported import open_exported
    from recipes.parts.exporting import Comparison

    comparison, problems = Comparison(experiment), []
    folder.mkdir(parents=True, exist_ok=True)
    for name in formats:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as place:
            file, part = folder / FILES[name], Path(place) / FILES[name]
            try:
                comparison.write(part)
                comparison.add(name, open_exported(part, overrides), part.stat().st_size / 1e6)
                with checkpoint.replacing(file) as complete, open(part, "rb") as written:
                    shutil.copyfileobj(written, complete)
            except (IngredientsError, RuntimeError) as error:
                file.unlink(missing_ok=True)
                problems.append(f"{file}: {escaped(str(error).partition(chr(10))[0])}")
    if problems:
        raise IngredientsError("\n".join(problems))
    print(f"written to {folder}")


if __name__ == "__main__":
    main()
