"""Runs as seen from outside, without torch: read one from its folder, or make one in a process of its own."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from core import Ingredients, IngredientsError, parse
from core.values import as_written
from recipes.parts.origins import settings

LOWEST = re.compile(r"(^|_| )(loss|error|mae|mse|rmse|perplexity)\b|Error$")  # metrics whose lowest value is the best


class Record:
    """A run as far as it has come. Raises IngredientsError if a file is damaged, or no epoch is complete yet."""

    def __init__(self, folder: Path):
        found = {path: value for path, value in flat(parse(folder / "ingredients.ini")).items() if value is not None}
        # Dotted path -> number, or text as a file has it.
        self.settings = {path: v if type(v) in (int, float) else as_written(v) for path, v in found.items()}
        if (functions := folder / "custom_functions.py").is_file():
            self.settings[functions.name] = hashlib.sha256(functions.read_bytes()).hexdigest()[:8]
        self.folder, lines = folder, recorded(folder)
        self.epochs = [line for line in lines if "train_loss" in line]  # the metrics of each
        if not self.epochs:
            raise IngredientsError(f"{folder}: no epoch is complete")
        log = (folder / "log.txt").read_text(encoding="utf-8") if (folder / "log.txt").is_file() else ""
        best = re.findall(r"^epoch +(\d+)/.* best$", log, re.MULTILINE)[-1:]
        self.best = next((line for line in self.epochs if [str(line["epoch"])] == best), self.epochs[-1])
        self.testing = next((line for line in reversed(lines) if line.get("split") == "testing"), {})
        self.finished = any(line.get("finished") == self.epochs[-1]["epoch"] for line in lines)


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
    others = ("epoch", "seconds", "train_loss", "learning_rate", "split")
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
