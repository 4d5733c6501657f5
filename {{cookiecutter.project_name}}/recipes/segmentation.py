"""What differs by task, here: a class for each pixel.

Inputs are floats (N, C, H, W), targets class indices (N, H, W), of which 255 is ignored in losses and metrics. Models
return logits (N, classes, H, W).
"""

import colorsys

import torch
import torch.nn.functional as F
from torchvision import tv_tensors

from core import IngredientsError, SettingError, registry
from pantry import losses
from pantry.boxes import letterbox
from pantry.images import decode_image
from pantry.masks import inner_size
from recipes.parts.backbone import find_backbone
from recipes.parts.calling import carried
from recipes.parts.library_models import torchvision_model
from recipes.parts.pictures import as_pixels, enlarged
from recipes.parts.predictor import read_image

METRICS = ("loss", "mean_iou", "dice", "pixel_accuracy")  # what `evaluate` returns, beside iou.<class> for each class
BEST = "mean_iou"  # the one that selects the best epoch if the ingredients name none
IGNORED = 255  # in masks
AT_ONCE = 2**20  # pixels in one forward pass of `evaluate`: logits of all classes are large

REFUSED = {  # settings, sections and registered names that this task cannot use, and why
    "training.scheme.first_size": "masks would not be resized; use random_crop",
    "training.scheme.balanced": "an image has pixels of many classes; set class_weights of the loss",
}
_SHARES = "mixes classes of images, not of pixels; remove it"
_STAY = "moves images, but not their masks; use one such as RandomHorizontalFlip, RandomAffine or ColorJitter"
_NAMES = ("AugMix", "AutoAugment", "RandAugment", "TrivialAugmentWide")
REFUSED |= {name: f"{name} {_SHARES}" for name in ("mixup", "cutmix")}
REFUSED |= {f"torchvision.transforms.v2.{name}": f"{name} {_STAY}" for name in _NAMES}
REFUSED |= {"shift_views": "its outputs cannot be shifted back; use flip_views"}


def check(architecture, scheme) -> None:
    """Refuse what can be refused before any data is read."""
    find_segmenter(architecture.backbone, architecture.options)
    if architecture.backbone.startswith("deeplabv3") and scheme.batch_size == 1:
        message = "must be at least 2: deeplabv3 has a batch norm over one value per image"
        raise SettingError("training.scheme.batch_size", message)


def check_data(architecture, samples) -> int:
    """The number of classes of the training data. Raises IngredientsError if the head or the masks do not fit."""
    where, wanted = "training.load_dataset", architecture.output_classes
    highest = _check_masks(where, samples)
    counted = len(samples.classes) if samples.classes else None if highest is None else highest + 1
    if counted == 1:
        raise SettingError(where, f"masks have one class, {(samples.classes or [highest])[0]}; at least 2 are needed")
    if counted is None and wanted is None:
        message = "set output_classes: this data set does not know its classes"
        raise SettingError("model.architecture", message)
    if highest is not None and highest >= counted:
        raise SettingError(where, f"masks have class {highest}, but names are given for 0 to {counted - 1}")
    # without names, the rarest classes may be in no mask
    if wanted is not None and counted is not None and (wanted != counted if samples.classes else wanted < counted):
        names = ", ".join((samples.classes or list(map(str, range(counted))))[:12])
        message = f"the data has {counted} classes ({names}{', ...' if counted > 12 else ''}); set it to {counted}"
        raise SettingError("model.architecture.output_classes", message)
    return wanted or counted


def check_split(section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other classes than those in training, or of other channels."""
    known, message = meta["classes"], None
    highest = _check_masks(section, samples)
    if samples.classes and list(samples.classes) != list(known):
        message = f"its classes are {', '.join(samples.classes)}, but training has {', '.join(known)}"
    elif highest is not None and highest >= len(known):
        message = f"its masks have class {highest}, but training has 0 to {len(known) - 1}"
    elif samples.shape[0] != meta["shape"][0]:
        message = f"a sample is {samples.shape}, but {meta['shape']} in training"
    if message:
        raise SettingError(section, message)


def _check_masks(section: str, samples) -> int | None:
    """The highest class in the masks, None if they are not in memory. Refuses targets that are not masks."""
    targets = samples.targets
    one = samples[0][1] if targets is None else targets[0]
    kind = f"{one.dtype} {list(one.shape)}" if torch.is_tensor(one) else type(one).__name__
    message = highest = None
    if not torch.is_tensor(one) or one.ndim != 2 or one.is_floating_point():
        message = f"the target of a sample is {kind}, expected a mask of class indices (H, W), integers from 0"
    elif list(one.shape) != samples.shape[1:]:
        message = f"a mask is {list(one.shape)}, but its image {samples.shape[1:]} after preprocess; resize both by"
        message += " image_size in the loader's section"
    elif targets is not None:
        counts = torch.zeros(IGNORED + 1, dtype=torch.long)
        for part in targets.split(64):
            if not 0 <= int(part.min()) <= int(part.max()) <= IGNORED:
                message = f"masks have classes {int(part.min())} to {int(part.max())}; must be in [0, 254], or 255"
                raise SettingError(section, f"{message}, which is ignored")
            counts += part.flatten().bincount(minlength=IGNORED + 1).cpu()
        highest = int(counts[:IGNORED].nonzero().max()) if counts[:IGNORED].any() else None
        message = None if counts[:IGNORED].any() else "every pixel of every mask is 255, ignored"
    if message:
        raise SettingError(section, message)
    return highest


def stand_in(images, classes: int):
    """A data set for --check before the data is there: images (N, C, H, W), and masks of one class each."""
    labels = torch.arange(len(images), dtype=torch.uint8) % max(2, classes)
    return images, labels[:, None, None].expand(len(images), *images.shape[2:])


def adapt_augment(augment):
    """The augment that moves masks along with their images; what comes in at the edges is ignored."""
    if carried(augment, "steps"):
        return registry.augment.get("sequence")(*map(adapt_augment, augment.steps))

    def adapted(inputs, masks, generator):
        if not carried(augment, "move"):
            return augment(inputs, masks, generator)
        # A further channel moves like the others. It holds class + 1, in a byte: so the 0 of the edges is 255, ignored.
        classes = (masks.to(torch.uint8) + 1)[:, None].to(inputs.dtype)
        moved = augment.move(torch.cat([inputs, classes], 1), generator)
        inputs = moved[:, :-1].contiguous(memory_format=torch.channels_last)
        return inputs, (moved[:, -1].to(torch.uint8) - 1).to(masks.dtype)

    def per_sample(image, mask):
        image, moved = augment.per_sample(image, tv_tensors.Mask(mask.to(torch.uint8) + 1))
        return image, (moved.as_subclass(torch.Tensor) - 1).to(mask.dtype)

    if carried(augment, "per_sample"):
        adapted.per_sample = per_sample
    return adapted


def build_model(architecture, shape: list[int], classes: int) -> torch.nn.Module:
    """The network for samples of `shape` (C, H, W), tried once so that a misfit shows before training."""
    model = find_segmenter(architecture.backbone, architecture.options)(shape[0], classes)
    with torch.inference_mode():
        outputs = model.eval()(torch.zeros(2, *shape))
    if outputs.shape != (2, classes, *shape[1:]):
        message = f"returns {list(outputs.shape)} for 2 samples, expected {[2, classes, *shape[1:]]}: a class for each"
        raise SettingError("model.architecture.backbone", f"{message} pixel, such as unet or fcn_resnet50 return")
    return model


def find_segmenter(name: str, options: dict | None = None):
    """The builder of a registered backbone or of a segmentation model of torchvision. See `find_backbone`."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models.segmentation)
    if name in names and options:  # which their builders would swallow
        raise IngredientsError(f"{name} takes no options")
    return find_backbone(name, options, names, _torchvision_segmenter)


def _torchvision_segmenter(name: str, in_channels: int, output_classes: int, options: dict) -> torch.nn.Module:
    model = torchvision_model(name, in_channels, num_classes=output_classes, weights_backbone=None)
    model.register_forward_hook(_take_out)
    return model


def _take_out(model, images, outputs):
    """The logits (N, classes, H, W) of the dict that torchvision's models return."""
    return outputs["out"]


def default_loss():
    return losses.cross_entropy()


def loss(model, inputs, targets, criterion) -> torch.Tensor:
    """The loss of one batch: inputs (N, C, H, W), targets (N, H, W)."""
    return criterion(model(inputs).float(), _for_losses(targets))


def _for_losses(targets):
    """Masks for losses: int64, -100 for 255."""
    return targets.long().masked_fill_(targets == IGNORED, losses.IGNORE_INDEX)


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    """Loss (cross entropy), IoU, Dice and accuracy of all pixels but ignored ones, and `metrics` of them.

    mean_iou and dice are means over the classes in masks or predictions, iou.<class> is that of each of them. A metric
    is given pixels as samples: logits (pixels, classes), classes (pixels,).
    `views`: test-time augmentation, see `logits_of`.
    """
    model.eval()
    confusion, total_loss = 0, 0.0
    for inputs, targets in batches:
        count = max(1, AT_ONCE // targets[0].numel())
        for part, masks in zip(inputs.split(count), targets.split(count), strict=True):
            logits, masks = logits_of(model, part, views), masks.long()
            classes, counts = logits.shape[1], masks != IGNORED
            pairs = torch.where(counts, masks * classes + logits.argmax(1), classes**2)  # the last bin is for ignored
            confusion = confusion + pairs.flatten().bincount(minlength=classes**2 + 1)[:-1]
            each = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none")  # summed apart: see losses.py
            total_loss = total_loss + each.sum()
            if metrics:
                metrics.update(logits.movedim(1, -1)[counts], masks[counts])
    confusion, total_loss = map(sum, zip(*metrics.gathered([(confusion, total_loss)]), strict=True))
    confusion = confusion.reshape(classes, classes).double().cpu()  # [truth, prediction]
    right, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present = (truth + predicted > 0).nonzero()[:, 0].tolist()
    pixels = max(1.0, float(truth.sum()))
    iou, dice = right / (truth + predicted - right), 2 * right / (truth + predicted)
    values = {"loss": float(total_loss) / pixels, "mean_iou": float(iou[present].mean())}
    values |= {"dice": float(dice[present].mean()), "pixel_accuracy": float(right.sum()) / pixels}
    return values | {f"iou.{model.class_names[index]}": float(iou[index]) for index in present}


def logits_of(model, inputs, views=None) -> torch.Tensor:
    """(N, classes, H, W). With `views(inputs) -> list of batches`: the log of the mean of their softmax, each moved
    back by `views.back(list of outputs) -> list of outputs`."""
    if views is None:
        return model(inputs).float()
    if not carried(views, "back"):
        raise SettingError("testing.views", "its outputs cannot be shifted back: it has no `back`; use flip_views")
    shares = views.back([model(view).float().softmax(1) for view in views(inputs)])
    return torch.stack(shares).mean(0).clamp(min=1e-12).log()


def exported(model, inputs, views=None) -> torch.Tensor:
    """probabilities (N, classes, H, W)"""
    return logits_of(model, inputs, views).softmax(1)


exported.undo = lambda shares: shares.clamp(min=1e-38).log()  # logits, up to a constant


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]:
    """{"shares": {class: its share of the pixels}, "_mask": (H, W)} for each of inputs (N, C, H, W), largest first."""
    return [
        {"shares": {classes[index]: round(share, 6) for index, share in _shares(mask)}, "_mask": mask}
        for mask in logits_of(model.eval(), inputs, views).argmax(1).to(torch.uint8).cpu()
    ]


def _shares(mask) -> list[tuple[int, float]]:
    """(class, share of the pixels) in a mask, the largest first."""
    counts = mask[mask != IGNORED].flatten().bincount()
    order = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())].tolist()
    return [(index, int(counts[index]) / mask.numel()) for index in order]


def read_sample(source, input_format: dict):
    """An image file, resized as in training, but without the grey border."""
    if input_format["size"] is None:
        return read_image(source, input_format)
    image = decode_image(source, input_format["channels"])
    return letterbox(image, inner_size(image.shape[1:], input_format["size"]))


def draw(inputs, targets, classes: list[str], model=None) -> list:
    """Images under their masks in colours, names of the classes above; with a model, its masks on the right."""
    predicted = [None] * len(inputs) if model is None else logits_of(model.eval(), inputs).argmax(1).cpu()
    drawn = []
    for sample, truth, guess in zip(inputs, targets.cpu(), predicted, strict=True):
        masks = [truth] if guess is None else [truth, guess.where(truth != IGNORED, IGNORED)]
        pair = torch.cat([_blended(sample, mask) for mask in masks], 2)
        drawn.append(torch.cat([_legend(pair.shape[2], torch.cat(masks), classes), pair], 1))
    return drawn


def rows(prediction: dict, classes: list[str]) -> list[dict]:
    """The row of CSV: a column for each class."""
    return [{name: prediction["shares"].get(name, 0.0) for name in classes}]


def draw_prediction(pixels, prediction: dict, classes: list[str], step: int):
    """The mask of a prediction on an image of bytes (3, H, W), of which every `step`-th pixel is drawn."""
    sample, mask = pixels[:, ::step, ::step] / 255, prediction["_mask"]
    mask = F.interpolate(mask[None, None].float(), sample.shape[1:], mode="nearest-exact")[0, 0].to(mask.dtype)
    drawn = _blended(sample, mask)
    return torch.cat([_legend(drawn.shape[2], mask, classes), drawn], 1)


def _blended(sample, mask):
    """The image, blended with the colours of the classes; ignored pixels stay."""
    pixels, times = as_pixels(sample), enlarged(sample)
    mask = mask.long().repeat_interleave(times, 0).repeat_interleave(times, 1)
    colours = torch.tensor([colour_of(index) for index in range(IGNORED + 1)], dtype=torch.uint8)
    return torch.where(mask == IGNORED, pixels, pixels // 2 + colours[mask].permute(2, 0, 1) // 2)


def colour_of(index: int) -> tuple[int, int, int]:
    """(red, green, blue) of a class: black for the first, else a hue far from those of the classes before it."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 1 - 0.45 * (index % 2), float(index > 0))
    return round(255 * red), round(255 * green), round(255 * blue)


def _legend(width: int, mask, classes: list[str]):
    """A strip (3, 14, width) with the names of the classes in a mask, each in its colour, the largest first."""
    import numpy
    from PIL import Image, ImageDraw

    strip, left = Image.new("RGB", (width, 14)), 2
    pen = ImageDraw.Draw(strip)
    for index, _ in _shares(mask):
        pen.text((left, 1), classes[index], fill=colour_of(index) if index else "white")
        left += int(pen.textlength(classes[index])) + 6
    return torch.from_numpy(numpy.array(strip)).permute(2, 0, 1)
