"""Data: from what a loader returns to batches on the device.

Every split is a map-style data set of preprocessed samples. One that fits in memory is preprocessed once and kept.
"""

import hashlib
from dataclasses import dataclass, field, replace

import torch
from tqdm import tqdm

from core import IngredientsError, SettingError
from recipes.contracts import BatchDataset, BatchPreprocess, Dataset

FACTS = ("classes", "paths", "targets", "collate", "input_format", "resized")  # what a loaded data set may tell
CHUNK = 1024  # samples that are preprocessed at once


@dataclass(frozen=True)
class Samples:
    """One split: preprocessed samples, and what is known about them.

    targets: of all samples, (N,) or (N, ...), if they are known without reading the samples
    classes: names in the order of their indices; names: of the samples, such as their files
    input_format: what a sample was before preprocess, so that predict can make the same of a file
    collate: list of pairs -> batch, for targets of different sizes; None: they are stacked
    """

    dataset: object
    targets: torch.Tensor | None = None
    classes: list[str] | None = None
    names: list[str] | None = None
    input_format: dict = field(default_factory=dict)
    collate: object = None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def first(self) -> torch.Tensor:
        """One preprocessed sample."""
        return self.dataset[0][0]

    @property
    def shape(self) -> list[int]:
        return list(self.first.shape)

    @property
    def in_memory(self) -> bool:
        return isinstance(self.dataset, InMemory)

    def subset(self, chosen: torch.Tensor) -> "Samples":
        """The samples where `chosen` (N,) is True."""
        indices = chosen.nonzero()[:, 0]
        if self.in_memory:
            dataset = InMemory(*self.dataset.__getitems__(indices))
        else:
            dataset = torch.utils.data.Subset(self.dataset, indices.tolist())
        targets = None if self.targets is None else self.targets[indices]
        return replace(self, dataset=dataset, targets=targets, names=self.names and [self.names[i] for i in indices])

    def to(self, device) -> "Samples":
        """Samples in memory move to the device once, not batch by batch."""
        if not self.in_memory:
            return self
        return replace(self, dataset=InMemory(self.dataset.inputs.to(device), self.dataset.targets.to(device)))


class InMemory:
    """Preprocessed inputs (N, ...) and their targets (N, ...)."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor):
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int):
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: torch.Tensor):
        return self.inputs[indices], self.targets[indices]


class Preprocessed:
    """A data set, or arrays (X, y), whose samples are preprocessed when they are read."""

    def __init__(self, dataset, preprocess, targets: torch.Tensor | None):
        self.dataset, self.preprocess, self.targets = dataset, preprocess, targets
        self.is_pair = isinstance(dataset, tuple)

    def __len__(self) -> int:
        return len(self.dataset[0] if self.is_pair else self.dataset)

    def __getitem__(self, index: int):
        if self.is_pair:
            return as_input(self.preprocess(self.dataset[0][index])), self.targets[index]
        sample, target = self.dataset[index]
        return as_input(self.preprocess(sample)), target

    def read_chunk(self, indices: range) -> tuple:
        """(samples, targets) of a range: tensors if data set and preprocess take many at once, else lists."""
        if isinstance(self.preprocess, BatchPreprocess):
            inputs = None
            if self.is_pair:
                inputs, targets = self.dataset[0][indices.start : indices.stop], self.targets[indices]
            elif isinstance(self.dataset, BatchDataset):
                inputs, targets = self.dataset.__getitems__(indices)
            if isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
                return self.preprocess.of_batch(inputs), targets
        return tuple(zip(*(self[index] for index in indices), strict=True))


class Augmented(torch.utils.data.Dataset):
    """Samples augmented one by one. Index `epoch * len(self) + i` is sample i as epoch `epoch` sees it.

    The randomness is that of (seed, epoch, i): it depends neither on the number of workers nor on what was read before.
    """

    def __init__(self, dataset, per_sample, seed: int):
        self.dataset, self.per_sample, self.seed = dataset, per_sample, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int):
        epoch, index = divmod(int(key), len(self.dataset))
        sample, target = self.dataset[index]
        torch.manual_seed(seed_of("sample", self.seed, epoch, index))
        return self.per_sample(sample, target)


# ----------------------------------------------------------------------------------------------------- loading


def load(loader, preprocess, memory: float) -> Samples:
    """Call a loader and preprocess what it returns. `memory`: GB (1e9 bytes) of preprocessed samples to keep.

    Raises IngredientsError if the loader returns neither (X, y) nor a map-style data set.
    """
    loaded = loader()
    facts = {name: getattr(loaded, name, None) for name in FACTS}
    targets, count = _check_loaded(loaded, facts["targets"])
    dataset = Preprocessed(loaded, preprocess, targets)
    raw = loaded[0][0]  # of X, or of the first pair
    samples = Samples(
        dataset,
        targets,
        facts["classes"] and list(facts["classes"]),
        facts["paths"],
        _input_format(raw, facts["resized"]) | (facts["input_format"] or {}),
        facts["collate"],
    )
    first, target = dataset[0]
    if facts["collate"] or isinstance(target, dict) or first.nbytes * count > memory * 1e9:
        return samples
    return _keep(samples, first)


def _check_loaded(loaded, targets) -> tuple:
    """(targets or None, number of samples) of what a loader returned."""
    if isinstance(loaded, tuple) and len(loaded) == 2:
        count, targets = len(loaded[0]), loaded[1]
    elif isinstance(loaded, Dataset) and not isinstance(loaded, tuple | dict | str):
        count = len(loaded)
        if count and not (isinstance(pair := loaded[0], tuple | list) and len(pair) == 2):
            raise IngredientsError(f"an item of the data set is {type(pair).__name__}, expected a pair (x, y)")
    else:
        raise IngredientsError(f"the loader returned {type(loaded).__name__}, expected (X, y) or a map-style data set")
    if count == 0:
        raise IngredientsError("the loader returned no samples")
    targets = None if targets is None else _as_targets(targets)
    if targets is not None and len(targets) != count:
        raise IngredientsError(f"{count} samples, but {len(targets)} targets")
    return targets, count


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


def _keep(samples: Samples, first: torch.Tensor) -> Samples:
    """The samples, preprocessed now and kept in memory."""
    layout = torch.channels_last if first.ndim == 3 else torch.contiguous_format
    inputs = torch.empty((len(samples), *first.shape), dtype=first.dtype, memory_format=layout)
    targets = []
    for start in tqdm(range(0, len(samples), CHUNK), desc="preprocess", leave=False, disable=None, mininterval=0.5):
        chunk = range(start, min(start + CHUNK, len(samples)))
        read, its_targets = samples.dataset.read_chunk(chunk)
        if not isinstance(read, torch.Tensor):
            for index, sample in zip(chunk, read, strict=True):
                if sample.shape != first.shape:
                    shapes = f"{list(sample.shape)}, but the first one is {list(first.shape)}"
                    raise IngredientsError(f"sample {index} is {shapes} after preprocess; resize all to one size")
            read = torch.stack(read)
        inputs[chunk.start : chunk.stop] = read
        if samples.targets is None:
            targets += its_targets
    targets = _as_targets(targets) if samples.targets is None else samples.targets
    return replace(samples, dataset=InMemory(inputs, targets), targets=targets)


def as_input(sample) -> torch.Tensor:
    """A preprocessed sample as a float tensor, an image as (C, H, W); or a row of token ids, int64."""
    if sample is None:
        raise IngredientsError("preprocess returned None; it must return the sample")
    sample = as_tensor(sample)
    if is_ids(sample):
        return sample.long()
    if not sample.is_floating_point():
        message = f"preprocess returned {sample.dtype}, expected floats: divide by 255, as divide_by_255 does"
        raise IngredientsError(message)
    return sample.float()


def as_tensor(sample) -> torch.Tensor:
    """A tensor of a sample; images as (C, H, W): see `to_image` in pantry/preprocess.py."""
    from pantry.preprocess import to_image

    return to_image(sample)


def scale(sample) -> torch.Tensor:
    """The preprocess of a project that names none: bytes become floats in [0, 1]; floats and token ids stay."""
    sample = as_tensor(sample)
    return sample if sample.is_floating_point() or is_ids(sample) else sample / 255


def is_ids(sample: torch.Tensor) -> bool:
    """Whether a sample is a row of integers, such as the token ids of a text."""
    return sample.ndim == 1 and sample.dtype in (torch.int32, torch.int64)


def _input_format(raw, resized) -> dict:
    """What a sample is before preprocess, so that predict can make the same of an image file."""
    kind = "tensor" if isinstance(raw, torch.Tensor) else "image" if "PIL" in type(raw).__module__ else "array"
    image = as_tensor(raw)
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
    groups = torch.zeros(len(samples), dtype=torch.long)
    if samples.targets is not None and samples.targets.ndim == 1 and not samples.targets.is_floating_point():
        groups = samples.targets
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed_of("split", seed)))
    held_back = torch.zeros(len(samples), dtype=torch.bool)
    if fold:
        order = order[groups[order].argsort(stable=True)]
        held_back[order[_part(fold)]] = True
    for group in () if fold else groups.unique():
        members = order[groups[order] == group]
        held_back[members[: round(fraction * len(members))]] = True
    if not held_back.any() or held_back.all():
        key = "fold" if fold else "validation_fraction"
        message = f"{len(samples)} samples leave a split empty; change it, or add [validation.load_dataset]"
        raise SettingError(f"training.scheme.{key}", message)
    return samples.subset(~held_back), samples.subset(held_back)


def _part(fold: str) -> slice:
    """ "2/5" -> every fifth, from the second."""
    try:
        part, count = map(int, fold.split("/"))
    except ValueError:
        part = count = 0
    if not 1 <= part <= count or count < 2:
        raise SettingError("training.scheme.fold", "expected a part and their number, such as 2/5")
    return slice(part - 1, None, count)


# ----------------------------------------------------------------------------------------------------- reading


def seed_of(purpose: str, *key: int) -> int:
    """A 63-bit seed that depends on its key alone; different purposes and keys have unrelated seeds."""
    text = " ".join([purpose, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def epoch_sampler(samples: Samples, seed: int, balanced: bool = False):
    """`order_of(epoch)`: the indices (N,) that an epoch reads, in order; `balanced`: each class equally often."""
    weights = None
    if balanced:
        if samples.targets is None or samples.targets.ndim > 1 or samples.targets.is_floating_point():
            raise SettingError("training.scheme.balanced", "expected one class for each sample; set it to False")
        weights = 1 / samples.targets.bincount()[samples.targets]

    def order_of(epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed_of("order", seed, epoch))
        if balanced:
            order = torch.multinomial(weights, len(samples), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(samples), generator=generator)
        return order + epoch * len(samples) if isinstance(samples.dataset, Augmented) else order

    return order_of


def reader(samples: Samples, batch_size: int, device, workers: int = 0):
    """`read(order=None) -> batches (inputs, targets)` on the device; order: indices of samples, None: all, in order."""
    dataset, collate = samples.dataset, samples.collate or torch.utils.data.default_collate
    plan = []  # the indices of each batch of an epoch; the list stays the same, so that the workers can stay
    loader = (
        _worker_loader(dataset, plan, samples.collate, device, workers) if workers and not samples.in_memory else None
    )

    def read(order=None):
        order = torch.arange(len(samples)) if order is None else order
        if samples.in_memory:
            order = order.to(dataset.inputs.device)
        plan[:] = order.split(batch_size) if len(order) else []  # an empty one would be split into one part
        if loader is not None:
            plan[:] = [indices.tolist() for indices in plan]
            batches = loader
        elif samples.in_memory:
            batches = map(dataset.__getitems__, plan)
        else:
            batches = (collate([dataset[index] for index in indices.tolist()]) for indices in plan)
        for inputs, targets in batches:
            yield to_device(inputs, device), to_device(targets, device)

    return read


def _worker_loader(dataset, plan: list, collate, device, workers: int):
    settings = {"num_workers": workers, "persistent_workers": True, "pin_memory": device.type == "cuda"}
    if "fork" in torch.multiprocessing.get_all_start_methods():
        settings["multiprocessing_context"] = "fork"  # functions made by functions cannot be sent to other processes
    from recipes.parts.step import end_with_parent

    return torch.utils.data.DataLoader(
        dataset, batch_sampler=plan, collate_fn=collate, worker_init_fn=end_with_parent, **settings
    )


def to_device(batch, device):
    """Inputs or targets on the device: a tensor, or a list or dict of such."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, list | tuple):
        return [to_device(one, device) for one in batch]
    return {key: to_device(one, device) for key, one in batch.items()} if isinstance(batch, dict) else batch


def summary(training: Samples, validation: Samples, outputs: int) -> str:
    """How many samples of what there are, on one line."""
    numbers = training.targets is not None and training.targets.is_floating_point()
    kind = ("output" if numbers else "class") + ("" if outputs == 1 else "s" if numbers else "es")
    return f"{len(training):,} training and {len(validation):,} validation samples, {outputs} {kind}"
