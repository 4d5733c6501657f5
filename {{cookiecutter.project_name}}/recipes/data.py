"""From what `load_dataset` gives to batches: preprocessed once and kept, or read as needed."""

from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from core import Ingredients, IngredientsError


@dataclass(frozen=True)
class Samples:
    """One split. Either `inputs` (N, ...) and `targets` (N,) in memory, or a map-style `dataset` of such pairs."""

    inputs: torch.Tensor | None
    targets: torch.Tensor | None
    dataset: object | None
    classes: list[str] | None  # names in the order of their index, where the loader knows them
    form: dict  # what one sample was before `preprocess`, so that predict can make the same of an image file

    def __len__(self) -> int:
        return len(self.inputs if self.dataset is None else self.dataset)


class Preprocessed:
    """A map-style data set that preprocesses a sample when it is read."""

    def __init__(self, dataset, preprocess):
        self.dataset, self.preprocess = dataset, preprocess

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        sample, target = self.dataset[index]
        return as_input(self.preprocess(sample)), target


def load(section: str, functions: Ingredients, preprocess, memory: float) -> Samples:
    """Call the loader of `section` and preprocess what it gives. `memory`: GB of samples to keep.

    Raises IngredientsError where the loader gives something else than (X, y) or a map-style data set.
    """
    loaded = functions.at(section)()
    where = f"[{section}] ({functions.where(section)})"
    classes = getattr(loaded, "classes", None)
    if isinstance(loaded, tuple) and len(loaded) == 2:
        inputs, targets = loaded
    else:
        inputs, targets = getattr(loaded, "X", None), getattr(loaded, "y", None)
        if not (hasattr(loaded, "__len__") and hasattr(loaded, "__getitem__")):
            raise IngredientsError(
                f"{where}: the loader gave {type(loaded).__name__}; give (X, y) or a map-style data set"
            )
    if len(loaded if inputs is None else inputs) == 0:
        raise IngredientsError(f"{where}: the loader gave no samples")
    if inputs is None:
        return Samples(None, targets, Preprocessed(loaded, preprocess), classes, _form(loaded[0][0]))
    if len(inputs) != len(targets):
        raise IngredientsError(f"{where}: {len(inputs)} samples, but {len(targets)} targets")
    form = _form(inputs[0])
    first = as_input(preprocess(inputs[0]))
    targets = torch.as_tensor(targets)
    if first.nbytes * len(inputs) > memory * 1e9:
        pairs = Preprocessed(list(zip(inputs, targets, strict=True)), preprocess)
        return Samples(None, targets, pairs, classes, form)
    return Samples(_preprocess_all(inputs, first, preprocess, where), targets, None, classes, form)


def _preprocess_all(inputs, first: torch.Tensor, preprocess, where: str) -> torch.Tensor:
    images = first.ndim == 3
    kept = torch.empty(
        (len(inputs), *first.shape), memory_format=torch.channels_last if images else torch.contiguous_format
    )
    for index in tqdm(range(len(inputs)), desc="preprocess", leave=False, disable=None, mininterval=0.5):
        sample = as_input(preprocess(inputs[index]))
        if sample.shape != first.shape:
            raise IngredientsError(
                f"{where}: preprocess made sample {index} {list(sample.shape)}, but the first one {list(first.shape)}; "
                "bring all to one size"
            )
        kept[index] = sample
    return kept


def as_input(sample) -> torch.Tensor:
    """A preprocessed sample as a float tensor; an image as (C, H, W), from (H, W) or an array (H, W, C)."""
    is_array = not isinstance(sample, torch.Tensor)
    sample = torch.as_tensor(sample)
    if not sample.is_floating_point():
        raise IngredientsError(
            f"preprocess gave {sample.dtype}, but a model takes floats: divide by 255, as divide_by_255 does"
        )
    if sample.ndim == 2:
        sample = sample[None]
    elif is_array and sample.ndim == 3 and sample.shape[-1] in (1, 3, 4) and sample.shape[0] not in (1, 3, 4):
        sample = sample.permute(2, 0, 1)
    return sample.float()


def scale(sample):
    """The preprocess of a project that names none: bytes become floats from 0 to 1, floats stay."""
    sample = torch.as_tensor(sample)
    return sample if sample.is_floating_point() else sample / 255


def first_input(samples: Samples) -> torch.Tensor:
    """One preprocessed sample, on the CPU, for its shape."""
    return samples.inputs[0].cpu() if samples.dataset is None else samples.dataset[0][0]


def _form(sample) -> dict:
    """Channels of an image, and whether the preprocess function meets a tensor or an array, with how many axes."""
    shape = list(sample.shape)
    is_array = not isinstance(sample, torch.Tensor)
    channels = 1 if len(shape) < 3 else shape[-1] if is_array and shape[-1] in (1, 3, 4) else shape[0]
    return {"array": is_array, "axes": len(shape), "channels": channels}


def split_off(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """(training, validation): a seeded share of each class goes to validation."""
    if not 0 < fraction < 1:
        raise IngredientsError(f"training.scheme.validation_fraction = {fraction}: write a number between 0 and 1")
    count = len(samples)
    groups = torch.zeros(count, dtype=torch.long) if samples.targets is None else samples.targets
    if groups.ndim > 1 or groups.is_floating_point():  # no classes to keep in proportion
        groups = torch.zeros(count, dtype=torch.long)
    order = torch.randperm(count, generator=generator("split", seed))
    held_back = torch.zeros(count, dtype=torch.bool)
    for group in groups.unique():
        members = order[groups[order] == group]
        held_back[members[: round(fraction * len(members))]] = True
    if not held_back.any() or held_back.all():
        raise IngredientsError(
            f"validation_fraction = {fraction} of {count} samples leaves a side empty; "
            "write another share, or give [validation.load_dataset]"
        )
    return _subset(samples, ~held_back), _subset(samples, held_back)


def _subset(samples: Samples, chosen: torch.Tensor) -> Samples:
    indices = chosen.nonzero()[:, 0]
    targets = None if samples.targets is None else samples.targets[indices]
    if samples.dataset is not None:
        return replace(samples, targets=targets, dataset=torch.utils.data.Subset(samples.dataset, indices.tolist()))
    return replace(samples, inputs=samples.inputs[indices], targets=targets)


def generator(purpose: str, *key: int, device="cpu") -> torch.Generator:
    """Randomness that depends on its key alone: (seed, epoch) for an order, (seed, step) for a step."""
    return torch.Generator(device).manual_seed(seed_of(purpose, *key))


def seed_of(purpose: str, *key: int) -> int:
    """A 63-bit seed; different purposes and keys give unrelated ones."""
    import hashlib

    text = " ".join([purpose, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def batches(samples: Samples, order: torch.Tensor | None, batch_size: int, device, workers: int = 0):
    """Batches (inputs, targets) on the device, in `order` (a tensor of indices; None: as they stand)."""
    if samples.dataset is not None:
        order = range(len(samples)) if order is None else order.tolist()
        loader = torch.utils.data.DataLoader(samples.dataset, batch_size, sampler=order, num_workers=workers)
        for inputs, targets in loader:
            yield inputs.to(device), targets.to(device)
        return
    inputs, targets = samples.inputs, samples.targets
    if order is None:
        yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
        return
    for indices in order.to(inputs.device).split(batch_size):
        yield inputs[indices], targets[indices]


def to_device(samples: Samples, device) -> Samples:
    """Samples in memory move to the device once, not batch by batch."""
    if samples.dataset is not None:
        return samples
    return replace(samples, inputs=samples.inputs.to(device), targets=samples.targets.to(device))
