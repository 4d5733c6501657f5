"""From what `load_dataset` gives to batches: preprocessed once and kept, or read as needed."""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from tqdm import tqdm

from core import Ingredients, IngredientsError, located
from pantry.preprocess import to_image


@dataclass(frozen=True)
class Samples:
    """One split. Either `inputs` (N, ...) and `targets` (N,) in memory, or a map-style `dataset` of such pairs."""

    inputs: torch.Tensor | None
    targets: torch.Tensor | None
    dataset: object | None
    classes: list[str] | None  # names in the order of their index, where the loader knows them
    form: dict  # what one sample was before `preprocess`, so that predict can make the same of a file
    names: list[str] | None = None  # of the samples, such as their files, where the loader knows them
    collate: object | None = None  # pairs -> batch, of a data set whose targets differ in size; None: they are stacked

    @property
    def first(self) -> torch.Tensor:
        """One preprocessed sample."""
        return self.dataset[0][0] if self.inputs is None else self.inputs[0]

    @property
    def shape(self) -> list[int]:
        """Of one preprocessed sample."""
        return list(self.first.shape)

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
        done = as_input(self.preprocess(sample))
        if isinstance(target, dict) and done.shape[1:] != sample.shape[1:]:  # what it names has its place in the image
            sizes = f"{list(sample.shape[1:])} to {list(done.shape[1:])}, but not the boxes in it"
            raise IngredientsError(f"preprocess resized an image from {sizes}; set image_size in the loader's section")
        return done, target


def load(section: str, functions: Ingredients, preprocess, memory: float) -> Samples:
    """Call the loader of `section` and preprocess what it gives. `memory`: GB of samples to keep.

    Raises IngredientsError where the loader gives something else than (X, y) or a map-style data set.
    """
    loaded = functions.at(section)()
    where = f"[{section}] ({functions.where(section)})"
    classes, names = getattr(loaded, "classes", None), getattr(loaded, "paths", None)
    if isinstance(loaded, tuple) and len(loaded) == 2:
        inputs, targets = loaded
    elif hasattr(loaded, "__len__") and hasattr(loaded, "__getitem__") and not isinstance(loaded, dict | tuple):
        targets = getattr(loaded, "y", None)
        inputs = None if targets is None else getattr(loaded, "X", None)  # what holds both is kept in memory
    else:
        raise IngredientsError(f"{where}: the loader gave {type(loaded).__name__}; give (X, y) or a map-style data set")
    count = len(loaded if inputs is None else inputs)
    if count == 0:
        raise IngredientsError(f"{where}: the loader gave no samples")
    targets = None if targets is None else _as_targets(targets, where)
    if targets is not None and len(targets) != count:
        raise IngredientsError(f"{where}: {count} samples, but {len(targets)} targets")
    if inputs is None:
        pair = loaded[0]
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise IngredientsError(
                f"{where}: an item of the data set is {type(pair).__name__}; a pair (x, y) is needed"
            )
        form, collate = _form(pair[0], loaded), getattr(loaded, "collate", None)
        return Samples(None, targets, Preprocessed(loaded, preprocess), classes, form, names, collate)
    form = _form(inputs[0], loaded)
    first = as_input(preprocess(inputs[0]))
    if first.nbytes * count > memory * 1e9:
        pairs = Preprocessed(torch.utils.data.StackDataset(inputs, targets), preprocess)
        return Samples(None, targets, pairs, classes, form, names)
    return Samples(_preprocess_all(inputs, first, preprocess, where), targets, None, classes, form, names)


def _as_targets(targets, where: str) -> torch.Tensor:
    try:
        targets = torch.as_tensor(targets)
    except (TypeError, ValueError):
        kind = type(targets[0]).__name__
        raise IngredientsError(f"{where}: y holds {kind}; numbers are needed, for classes from 0 up") from None
    if targets.is_floating_point():
        return targets.float()
    # losses refuse some kinds of integers; masks would take eight times as much memory
    return targets if targets.ndim > 1 else targets.long()


def _preprocess_all(inputs, first: torch.Tensor, preprocess, where: str) -> torch.Tensor:
    images = first.ndim == 3
    layout = torch.channels_last if images else torch.contiguous_format
    kept = torch.empty((len(inputs), *first.shape), dtype=first.dtype, memory_format=layout)
    if hasattr(preprocess, "of_batch") and isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
        for start in range(0, len(inputs), 1024):
            kept[start : start + 1024] = preprocess.of_batch(inputs[start : start + 1024])
        return kept
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
    """A preprocessed sample as a float tensor, an image as (C, H, W); or a row of token ids, int64."""
    if sample is None:
        raise IngredientsError("preprocess gave None; let it return the sample")
    sample = to_image(sample)
    if is_ids(sample):
        return sample.long()
    if not sample.is_floating_point():
        message = f"preprocess gave {sample.dtype}, but a model takes floats: divide by 255, as divide_by_255 does"
        raise IngredientsError(message)
    return sample.float()


def scale(sample):
    """The preprocess of a project that names none: bytes become floats from 0 to 1; floats and token ids stay."""
    sample = to_image(sample)
    return sample if sample.is_floating_point() or is_ids(sample) else sample / 255


def is_ids(sample: torch.Tensor) -> bool:
    """Whether a sample is a row of whole numbers, such as the token ids of a text, for an embedding."""
    return sample.ndim == 1 and sample.dtype in (torch.int32, torch.int64)


def _form(sample, loaded) -> dict:
    """What one sample is before it is preprocessed, so that predict can make the same of an image file.

    A loader that knows more for `read_sample` of its task gives it as `form`.
    """
    kind = "tensor" if isinstance(sample, torch.Tensor) else "array" if hasattr(sample, "shape") else "image"
    image = to_image(sample)
    return {
        "kind": kind,
        "axes": len(getattr(sample, "shape", "HW")),
        "channels": image.shape[0],
        "channels_last": kind == "array" and image.ndim == 3 and sample.shape[-1] == image.shape[0] != sample.shape[0],
        "size": getattr(loaded, "resized", None),
        # of a loader that gives floats, the range tells whether it divided by 255
        "float": image.is_floating_point(),
        "divided": image.is_floating_point() and float(image.max()) <= 1,
        **getattr(loaded, "form", {}),
    }


def summary(training: Samples, validation: Samples, outputs: int) -> str:
    """How many samples of what there are, on one line."""
    numbers = training.targets is not None and training.targets.is_floating_point()
    kind = ("output" if numbers else "class") + ("" if outputs == 1 else "s" if numbers else "es")
    return f"{len(training):,} training and {len(validation):,} validation samples, {outputs} {kind}"


def split_off(ingredients: Ingredients, samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """(training, validation): a seeded share of each class goes to validation."""
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
        message = f"this share of {count} samples leaves a side empty; write another, or give [validation.load_dataset]"
        raise located(ingredients, "training.scheme.validation_fraction", message)
    return _subset(samples, ~held_back), _subset(samples, held_back)


def _subset(samples: Samples, chosen: torch.Tensor) -> Samples:
    indices = chosen.nonzero()[:, 0]
    targets = None if samples.targets is None else samples.targets[indices]
    names = samples.names and [samples.names[index] for index in indices]
    if samples.dataset is not None:
        dataset = torch.utils.data.Subset(samples.dataset, indices.tolist())
        return replace(samples, targets=targets, names=names, dataset=dataset)
    return replace(samples, inputs=samples.inputs[indices], targets=targets, names=names)


def generator(purpose: str, *key: int, device="cpu") -> torch.Generator:
    """Randomness that depends on its key alone: (seed, epoch) for an order, (seed, step) for a step."""
    return torch.Generator(device).manual_seed(seed_of(purpose, *key))


def seed_of(purpose: str, *key: int) -> int:
    """A 63-bit seed; different purposes and keys give unrelated ones."""
    import hashlib

    text = " ".join([purpose, *map(str, key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def reader(samples: Samples, batch_size: int, device, workers: int = 0):
    """`read(order) -> batches (inputs, targets)` on the device; order: indices of samples, None: as they stand.

    Where the samples are augmented one by one, an index is a pair (epoch, index).
    """
    if samples.dataset is not None:
        return _disk_reader(samples, batch_size, device, workers)
    inputs, targets = samples.inputs, samples.targets

    def read(order=None):
        if order is None:
            yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
            return
        for indices in order.to(inputs.device).split(batch_size) if len(order) else ():  # an empty one has a part too
            yield inputs[indices], targets[indices]

    return read


def _disk_reader(samples: Samples, batch_size: int, device, workers: int):
    dataset, plan = (
        samples.dataset,
        [],
    )  # of the epoch: the indices of each batch; its contents change, so that the workers can stay
    pin = device.type == "cuda"
    settings = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": pin}
    if workers and "fork" in torch.multiprocessing.get_all_start_methods():
        settings["multiprocessing_context"] = "fork"  # functions made by functions cannot be sent to other processes
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=plan, collate_fn=samples.collate, **settings)

    def read(order=None):
        order = range(len(dataset)) if order is None else order.tolist() if hasattr(order, "tolist") else order
        plan[:] = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        for inputs, targets in loader:
            yield moved(inputs, device), moved(targets, device)

    return read


def moved(batch, device):
    """Inputs or targets on the device: a tensor, or a list or dict of such."""
    if isinstance(batch, list | tuple):
        return [moved(one, device) for one in batch]
    if isinstance(batch, dict):
        return {key: moved(one, device) for key, one in batch.items()}
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch


class Augmented(torch.utils.data.Dataset):
    """Samples that are augmented one by one: `dataset[epoch, index]`. The randomness is that of (seed, epoch, index),
    so it depends neither on the number of workers nor on what was read before.

    A target of the image's height and width, such as a mask, moves with the image; what comes in at the edge of a mask
    of bytes is 255, ignored. So do boxes and key points that are tv_tensors.
    """

    def __init__(self, dataset, augment, seed: int):
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: tuple[int, int]):
        sample, target = self.dataset[item[1]]
        torch.manual_seed(seed_of("sample", self.seed, *item))
        if getattr(target, "shape", ())[-2:] == sample.shape[-2:] and target.ndim > 1:
            from torchvision import tv_tensors

            kind = tv_tensors.Image if target.is_floating_point() else tv_tensors.Mask
            sample = tv_tensors.Image(sample)
            if target.dtype == torch.uint8:  # bytes wrap: 255, ignored, is 0 meanwhile, which transforms fill in
                sample, target = self.augment(sample, kind(target + 1))
                return sample, target.as_subclass(torch.Tensor) - 1
            target = kind(target)
        size = sample.shape[-2:]
        sample, target = self.augment(sample, target)
        if isinstance(target, dict) and sample.shape[-2:] != size:  # a crop or zoom; batches are of one size
            from torchvision.transforms import v2

            sample, target = v2.Resize(list(size))(sample, target)
        return sample, target


def augmented(samples: Samples, augment, seed: int) -> Samples:
    """Samples to be read by (epoch, index), `augment` applied to each."""
    dataset = samples.dataset or torch.utils.data.StackDataset(samples.inputs, samples.targets)
    return replace(samples, inputs=None, dataset=Augmented(dataset, augment, seed))


def orders(samples: Samples, seed: int, balanced: bool = False):
    """`order_of(epoch)`: the order in which an epoch reads the samples; `balanced`: each class equally often."""
    weights = None
    if balanced:
        weights = 1 / samples.targets.cpu().bincount()[samples.targets.cpu()]

    def order_of(epoch: int):
        random = generator("order", seed, epoch)
        if balanced:
            order = torch.multinomial(weights, len(samples), replacement=True, generator=random)
        else:
            order = torch.randperm(len(samples), generator=random)
        return [(epoch, index) for index in order.tolist()] if isinstance(samples.dataset, Augmented) else order

    return order_of


def parts(inputs, targets, count: int):
    """A step's batch in `count` parts of (nearly) one size, whose gradients are added."""
    if count == 1:
        return ((inputs, targets),)
    cuts = [len(inputs) * part // count for part in range(count + 1)]
    return [(inputs[start:end], targets[start:end]) for start, end in pairwise(cuts)]


def to_device(samples: Samples, device) -> Samples:
    """Samples in memory move to the device once, not batch by batch."""
    if samples.dataset is not None:
        return samples
    return replace(samples, inputs=samples.inputs.to(device), targets=samples.targets.to(device))
