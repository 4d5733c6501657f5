"""Several processes train one model as one does. Long: `python -m pytest -m long tests/test_parallel.py`."""

import contextlib
import faulthandler
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from core import IngredientsError, SettingError, resolve
from recipes.parts import checkpoint
from recipes.parts.failures import translate
from recipes.settings import read_ingredients
from recipes.train import train as recipe
from tests.helpers import equal, metrics_of, state_of
from tests.test_interruptions import SERVER

SERVER.set_forkserver_preload(
    ["recipes.train", "recipes.classification", "torchvision", "torchmetrics", "torch.distributed.fsdp"]
)

FUNCTIONS = '''
import torch
from core import registry


@registry.backbone.register("plain")
def plain(in_channels, output_classes):
    """No batch norm, which would see other batches in each process."""
    layers = [torch.nn.Conv2d(in_channels, 6, 3, 2), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(torch.nn.Sequential(*layers), torch.nn.Linear(6 * 49, output_classes))


@registry.metric.register("own")
def own():
    """Of all samples at once, and of their order."""
    return lambda outputs, targets: (outputs.float().std() + targets * torch.arange(len(targets))).sum()
'''

# Nothing is drawn for a batch; neither batches nor validation data can be divided equally
PLAIN = {
    "model.architecture.backbone": "plain",
    "training.augment.@augment": "random_shift",
    "training.augment.pixels": "0",
    "training.scheme.batch_size": "9",
    "training.scheme.epochs": "3",
    "training.scheme.clip_norm": "1.0",
    "training.scheme.evaluation_batch_size": "4",
    "validation.metrics.own.@metric": "own",
    "validation.metrics.f1.@metric": "torchmetrics.F1Score",
    "validation.metrics.f1.task": "multiclass",
    "validation.metrics.f1.num_classes": "3",
    "validation.metrics.f1.average": "macro",
}


FSDP = {"training.parallel.strategy": "fsdp"}


def work(folder, ini, resume, environment):
    """One of the processes, as torchrun starts it."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.stdout = sys.stderr = open(f"{ini}-{environment.get('RANK')}.log", "w", buffering=1)  # noqa: SIM115
    faulthandler.dump_traceback_later(100, exit=True)
    torch.set_num_threads(1)
    ingredients = read_ingredients(ini)
    recipe(ingredients, resolve(ingredients), resume)


class Launched:
    """Processes that train together; without a size one alone, as without torchrun."""

    store, starts = None, 0

    def __init__(self, ini, size=0, resume=None):
        self.ini, environments = ini, [{}]
        if size:
            Launched.store = Launched.store or dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            Launched.starts += 1
            shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": self.store.port, "GROUP_RANK": 0, "WORLD_SIZE": size}
            shared |= {"LOCAL_WORLD_SIZE": size, "TORCHELASTIC_USE_AGENT_STORE": True}
            shared |= {"TORCHELASTIC_RESTART_COUNT": Launched.starts}
            environments = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
            Launched.store.delete_key("autotrain/run")
        self.processes = []
        for environment in environments:
            environment = {key: str(value) for key, value in environment.items()}
            self.processes.append(SERVER.Process(target=work, args=(os.getcwd(), str(ini), resume, environment)))
            self.processes[-1].start()

    def codes(self):
        """Of all, when they have ended; if one fails the others are ended, as torchrun does."""
        while any(process.is_alive() for process in self.processes):
            time.sleep(0.02)
            if any(process.exitcode for process in self.processes):
                for process in self.processes:
                    process.join(2)
                    process.terminate()
        return [process.exitcode for process in self.processes]

    def said(self):
        return "\n".join(path.read_text() for path in sorted(Path().glob(f"{self.ini}-*.log")))


@pytest.fixture
def write(read, own, tmp_path):
    own.backbone.register("plain")(lambda: None)
    own.metric.register("own")(lambda: None)
    (tmp_path / "custom_functions.py").write_text(FUNCTIONS)

    def write(name, changes=None):
        ingredients = read(PLAIN | {"project.name": name} | (changes or {}))
        Path(f"{name}.ini").write_text(str(ingredients), encoding="utf-8")
        return f"{name}.ini"

    return write


def trained(ini, size=0, resume=None):
    launched = Launched(ini, size, resume)
    assert not any(launched.codes()), launched.said()
    [folder] = Path(f"runs/{ini.removesuffix('.ini')}").iterdir()
    return folder


def close(one, other, most=1e-5):
    return [line.keys() for line in one] == [line.keys() for line in other] and all(
        abs(line[key] - value) <= most * max(1, abs(value))
        for line, expected in zip(one, other, strict=True)
        for key, value in expected.items()
        if not isinstance(value, str)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training.scheme.accumulate": "2", "training.scheme.batch_size": "8", "training.scheme.ema": "0.9"},
        FSDP,
    ],
    ids=["ddp", "accumulate and ema", "fsdp"],
)
def test_two_processes_have_the_losses_of_one(write, changes):
    one, two = (trained(write(name, changes), size) for name, size in (("one", 0), ("two", 2)))
    assert close(metrics_of(one), metrics_of(two)), (metrics_of(one), metrics_of(two))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    best, whole = (checkpoint.load(folder / "checkpoints/best.pt") for folder in (two, one))
    for key, tensor in best["model"].items():
        assert torch.allclose(tensor, whole["model"][key], atol=1e-5)


def test_a_signal_to_one_process_stops_both_after_the_same_step_and_one_goes_on(write):
    """And a run that two processes began is finished by one, with the losses of one."""
    busy = {"training.scheme.epochs": "16", "training.model.checkpoint_minutes": "0.0"}
    one = trained(write("one", busy))
    ini = write("two", busy)
    launched = Launched(ini, 2)
    while not list(Path("runs").glob("two/*/metrics.csv")) and launched.processes[1].is_alive():
        time.sleep(0.01)
    launched.processes[1].terminate()
    assert launched.codes() == [143, 143], launched.said()
    assert "another process: saved after" in launched.said() and "Traceback" not in launched.said()
    two = trained(ini, resume="")
    assert "resume runs/two/" in Path("two.ini-None.log").read_text()
    assert close(metrics_of(one), metrics_of(two), 1e-4)


@pytest.mark.parametrize(
    ("changes", "environment", "told"),
    [
        ({"training.scheme.batch_size": "auto"}, {}, "batch_size: under torchrun: let one process choose it"),
        ({"training.scheme.batch_size": "2"}, {"WORLD_SIZE": "3"}, "batch_size: under torchrun: 3 processes divide"),
        ({"training.parallel.sync_batch_norm": "True"}, {}, "sync_batch_norm: under torchrun: needs GPUs"),
        (FSDP | {"training.scheme.ema": "0.9"}, {}, "ema: under torchrun: needs strategy = ddp"),
    ],
)
def test_what_is_not_made_for_several_processes_is_refused(read, monkeypatch, changes, environment, told):
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "2", **environment}.items():
        monkeypatch.setenv(name, value)
    ingredients = read(changes)
    with pytest.raises(IngredientsError, match="under torchrun") as error:
        recipe(ingredients, resolve(ingredients))
    assert told in str(error.value).replace("\n    ", ": ")


def test_errors_of_processes_that_train_together_are_translated():
    unused = RuntimeError("Expected to have finished reduction ... `find_unused_parameters=True` to DistributedData...")
    assert "training.parallel.find_unused_parameters" in str(translate(unused))
    lost = RuntimeError(
        "[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:41659."
    )
    assert "does not answer any more" in str(translate(lost)) and translate(RuntimeError("any other")) is None


def test_a_mistake_is_told_by_the_first_process(monkeypatch, capsys):
    """The others wait to be ended, and tell theirs if they are not."""
    from recipes.parts import command

    waits = []
    monkeypatch.setattr(command.time, "sleep", waits.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit), command.Command("", []):
            raise SettingError("training.scheme.epochs", "wrong")
    assert waits == [5] and capsys.readouterr().err.count("wrong") == 2


def torchrun(folder, ini, *options, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *options]
    script = Path(recipe.__code__.co_filename).parents[1] / "train.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with open(folder / f"{ini}.log", "w") as log:
        return subprocess.Popen([*command, script, ini], cwd=folder, env=environment, stdout=log, stderr=log)


def workers_of(pid):
    """The processes that torchrun has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(each) for each in listed]


@pytest.mark.long
def test_killed_often_under_torchrun_ends_as_unbroken(write, tmp_path):
    """20 SIGKILLs of a worker: torchrun starts all again, and they go on from the last checkpoint."""
    kills, draw = int(os.environ.get("KILLS", 20)), random.Random(0)
    busy = {"training.scheme.epochs": "80", "training.model.checkpoint_minutes": "0.0", "training.scheme.ema": "0.9"}
    busy |= {"training.augment.pixels": "1", "training.scheme.accumulate": "2"}
    whole = trained(write("whole", busy), 2)
    ini = write("killed", busy)
    process, hits = torchrun(tmp_path, ini, "--max-restarts", str(kills), "--standalone"), 0
    log = tmp_path / f"{ini}.log"
    while process.poll() is None and hits < kills:
        seen = log.read_text().count("\nepoch ")
        while process.poll() is None and log.read_text().count("\nepoch ") <= seen:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        if workers := workers_of(process.pid):
            os.kill(draw.choice(workers), signal.SIGKILL)
            hits += 1
    assert process.wait() == 0 and hits == kills, log.read_text()[-3000:]
    folder = max(Path("runs/killed").iterdir(), key=lambda path: len(metrics_of(path)))
    assert metrics_of(folder) == metrics_of(whole)
    assert equal(state_of(folder), state_of(whole))


@pytest.fixture
def hosts():
    """Two network namespaces with a cable between them: {name: address}."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    names = {f"host{index}-{os.getpid()}": f"10.99.0.{index}" for index in (1, 2)}
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        ends = [argument for name in names for argument in ("name", "eth", "netns", name)]
        cable = ["ip", "link", "add", *ends[:4], "type", "veth", "peer", *ends[4:]]
        subprocess.run(cable, check=True)
        for name, address in names.items():
            for command in (f"address add {address}/24 dev eth", "link set eth up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *command.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name])


@pytest.mark.long
def test_two_hosts_one_of_which_is_cut_off(write, hosts, tmp_path):
    """The other one goes on alone from the last checkpoint, and ends with the losses of one process."""
    busy = {"training.scheme.epochs": "60", "training.model.checkpoint_minutes": "0.0"}
    one, ini, processes = trained(write("one", busy)), write("two", busy | {"training.parallel.timeout": "0.2"}), []
    script, (first, second) = Path(recipe.__code__.co_filename).parents[1] / "train.py", hosts
    for name, address in hosts.items():
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[first]}:29400", "--rdzv-id", "job"]
        command += ["--rdzv-conf", f"is_host={int(name == first)},last_call_timeout=5", "--local-addr", address]
        command += ["--max-restarts", "3", str(script), ini]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "eth", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        with open(tmp_path / f"{name}.log", "w") as log:
            settings = {"env": environment, "stdout": log, "stderr": log, "process_group": 0}
            processes.append(subprocess.Popen(command, **settings))
    try:
        while "\nepoch   9/" not in (tmp_path / f"{first}.log").read_text() + (tmp_path / f"{second}.log").read_text():
            assert processes[0].poll() is None and processes[1].poll() is None
            time.sleep(0.05)
        subprocess.run(["ip", "-n", second, "link", "set", "eth", "down"], check=True)
        assert processes[0].wait(300) == 0, (tmp_path / f"{first}.log").read_text()[-3000:]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # it and its processes have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = (tmp_path / f"{first}.log").read_text()
    assert "resume runs/two/" in said and "does not answer any more" in said
    [folder] = Path("runs/two").iterdir()
    assert close(metrics_of(one), metrics_of(folder), 1e-4)
