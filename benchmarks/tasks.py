# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1", "torchmetrics",
#                 "faster-coco-eval"]
# ///
"""How long a step of detection and of segmentation takes, over a loop in the manner of torchvision's references.

    uv run benchmarks/tasks.py [ROUNDS] [TASK ...]

Both train the network of the shipped ini on the same digit scenes, with the same optimizer, batch size, precision and
number of steps; the other loop is that of references/detection/engine.py and references/segmentation/train.py of
github.com/pytorch/vision: a DataLoader, the losses summed, a scheduler's step, `.item()` for its meters. Rounds are
interleaved in one process; the table holds the medians, and that of the ratios of neighbouring rounds.
"""

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402

COUNT, EPOCHS = 320, 2  # scenes; the first epoch warms up


def ingredients_of(task: str):
    from recipes.settings import read_ingredients

    changes = {
        "project.name": task,
        "project.data.source": f"file:{PROJECT}/data/digits.tgz",
        "project.data.root": f"{os.getcwd()}/data/",
        "training.load_dataset.count": COUNT,
        "validation.load_dataset.count": 8,
        "testing.load_dataset.count": 8,
        "training.scheme.epochs": EPOCHS,
    }
    given = [(path, str(value), False) for path, value in changes.items()]
    return read_ingredients(PROJECT / f"ingredients.{task}.ini", given)


def ours(task: str) -> float:
    """Seconds of the last epoch, as the recipe's metrics.jsonl tells them."""
    from recipes.settings import call_functions
    from recipes.train import train

    ingredients = ingredients_of(task)
    folder = train(ingredients, call_functions(ingredients))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if "train_loss" in line][-1]


def by_hand(task: str) -> float:
    """Seconds of the last epoch of a loop in the manner of torchvision's references."""
    from recipes.experiment import build, configure
    from recipes.settings import call_functions

    ingredients = ingredients_of(task)
    experiment = build(configure(ingredients, call_functions(ingredients)))
    scheme, samples, model = experiment.scheme, experiment.training, experiment.model.train()
    augment, optimizer = experiment.augment, experiment.phases[0][1]
    loader = torch.utils.data.DataLoader(
        samples, scheme.batch_size, shuffle=True, collate_fn=samples.collate, drop_last=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], len(loader) * EPOCHS
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        started, meter = time.perf_counter(), []
        for inputs, targets in loader:
            if augment:
                inputs, targets = augment(inputs, targets, generator)
            with experiment.autocast:
                loss = experiment.task.loss(model, inputs, targets, experiment.criterion)
            meter.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            if scheme.clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), scheme.clip_norm)
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - started
    return seconds


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"torch {torch.__version__}, {rounds} interleaved rounds, seconds for {COUNT} scenes", flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for task in sys.argv[2:] or ("detection", "segmentation"):
            pairs = []
            for number in range(rounds):
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    first, second = (by_hand, ours) if number % 2 else (ours, by_hand)  # neither always comes first
                    times = {first: first(task), second: second(task)}
                    pairs.append((times[by_hand], times[ours]))
            hand, own = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(mine / other for other, mine in pairs)
            print(f"{task:13} by hand {hand:.2f}  ours {own:.2f}  ours / by hand {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
