# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1"]
# ///
"""Predictions a second of files: `recipes.predict` beside a loop written by hand.

    uv run benchmarks/predicting.py [ROUNDS] [IMAGES]

Both read the same files with as many threads by the same function, apply the same preprocess and network to batches of
64, and write a line of JSON for each: JPEG files (640 x 480 pixels, made here) to mobilenet_v3_small at 224 x 224, and
digits (8 x 8 pixels) to small_cnn at 16 x 16. In one process, models open. Rounds are interleaved; medians.
"""

import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"))

import numpy  # noqa: E402
import pantry  # noqa: E402, F401  (registers)
import torch  # noqa: E402
from core import Ingredients, registry  # noqa: E402
from PIL import Image  # noqa: E402

BATCH = 64
CLASSES = [f"class {index}" for index in range(10)]


def make(folder: Path, count: int, size: tuple[int, int], suffix: str, mode: str) -> list[str]:
    random = numpy.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        small = random.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
        image = Image.fromarray(small).convert(mode).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"{index:05}{suffix}", **({"quality": 90} if suffix == ".jpg" else {}))
    return sorted(map(str, folder.iterdir()))


@torch.inference_mode()
def by_hand(paths: list[str], predictor, output: str) -> None:
    """What somebody would write who has the model, its preprocess and a function that decodes."""
    from pantry.images import decode_image, processors

    channels, size = predictor.meta["input_format"]["channels"], predictor.meta["input_format"]["size"]
    model = predictor.experiment.model.eval()

    def read(path: str) -> torch.Tensor:
        return predictor.preprocess(decode_image(path, channels, size))

    with ThreadPoolExecutor(processors()) as pool, open(output, "w") as file:
        images, names = pool.map(read, paths), iter(paths)
        while batch := list(islice(images, BATCH)):
            best = model(torch.stack(batch)).softmax(1).max(1)
            for name, share, index in zip(islice(names, BATCH), *map(torch.Tensor.tolist, best), strict=True):
                file.write(json.dumps({"input": name, "class": CLASSES[index], "probability": round(share, 6)}) + "\n")


def ours(paths: list[str], predictor, output: str) -> None:
    from recipes.predict import write_all

    folder = str(Path(paths[0]).parent)
    settings = {"output": output, "format": None, "draw": None, "batch_size": BATCH}
    assert not write_all(predictor, Namespace(inputs=[folder], **settings))


def cases(folder: Path, images: int):
    """(name, paths, predictor)"""
    from recipes import classification
    from recipes.parts.predictor import Predictor
    from recipes.parts.samples import scale
    from recipes.parts.trained import Functions
    from torchvision.models import mobilenet_v3_small

    known = {"kind": "tensor", "axes": 3, "float": False, "divided": False, "channels_last": False}
    preprocess = registry.preprocess.get("resize_and_scale")
    for name, model, channels, size, step, paths in (
        (
            f"{images} JPEG files, mobilenet_v3_small",
            mobilenet_v3_small(num_classes=10),
            3,
            [224, 224],
            scale,
            make(folder / "photos", images, (640, 480), ".jpg", "RGB"),
        ),
        (
            "1,797 digits, small_cnn",
            registry.backbone.get("small_cnn")(1, 10),
            1,
            None,
            preprocess(size=[16, 16]),
            make(folder / "digits", 1797, (8, 8), ".png", "L"),
        ),
    ):
        meta = {"classes": CLASSES, "shape": [], "input_format": known | {"channels": channels, "size": size}}
        facts = {"evaluation_batch_size": BATCH, "device": torch.device("cpu"), "autocast": nullcontext()}
        facts |= {"preprocess": lambda _, step=step: (step, ""), "architecture": Namespace(backbone=""), "meta": meta}
        model = model.to(memory_format=torch.channels_last)
        model.train()(torch.rand(16, channels, *(size or [16, 16])))  # norms of a network that has seen something
        facts |= {"task": classification, "model": model, "functions": Functions(Ingredients())}
        yield name, paths, Predictor(Namespace(**facts))


def main(rounds: int = 5, images: int = 520) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'':42} by hand  recipes.predict   ratio")
        for name, paths, predictor in cases(Path(folder), images):
            rates, outputs = {by_hand: [], ours: []}, [f"{folder}/0.jsonl", f"{folder}/1.jsonl"]
            for run in (by_hand, ours):  # the first call of a network is slow
                run(paths, predictor, outputs[0])
            for number in range(rounds):
                for run, output in list(zip(rates, outputs, strict=True))[:: 1 if number % 2 else -1]:
                    started = time.perf_counter()
                    run(paths, predictor, output)
                    rates[run].append(len(paths) / (time.perf_counter() - started))
            found = [[json.loads(line) for line in Path(path).read_text().splitlines()] for path in outputs]
            assert found[0] == found[1]
            middle = [statistics.median(each) for each in rates.values()]
            ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
            print(f"{name:42} {middle[0]:7,.0f} {middle[1]:16,.0f} {ratio:7.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
