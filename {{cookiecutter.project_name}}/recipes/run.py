"""A run is a folder: the ingredients and functions as they were, the machine, log, metrics, checkpoints.

`Run` also listens to the signals that ask to save or to stop.
"""

import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from core import Ingredients, SettingError
from recipes.contracts import Closable
from recipes.experiment import Experiment
from recipes.parts import checkpoint
from recipes.parts.origins import resolved_text
from recipes.settings import Saving, Scheme

CHECKPOINTS = "checkpoints"
STOP = [name for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP


class Run:
    """One run: its folder (None until `create`), and the state of the checkpoint that it goes on from, if any."""

    def __init__(self, experiment: Experiment):
        self.parent = runs_folder(experiment.ingredients, experiment.saving.runs)
        self.minutes, self.debug = experiment.saving.checkpoint_minutes, experiment.debug
        weights_file(experiment.saving)  # refused now, not after training
        self.folder, self.state, self.tracker = None, None, None
        self.saved, self.asked_to_save, self.asked_to_stop = time.monotonic(), False, 0

    # ------------------------------------------------------------------------------------------- begin or resume

    def resume(self, ingredients: Ingredients, name: str | None) -> None:
        """Take the folder and the state of the run `name`, or of the newest one for ""; None: neither."""
        if name is None or self.debug:
            return
        from recipes.parts.resume import open_run

        self.folder, self.state, lines = open_run(self.parent, name, ingredients)
        if self.folder is not None:
            # An epoch whose checkpoint was not written is repeated.
            kept = [*self.state["history"], *(line for line in self._lines() if "train_loss" not in line)]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            checkpoint.write_text(self.folder / "metrics.jsonl", text)
        for line in lines:
            self.log(line)

    def is_over(self, scheme: Scheme) -> bool:
        """Whether the run came to its end, with test metrics and weights written."""
        if self.state is None:
            return False
        epoch, stopped = self.state["epoch"], scheme.early_stop and self.state["since_best"] >= scheme.patience
        return (epoch >= scheme.epochs or stopped) and any(line.get("finished") == epoch for line in self._lines())

    def create(self, ingredients: Ingredients) -> None:
        """A new folder, named by the time, with all that is needed to repeat the run."""
        name = stamp = "debug" if self.debug else time.strftime("%Y-%m-%d_%H-%M-%S")
        if self.debug:
            shutil.rmtree(self.parent / name, ignore_errors=True)
        for number in range(2, 1000):
            try:
                (self.parent / name / CHECKPOINTS).mkdir(parents=True)
                break
            except FileExistsError:  # another run of the same second
                name = f"{stamp}-{number}"
        self.folder = self.parent / name
        (self.folder / "ingredients.ini").write_text(resolved_text(ingredients), encoding="utf-8")
        if used := getattr(sys.modules.get("custom_functions"), "__file__", None):
            shutil.copy2(used, self.folder / "custom_functions.py")
        (self.folder / "environment.json").write_text(json.dumps(_environment(), indent=2) + "\n", encoding="utf-8")

    # ------------------------------------------------------------------------------------------ log and metrics

    def log(self, text: str) -> None:
        """Print a line, without breaking a progress bar, and keep it in the run's log."""
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")
        tqdm.write(text)
        sys.stdout.flush()  # so that `| tee` shows it now

    def progress(self, batches, count: int, text: str, state=None):
        """The batches, under a bar if somebody watches. count: of samples.

        state: of the training; its checkpoint is saved between batches when that is due or a signal asks for it
        """
        with tqdm(total=count, desc=text, leave=False, disable=None, mininterval=0.25, unit=" samples") as bar:
            for batch in batches:
                yield batch
                if state is not None and self.is_save_due() and math.isfinite(state.loss_sum):
                    self.save(state)
                    self.exit_if_requested(f"step {state.step} of epoch {state.epoch + 1}")
                if bar.update(len(batch[0])) and state is not None and state.step:
                    bar.set_postfix_str(f"loss {state.mean_loss():.4f}", refresh=False)

    def record(self, **values) -> None:
        """Append a line to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def report(self, history: list[dict], epochs: int, is_best: bool) -> None:
        """Report the last epoch of `history`: to metrics.jsonl, metrics.csv, the tracker and the terminal."""
        values = history[-1]
        self.record(**values)
        columns = dict.fromkeys(key for line in history for key in line)
        lines = [",".join(columns), *(",".join(str(line.get(key, "")) for key in columns) for line in history)]
        checkpoint.write_text(self.folder / "metrics.csv", "\n".join(lines) + "\n")
        if self.tracker:
            self.tracker({key: value for key, value in values.items() if key != "epoch"}, values["epoch"])
        shown = {key: value for key, value in values.items() if key not in ("epoch", "train_loss", "seconds")}
        start = f"epoch {values['epoch']:>3}/{epochs}  train loss {values['train_loss']:.4f}"
        end = f"{values['seconds']:.1f} s" + ("  best" if is_best else "")
        self.log(f"{start}  validation {format_metrics(shown)}  {end}")

    def _lines(self) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]  # one may be cut

    # --------------------------------------------------------------------------------------- checkpoints, signals

    def save(self, state) -> None:
        """Write last.pt, from which the run can be resumed. `state` has a `state_dict`."""
        checkpoint.rotate(self.folder / CHECKPOINTS, state.state_dict())
        self.saved = time.monotonic()

    def is_save_due(self) -> bool:
        """Every few minutes, and when a signal asks for it."""
        due = time.monotonic() > self.saved + 60 * self.minutes
        return due or self.asked_to_save or self.asked_to_stop > 0

    def name_checkpoint(self, epoch: int, is_best: bool, keep_all: bool) -> None:
        """best.pt, and one for each epoch, as further names of last.pt."""
        folder = self.folder / CHECKPOINTS
        if is_best:
            checkpoint.link(folder / "last.pt", folder / "best.pt")
        if keep_all:
            checkpoint.link(folder / "last.pt", folder / f"epoch-{epoch:03}.pt")

    def exit_if_requested(self, after: str) -> None:
        """End the process if a signal asked for that, now that all is saved. Its exit code is 128 + the signal's."""
        if self.asked_to_stop:
            name = signal.Signals(self.asked_to_stop).name
            self.log(f"{name}: saved after {after}; python train.py --resume continues")
            raise SystemExit(128 + self.asked_to_stop)
        if self.asked_to_save:
            self.log(f"saved after {after}")
            self.asked_to_save = False

    @contextmanager
    def signals(self):
        """SIGTERM, SIGINT and SIGHUP ask to save and stop, SIGUSR1 to save and continue.

        A second signal to stop acts at once. A signal that the caller ignores, as nohup does SIGHUP, stays ignored.
        """

        def stop(number, frame):
            self.asked_to_stop = number
            signal.signal(number, before[number])
            if signal.Signals(number).name == "SIGHUP":  # the terminal is gone
                sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115

        def save(number, frame):
            self.asked_to_save = True

        handlers = {getattr(signal, name): stop for name in STOP}
        handlers |= {signal.SIGUSR1: save} if hasattr(signal, "SIGUSR1") else {}
        before = {number: signal.getsignal(number) for number in handlers}
        try:
            for number, handler in handlers.items():
                if before[number] != signal.SIG_IGN:
                    signal.signal(number, handler)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def translate_oom_and_disk_errors(self):
        """Say what to lower if memory runs out, and how to continue if the disk is full. Closes the tracker."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            from recipes.parts.failures import translate

            if (translated := translate(error, self.folder)) is error:
                raise
            raise translated from error
        finally:
            if isinstance(self.tracker, Closable):
                self.tracker.close()


# ------------------------------------------------------------------------------------------------------------ folders


def runs_folder(ingredients: Ingredients, parent: str) -> Path:
    """The folder of this project's runs; refuses a project name that leads elsewhere."""
    name = str(ingredients.at("project.name", "project"))
    if not name or name != Path(name).name or name in (".", "..") or len(name.encode()) > 200:
        message = "names the folder of the runs: at most 200 letters, digits, - and _, and no slash"
        raise SettingError("project.name", message)
    if Path(parent).is_file():
        raise SettingError("training.model.runs", "is a file; name a folder")
    refuse_unwritable("training.model.runs", Path(parent) / name)
    return Path(parent) / name


def refuse_unwritable(path: str, folder: Path) -> None:
    """Refuse a folder, that of the setting `path`, that cannot be created or written; none is created."""
    existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "a folder without write permission" if existing.is_dir() else "a file"
        raise SettingError(path, f"{existing} is {reason}; name another folder")


def weights_file(saving: Saving) -> Path:
    """Where the best weights go. Refused before training if no file can be written there."""
    name = Path(saving.save_name)
    path = Path(saving.save_dir) / name if name.parent == Path() else name
    if not name.name or path.is_dir() or saving.save_name.endswith(("/", "\\")):
        raise SettingError("training.model.save_name", "names a folder; name a file, such as model.pth")
    refuse_unwritable("training.model.save_name", path.parent)
    return path


def format_metrics(values: dict) -> str:
    """The metrics on one line, without those of single classes, such as map.7, which are in the files."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items() if "." not in name)


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
