# /// script
# requires-python = ">=3.11"
# dependencies = ["cookiecutter"]
# ///
"""How long a rendered project takes to an accuracy: the whole process, and training alone.

    uv run benchmarks/time_to_accuracy.py PYTHON MNIST_PNG.TGZ [SEEDS]

PYTHON is the interpreter of an environment with the project's packages. The MNIST project is rendered and trained once,
so that the data is unpacked and decoded (into the cache that its ini names). Then it is trained with its default ini
(for 99.4 %), and for a part of an epoch (for 99.0 %), with seeds 0, 1, ...: mean test accuracy, and mean seconds. The
recipe was chosen on the validation split; the test set is measured once a run, at its end.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).resolve().parent.parent
GOALS = {"99.4 %, as it is": [], "99.0 %, 0.7 epochs": ["--training.scheme.epochs", "0.7"]}


def train(python: str, project: Path, *changes: str) -> tuple[float, float, float]:
    """(test accuracy, seconds of the whole process, seconds of training)."""
    started = time.perf_counter()
    done = subprocess.run([python, "train.py", *changes], cwd=project, capture_output=True, text=True)
    whole = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    folder = max((project / "runs").glob("*/*"), key=lambda path: path.stat().st_mtime_ns)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    accuracy = next(line["accuracy"] for line in lines if line.get("split") == "testing")
    return accuracy, whole, sum(line.get("seconds", 0) for line in lines)


def main() -> None:
    from cookiecutter.main import cookiecutter

    python, archive = sys.argv[1], Path(sys.argv[2]).resolve()
    seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory() as folder:
        answers = {"project_name": "mnist", "data": "mnist"}
        project = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=folder, extra_context=answers))
        ini = project / "ingredients.ini"
        lines = ini.read_text().splitlines(keepends=True)
        source = next(line for line in lines if line.startswith("source = http"))
        ini.write_text(ini.read_text().replace(source, f"source = file:{archive}\n"))
        train(python, project)
        for goal, changes in GOALS.items():
            results = [train(python, project, *changes, "--training.scheme.seed", str(seed)) for seed in range(seeds)]
            accuracy, whole, training = (statistics.mean(column) for column in zip(*results, strict=True))
            low = min(result[0] for result in results)
            print(
                f"{goal:20} {seeds} seeds: test accuracy {accuracy:.2%} (lowest {low:.2%}), "
                f"whole process {whole:.1f} s, training {training:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
