"""Data: from what a loader returns to batches on the device.

Every split is one `Samples`, which preprocesses a sample when it is read. `load` alone decides what is kept in memory:
all preprocessed samples of a split, if they fit.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch.utils.data import StackDataset, default_collate

from core import IngredientsError, SettingError
from pantry.images import visit_all
from pantry.preprocess import to_image
from recipes.parts.calling import blame, carried

# What a data set may tell.
FACTS = ("classes", "paths", "targets", "collate", "input_format", "resized", "threads", "shards")
CHUNK = 1024  # samples that are preprocessed at once


@dataclass(frozen=True)
class Samples:
    """One split, a map-style data set: `samples[i] -> (input, target)`, preprocessed.

    read: `read(i) -> (input, target)`; count: of samples
    kept: (inputs (N, ...), targets (N, ...)), if all are kept in memory
    targets: of all samples, (N,) or (N, ...), if they are known without reading the samples
    classes: names in the order of their indices; names: of the samples, such as their files
    input_format: what a sample was before preprocess, so that predict can make the same of a file
    collate: list of pairs -> batch, for targets of different sizes
    raw: the first sample, before preprocess
    shards: the number of samples in each of the files that they are read from, one after another
    per_sample, seed: `per_sample(input, target) -> both` augments a sample when it is read. Index `epoch * count + i`
        is sample i as that epoch sees it: its randomness is that of (seed, epoch, i), whoever reads it and when.
    """

    read: Callable
    count: int
    kept: tuple | None = None
    targets: torch.Tensor | None = None
    classes: list[str] | None = None
    names: list[str] | None = None
    input_format: dict = field(default_factory=dict)
    collate: Callable | None = None
    raw: object = None
    shards: list[int] | None = None
    per_sample: Callable | None = None
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple:
        epoch, index = divmod(int(index), self.count)
        sample, target = self.read(index) if self.kept is None else self.at(index)
        if self.per_sample is None:
            return sample, target
        torch.manual_seed(seed_of("sample", self.seed, epoch, index))
        return self.per_sample(sample, target)

    def at(self, indices) -> tuple:
        """Of what is kept in memory: one sample, or a batch at once."""
        inputs, targets = self.kept
        return inputs[indices], targets[indices]

    @property
    def in_memory(self) -> bool:
        """Whether a batch is read by one indexing operation."""
        return self.kept is not None and self.per_sample is None

    @property
    def first(self) -> torch.Tensor:
        """One preprocessed sample."""
        return self[0][0]

    @property
    def shape(self) -> list[int]:
        return list(self.first.shape)

    @property
    def labels(self) -> torch.Tensor | None:
        """The class of each sample (N,), if they are known and it has just one."""
        targets = self.targets
        return None if targets is None or targets.ndim > 1 or targets.is_floating_point() else targets

    def subset(self, chosen: torch.Tensor) -> "Samples":
        """The samples where `chosen` (N,) is True."""
        indices = chosen.nonzero()[:, 0]
        where = indices.tolist()
        return replace(
            self,
            read=lambda index: self.read(where[index]),
            count=len(where),
            kept=self.kept and self.at(indices),
            targets=None if self.targets is None else self.targets[indices],
            names=self.names and [self.names[index] for index in where],
            shards=self.shards and [int(part.sum()) for part in chosen.split(self.shards)],
        )

    def to(self, device) -> "Samples":
        """Samples in memory move to the device once, not batch by batch; those that are augmented one by one do not."""
        return replace(self, kept=tuple(part.to(device) for part in self.kept)) if self.in_memory else self


# ----------------------------------------------------------------------------------------------------- loading


def load(loader, preprocess, section="training.preprocess", *, memory: float, optional=False) -> Samples | None:
    """Call a loader and preprocess what it returns. `memory`: GB (1e9 bytes) of preprocessed samples to keep.

    section: that is blamed for what preprocess raises
    optional: the loader may return None, if its source has no such split
    Raises IngredientsError if the loader returns neither (X, y) nor a map-style data set.
    """
    loaded = loader()
    if loaded is None and optional:
        return None
    facts = {name: carried(loaded, name) for name in FACTS}
    dataset, targets = check_loaded(loaded, facts["targets"])

    def read(index: int) -> tuple:
        sample, target = dataset[index]
        with blame(section):
            sample = as_input(preprocess(sample))
        return sample, target if targets is None else targets[index]

    raw = dataset[0][0]
    samples = Samples(
        read,
        len(dataset),
        raw=raw,
        targets=targets,
        classes=facts["classes"] and list(facts["classes"]),
        names=facts["paths"],
        input_format=_input_format(raw, facts["resized"]) | (facts["input_format"] or {}),
        collate=facts["collate"],
        shards=facts["shards"],
    )
    first, target = samples[0]
    if facts["collate"] or isinstance(target, dict) or first.nbytes * len(samples) > memory * 1e9:
        return samples
    return _keep(samples, dataset, preprocess, facts["threads"] or 1, section)


def check_loaded(loaded, targets) -> tuple:
    """(data set of pairs, targets or None) of what a loader returned."""
    if isinstance(loaded, tuple) and len(loaded) == 2:
        X, targets = loaded[0], _as_targets(loaded[1])
        if len(X) != len(targets):
            raise IngredientsError(f"{len(X)} samples, but {len(targets)} targets")
        loaded = StackDataset(X, targets)
    elif isinstance(loaded, tuple | dict | str) or not (carried(loaded, "__len__") and carried(loaded, "__getitem__")):
        raise IngredientsError(f"the loader returned {type(loaded).__name__}, expected (X, y) or a map-style data set")
    elif targets is not None:
        with contextlib.suppress(IngredientsError):  # some data sets of torchvision have paths there
            targets = _as_targets(targets)
    if len(loaded) == 0:
        raise IngredientsError("the loader returned no samples")
    pair = loaded[0]
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise IngredientsError(f"an item of the data set is {type(pair).__name__}, expected a pair (x, y)")
    return loaded, targets if torch.is_tensor(targets) else None


def _as_targets(targets) -> torch.Tensor:
    try:
        targets = torch.as_tensor(targets)
    except (TypeError, ValueError):
        message = f"y holds {type(targets[0]).__name__}, expected numbers, for classes from 0 up"
        raise IngredientsError(message) from None
    if targets.is_floating_point():
        return targets.float()
    # Losses want int64. Targets of many values each stay as they are: int64 takes eight times the memory of bytes.
    return targets if targets.ndim > 1 else targets.long()


def _keep(samples: Samples, dataset, preprocess, threads: int, section: str) -> Samples:
    """The samples, preprocessed now and kept in memory."""
    first = samples.first
    layout = torch.channels_last if first.ndim == 3 else torch.contiguous_format
    inputs = torch.empty((len(samples), *first.shape), dtype=first.dtype, memory_format=layout)
    found, targets = zip(*visit_all(dataset.__getitem__, len(samples), threads), strict=True)
    for start in range(0, len(samples), CHUNK):
        chunk = slice(start, start + CHUNK)
        with blame(section):
            inputs[chunk] = _preprocess_all(found[chunk], preprocess, first, start)
    targets = samples.targets if samples.targets is not None else _as_targets(default_collate(targets))
    return replace(samples, kept=(inputs, targets), targets=targets)


def _preprocess_all(found, preprocess, first: torch.Tensor, start: int) -> torch.Tensor:
    """Samples (n, ...), at once if preprocess can and they are images of one size. start: number of the first one."""
    if of_batch := carried(preprocess, "of_batch"):
        images = [to_image(sample) for sample in found]
        if images[0].ndim == 3 and len({image.shape for image in images}) == 1:
            return as_input(of_batch(torch.stack(images)))
    inputs = [as_input(preprocess(sample)) for sample in found]
    for index, sample in enumerate(inputs, start):
        if sample.shape != first.shape:
            shapes = f"{list(sample.shape)}, but the first one is {list(first.shape)}"
            raise IngredientsError(f"sample {index} is {shapes} after preprocess; resize all to one size")
    return torch.stack(inputs)


def as_input(sample) -> torch.Tensor:
    """A preprocessed sample as a float tensor, an image as (C, H, W); or a row of token ids, int64."""
    if sample is None:
        raise IngredientsError("preprocess returned None; it must return the sample")
    sample = to_image(sample)
    if is_ids(sample):
        return sample.long()
    if not sample.is_floating_point():
        message = f"preprocess returned {sample.dtype}, expected floats: divide by 255, as divide_by_255 does"
        raise IngredientsError(message)
    return sample.float()


def scale(sample) -> torch.Tensor:
    """The preprocess of a project that names none: bytes become floats in [0, 1]; floats and token ids stay."""
    sample = to_image(sample)
    return sample if sample.is_floating_point() or is_ids(sample) else sample / 255


def is_ids(sample: torch.Tensor) -> bool:
    """Whether a sample is a row of integers, such as the token ids of a text."""
    return sample.ndim == 1 and sample.dtype in (torch.int32, torch.int64)


def _input_format(raw, resized) -> dict:
    """What a sample is before preprocess, so that predict can make the same of an image file."""
    kind = "tensor" if isinstance(raw, torch.Tensor) else "image" if "PIL" in type(raw).__module__ else "array"
    image = to_image(raw)
    axes = 2 if kind == "image" else len(raw.shape)
    return {
        "kind": kind,
        "axes": axes,
        "channels": image.shape[0],
        "channels_last": kind == "array" and axes == 3 and raw.shape[-1] == image.shape[0] != raw.shape[0],
        "size": resized,
        "float": image.is_floating_point(),
        # The range tells whether a loader of floats divided by 255.
        "divided": image.is_floating_point() and float(image.max()) <= 1,
    }


def split_off(samples: Samples, fraction: float, seed: int, fold: str | None = None) -> tuple[Samples, Samples]:
    """(training, validation): a seeded share of each class goes to validation; fold = "2/5": the second of five parts.

    The parts have each class in (nearly) equal shares, and no sample in common.
    """
    groups = torch.zeros(len(samples)) if samples.labels is None else samples.labels
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed_of("split", seed)))
    held_back = torch.zeros(len(samples), dtype=torch.bool)
    if fold:
        from recipes.parts.splits import part_of

        order = order[groups[order].argsort(stable=True)]
        held_back[order[part_of(fold)]] = True
    for group in () if fold else groups.unique():
        members = order[groups[order] == group]
        held_back[members[: round(fraction * len(members))]] = True
    if not held_back.any() or held_back.all():
        key = "fold" if fold else "validation_fraction"
        message = f"{len(samples)} samples leave a split empty; change it, or add [validation.load_dataset]"
        raise SettingError(f"training.scheme.{key}", message)
    return samples.subset(~held_back), samples.subset(held_back)


# ----------------------------------------------------------------------------------------------------- reading


def seed_of(purpose: str, *key: int) -> int:
    """A 63-bit seed that depends on its key alone; different purposes and keys have unrelated seeds."""
    text = " ".join([purpose, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def epoch_sampler(samples: Samples, seed: int, balanced: bool = False):
    """`order_of(epoch)`: the indices (N,) that an epoch reads, in order; `balanced`: each class equally often."""
    if balanced and samples.labels is None:
        raise SettingError("training.scheme.balanced", "expected one class for each sample; set it to False")
    weights = 1 / samples.labels.bincount()[samples.labels] if balanced else None

    def order_of(epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed_of("order", seed, epoch))
        if balanced:
            order = torch.multinomial(weights, len(samples), replacement=True, generator=generator)
        elif samples.shards and samples.kept is None:
            from pantry.shards import shard_order

            order = shard_order(samples.shards, generator)
        else:
            order = torch.randperm(len(samples), generator=generator)
        return order if samples.per_sample is None else order + epoch * len(samples)

    return order_of


def reader(samples: Samples, batch_size: int, device, workers: int = 0):
    """`read(order=None) -> batches (inputs, targets)` on the device; order: indices of samples, None: all, in order."""
    samples = samples.to(device)
    batches_of = partial(split, len(samples), batch_size)
    if not samples.in_memory:
        from recipes.parts.workers import worker_reader

        return worker_reader(samples, batches_of, device, workers)

    def read(order: torch.Tensor | list | None = None):
        for indices in batches_of(order):
            yield samples.at(indices.to(samples.kept[0].device))

    return read


def split(count: int, batch_size: int, order: torch.Tensor | list | None) -> list[torch.Tensor]:
    """The indices of each batch. order: the indices of samples, None for all `count` in order, or a list of batches."""
    if isinstance(order, list):
        return order
    order = torch.arange(count) if order is None else order
    return list(order.split(batch_size)) if len(order) else []  # else it would be one part, an empty one


def summary(training: Samples, validation: Samples, outputs: int) -> str:
    """How many samples of what there are, on one line."""
    numbers = training.targets is not None and training.targets.is_floating_point()
    kind = ("output" if numbers else "class") + ("" if outputs == 1 else "s" if numbers else "es")
    return f"{len(training):,} training and {len(validation):,} validation samples, {outputs} {kind}"
