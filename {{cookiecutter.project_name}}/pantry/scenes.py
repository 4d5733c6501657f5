"""Synthetic data: coloured scenes of the embedded handwritten digits, with exact boxes and masks.

A detector or a segmenter trains on them without a download. Everything is drawn from (seed, split, index).
"""

from pathlib import Path
from typing import Literal

from core import IngredientsError, registry
from pantry.images import decode_image, list_images


@registry.load_dataset.register("load_digit_scenes")
def load_digit_scenes(
    source: Path,
    split: Literal["training", "validation", "testing"] = "training",
    targets: Literal["boxes", "instances", "classes"] = "boxes",
    count: int = 1000,
    image_size: list[int] = (128, 128),
    digits: list[int] = (2, 5),
    seed: int = 0,
):
    """`load() -> Scenes`: `count` scenes of several digits each, on a canvas with clutter.

    source: folder of an image folder of single digits, as `load_image_folder` reads it
    targets: boxes; instances: boxes and a mask of each digit; classes: one mask of class numbers, 0 for background
    image_size: [height, width] in pixels, each at least 48; digits: [least, most] in a scene
    """
    if len(image_size) != 2 or min(image_size) < 48:
        raise ValueError(f"image_size = {list(image_size)}: must be [height, width] in pixels, each at least 48")
    if len(digits) != 2 or not 0 <= digits[0] <= digits[1]:
        raise ValueError(f"digits = {list(digits)}: must be [least, most]")
    if count < 1:
        raise ValueError(f"count = {count}: must be at least 1")
    key = seed, ("training", "validation", "testing").index(split)

    def load(draw: bool = True) -> Scenes:
        return Scenes(Path(source), split, targets, count, list(image_size), list(digits), key, draw)

    load.check = lambda: load(draw=False)  # copies of the first scene
    return load


class Scenes:
    """A map-style data set, like `BoxedImages` of pantry/boxes.py or `MaskedImages` of pantry/masks.py.

    X: uint8 (N, 3, H, W); instances: uint8 (N, H, W), 0 or the number of the digit drawn there, from 1
    labels: for each scene the class of digit 1, 2, ...; targets: class numbers, uint8 (N, H, W), if targets = classes
    """

    def __init__(self, source, split, targets, count, image_size, digits, key, draw: bool):
        import torch

        self.kind, (height, width) = targets, image_size
        names, paths, labels = list_images(source, "training" if split == "validation" else split)
        known = [(decode_image(path, 1)[0], label) for path, label in zip(paths, labels, strict=True)]
        shapes = {digit.shape for digit, _ in known}
        if len(shapes) > 1:
            raise IngredientsError(f"{source}: digits of {len(shapes)} sizes, expected one size")
        pixels, known_labels = torch.stack([digit for digit, _ in known]) / 255, [label for _, label in known]
        indices = range(count if draw else 1)
        drawn = [_scene(pixels, known_labels, height, width, digits, (*key, index)) for index in indices]
        drawn += [drawn[0]] * (count - len(drawn))
        self.X = torch.stack([image for image, _, _ in drawn])
        self.instances, self.labels = torch.stack([instances for _, instances, _ in drawn]), [one for *_, one in drawn]
        self.classes = ["background", *names] if targets == "classes" else names
        if targets == "classes":
            self.targets = torch.stack([_classes(*one) for one in zip(self.instances, self.labels, strict=True)])
        else:
            from pantry.boxes import BoxedImages

            self.collate = BoxedImages.collate

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: int):
        import torch
        from torchvision import tv_tensors
        from torchvision.ops import masks_to_boxes

        if self.kind == "classes":
            return self.X[index], self.targets[index]
        labels = torch.tensor(self.labels[index], dtype=torch.int64)
        masks = self.instances[index] == torch.arange(1, len(labels) + 1)[:, None, None]  # (M, H, W)
        edge = torch.tensor([0.0, 0.0, 1.0, 1.0])  # a box ends at the far side of its last pixel
        boxes = masks_to_boxes(masks) + edge if len(labels) else torch.zeros(0, 4)
        size = tuple(self.X.shape[2:])
        target = {"boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size), "labels": labels}
        if self.kind == "instances":
            target["masks"] = tv_tensors.Mask(masks.to(torch.uint8))
        return tv_tensors.Image(self.X[index]), target


def _classes(instances, labels: list[int]):
    import torch

    return torch.tensor([0, *(label + 1 for label in labels)], dtype=torch.uint8)[instances.long()]


def _scene(pixels, labels: list[int], height: int, width: int, digits: list[int], key: tuple) -> tuple:
    """(image (3, H, W) of bytes, instances (H, W), labels): clutter first, then digits that do not overlap much."""
    import hashlib

    import torch
    import torch.nn.functional as F

    seed = int.from_bytes(hashlib.blake2b(repr(("scene", *key)).encode(), digest_size=7).digest(), "big")
    random = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    def colour(low: float, high: float):
        return low + (high - low) * torch.rand(3, 1, 1, generator=random)

    coarse = torch.rand(1, 3, 4, 4, generator=random) * 0.3  # a smooth background
    image = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    for _ in range(number(4, 10)):  # strokes and patches, darker than digits
        h, w = (number(1, 3), number(8, 40)) if number(0, 1) else (number(8, 40), number(1, 3))
        h, w = (number(4, 14), number(4, 14)) if number(0, 2) == 0 else (h, w)
        top, left = number(0, height - h), number(0, width - w)
        image[:, top : top + h, left : left + w] = colour(0.15, 0.5)
    instances, chosen = torch.zeros(height, width, dtype=torch.uint8), []
    for _ in range(number(*digits)):
        which, side = number(0, len(pixels) - 1), number(20, 40)
        grown = F.interpolate(pixels[which][None, None], (side, side), mode="bilinear")[0, 0].clamp(0, 1)
        mask = grown > 0.4
        for _ in range(20):  # until a free place is found
            top, left = number(0, height - side), number(0, width - side)
            place = (slice(top, top + side), slice(left, left + side))
            if not (instances[place] > 0).any():
                strength = ((grown - 0.2) / 0.4).clamp(0, 1)
                image[:, *place] = image[:, *place].lerp(colour(0.65, 1.0), strength)
                instances[place][mask] = len(chosen) + 1
                chosen.append(labels[which])
                break
    image = image + 0.04 * torch.randn(image.shape, generator=random)
    return (image.clamp(0, 1) * 255).to(torch.uint8), instances, chosen
