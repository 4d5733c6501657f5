"""Runs as seen from outside, without torch: read one from its folder, or make one in a process of its own."""

import ctypes
import hashlib
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core import Ingredients, IngredientsError, parse
from core.values import as_written
from recipes.parts.origins import settings
from recipes.settings import MEASURED

LOWEST = re.compile(r"(^|_)(loss|error|mae|mse|rmse|perplexity)$|Error$")  # metrics whose lowest value is the best


@dataclass
class Record:
    """One run, as far as it has come."""

    folder: Path
    settings: dict  # dotted path -> number, or text as a file has it; None is left out
    epochs: list[dict]  # the metrics of each
    best: dict  # those of the best epoch
    testing: dict  # those of the test data, if there are any yet
    finished: bool


def read_run(folder: Path) -> Record:
    """Raises IngredientsError if a file is damaged, or no epoch is complete yet."""
    found = {path: value for path, value in flat(parse(folder / "ingredients.ini")).items() if value is not None}
    found = {path: value if type(value) in (int, float) else as_written(value) for path, value in found.items()}
    if (functions := folder / "custom_functions.py").is_file():
        found[functions.name] = hashlib.sha256(functions.read_bytes()).hexdigest()[:8]
    lines = recorded(folder)
    epochs = [line for line in lines if {"epoch", "train_loss", "seconds"} <= line.keys()]
    if not epochs:
        raise IngredientsError(f"{folder}: no epoch is complete")
    log = (folder / "log.txt").read_bytes().decode(errors="replace") if (folder / "log.txt").is_file() else ""
    marked = re.findall(r"^epoch +(\d+)/.* best$", log, re.MULTILINE)[-1:]
    best = next((line for line in epochs if [str(line["epoch"])] == marked), epochs[-1])
    testing = next((line for line in reversed(lines) if line.get("split") == "testing"), {})
    finished = any(line.get("finished") == epochs[-1]["epoch"] for line in lines)
    return Record(folder, found, epochs, best, testing, finished)


def recorded(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, of which the last may be cut."""
    path = folder / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]
    except ValueError as error:
        raise IngredientsError(f"{path}: damaged ({error})") from None


def metrics_of(line: dict) -> dict[str, float]:
    """The metrics of a line, without those of single classes, such as map.7."""
    others = ("epoch", "train_loss", "learning_rate", "split", *MEASURED)
    return {key: value for key, value in line.items() if key not in others and "." not in key}


def is_lowest(metric: str, runs: list[Record]) -> bool:
    """Whether the lowest value is the best: as these runs selected by this metric, else as its name says."""
    for run in runs:
        values = [line[metric] for line in run.epochs if metric in line]
        if run.settings.get("training.scheme.best") == metric and {*values} != {run.best.get(metric)}:
            return run.best[metric] < statistics.fmean(values)
    return bool(LOWEST.search(metric))


def table(columns: list[list[str]]) -> str:
    """Columns of texts for a terminal; long texts are cut."""
    cut = [[text[:59] + "…" * (len(text) > 59) for text in column] for column in columns]
    padded = [[text.ljust(max(map(len, column))) for text in column] for column in cut]
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def train(file, parent: Path, name: str, changes: dict[str, str]) -> Record | None:
    """Train into the folder `name` of the project's runs, `parent`, or go on with the run there; None if it fails."""
    folder, options = parent / name, []
    with suppress(IngredientsError):  # nothing is complete there
        if (run := read_run(folder)).finished:
            return run
    if (folder / "checkpoints/last.pt").is_file():
        options = ["--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
    own = {"run_name": name, "save_name": str(folder / "model.pth"), "report": False}
    changes = changes | {f"training.model.{key}": as_written(value) for key, value in own.items()}
    changes["training.scheme.resume"] = "False"  # which means the newest run
    options += [f"--add={path}={text}" for path, text in changes.items()]
    return None if call([str(file), *options]) else read_run(folder)


def call(arguments: list[str]) -> int:
    """Run train.py, which ends when this process ends, and saves before if that is by SIGTERM or Ctrl-C."""
    command = [sys.executable, Path(__file__).parents[2] / "train.py", "--quiet", *arguments]
    end_with_parent = (lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)) if sys.platform == "linux" else None
    with subprocess.Popen(command, preexec_fn=end_with_parent) as process:

        def stop(number: int, _):
            process.terminate()  # and wait, as `with` does
            raise SystemExit(128 + number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        return process.wait()


def flat(ingredients: Ingredients) -> dict:
    """Dotted path -> value, of all settings."""
    return {f"{path}.{key}": ingredients.at(path)[key] for path, key in settings(ingredients)}


def differences(old: Ingredients, new: Ingredients) -> list[str]:
    """The settings in which two ingredients differ, as `path: old -> new`."""
    before, after = flat(old), flat(new)
    pairs = {path: (before.get(path, "absent"), after.get(path, "absent")) for path in before | after}
    return [f"{path}: {a} -> {b}" for path, (a, b) in pairs.items() if a != b or type(a) is not type(b)]
