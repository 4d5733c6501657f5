"""A run is a folder: the ingredients and functions as they were, the machine, the figures, the weights."""

import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from core import Ingredients, IngredientsError, located, parse
from core.errors import suggest
from recipes import checkpoint

CHECKPOINTS = "checkpoints"
BY_CLASS = "iou_"  # how figures begin that the line of an epoch leaves out; metrics.jsonl and metrics.csv hold them


def create(parent: Path, ingredients: Ingredients, name: str | None = None) -> Path:
    """A new run folder in `parent`, named by the time, with all that is needed to do the run again."""
    folder = parent / (name or time.strftime("%Y-%m-%d_%H-%M-%S"))
    if name is not None and folder.exists():
        shutil.rmtree(folder)
    number = 2
    while True:
        try:
            (folder / CHECKPOINTS).mkdir(parents=True)
            break
        except FileExistsError:  # another run of the same second
            folder = parent / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{number}"
            number += 1
    (folder / "ingredients.ini").write_text(str(ingredients), encoding="utf-8")
    used = getattr(sys.modules.get("custom_functions"), "__file__", None)
    if used:
        shutil.copy2(used, folder / "custom_functions.py")
    (folder / "environment.json").write_text(json.dumps(_environment(), indent=2) + "\n", encoding="utf-8")
    return folder


def _environment() -> dict:
    from importlib.metadata import distributions

    packages = {found.metadata["Name"]: found.version for found in distributions() if found.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": {"commit": _git("rev-parse", "HEAD"), "changes": _git("status", "--porcelain")},
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git here, or no repository
    return done.stdout.strip()


def newest(parent: Path) -> Path | None:
    """The run folder with the newest last checkpoint; debug runs do not count."""
    found = [path for path in parent.glob(f"*/{CHECKPOINTS}/last.pt") if path.parent.parent.name != "debug"]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path)).parent.parent if found else None


# What the weights so far depend on: with another value of these a run cannot go on.
FIXED = ("model.architecture", "training.load_dataset", "validation.load_dataset", "training.preprocess")
FIXED += ("training.optimizer.@", "training.scheme.seed", "training.scheme.validation_fraction")
FIXED += ("training.scheme.ema", "training.scheme.swa", "training.scheme.batch_size", "training.scheme.accumulate")
FIXED += ("training.scheme.precision",)


def find(ingredients: Ingredients, parent: Path, resume: str | None, debug: bool) -> tuple:
    """(folder, state) of the run to go on with: the one named, or the newest for ""; (None, None) for a new one."""
    if resume is None or debug:
        return None, None
    folder = Path(resume) if resume else newest(parent)
    if folder is None:
        return None, None
    if not (folder / CHECKPOINTS).is_dir():
        names = [str(path) for path in parent.glob("*") if (path / CHECKPOINTS).is_dir()]
        raise IngredientsError(f"--resume {resume}: there is no run in this folder. {suggest(resume, names)}")
    state, damaged = checkpoint.load_newest(folder / CHECKPOINTS)
    changed = differences(parse(folder / "ingredients.ini"), ingredients)
    changed = [line for line in changed if not line.startswith("training.scheme.resume")]
    if other := [line for line in changed if line.startswith(FIXED)]:
        message = f"cannot continue {folder}, which was trained otherwise ({'; '.join(other)}); write resume = False"
        raise located(ingredients, "training.scheme.resume", message)
    if state["done"] == 0 and state["since_best"] == 0 and not damaged:  # stopped before the best got their name
        checkpoint.link(folder / CHECKPOINTS / "last.pt", folder / CHECKPOINTS / "best.pt")
    restore_metrics(folder, state["history"])
    for text in damaged:
        say(folder, f"{text}; going on from the one before")
    said = f" and {state['done']} steps" if state["done"] else ""
    say(folder, f"continue {folder} after epoch {state['epoch']}{said}")
    for line in changed:
        say(folder, f"  changed since: {line}")
    return folder, state


def obey(folder: Path, asked: dict, after: str) -> None:
    """End the process where a signal asked for that, now that all is saved. Its exit code is 128 + the signal's."""
    if asked["stop"]:
        name = signal.Signals(asked["stop"]).name
        say(folder, f"{name}: saved after {after}; python train.py --resume goes on")
        raise SystemExit(128 + asked["stop"])
    if asked["save"]:
        say(folder, f"saved after {after}")
        asked["save"] = False


def find_checkpoint(parent: Path, named: str | None) -> Path:
    """The checkpoint of a run folder (its best one) or file; without a name, of the newest run in `parent`."""
    path = Path(named) if named else newest(parent)
    if path is None:
        raise IngredientsError(
            f"{parent}: no run here yet; python train.py makes one, or name a checkpoint by --run PATH"
        )
    if path.is_dir():
        path = path / CHECKPOINTS / "best.pt"
    if not path.is_file():
        runs = [str(run) for run in parent.glob("*") if (run / CHECKPOINTS / "best.pt").is_file()]
        raise IngredientsError(f"{path}: there is no such checkpoint. {suggest(named or str(path), runs)}")
    return path


def folder_of(ingredients: Ingredients, parent: str) -> Path:
    """The folder of this project's runs; a project name that leads elsewhere is refused."""
    name = str(ingredients.at("project.name", "project"))
    if not name or name != Path(name).name or name in (".", ".."):
        raise located(
            ingredients, "project.name", "names the folder of the runs: plain letters, digits, - and _, no slash"
        )
    if Path(parent).is_file():
        raise located(ingredients, "training.model.runs", "is a file; name a folder")
    return Path(parent) / name


def is_finished(folder: Path, epoch: int) -> bool:
    """Whether a run got to its end at this epoch: test figures and weights are written."""
    return any(line.get("finished") == epoch for line in _lines(folder))


def restore_metrics(folder: Path, history: list[dict]) -> None:
    """metrics.jsonl with the epochs that the checkpoint knows: one whose checkpoint was not written is done again."""
    rest = [line for line in _lines(folder) if "train_loss" not in line]
    checkpoint.replace(
        folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in [*history, *rest]).encode()
    )


def _lines(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]  # one may be cut short


def say(folder: Path, text: str) -> None:
    """Print a line, without breaking a progress bar, and keep it in the run's log."""
    tqdm.write(text)
    with open(folder / "log.txt", "a", encoding="utf-8") as file:
        file.write(text + "\n")


def record(folder: Path, **figures) -> None:
    """Append a line to metrics.jsonl."""
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")


def report(folder: Path, history: list[dict], epochs: int, is_best: bool, track=None) -> None:
    """Tell the last epoch of `history`: a line on the terminal, in metrics.jsonl, metrics.csv and the tracker."""
    figures = history[-1]
    record(folder, **figures)
    lines = [",".join(figures), *(",".join(str(line.get(key, "")) for key in figures) for line in history)]
    checkpoint.replace(folder / "metrics.csv", ("\n".join(lines) + "\n").encode())
    shown = {key: value for key, value in figures.items() if key not in ("epoch", "train_loss", "seconds")}
    said = ", ".join(f"{name} {value:.4f}" for name, value in shown.items() if not name.startswith(BY_CLASS))
    start = f"epoch {figures['epoch']:>3}/{epochs}  train loss {figures['train_loss']:.4f}  validation {said}"
    say(folder, f"{start}  {figures['seconds']:.1f} s" + ("  best" if is_best else ""))
    if track:
        track({key: value for key, value in figures.items() if key != "epoch"}, figures["epoch"])


def differences(old: Ingredients, new: Ingredients, path: str = "") -> list[str]:
    """The settings in which two ingredients differ, as `path: old -> new`."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        where = f"{path}.{key}" if path else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, Ingredients) and isinstance(after, Ingredients):
            lines += differences(before, after, where)
        elif before != after or type(before) is not type(after):
            lines.append(f"{where}: {before} -> {after}")
    return lines
