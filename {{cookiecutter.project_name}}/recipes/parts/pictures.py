"""Pictures of a run: batch.png, the first batch as the model sees it; predictions.png, of the best epoch."""

from pathlib import Path

import numpy
import torch
from PIL import Image, ImageDraw

from recipes.parts.calling import carried

MOST = 8  # samples in a picture
LEAST = 160  # pixels of the shorter side, smaller images are drawn larger


def save(path: Path, experiment, inputs, targets, model=None) -> None:
    """Draw the first samples of a batch, if the task has `draw`: the truth, and with a model its prediction."""
    draw = carried(experiment.task, "draw")
    if draw is None:
        return
    with torch.random.fork_rng(devices=[]), torch.inference_mode():  # drawing changes no random number that follows
        drawn = draw(inputs[:MOST], targets[:MOST], experiment.meta["classes"], model)
    if not drawn:  # samples that are no images
        return
    columns = min(4, len(drawn))
    tiles = [torch.nn.functional.pad(image, (1, 1, 1, 1)) for image in drawn]
    tiles += [torch.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [torch.cat(tiles[start : start + columns], 2) for start in range(0, len(tiles), columns)]
    if experiment.rank == 0:
        Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).contiguous().numpy()).save(path)


def some_of(count: int) -> torch.Tensor:
    """The indices of samples to draw, spread over all of `count`."""
    return torch.linspace(0, count - 1, min(count, MOST)).long()


def as_pixels(sample: torch.Tensor) -> torch.Tensor:
    """A sample (C, H, W) of floats as bytes (3, H', W') to draw on: stretched to 0..255, small ones enlarged."""
    sample = sample.detach().float().cpu()[:3]
    low, high = (0.0, 1.0) if sample.min() >= 0 and sample.max() <= 1 else (sample.min(), sample.max())
    pixels = ((sample - low) / max(float(high - low), 1e-6) * 255).to(torch.uint8)
    pixels = pixels if len(pixels) == 3 else pixels[:1].expand(3, -1, -1)
    times = enlarged(pixels)
    return pixels.repeat_interleave(times, 1).repeat_interleave(times, 2).contiguous()


def enlarged(sample: torch.Tensor) -> int:
    """How many times `as_pixels` enlarges a sample."""
    return max(1, -(-LEAST // min(sample.shape[-2:])))


def captioned(pixels: torch.Tensor, text: str, good: bool | None = None) -> torch.Tensor:
    """The image with a line of text above it; good: green, or red for False."""
    strip = Image.new("RGB", (pixels.shape[2], 14))
    ImageDraw.Draw(strip).text((2, 1), text, fill={None: "white", True: "lime", False: "tomato"}[good])
    return torch.cat([torch.from_numpy(numpy.array(strip)).permute(2, 0, 1), pixels], 1)
