"""Does the report slow training down, and how much later does a run end?

    python benchmarks/report.py [ROUNDS] [--section.key VALUE ...]

Trains the digits project with and without the report, interleaved, each in a process of its own: `python train.py` with
`report = True` and with `False`. Prints medians of the seconds that the epochs took, by metrics.jsonl, and of those
of the whole command; and of the calls that tell the report's process of an epoch, in all.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
# Times Run._update_page from outside, and is the same for both.
TRAIN = """
import atexit, runpy, sys, time
from recipes.run import Run
seconds, update = [0.0], Run._update_page
def timed(run):
    started = time.perf_counter()
    update(run)
    seconds.append(time.perf_counter() - started)
Run._update_page = timed
atexit.register(lambda: print("told in", sum(seconds)))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def train(folder: Path, report: bool, arguments: list[str]) -> dict:
    given = ["--project.name", f"report-{report}", "--training.scheme.early_stop", "False", *arguments]
    command = [sys.executable, "-c", TRAIN, *given, "--add", f"training.model.report={report}"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    whole = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    newest = max((folder / "runs" / f"report-{report}").iterdir())
    lines = [json.loads(line) for line in (newest / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["seconds"] for line in lines if "seconds" in line]
    assert (newest / "report.html").exists() == report
    return {
        "epochs": sum(epochs),
        "an epoch": statistics.median(epochs),
        "the command": whole,
        "telling": float(done.stdout.rsplit("told in ", 1)[1]),
    }


def main() -> None:
    rounds, arguments = (int(sys.argv[1]), sys.argv[2:]) if sys.argv[1:2] else (5, [])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("runs", "models", "__pycache__", ".*"))
        seconds = {True: [], False: []}
        for _ in range(rounds):
            for report in seconds:
                seconds[report].append(train(folder, report, arguments))
    print(f"{'median seconds of':<20}{'with':>10}{'without':>10}{'ratio':>8}")
    for name in seconds[True][0]:
        on, off = (statistics.median(one[name] for one in seconds[report]) for report in (True, False))
        print(f"{name:<20}{on:>10.4f}{off:>10.4f}{on / off:>8.2f}")


if __name__ == "__main__":
    main()
