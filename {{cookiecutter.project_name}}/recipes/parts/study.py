"""A process that takes part in a sweep: it shares the study with others, and may be killed at any moment."""

import fcntl
import os
import shutil
import socket
import statistics
import sys
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from core import Ingredients, IngredientsError, SettingError, locate, parse_string
from core.parser import Reader
from recipes.experiment import configure, select_by
from recipes.parts import checkpoint
from recipes.parts.calling import carried
from recipes.parts.origins import resolved_text
from recipes.parts.records import differences, recorded
from recipes.parts.space import as_text, check_space, propose, proposer
from recipes.parts.trained import Functions
from recipes.run import CHECKPOINTS, make_folder, runs_folder
from recipes.settings import Sweep, call_functions, read_ingredients, read_section
from recipes.train import train

JOINABLE = ("sweep.study.trials", "sweep.study.timeout")  # may differ between those who join


def lock(path: Path, wait: bool = True):
    """A file that is locked until it is closed or this process dies; None if another process holds it."""
    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        file.close()


class JournalLock:
    """Lets one process at a time write to a journal, from which it cuts what a killed one has left of a line."""

    def __init__(self, journal: Path):
        self.journal = journal

    def acquire(self) -> bool:
        self.held = lock(self.journal.with_suffix(".lock"))
        with open(self.journal, "rb+") as journal:
            journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.held.close()


class Worker:
    """Trains trial after trial. `given`: the settings of the command line."""

    def __init__(self, file: Path, given: dict[str, str], ingredients: Ingredients):
        self.given, self.ingredients, self.began, self.held = given, ingredients, time.monotonic(), None
        self.sweep = read_section(ingredients, "sweep.study", Sweep)
        self.space = check_space(ingredients, file, given)
        self.sampler, self.pruner, self.trials = proposer(self.sweep, self.space, ingredients)
        self.name, text = self.sweep.name or file.stem, file.read_text(encoding="utf-8-sig")
        if self.name != Path(self.name).name:
            raise SettingError("sweep.study.name", "names a folder, so it contains no slash")
        self.files = {"ingredients.ini": unresolved(ingredients) if "META" in Reader("", []).read(text) else text}
        if functions := sys.modules.get("custom_functions"):
            self.files["custom_functions.py"] = Path(functions.__file__).read_text(encoding="utf-8")

    def open(self) -> None:
        """Join the study, or begin it: then settings and functions are frozen."""
        experiment = configure(self.ingredients, Functions(self.ingredients))
        self.metric, self.seed = experiment.scheme.best or experiment.task.BEST, experiment.scheme.seed
        _, rank = select_by(experiment.scheme, experiment.task, experiment.metrics, (self.metric,))
        self.best_of = max if rank({self.metric: 1.0}) > rank({self.metric: 0.0}) else min
        self.folder = runs_folder(self.ingredients, experiment.saving.runs) / f"sweep_{self.name}"
        make_folder("training.model.runs", self.folder / "locks")
        facts = {"study_name": f"{self.folder.parent.name}/{self.name}", "direction": f"{self.best_of.__name__}imize"}
        with lock(self.folder / "lock"):
            self.study = optuna.create_study(storage=self.storage(), pruner=self.pruner, load_if_exists=True, **facts)
            if "frozen" not in self.study.user_attrs:
                self.study.set_user_attr("frozen", {"files": self.files, "given": self.given})
            self.frozen = self.study.user_attrs["frozen"]
            if changed := self.changes():
                message = f"{self.folder} began with other settings:\n    " + "\n    ".join(changed)
                raise IngredientsError(f"{message}\nset sweep.study.name to begin another sweep")
            for name, text in self.frozen["files"].items():
                with checkpoint.replacing(self.folder / name) as file:
                    file.write(text.encode())

    def storage(self):
        if self.sweep.storage is None:
            journal = self.folder / "journal.log"
            backend = optuna.storages.journal.JournalFileBackend(str(journal), JournalLock(journal))
            return optuna.storages.JournalStorage(backend)
        try:
            return optuna.storages.RDBStorage(self.sweep.storage)
        except Exception as error:  # of the driver, whichever it is
            raise SettingError("sweep.study.storage", str(error).splitlines()[0]) from error

    def changes(self) -> list[str]:
        """In what the settings and functions differ from those that the sweep began with."""
        old, new = (
            parse_string(files["ingredients.ini"], [(*item, True) for item in given.items()])
            for files, given in ((self.frozen["files"], self.frozen["given"]), (self.files, self.given))
        )
        changed = [line for line in differences(old, new) if not line.startswith(JOINABLE)]
        name = "custom_functions.py"
        return changed + [name] * (self.files.get(name) != self.frozen["files"].get(name))

    # --------------------------------------------------------------------------------------------------------- trials

    def next_trial(self) -> optuna.Trial | None:
        """The trial of a process that was killed, or a new one; None if there are enough."""
        is_late = self.sweep.timeout and time.monotonic() - self.began > 60 * self.sweep.timeout
        if self.held:
            self.held.close()
        with lock(self.folder / "lock"):
            trials = self.study.get_trials(deepcopy=False)
            running = [trial for trial in trials if trial.state == TrialState.RUNNING and self.is_here(trial)]
            trial = next((trial for trial in running if self.hold(trial.number)), None)
            if trial is None:
                if len(trials) >= self.trials or is_late:
                    return None
                trial = self.study.ask()
                self.hold(trial.number)
            self.study.sampler = self.sampler(trial.number)
            return optuna.Trial(self.study, trial._trial_id)

    def is_here(self, trial: FrozenTrial) -> bool:
        """Whether the trial was begun in this folder, and not on another disk with the same database."""
        return "process" not in trial.user_attrs or (self.folder / "locks" / str(trial.number)).exists()

    def hold(self, number: int) -> bool:
        """Lock a trial until the next one; False if another process has done so."""
        self.held = lock(self.folder / "locks" / str(number), wait=False)
        return self.held is not None

    def fail_trial_of(self, process: int, reason: str) -> None:
        """Record that a trial took its process down."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("process") == f"{socket.gethostname()}:{process}":
                optuna.Trial(self.study, trial._trial_id).set_user_attr("error", reason)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def run(self, trial: optuna.Trial) -> FrozenTrial:
        """Train with what is proposed, once for each seed. Whatever fails is recorded."""
        trial.set_user_attr("process", f"{socket.gethostname()}:{os.getpid()}")
        point = {path: propose(trial, path, values) for path, values in self.space.items()}
        values = []
        try:
            for seed in range(self.seed, self.seed + self.sweep.seeds):
                values.append(self.best_of(epoch[self.metric] for epoch in self.train(trial, point, seed)))
            if len(values) > 1:
                trial.set_user_attr("deviation", statistics.stdev(values))
            return self.study.tell(trial, statistics.mean(values))
        except optuna.TrialPruned:
            return self.study.tell(trial, state=TrialState.PRUNED)
        except Exception as error:  # whatever the user's code raises
            is_plain = isinstance(error, IngredientsError)
            trial.set_user_attr("error", str(error) if is_plain else "".join(traceback.format_exception(error)))
            return self.study.tell(trial, state=TrialState.FAIL)

    def train(self, trial: optuna.Trial, point: dict[str, str], seed: int) -> list[dict]:
        """Train, or continue what a killed process began; returns the metrics of the epochs."""
        folder = self.folder / f"{trial.number:04}-seed-{seed}"
        own = {"run_name": f"{self.folder.name}/{folder.name}", "save_name": folder / "model.pth", "report": False}
        changes = point | {f"training.model.{key}": str(value) for key, value in own.items()}
        ingredients = self.read(changes | {"training.scheme.seed": str(seed)})
        reported = self.study.trials[trial.number].intermediate_values

        def on_epoch(metrics: dict) -> None:
            if seed == self.seed:  # the others do not decide
                if metrics["epoch"] not in reported:
                    trial.report(metrics[self.metric], metrics["epoch"])
                if trial.should_prune():
                    raise optuna.TrialPruned

        functions = call_functions(ingredients)
        functions["training"]["tracker"] = watched(functions.at("training.tracker"), on_epoch)
        is_begun = (folder / CHECKPOINTS / "last.pt").exists()
        if not is_begun:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                folder = train(ingredients, functions, str(folder) if is_begun else None)
        except IngredientsError as error:
            raise locate(error, ingredients) from error
        finally:
            if ingredients.at("training.scheme.compile"):
                torch.compiler.reset()  # what is compiled for one model is not looked through for the next
        return [line for line in recorded(folder) if "train_loss" in line]

    # -------------------------------------------------------------------------------------------------------- results

    def importance(self) -> dict[str, float]:
        """The share of each setting in what the metric depends on; nothing after few trials."""
        if len({trial.value for trial in self.study.get_trials(False, (TrialState.COMPLETE,))}) < 4:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # the others need scikit-learn
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def ini_of(self, number: int) -> str:
        """The ini file that trains as this trial did, comments included."""
        params = self.study.trials[number].params
        return resolved_text(self.read({path: as_text(params[path]) for path in self.space}))

    def read(self, changes: dict[str, str]) -> Ingredients:
        """What the sweep began with, changed; without the URL of the database, which may contain a password."""
        changes = self.frozen["given"] | {"sweep.study.storage": "None"} | changes
        return read_ingredients(self.folder / "ingredients.ini", [(*item, True) for item in changes.items()])


def watched(own, on_epoch):
    """A tracker that calls `on_epoch(metrics)` after each epoch, those of a run that is resumed included."""

    def tracker(folder, ingredients):
        inner = own(folder, ingredients) if own else None

        def track(values, epoch):
            if inner:
                inner(values, epoch)
            on_epoch(values | {"epoch": epoch})

        track.close = carried(inner, "close")
        for line in recorded(folder):
            if "train_loss" in line:
                on_epoch(line)
        return track

    return tracker


def unresolved(ingredients: Ingredients) -> str:
    """The text of an ini file and its base files in one, references as they are."""
    blocks = []
    for section, entries in ingredients._draft.items():
        lines = [f"{key} = {entry[2]}".replace("\n", "\n    ") for key, entry in entries.items() if key]
        blocks += ["\n".join([f"[{section}]", *lines, ""])] if section else []
    return "\n".join(blocks)
