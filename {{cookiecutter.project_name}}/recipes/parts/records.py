"""Runs as seen from outside, without torch: read one from its folder, or make one in a process of its own."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from core import Ingredients, IngredientsError, parse
from core.values import as_written
from recipes.parts.origins import settings
from recipes.settings import MEASURED

LOWEST = re.compile(r"(^|_| )(loss|error|mae|mse|rmse|perplexity)\b|Error$")  # metrics whose lowest value is the best


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


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder, or the one that it is. Debug runs do not count."""
    if (folder / "checkpoints").is_dir() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.rglob("checkpoints") if path.parent.name != "debug")


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


def train(file, folder: Path, changes: dict, *options: str) -> int:
    """Run train.py; run folder and weights go below `folder`. Returns the exit code. changes: path -> value."""
    changes = changes | {"training.model.runs": folder, "training.model.save_name": folder / "model.pth"}
    changes["training.model.report"] = False  # python -m recipes.report writes it when it is wanted
    added = [f"--add={path}={value}" for path, value in changes.items()]
    with subprocess.Popen([sys.executable, "train.py", str(file), "--quiet", *options, *added]) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it saves, and stops
        process.wait()
        signal.signal(signal.SIGTERM, before)
    return process.returncode


def flat(ingredients: Ingredients) -> dict:
    """Dotted path -> value, of all settings."""
    return {f"{path}.{key}": ingredients.at(path)[key] for path, key in settings(ingredients)}


def differences(old: Ingredients, new: Ingredients) -> list[str]:
    """The settings in which two ingredients differ, as `path: old -> new`."""
    before, after = flat(old), flat(new)
    pairs = {path: (before.get(path, "absent"), after.get(path, "absent")) for path in before | after}
    return [f"{path}: {a} -> {b}" for path, (a, b) in pairs.items() if a != b or type(a) is not type(b)]
