# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1",
#                 "accelerate", "fastai", "lightning"]
# ///
"""How fast the recipe's loop is, beside a loop written by hand, Lightning, fastai and accelerate.

    uv run benchmarks/training.py [--device cuda] [ROUNDS] [CASE ...]

Cases: tiny (a linear layer on 28x28 images, batch 32, one thread: the cost of the loop itself shows), lenet (28x28,
batch 128), resnet18 (3x32x32, batch 64). All train the same network on the same tensors in memory with the same
optimizer (SGD with Nesterov momentum), schedule (one cycle, a rate for each step) and loss (cross entropy with label
smoothing), for the same number of steps; timed is the training part of an epoch, after one epoch to warm up. Rounds are
interleaved in one process; the table holds medians of images per second and each one's share of the loop by hand.
On a GPU all keep the samples there, ten times as many, and ask for no deterministic kernels (fastai is left out).
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"))

import torch  # noqa: E402
from torch import nn  # noqa: E402

# case -> (channels, size, batch size, steps an epoch, threads)
CASES = {"tiny": (1, 28, 32, 400, 1), "lenet": (1, 28, 128, 150, 2), "resnet18": (3, 32, 64, 6, 2)}
RATE, SMOOTHING, DEVICE = 0.01, 0.1, "cpu"


def network(case: str) -> nn.Module:
    torch.manual_seed(0)
    if case == "tiny":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if case == "resnet18":
        import torchvision

        return torchvision.models.resnet18(num_classes=10)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def samples(case: str):
    channels, size, batch_size, steps, _ = CASES[case]
    random = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch_size * steps, channels, size, size, generator=random)
    return inputs, torch.randint(0, 10, (batch_size * steps,), generator=random)


def factor(progress: float) -> float:
    return 0.04 + 0.96 * progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8


def optimizer_of(model):
    groups = [[p for p in model.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False)]
    groups = [{"params": groups[0], "weight_decay": 5e-4}, {"params": groups[1], "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=True, fused=True)


def by_hand(case: str, epochs: int) -> list[float]:
    """Seconds of each epoch."""
    inputs, targets = (part.to(DEVICE) for part in samples(case))
    inputs = inputs.to(memory_format=torch.channels_last)
    batch_size, steps = CASES[case][2:4]
    model = network(case).to(DEVICE, memory_format=torch.channels_last)
    optimizer, criterion = optimizer_of(model), nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    model.train()
    seconds = []
    for epoch in range(epochs):
        started = time.perf_counter()
        for index, indices in enumerate(torch.randperm(len(inputs), device=DEVICE).split(batch_size)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * factor((epoch * steps + index) / (epochs * steps))
            loss = criterion(model(inputs[indices]), targets[indices])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def wait() -> None:
    """For what was asked of a GPU."""
    if DEVICE != "cpu":
        torch.accelerator.synchronize()


def ours(case: str, epochs: int) -> list[float]:
    """The recipe itself, `recipes/train.py`; the seconds are those of its metrics.jsonl."""
    from core import parse_string, registry, resolve
    from recipes.settings import SECTIONS, import_functions
    from recipes.train import train

    import_functions(Path("."))
    if "bench" not in registry.backbone:
        registry.backbone.register("bench")(lambda in_channels, output_classes: network(os.environ["CASE"]))
        registry.load_dataset.register("bench")(
            lambda count: lambda: tuple(x[:count] for x in samples(os.environ["CASE"]))
        )
        registry.preprocess.register("bench")(lambda: lambda sample: sample)
    os.environ["CASE"] = case
    _, _, batch_size, steps, _ = CASES[case]
    text = f"""
[project]
name = {case}
[model.architecture]
backbone = bench
output_classes = 10
[training.load_dataset]
@load_dataset = bench
count = {batch_size * steps}
[training.preprocess]
@preprocess = bench
[validation.load_dataset]
@load_dataset = bench
count = 64
[training.loss]
@loss = cross_entropy
label_smoothing = {SMOOTHING}
[training.optimizer]
@optimizer = sgd
learning_rate = {RATE}
[training.scheme]
epochs = {epochs}
batch_size = {batch_size}
device = {DEVICE}
deterministic = False
[training.model]
report = False
"""
    ingredients = parse_string(text, (), SECTIONS)
    folder = train(ingredients, resolve(ingredients))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if "train_loss" in line]


def with_accelerate(case: str, epochs: int) -> list[float]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=DEVICE == "cpu")
    batch_size, steps = CASES[case][2:4]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*(x.to(DEVICE) for x in samples(case))), batch_size, shuffle=True
    )
    model = network(case).to(memory_format=torch.channels_last)
    optimizer, criterion = optimizer_of(model), nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / (epochs * steps)))
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    model.train()
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        for inputs, targets in loader:
            loss = criterion(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def with_lightning(case: str, epochs: int) -> list[float]:
    import lightning

    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    batch_size, steps = CASES[case][2:4]
    seconds = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network(case).to(memory_format=torch.channels_last)
            self.criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)

        def training_step(self, batch, index):
            return self.criterion(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = optimizer_of(self)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / (epochs * steps)))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_epoch_start(self):
            self.started = time.perf_counter()

        def on_train_epoch_end(self):
            wait()
            seconds.append(time.perf_counter() - self.started)

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*(x.to(DEVICE) for x in samples(case))), batch_size, shuffle=True
    )
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=epochs, accelerator=DEVICE.replace("cuda", "gpu"), **quiet).fit(Module(), loader)
    return seconds


def with_fastai(case: str, epochs: int) -> list[float]:
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    batch_size, steps = CASES[case][2:4]
    seconds = []

    class Clock(Callback):
        def before_train(self):
            self.started = time.perf_counter()

        def after_train(self):
            seconds.append(time.perf_counter() - self.started)

        def before_batch(self):
            progress = self.learn.pct_train
            self.learn.opt.set_hyper("lr", RATE * factor(progress))

    loader = DataLoader(torch.utils.data.TensorDataset(*samples(case)), bs=batch_size, shuffle=True, num_workers=0)
    model = network(case).to(memory_format=torch.channels_last)
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    learner = Learner(
        DataLoaders(loader, loader, device=torch.device("cpu")),
        model,
        criterion,
        opt_func=lambda groups, **_: OptimWrapper(opt=optimizer_of(model)),
        cbs=Clock(),
    )
    learner.remove_cbs([cb for cb in learner.cbs if type(cb).__name__ in ("ProgressCallback", "Recorder")])
    learner._do_epoch_validate = lambda *_, **__: None
    learner.fit(epochs)
    return seconds


CONTENDERS = {"by hand": by_hand, "ours": ours}
PEERS = {"accelerate": with_accelerate, "lightning": with_lightning, "fastai": with_fastai}  # where they are installed
CONTENDERS |= {name: contender for name, contender in PEERS.items() if importlib.util.find_spec(name)}


def main() -> None:
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--device", default=DEVICE)
    arguments = parser.parse_args()
    rounds, cases, DEVICE = arguments.rounds, arguments.cases or list(CASES), arguments.device
    if DEVICE != "cpu":
        CASES.update({case: (*of[:3], 10 * of[3], of[4]) for case, of in CASES.items()})
        CONTENDERS.pop("fastai", None)
    warnings.filterwarnings("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    os.chdir(tempfile.mkdtemp())
    print(f"torch {torch.__version__}, medians of {rounds} interleaved rounds, images per second (share of by hand)\n")
    for case in cases:
        _, _, batch_size, steps, threads = CASES[case]
        torch.set_num_threads(threads)
        rates = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name, contender in CONTENDERS.items():
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    seconds = contender(case, epochs=3)
                rates[name].append(batch_size * steps / statistics.median(seconds[1:]))
        shares = {
            name: statistics.median(a / b for a, b in zip(rates[name], rates["by hand"], strict=True)) for name in rates
        }
        line = [f"{name} {statistics.median(rates[name]):,.0f} ({shares[name]:.2f})" for name in CONTENDERS]
        print(f"{case:9} {threads} thread{'s' * (threads > 1)}  " + "  ".join(line), flush=True)


if __name__ == "__main__":
    main()
