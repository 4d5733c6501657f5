# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1"]
# ///
"""Accuracy on one's own photos: the shipped recipe beside a bare loop with the same weights, and from scratch.

    uv run benchmarks/finetune.py PHOTOS WEIGHTS [SEEDS] [EPOCHS]

PHOTOS holds train/ and val/ with a folder for each class; WEIGHTS is a state dict of torchvision's mobilenet_v2, whose
head may be missing. All three see the photos as often, at 224 x 224 pixels, in batches of 16, and report the best
epoch on val/. The bare loop is what people write: AdamW at 3e-4 on all weights, cosine, RandomResizedCrop, flips.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"
sys.path.insert(0, str(PROJECT))

import torch  # noqa: E402
from torchvision import datasets, models  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

BATCH, SIZE = 16, [224, 224]


def bare_loop(photos: Path, weights: Path, epochs: int, seed: int) -> float:
    torch.manual_seed(seed)
    scaled = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    augment = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), *scaled, normalize])
    training = datasets.ImageFolder(photos / "train", augment)
    validation = datasets.ImageFolder(photos / "val", v2.Compose([v2.Resize(SIZE), *scaled, normalize]))
    batches = torch.utils.data.DataLoader(training, BATCH, shuffle=True, num_workers=2, drop_last=True)
    model = models.mobilenet_v2(num_classes=len(training.classes))
    state = {key: value for key, value in torch.load(weights).items() if not key.startswith("classifier")}
    model.load_state_dict(state, strict=False)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    best = 0.0
    for _ in range(epochs):
        model.train()
        for inputs, targets in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            right = sum(
                int((model(inputs).argmax(1) == targets).sum())
                for inputs, targets in torch.utils.data.DataLoader(validation, 64, num_workers=2)
            )
        best = max(best, right / len(validation))
    return best


def ours(photos: Path, weights: Path | None, epochs: int, seed: int, folder: Path) -> float:
    """The shipped recipe; `weights` None: from scratch."""
    from core import resolve
    from recipes.settings import read_ingredients
    from recipes.train import train

    changes = {
        "project.name": f"{'pretrained' if weights else 'scratch'}-{seed}",
        "project.root": folder,
        "project.data.source": photos,
        "model.architecture.weights": weights,
        "training.scheme.epochs": epochs,
        "training.scheme.seed": seed,
    }
    if weights is None:  # a body that knows nothing has nothing to keep
        changes |= {"training.scheme.body_rate": 1.0, "training.scheme.frozen_norms": False}
    changes = [(path, str(value), True) for path, value in changes.items()] + [
        ("training.model.runs", f"{folder}/runs", True)
    ]
    ingredients = read_ingredients(PROJECT / "ingredients.folder.ini", changes)
    lines = (train(ingredients, resolve(ingredients)) / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(line).get("accuracy", 0.0) for line in lines)


def main() -> None:
    photos, weights = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    seeds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    epochs = int(sys.argv[4]) if len(sys.argv) > 4 else 12
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        runs = {
            "from scratch": lambda seed: ours(photos, None, epochs, seed, folder),
            "ours": lambda seed: ours(photos, weights, epochs, seed, folder),
            "bare loop": lambda seed: bare_loop(photos, weights, epochs, seed),
        }
        rows = []
        for title, run in runs.items():
            started = time.perf_counter()
            found = [run(seed) for seed in range(seeds)]
            seconds = (time.perf_counter() - started) / seeds
            rows.append(f"{title:14} {statistics.mean(found):8.3f} {min(found):8.3f} {max(found):8.3f} {seconds:8.0f}")
    print(f"{'':14} {'accuracy':>8} {'least':>8} {'most':>8} {'seconds':>8}", *rows, sep="\n")


if __name__ == "__main__":
    main()
