# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1", "optuna"]
# ///
"""What a sweep adds to a training: the time of a trial outside of recipes/train.py, and in what it reports from there.

    uv run benchmarks/sweep.py [TRIALS] [EARLIER]

TRIALS trials of one epoch of the digits and, after each, the same training by itself in the same process. EARLIER
trials have been recorded before: the more there are, the longer Optuna thinks (TPE, the default).
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from unittest.mock import patch

os.environ["TQDM_DISABLE"] = "1"
PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))

import optuna  # noqa: E402
import torch  # noqa: E402
from recipes.parts import study  # noqa: E402
from recipes.settings import call_functions, read_ingredients  # noqa: E402
from recipes.train import train  # noqa: E402

SWEEP = """
[sweep.study]
trials = {trials}
pruner = nop

[sweep.training.optimizer]
learning_rate = log 1e-2 1
momentum = float 0.5 0.95
weight_decay = log 1e-5 1e-2
"""


def main(trials: int = 20, earlier: int = 100) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        shutil.copytree(PROJECT / "data", "data")
        text = (PROJECT / "ingredients.ini").read_text().replace('"{{ cookiecutter.project_name }}"', "digits")
        Path("ingredients.ini").write_text(
            text.replace("epochs = 30", "epochs = 1") + SWEEP.format(trials=earlier + 2 * trials + 2)
        )
        worker = study.Worker(Path("ingredients.ini"), {}, read_ingredients("ingredients.ini"))
        worker.open()
        for value in range(earlier):
            done = optuna.trial.create_trial(
                params={
                    path: values.low + value / earlier * (values.high - values.low)
                    for path, values in worker.space.items()
                },
                distributions=worker.space,
                value=value / earlier,
            )
            worker.study.add_trial(done)
        for name, clock in (("wall", time.perf_counter), ("processor", time.process_time)):
            added, alone = measure(worker, trials, clock)
            print(f"{trials} trials after {earlier}, {name} time: a training takes {statistics.median(alone):.3f} s;")
            print(f"    a sweep adds {statistics.median(added):.3f} s to each (median), {max(added):.3f} s at most")


def measure(worker, trials: int, clock) -> tuple[list[float], list[float]]:
    """(what the sweep added, the training by itself) in seconds, of each trial."""
    inside, added, alone = [], [], []
    with ExitStack() as patches:
        patches.enter_context(patch.object(study, "train", timed(train, inside, clock)))
        for name in ("report", "should_prune"):  # which are called inside
            own = timed(vars(optuna.Trial)[name], inside, clock, sign=-1)
            patches.enter_context(patch.object(optuna.Trial, name, own))
        for _ in range(trials + 1):
            inside.clear()
            started = clock()
            trial = worker.run(worker.next_trial())
            added.append(clock() - started - sum(inside))
            Path("one.ini").write_text(worker.ini_of(trial.number))
            started = clock()
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                ingredients = read_ingredients("one.ini", [("training.model.report", "False")])
                train(ingredients, call_functions(ingredients))
            alone.append(clock() - started)
    return added[1:], alone[1:]  # the first one imports what training needs


def timed(function, seconds: list, clock, sign: int = 1):
    """The function, which adds the time that a call takes to `seconds`."""

    def call(*arguments):
        started = clock()
        try:
            return function(*arguments)
        finally:
            seconds.append(sign * (clock() - started))

    return call


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
