"""Shards: data past one disk, in tar files as WebDataset writes them (github.com/webdataset/webdataset).

`python -m recipes.shard` writes them, and an index.json beside them that says how many samples each holds. So any
sample can be named by a number, and the order of an epoch depends on its seed alone, whoever reads which part of it.
"""

import bisect
import io
import itertools
import json
import mmap
import os
import tarfile
from array import array
from collections import OrderedDict
from pathlib import Path

from core import IngredientsError, registry
from core.registry import need
from pantry._fetch import Upload
from pantry.images import IMAGE_SUFFIXES, NotHere, decode_image

LANES = 16  # shards that are read at the same time, so that a batch mixes samples of all of them
TARGETS = ("cls", "y.npy")  # suffixes of a class, of an array
OPEN = 2 * LANES  # shards that one process holds open
CACHE = Path("data/cache/shards")


@registry.load_dataset.register("webdataset")
def webdataset(
    source: str,
    index: str | None = None,
    image_size: list[int] | None = None,
    channels: int = 3,
    cache: Path = CACHE,
    cache_size: float = 50.0,
):
    """`load() -> Shards`: samples of tar shards, each read when it is due.

    source: a folder, or the URL of one, with an index.json; or shards: `data/shard-{000000..000099}.tar`,
        `https://host/shard-{000000..000099}.tar`, `pipe:aws s3 cp s3://bucket/shard-{000000..000099}.tar -`
    index: file, URL or pipe: of index.json, if it is not beside the shards
    image_size: [height, width] in pixels to resize images to; None: as they are; channels: 1 grey, 3 RGB
    cache: folder for shards that are no local files; cache_size: GB (1e9 bytes) there, above which the oldest go

    A sample is an image (jpg, png, ...) or an array (npy), and a class (cls) or an array of targets (y.npy).
    Raises IngredientsError for what cannot be fetched or read, with the names of shard and sample.
    """

    def load() -> Shards:
        is_folder = not source.startswith("pipe:") and "{" not in source and not source.endswith(".tar")
        if index is None and source.startswith("pipe:"):
            raise IngredientsError(f"{source}: index is missing; name the index.json of the shards")
        beside = source.rstrip("/") if is_folder else os.path.dirname(source) or "."
        listed = json.loads(read_all(index or f"{beside}/index.json"))
        counts = [shard["samples"] for shard in listed["shards"]]
        urls = [f"{beside}/{shard['name']}" for shard in listed["shards"]] if is_folder else expand(source)
        if len(urls) != len(counts):
            raise IngredientsError(f"{source}: are {len(urls)} shards, but the index has {len(counts)}")
        store = Store(Path(os.path.expanduser(cache)), cache_size * 1e9)
        return Shards(urls, counts, listed.get("classes"), image_size, channels, store)

    def check() -> Shards:
        if is_remote(index or source):
            raise NotHere(f"{source}: is read when training begins")
        return load()

    load.check = check
    return load


def is_remote(source: str) -> bool:
    return source.startswith(("http:", "https:", "pipe:")) or "://" in source


def expand(pattern: str) -> list[str]:
    need("webdataset")
    from webdataset.shardlists import expand_urls

    return expand_urls(pattern)


def open_source(source: str):
    """A stream of a file, URL or `pipe:command`."""
    if not is_remote(source):
        return open(os.path.expanduser(source), "rb")
    need("webdataset")
    from webdataset.gopen import gopen

    return gopen(source)


def read_all(source: str) -> bytes:
    try:
        with open_source(source) as stream:
            return stream.read()
    except OSError as error:
        reason = error.strerror or error
        raise IngredientsError(f"{source}: cannot be read ({reason}); python -m recipes.shard writes it") from error


class Store:
    """Shards that are not local, copied into a folder until it is full: each once for all processes of a machine."""

    def __init__(self, folder: Path, size: float):
        self.folder, self.size = folder, size

    def path_of(self, url: str) -> Path:
        """The local file of a shard, which is fetched if it is not there."""
        import hashlib

        if not is_remote(url):
            return Path(os.path.expanduser(url))
        path = self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.tar"
        if not path.exists():
            self.fetch(url, path)
        os.utime(path)  # the oldest is the one that was not asked for longest
        return path

    def fetch(self, url: str, path: Path) -> None:
        import shutil

        from filelock import FileLock  # which torch brings

        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with FileLock(path.with_suffix(".lock")):
            if path.exists():  # another process was quicker
                return
            try:
                with open_source(url) as stream, open(part, "wb") as file:
                    shutil.copyfileobj(stream, file, 1 << 20)
                with tarfile.open(part) as tar:  # a stream that was cut off is no shard
                    for _ in tar:
                        pass
                self.make_room(part.stat().st_size)
                part.replace(path)
            except (OSError, tarfile.TarError) as error:
                raise IngredientsError(f"{url}: the shard cannot be fetched: {error}") from error
            finally:
                part.unlink(missing_ok=True)

    def make_room(self, size: int) -> None:
        """Remove the oldest shards; a process that has one open can read it to its end."""
        files = sorted(self.folder.glob("*.tar"), key=os.path.getmtime)
        room = self.size - size - sum(file.stat().st_size for file in files)
        while room < 0 and files:
            room += files[0].stat().st_size
            files.pop(0).unlink()


class Shards:
    """A map-style data set: `shards[i] -> (image or array, target)`, i counted through all shards.

    shards: the number of samples in each, by which `shard_order` makes the order of an epoch
    """

    def __init__(self, urls, counts, classes, image_size, channels, store):
        self.urls, self.shards, self.classes, self.store = urls, counts, classes, store
        self.resized, self.channels = image_size, channels
        self.starts = [0, *itertools.accumulate(counts)]
        self.opened = OrderedDict()  # shard -> (content, Members)

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self.starts, index) - 1
        number, (content, members) = index - self.starts[shard], self.open(shard)
        read = {}
        for suffix, start, size in members.of(number):
            name = f"{self.urls[shard]}: sample {number}, {suffix}"
            read[suffix] = decode(content[start : start + size], suffix, name, self.resized, self.channels)
        inputs = [suffix for suffix in read if suffix not in TARGETS]
        targets = [suffix for suffix in read if suffix in TARGETS]
        if len(inputs) != 1 or len(targets) != 1:
            message = f"has {', '.join(sorted(read))}; expected one image or npy, and {' or '.join(TARGETS)}"
            raise IngredientsError(f"{self.urls[shard]}: sample {number} {message}")
        return read[inputs[0]], read[targets[0]]

    def open(self, shard: int) -> tuple:
        """(content, Members) of a shard; the last ones stay mapped into memory, which costs none."""
        if shard not in self.opened:
            try:
                with self.store.path_of(self.urls[shard]).open("rb") as file:
                    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                members = Members(content)
            except (OSError, ValueError, tarfile.TarError) as error:
                raise IngredientsError(f"{self.urls[shard]}: the shard cannot be read: {error}") from error
            if len(members) != self.shards[shard]:
                message = f"holds {len(members)} samples, but index.json says {self.shards[shard]}; write both again"
                raise IngredientsError(f"{self.urls[shard]}: {message}")
            self.opened[shard] = content, members
        self.opened.move_to_end(shard)
        while len(self.opened) > OPEN:
            self.opened.popitem(last=False)
        return self.opened[shard]


class Members:
    """Where the members of each sample lie in a tar file; those of a sample have one name up to the first dot."""

    def __init__(self, file):
        self.places, self.firsts, self.suffixes = array("q"), array("q"), []  # numbers alone: a shard has thousands
        last = None
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members.clear()  # or they would be kept
                folder, name = os.path.split(member.name)
                key, _, suffix = name.partition(".")
                if not member.isreg():
                    continue
                if (folder, key) != last:
                    self.firsts.append(len(self.places))
                    last = folder, key
                if suffix.lower() not in self.suffixes:
                    self.suffixes.append(suffix.lower())
                self.places.extend((self.suffixes.index(suffix.lower()), member.offset_data, member.size))
        self.firsts.append(len(self.places))

    def __len__(self) -> int:
        return len(self.firsts) - 1

    def of(self, number: int):
        """(suffix, start, bytes) of each member of a sample."""
        for at in range(self.firsts[number], self.firsts[number + 1], 3):
            yield self.suffixes[self.places[at]], *self.places[at + 1 : at + 3]


def decode(found: bytes, suffix: str, name: str, image_size, channels):
    """A member of a shard, by the suffix of its name."""
    import numpy
    import torch

    try:
        if suffix == "cls":
            return torch.tensor(int(found))
        if suffix.endswith("npy"):
            return torch.from_numpy(numpy.load(io.BytesIO(found), allow_pickle=False))
    except ValueError as error:
        raise IngredientsError(f"{name}: cannot be read: {error}") from error
    if f".{suffix}" not in IMAGE_SUFFIXES:
        raise IngredientsError(f"{name}: is of a kind that is not known; expected an image, npy, cls or y.npy")
    return decode_image(Upload(name, found), channels, image_size)


def shard_order(counts, generator):
    """The indices of an epoch (N,): the shards in random order, LANES at a time, and in each its samples shuffled.

    Position p of the order is of lane p % LANES, until the first lanes end: so of several machines, each that takes
    every n-th position reads shards of its own.
    """
    import torch

    counts = torch.as_tensor(counts)
    starts = counts.cumsum(0) - counts
    order = torch.randperm(len(counts), generator=generator)
    lanes = [order[lane::LANES].tolist() for lane in range(min(LANES, len(counts)))]
    indices, keys = [], []
    for lane, shards in enumerate(lanes):
        parts = [starts[shard] + torch.randperm(int(counts[shard]), generator=generator) for shard in shards]
        indices.append(torch.cat(parts))
        keys.append(torch.arange(len(indices[-1])) * LANES + lane)
    return torch.cat(indices)[torch.cat(keys).argsort()]
