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
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from tqdm import tqdm

from core import Ingredients, SettingError
from recipes.experiment import Experiment
from recipes.parts import checkpoint
from recipes.parts.calling import carried
from recipes.parts.origins import defaults, resolved_text
from recipes.settings import MEASURED, Saving

CHECKPOINTS = "checkpoints"


class Run:
    """One run: its folder (None until `create`), and the state of the checkpoint that it goes on from, if any."""

    def __init__(self, experiment: Experiment):
        self.parent = runs_folder(experiment.ingredients, experiment.saving.runs)
        self.weights = weights_files(experiment.saving)  # refused now, not after training
        self.saving, self.debug = experiment.saving, experiment.debug
        name = Path(self.saving.run_name or "")
        if name.is_absolute() or ".." in name.parts:
            raise SettingError("training.model.run_name", f"names a folder in {self.parent}, such as baseline")
        self.folder, self.state, self.tracker = None, None, None
        self.reporter, self.reported_at = None, -math.inf
        self.saved_at, self.asked_to_save = time.monotonic(), False
        self.asked_to_stop = None  # (exit code, why)
        self.hidden = None  # whether to show no bars; None: unless somebody watches
        self.samples, self.waited = 0, 0.0  # read since `progress` was called, and the seconds that it took to get them

    def create(self, ingredients: Ingredients) -> None:
        """A new folder, named by the time or as the ingredients say, with all that is needed to repeat the run."""
        if not self.debug:
            make_folder("training.model.save_name", self.weights[0].parent)
        make_folder("training.model.runs", self.parent)
        name = stamp = "debug" if self.debug else self.saving.run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
        if self.debug:
            shutil.rmtree(self.parent / name, ignore_errors=True)
        for number in range(2, 1000):
            try:
                (self.parent / name / CHECKPOINTS).mkdir(parents=True)
                break
            except FileExistsError:  # another run of the same second, or name
                name = f"{stamp}-{number}"
        self.folder = self.parent / name
        (self.folder / "ingredients.ini").write_text(resolved_text(ingredients), encoding="utf-8")
        if used := getattr(sys.modules.get("custom_functions"), "__file__", None):
            shutil.copy2(used, self.folder / "custom_functions.py")
        for name, facts in (("environment", _environment()), ("defaults", defaults(ingredients))):
            text = json.dumps(facts, indent=2, default=str) + "\n"
            (self.folder / f"{name}.json").write_text(text, encoding="utf-8")

    # ------------------------------------------------------------------------------------------ log and metrics

    def log(self, text: str) -> None:
        """Print a line, without breaking a progress bar, and keep it in the run's log."""
        self._append("log.txt", text)
        try:
            tqdm.write(text)
            sys.stdout.flush()  # so that `| tee` shows it now
        except OSError as error:
            self._close_output(f"standard output cannot be written ({error.strerror})")

    def record(self, **values) -> None:
        """Append a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(values))

    def report(self, history: list[dict], epochs: int, is_best: bool) -> None:
        """Report the last epoch of `history`: to metrics.jsonl, metrics.csv, the tracker and the terminal."""
        values = history[-1]
        self.record(**values)
        columns = dict.fromkeys(key for line in history for key in line)
        lines = [",".join(columns), *(",".join(str(line.get(key, "")) for key in columns) for line in history)]
        with checkpoint.replacing(self.folder / "metrics.csv") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        if self.tracker:
            self.tracker({key: value for key, value in values.items() if key != "epoch"}, values["epoch"])
        shown = {key: values[key] for key in values if key not in ("epoch", "train_loss", "learning_rate", *MEASURED)}
        start = f"epoch {values['epoch']:>3}/{epochs}  train loss {values['train_loss']:.4f}"
        end = f"{values['seconds']:.1f} s ({values['samples_per_second']:,.0f}/s, {values['waiting']:.0%} waiting, "
        end += f"{values['memory']:.1f} GB)" + ("  best" if is_best else "")
        self.log(f"{start}  validation {format_metrics(shown)}  {end}")
        self._update_page()

    def _update_page(self) -> None:
        """Tell the process that writes report.html of an epoch; the process is started first, and never waited for."""
        if self.debug or not self.saving.report or time.monotonic() < self.reported_at + 3:  # soon there is another
            return
        self.reported_at = time.monotonic()
        with suppress(OSError):  # it ended early; close_page says why
            if self.reporter is None and find_spec("recipes.report"):
                folder = self.folder.absolute()
                command = [sys.executable, "-m", "recipes.report", "--watch", str(folder)]
                command += ["--ingredients", str(folder / "ingredients.ini")]
                settings = {"cwd": Path(__file__).parents[1], "bufsize": 0, "stdin": subprocess.PIPE}
                settings |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
                self.reporter = subprocess.Popen(command, process_group=0, **settings)  # which Ctrl-C does not reach
                os.set_blocking(self.reporter.stdin.fileno(), False)
            if self.reporter:
                self.reporter.stdin.write(b".")

    def close_page(self) -> None:
        """Wait until report.html is complete."""
        text = f"report: {self.folder / 'report.html'}"
        with suppress(subprocess.TimeoutExpired):  # the machine is busy; it ends by itself
            _, errors = self.reporter.communicate(timeout=60)
            if self.reporter.returncode:
                text = f"no report: {errors.decode(errors='replace').strip()}"
        self.log(text)

    def _append(self, name: str, line: str) -> None:
        with checkpoint.naming(self.folder / name), open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    # --------------------------------------------------------------------------------------- checkpoints, signals

    def progress(self, batches, count: int, text: str, state=None):
        """The batches, under a bar if somebody watches. count: of samples.

        state: of the training; its checkpoint is saved between batches when that is due or a signal asks for it
        """
        self.samples, self.waited, started = 0, 0.0, time.perf_counter()
        with tqdm(total=count, desc=text, leave=False, disable=self.hidden, mininterval=0.25, unit=" samples") as bar:
            for batch in batches:
                self.waited += time.perf_counter() - started
                self.samples += len(batch[0])
                yield batch
                if state is not None and self._is_save_due() and math.isfinite(state.loss_sum):
                    self.save(state)
                    self.exit_if_requested(f"step {state.step} of epoch {state.epoch + 1}")
                if bar.update(len(batch[0])) and state is not None and state.step:
                    bar.set_postfix_str(f"loss {state.mean_loss():.4f}", refresh=False)
                started = time.perf_counter()

    def measure(self, seconds: float, device) -> dict[str, float]:
        """Of the training of an epoch: how fast, the share of time spent waiting for data, the peak memory in GB."""
        rates = self.samples / seconds, self.waited / seconds, peak_memory(device) / 1e9
        return dict(zip(MEASURED, (round(value, 3) for value in (seconds, *rates)), strict=True))

    def _is_save_due(self) -> bool:
        due = time.monotonic() > self.saved_at + 60 * self.saving.checkpoint_minutes
        return due or self.asked_to_save or self.asked_to_stop is not None

    def save(self, state) -> None:
        """Write last.pt, from which the run can be resumed; the one before becomes previous.pt."""
        last = self.folder / CHECKPOINTS / "last.pt"
        if last.exists():
            checkpoint.link(last, last.with_name("previous.pt"))  # so that there always is an intact one
        checkpoint.save(last, state.state_dict())
        self.saved_at = time.monotonic()

    def name_checkpoint(self, epoch: int, is_best: bool) -> None:
        """Further names of last.pt: best.pt, and one for each epoch if all are kept."""
        names = ["best.pt"] * is_best + [f"epoch-{epoch:03}.pt"] * self.saving.save_all_checkpoints
        for name in names:
            checkpoint.link(self.folder / CHECKPOINTS / "last.pt", self.folder / CHECKPOINTS / name)

    def exit_if_requested(self, after: str) -> None:
        """End the process if a signal asked for that, now that all is saved."""
        if self.asked_to_stop:
            code, reason = self.asked_to_stop
            self.log(f"{reason}: saved after {after}; python train.py --resume continues")
            raise SystemExit(code)
        if self.asked_to_save:
            self.log(f"saved after {after}")
            self.asked_to_save = False

    @contextmanager
    def signals(self):
        """SIGTERM, SIGINT and SIGHUP ask to save and stop, SIGUSR1 to save and continue.

        A second signal to stop acts at once. A signal that the caller ignores, as nohup does SIGHUP, stays ignored.
        """
        self.handlers = {}  # as they were before
        known = signal.Signals.__members__  # Windows lacks some
        for number in (known[name] for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if name in known):
            if signal.getsignal(number) != signal.SIG_IGN:
                self.handlers[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame) -> None:
        name = signal.Signals(number).name
        if name == "SIGUSR1":
            self.asked_to_save = True
            return
        self.asked_to_stop = 128 + number, name  # the exit code that shells expect
        signal.signal(number, self.handlers[number])
        if name == "SIGHUP":  # the terminal is gone
            self._close_output(name)

    def _close_output(self, reason: str) -> None:
        """Nobody can read what is printed: say so if possible, print no more, save and stop."""
        with suppress(OSError):
            print(reason, file=sys.stderr, flush=True)
        self.asked_to_stop = self.asked_to_stop or (1, reason)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):  # not sys.stdout: a progress bar may hold another one
            os.dup2(nowhere, descriptor)

    @contextmanager
    def translate_oom_and_disk_errors(self):
        """Say what to lower if memory runs out, and how to continue if the disk is full. Closes the tracker."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            from recipes.parts.failures import translate

            if told := translate(error):
                raise told from error
            raise
        finally:
            if close := carried(self.tracker, "close"):
                close()


def peak_memory(device) -> int:
    """The most bytes that this process has taken so far: on a GPU there, else in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ------------------------------------------------------------------------------------------------------------ folders


def runs_folder(ingredients: Ingredients, parent: str) -> Path:
    """The folder of this project's runs; refuses a project name that leads elsewhere."""
    name = str(ingredients.at("project.name", "project"))
    if not name or name != Path(name).name or name in (".", "..") or len(name.encode()) > 200:
        message = "names the folder of the runs: at most 200 letters, digits, - and _, and no slash"
        raise SettingError("project.name", message)
    folder = Path(os.path.expanduser(parent)) / name
    refuse_unwritable("training.model.runs", folder)
    return folder


def make_folder(path: str, folder: Path) -> None:
    """Create a folder, that of the setting `path`; permissions do not tell all, as below /proc."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(path, f"{folder} cannot be created ({error.strerror}); name another folder") from error


def refuse_unwritable(path: str, folder: Path) -> None:
    """Refuse a folder, that of the setting `path`, that cannot be created or written; none is created."""
    existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "a folder without write permission" if existing.is_dir() else "a file"
        raise SettingError(path, f"{existing} is {reason}; name another folder")


def weights_files(saving: Saving) -> tuple[Path, Path]:
    """Where the best and the last weights go. Refused before training if no file can be written there."""
    name = Path(os.path.expanduser(saving.save_name))
    path = Path(os.path.expanduser(saving.save_dir)) / name if name.parent == Path() else name
    if not name.name or path.is_dir() or saving.save_name.endswith(("/", "\\")):
        raise SettingError("training.model.save_name", "names a folder; name a file, such as model.pth")
    refuse_unwritable("training.model.save_name", path.parent)
    files = path, path.with_stem(path.stem + "-last")
    for file in files:
        if not checkpoint.may_replace(file):
            message = f"{file} exists, and is no file of weights of this project; name another file"
            raise SettingError("training.model.save_name", message)
    return files


def format_metrics(values: dict) -> str:
    """The metrics on one line, without those of single classes, such as map.7, which are in the files."""
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items() if "." not in name)


def _environment() -> dict:
    # By the names of their folders: importlib.metadata would parse the description of each, half a second in all.
    folders = {path.stem for folder in sys.path for path in Path(folder or ".").glob("*.dist-info")}
    packages = dict(folder.split("-", 1) for folder in folders if "-" in folder)
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
