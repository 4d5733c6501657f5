"""Write a split as tar shards, which `@load_dataset = webdataset` reads from a disk, a server or a bucket.

python -m recipes.shard data/shards/training                          the training data of ingredients.ini
python -m recipes.shard data/shards/testing --split testing --megabytes 500
python -m recipes.shard data/others --index                           of *.tar in a folder that something else wrote

The samples are shuffled once, so that each shard holds all kinds. Files of images are copied as they are; of other
loaders the samples that they return are written.
"""

import io
import json
import random
import shutil
from pathlib import Path

from core import Ingredients, IngredientsError, SettingError
from core.registry import need
from recipes.parts.command import Command
from recipes.settings import call_functions


def main() -> None:
    with Command(__doc__) as command:
        command.add_argument("output", help="a new folder; with --index one of shards")
        command.add_argument("--ingredients", default="ingredients.ini", help="default: ingredients.ini")
        command.add_argument("--split", choices=["training", "validation", "testing"], default="training")
        command.add_argument("--megabytes", type=float, default=200.0, help="of a shard; default: 200")
        command.add_argument("--index", action="store_true", help="write the index.json of shards that are there")
        arguments, ingredients = command.read()
        folder = Path(arguments.output).expanduser()
        if arguments.index:
            index = write_index(folder, None)
        elif folder.exists():
            raise IngredientsError(f"{folder}: exists; name a new folder")
        elif arguments.megabytes <= 0:
            raise IngredientsError(f"--megabytes {arguments.megabytes}: must be above 0")
        else:
            index = write_shards(*load_split(ingredients, arguments.split), folder, arguments.megabytes * 1e6)
        counts = [shard["samples"] for shard in index["shards"]]
        print(f"{sum(counts):,} samples in {len(counts):,} shard{'s' * (len(counts) > 1)}. To use them:")
        print(f"[{arguments.split}.load_dataset]\n@load_dataset = webdataset\nsource = {folder}")


def load_split(ingredients: Ingredients, split: str) -> tuple:
    """(what the loader of a split returns, the same as a data set)."""
    from recipes.parts.calling import blame, carried
    from recipes.parts.samples import check_loaded

    functions, section = call_functions(ingredients), f"{split}.load_dataset"
    if functions.at(section) is None:
        raise SettingError(
            section, f"missing; {split} data is a share of the training data, and will be one of its shards"
        )
    if download := functions.at("project.data.download"):
        with blame("project.data.download"):
            download()
    with blame(section):
        loaded = functions.at(section)()
        if loaded is None:
            raise IngredientsError("found no such split")
        return loaded, check_loaded(loaded, carried(loaded, "targets"))[0]


def write_shards(loaded, dataset, folder: Path, size: float) -> dict:
    """Write the samples in shards of `size` bytes; returns the index. The folder is complete or absent."""
    need("webdataset")
    from tqdm import tqdm
    from webdataset import ShardWriter

    from recipes.parts.calling import carried

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    order = list(range(len(dataset)))
    random.Random(0).shuffle(order)
    settings = {"maxsize": size, "maxcount": len(order), "encoder": False, "mtime": 0.0, "verbose": 0}
    try:
        with ShardWriter(str(part / "shard-%06d.tar"), **settings) as writer:
            for number, index in enumerate(tqdm(order, "writing", leave=False, disable=None)):
                writer.write({"__key__": f"{number:09}", **encode(loaded, dataset, index)})
        index = write_index(part, carried(loaded, "classes"))
        part.replace(folder)
        return index
    finally:
        shutil.rmtree(part, ignore_errors=True)


def encode(loaded, dataset, index: int) -> dict[str, bytes]:
    """The members of a sample: an image or npy, and cls or y.npy."""
    import torch
    from torchvision.io import encode_png

    from pantry.images import ImageFolder
    from pantry.preprocess import to_image

    if isinstance(loaded, ImageFolder):
        file, target = Path(loaded.paths[index]), loaded.targets[index]
        member = {file.suffix[1:].lower(): file.read_bytes()}
    else:
        sample, target = dataset[index]
        sample = to_image(sample)
        is_image = sample.dtype == torch.uint8 and sample.ndim == 3 and len(sample) in (1, 3)
        member = {"png": encode_png(sample.contiguous()).numpy().tobytes()} if is_image else {"npy": as_npy(sample)}
    if isinstance(target, dict):
        raise IngredientsError("a sample has several targets, which shards do not hold")
    target = torch.as_tensor(target)
    is_class = target.ndim == 0 and not target.is_floating_point()
    return member | ({"cls": str(int(target)).encode()} if is_class else {"y.npy": as_npy(target)})


def as_npy(array) -> bytes:
    import numpy

    file = io.BytesIO()
    numpy.save(file, numpy.asarray(array), allow_pickle=False)
    return file.getvalue()


def write_index(folder: Path, classes: list[str] | None) -> dict:
    """Write index.json: the shards of a folder, how many samples each holds, and the names of the classes."""
    from pantry.shards import Members
    from recipes.parts import checkpoint

    shards = []
    for path in sorted(folder.glob("*.tar")):
        with open(path, "rb") as file:
            shards.append({"name": path.name, "samples": len(Members(file))})
    if not shards:
        raise IngredientsError(f"{folder}: there is no *.tar in it")
    index = {"shards": shards, "classes": classes and list(classes)}
    with checkpoint.replacing(folder / "index.json") as file:
        file.write(json.dumps(index, indent=1).encode())
    return index


if __name__ == "__main__":
    main()
