# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib"]
# ///
"""Draw docs/demo.png, the picture of the README: in a trained project, `python TEMPLATE/tools/draw_result.py demo.png`.

In the environment of that project, with matplotlib added. Accuracy by epoch, and test images as predicted.
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.image import imread


def main() -> None:
    metrics = max(Path("runs").glob("*/*/metrics.jsonl"))
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    epochs = [line for line in lines if "train_loss" in line]
    images = sorted(Path("data").glob("*/testing/*/*.png"))[::12][:24]
    command = [sys.executable, "-m", "recipes.predict", *map(str, images)]
    answers = [line.split()[-2:] for line in subprocess.check_output(command, text=True).splitlines()]

    figure = plt.figure(figsize=(11, 3.4), layout="constrained")
    curve, grid = figure.subfigures(1, 2, width_ratios=[1, 1.5])
    axes = curve.subplots()
    axes.plot([line["epoch"] for line in epochs], [line["accuracy"] for line in epochs], color="tab:blue")
    axes.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0.8, 1.0))
    axes.grid(alpha=0.3)
    tested = next(line["accuracy"] for line in lines if "split" in line)
    axes.set_title(f"best {max(line['accuracy'] for line in epochs):.2%}, on test images {tested:.2%}", fontsize=10)
    for cell, image, (name, confidence) in zip(grid.subplots(3, 8).flat, images, answers, strict=True):
        cell.imshow(imread(image), cmap="gray_r")
        right = name == image.parent.name
        cell.set_title(f"{name}  {float(confidence):.0%}", fontsize=8, color="black" if right else "tab:red")
        cell.axis("off")
    Path(sys.argv[1]).parent.mkdir(exist_ok=True)
    figure.savefig(sys.argv[1], dpi=110)


if __name__ == "__main__":
    main()
