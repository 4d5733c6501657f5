# /// script
# requires-python = ">=3.11"
# dependencies = ["torch", "torchvision", "numpy", "pillow", "tqdm", "fastdownload", "fastprogress<1.1", "webdataset"]
# ///
"""Images per second from folders of JPEG files that are not kept in memory: our loader beside torchvision's reference.

    uv run benchmarks/images.py [ROUNDS] [IMAGES]

Both read the same files (500x375 pixels, made here), bring them to 224x224 and give float batches of 64 with two
workers: torchvision's ImageFolder with its v2 transforms in a DataLoader, ours with load_image_folder, memory = 0 and
resize_and_scale; "from the cache" is a later epoch of ours with `cache` set; "from shards" reads tar shards that
recipes/shard.py wrote of the same files. Rounds are interleaved; medians.
"""

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "{{cookiecutter.project_name}}"))

import numpy  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

WORKERS, BATCH, SIZE = 2, 64, [224, 224]


def make(folder: Path, count: int) -> None:
    random = numpy.random.default_rng(0)
    for index in range(count):
        small = random.integers(0, 256, (24, 32, 3), dtype=numpy.uint8)
        path = folder / "training" / str(index % 10) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def rate(batches, count: int) -> float:
    started = time.perf_counter()
    seen = sum(len(inputs) for inputs, _ in batches)
    assert seen == count
    return count / (time.perf_counter() - started)


def reference(folder: Path):
    from torchvision import datasets
    from torchvision.transforms import v2

    steps = [v2.PILToTensor(), v2.Resize(SIZE, antialias=True), v2.ToDtype(torch.float32, scale=True)]
    dataset = datasets.ImageFolder(folder / "training", v2.Compose(steps))
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, multiprocessing_context="fork"
    )
    return lambda: iter(loader)


def ours(folder: Path, cache: Path | None = None, loader: str = "load_image_folder"):
    import pantry  # noqa: F401  (registers)
    from core import parse_string, resolve
    from recipes.parts import samples as data

    where = f"cache = {cache}" if cache else ""
    functions = resolve(
        parse_string(
            f"[a]\n@load_dataset = {loader}\nsource = {folder}\nimage_size = {SIZE}\n{where}\n"
            f"[b]\n@preprocess = resize_and_scale\nsize = {SIZE}\n"
        )
    )
    samples = data.load(functions.a, functions.b, memory=0.0)
    read = data.reader(samples, BATCH, torch.device("cpu"), WORKERS)
    return lambda: read(data.epoch_sampler(samples, 0)(0))


def from_shards(folder: Path):
    from pantry.images import load_image_folder
    from recipes.shard import write_shards

    images = load_image_folder(folder, image_size=SIZE)()
    write_shards(images, images, folder / "shards", 10e6)
    return ours(folder / "shards", loader="webdataset")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1280
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, count)
        readers = {
            "torchvision": reference(folder),
            "ours": ours(folder),
            "from the cache": ours(folder, folder / "cache"),
            "from shards": from_shards(folder),
        }
        for read in readers.values():
            rate(read(), count)  # starts the workers
        rates = {name: [] for name in readers}
        for _ in range(rounds):
            for name, read in readers.items():
                rates[name].append(rate(read(), count))
        for name in readers:
            share = statistics.median(a / b for a, b in zip(rates[name], rates["torchvision"], strict=True))
            print(f"{name:15} {statistics.median(rates[name]):8,.0f} images/s  {share:.2f} of torchvision's")


if __name__ == "__main__":
    main()
