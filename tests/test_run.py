"""A run that is disturbed: signals, terminals that go away, full disks, workers that lose their parent; memory."""

import math
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from core import IngredientsError, resolve
from recipes import classification, experiment
from recipes.parts import checkpoint, workers
from recipes.run import Run
from recipes.train import train as recipe
from tests.helpers import equal, state_of
from tests.test_interruptions import BUSY, finish, wait_for, write
from tests.test_interruptions import start as start_recipe

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_name}}"
TRAIN = [sys.executable, str(PROJECT / "train.py"), "tiny.ini"]
LONG = {"training.scheme.epochs": "10000", "training.model.checkpoint_minutes": "1000.0"}


@pytest.fixture
def start(read):
    """start(changes, **settings of Popen) -> a process of `python train.py tiny.ini`; killed at the end."""
    started = []

    def start(changes=None, command=None, **settings):
        Path("tiny.ini").write_text(str(read(changes)), encoding="utf-8")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("TQDM_DISABLE", None)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        started.append(subprocess.Popen(command or TRAIN, env=environment, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def folder_of_run(process, seconds=60):
    """The folder of the run, once it has trained an epoch."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := list(Path("runs").glob("tiny/*/checkpoints/last.pt")):
            return found[0].parent.parent
        time.sleep(0.01)
    raise AssertionError(f"no epoch was trained: {process.communicate()}")


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5, 1.0, 1.8])
def test_ctrl_c_at_the_start_prints_no_traceback(start, seconds):
    process, caught = start(), False
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:  # until Python has come to the first lines of train.py, which let SIGINT end it
        mask = int(next(line for line in status.read_text().splitlines() if line[:6] == "SigCgt").split()[1], 16)
        if caught and not mask & 2:
            break
        caught = bool(mask & 2)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT) and "Traceback" not in errors, errors


def test_sigterm_to_the_whole_group_saves_and_stops(start):
    """As timeout, systemd and Slurm send it: to the workers as well, which must go on until the step is done."""
    settings = {"training.scheme.workers": "2", "training.scheme.memory": "0.0"}
    process = start(LONG | settings, start_new_session=True)
    folder = folder_of_run(process)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in errors, errors
    assert "SIGTERM: saved after" in (folder / "log.txt").read_text().splitlines()[-1]


@pytest.mark.parametrize("is_leader", [True, False], ids=["terminal", "background"])
def test_a_terminal_that_is_closed_saves_and_stops(start, is_leader):
    """Of the terminal's foreground a process gets SIGHUP; in the background it only cannot write any more."""
    ours, theirs = pty.openpty()
    settings = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    if is_leader:
        command = ["sh", "-c", f"exec {sys.executable} -c 'import fcntl, os, sys, termios; "
                   "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])' "
                   f"'{TRAIN[1]}' tiny.ini"]  # fmt: skip
        settings["command"] = command
    process = start(LONG, **settings)
    os.close(theirs)
    folder = None
    while folder is None:
        select.select([ours], [], [], 1)
        os.read(ours, 1 << 16)  # else the process waits for room
        folder = next((path.parent.parent for path in Path("runs").glob("tiny/*/checkpoints/last.pt")), None)
    os.close(ours)
    # Writes fail from the moment of closing; the signal may come when the process has saved and ended for that.
    assert process.wait(timeout=30) in ((128 + signal.SIGHUP, 1) if is_leader else (1,))
    assert "saved after" in (folder / "log.txt").read_text().splitlines()[-1]
    assert checkpoint.load(folder / "checkpoints/last.pt")["epoch"] > 0


def test_standard_output_that_is_full(start):
    with open("/dev/full", "w") as full:
        process = start(stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors.count("\n") == 1, errors
    assert "standard output" in errors and "No space left on device" in errors


def test_a_reader_that_ends_first(start):
    process = start(LONG, command=["bash", "-c", f"set -o pipefail; '{TRAIN[0]}' '{TRAIN[1]}' tiny.ini | head -1"])
    output, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, None) and output.count("\n") == 1 and "Traceback" not in errors, errors


def test_a_limit_of_the_size_of_files(start):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    process = start(preexec_fn=limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in errors, errors
    assert "last.pt: cannot be written (File too large)" in errors and "--resume" in errors


def test_workers_end_with_their_parent(start):
    process = start(LONG | {"training.scheme.workers": "2", "training.scheme.memory": "0.0"})
    folder_of_run(process)
    children = [
        int(child)
        for thread in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    assert len(children) >= 2
    process.kill()
    process.wait()
    end = time.monotonic() + 2
    while alive := [child for child in children if is_running(child)]:
        assert time.monotonic() < end, alive
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_a_worker_whose_parent_ended_before_it_began_ends(monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.parent_process", lambda: SimpleNamespace(pid=1 << 30))
    child = os.fork()
    if child == 0:
        workers.end_with_parent(0)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_saving_holds_no_second_copy(train, own, monkeypatch):
    """The resident memory while a checkpoint of 128 MB is written, beside that of before."""

    def large(in_channels, output_classes):
        body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 1 << 16, bias=False))
        return body.append(torch.nn.Linear(1 << 16, output_classes))

    own.backbone.register("large")(large)
    before, during, size = [], [], []
    save, write = checkpoint.save, checkpoint._Hashing.write

    def measured(path, state):
        before.append(resident())
        save(path, state)
        size.append(path.stat().st_size)

    def watched(file, data):
        during.append(resident())
        return write(file, data)

    monkeypatch.setattr(checkpoint, "save", measured)
    monkeypatch.setattr(checkpoint._Hashing, "write", watched)
    train({"model.architecture.backbone": "large", "testing.debug": "True"})
    assert size[0] > 128e6
    assert max(during) - before[0] < 0.2 * size[0]


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_project_name_of_300_characters(train):
    with pytest.raises(IngredientsError) as caught:
        train({"project.name": "x" * 300})
    [problem] = caught.value.problems
    assert problem.key == "project.name" and "200" in problem.message


def test_full_disk_stops_with_the_last_good_checkpoint(train, monkeypatch):
    original, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(
            IngredientsError, match=r"cannot be written \(No space left on device\); the last checkpoint is intact"
        ):
            train()
    [folder] = Path("runs/tiny").iterdir()
    assert checkpoint.load(folder / "checkpoints/last.pt")["epoch"] > 0
    whole = train({"project.name": "whole"})
    assert equal(state_of(train({"training.scheme.resume": "True"})), state_of(whole))


def test_out_of_memory_says_what_to_lower(read, one_thread):
    ingredients = read()
    functions = resolve(ingredients)

    def greedy(logits, targets):
        return torch.empty(2**60)

    functions.training["loss"] = greedy
    with pytest.raises(IngredientsError, match="lower batch_size"):
        recipe(ingredients, functions)


def test_sigusr1_saves_and_goes_on(read):
    ini = write(read, BUSY | {"training.model.checkpoint_minutes": "1000.0"}, "saved")
    process = start_recipe(ini)
    wait_for(process, "saved", 0.02)
    os.kill(process.pid, signal.SIGUSR1)
    code, said = finish(process, ini)
    assert code == 0 and "saved after " in said, said


# ---------------------------------------------------------------------------------------------------- several networks


class Pair(torch.nn.Module):
    """A generator and a discriminator, of images (N, 1, 16, 16)."""

    def __init__(self):
        super().__init__()
        self.generator = torch.nn.Sequential(torch.nn.Linear(8, 256), torch.nn.Sigmoid())
        self.discriminator = torch.nn.Linear(256, 1)

    def forward(self, inputs):
        return self.discriminator(inputs.flatten(1)).expand(-1, 3)  # as many as there are classes


def judged(model, images, is_real: float):
    logits = model.discriminator(images)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, is_real))


def discriminator_loss(model, inputs, targets, criterion):
    made = model.generator(torch.randn(len(inputs), 8)).detach()
    return judged(model, inputs.flatten(1), 1.0) + judged(model, made, 0.0)


def generator_loss(model, inputs, targets, criterion):
    return judged(model, model.generator(torch.randn(len(inputs), 8)), 1.0)


@pytest.fixture
def adversarial(monkeypatch):
    task = ModuleType("adversarial")
    vars(task).update(vars(classification))
    task.LOSSES = [("discriminator", discriminator_loss), ("generator", generator_loss)]
    task.build_model = lambda architecture, shape, outputs: Pair()
    monkeypatch.setattr(experiment, "load_task", lambda ingredients: task)
    return {
        "training.optimizer.@optimizer": "adamw",
        "training.optimizer.learning_rate": "0.01",
        "training.scheme.epochs": "3",
        "training.scheme.clip_norm": "1.0",
        "training.scheme.accumulate": "2",
        "training.scheme.batch_size": "4",
        "training.scheme.ema": "0.9",
        "training.model.checkpoint_minutes": "0.0",
    }


def test_two_networks_take_turns_and_resume_to_the_same_bytes(train, adversarial, monkeypatch):
    whole = train(adversarial | {"project.name": "whole"})
    saved, save = [], Run.save

    def interrupted(run, state):
        save(run, state)
        saved.append(state)
        if len(saved) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(adversarial)
    [folder] = Path("runs/tiny").iterdir()
    assert checkpoint.load(folder / "checkpoints/last.pt")["step"] > 0
    assert train(adversarial | {"training.scheme.resume": "True"}) == folder
    ours, theirs = (checkpoint.load(path / "checkpoints/last.pt") for path in (folder, whole))
    assert ours["optimizers"].keys() == {"discriminator", "generator"}
    for key in ("model", "training", "optimizers", "loss_sum"):
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)
    assert [line["train_loss"] for line in ours["history"]] == [line["train_loss"] for line in theirs["history"]]


def test_each_loss_trains_its_own_network_alone(train, adversarial, monkeypatch):
    """The generator's loss goes through the discriminator, which it must not move; nor does clipping count it."""
    made = []
    build = experiment.build
    monkeypatch.setattr("recipes.train.build", lambda *a, **k: made.append(build(*a, **k)) or made[-1])
    train(adversarial | {"testing.debug": "True", "training.scheme.accumulate": "1"})
    [(first, optimizer, _), (second, other, _)] = made[0].phases
    assert first is made[0].model.discriminator and second is made[0].model.generator
    held = [
        {id(parameter) for group in each.param_groups for parameter in group["params"]} for each in (optimizer, other)
    ]
    assert held[0] == set(map(id, first.parameters())) and held[1] == set(map(id, second.parameters()))
    assert all(parameter.grad is None for parameter in made[0].model.parameters())
    assert all(math.isfinite(value.sum()) for value in made[0].model.state_dict().values())
