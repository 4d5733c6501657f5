"""What differs by task, here: boxes with classes, and with Mask R-CNN a mask for each."""

import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from core import IngredientsError, SettingError
from pantry.boxes import Annotated, BoxedImages
from pantry.images import decode_image
from recipes.parts.backbone import find_backbone
from recipes.parts.calling import carried
from recipes.parts.library_models import torchvision_model
from recipes.parts.pictures import as_pixels, captioned, enlarged

METRICS = ("map", "map50")  # what `evaluate` returns, and map of each class
BEST = "map"  # the one that selects the best epoch if the ingredients name none
EXPORTS = ("safetensors", "onnx")  # torch.export cannot trace the detectors of torchvision
SHOWN = 0.5  # lowest score of a box that is drawn or printed

_SIZE = "boxes would not be resized; set image_size in the loaders' sections instead"
REFUSED = {  # settings, sections and registered names that this task cannot use, and why
    "training.loss": "a detector has losses of its own; remove the section",
    "training.scheme.first_size": "boxes would not be resized; use torchvision.transforms.v2.ScaleJitter",
    "training.preprocess.size": _SIZE,
    "training.preprocess.mean": "a detector normalizes its images itself, as its body expects; remove mean and std",
    "testing.preprocess.size": _SIZE,
    "training.scheme.swa": "updating batch norms needs targets, which torch does not pass; use ema",
    "training.scheme.balanced": "an image has objects of several classes",
    "testing.views": "boxes of several views cannot be averaged",
    "validation.metrics": "mean average precision, of each class too, is computed already",
}
_MOVES = "does not move boxes; use one such as torchvision.transforms.v2.RandomHorizontalFlip, or mosaic"
_NAMES = ["random_shift", "random_crop", "random_flip", "mixup", "cutmix"]
_NAMES += [
    f"torchvision.transforms.v2.{name}" for name in ("RandAugment", "AutoAugment", "AugMix", "TrivialAugmentWide")
]
REFUSED |= {name: f"{name} {_MOVES}" for name in _NAMES}


def check(architecture, scheme) -> None:
    """Refuse what can be refused before any data is read."""
    try:
        import faster_coco_eval  # noqa: F401
        import torchmetrics  # noqa: F401
    except ImportError as error:
        message = f"mean average precision needs packages: pip install torchmetrics faster-coco-eval ({error})"
        raise SettingError("project.meta.task", message) from None
    if scheme.batch_size == "auto":
        message = "the memory that a detector needs depends on the objects; set a number"
        raise SettingError("training.scheme.batch_size", message)
    find_detector(architecture.backbone, architecture.options)


def check_data(architecture, samples) -> int:
    """The number of classes of the training data. Raises IngredientsError if head, boxes or masks do not fit."""
    problems = []
    sample, target = samples[0]
    if not isinstance(target, dict):
        message = "has no boxes; use load_voc, load_coco, load_yolo, or a data set of (image, {boxes, labels})"
        raise SettingError("training.load_dataset", message)
    counted, wanted = len(samples.classes or ()), architecture.output_classes
    if counted and wanted not in (None, counted):
        names = ", ".join(samples.classes[:12]) + (", ..." if counted > 12 else "")
        message = f"the data has {counted} classes ({names}); set it to {counted}"
        problems += SettingError("model.architecture.output_classes", message).problems
    if not counted and wanted is None:
        message = "set output_classes: this data set does not know its classes"
        problems += SettingError("model.architecture", message).problems
    if isinstance(target["boxes"], BoundingBoxes) and tuple(target["boxes"].canvas_size) != tuple(sample.shape[1:]):
        problems += SettingError("training.preprocess", f"resizes images; {_SIZE}").problems
    if "mask" in architecture.backbone and "masks" not in target:
        message = "has boxes without masks; set masks = True (of scenes: targets = instances)"
        problems += SettingError("training.load_dataset", message).problems
    if problems:
        raise IngredientsError(problems)
    return wanted or counted


def check_split(section: str, samples, meta: dict) -> None:
    """Refuse validation or test data of other classes than those in training."""
    if samples.classes and list(samples.classes) != list(meta["classes"]):
        message = f"its classes are {', '.join(samples.classes)}, but training has {', '.join(meta['classes'])}"
        raise SettingError(section, message)


def stand_in(images, classes: int) -> BoxedImages:
    """A data set for --check before the data is there: black images (N, C, H, W) with a box in each."""
    size, corners = tuple(images.shape[2:]), [[0.0, 0.0, 50.0, 50.0], [[0.0, 0.0, 50.0, 0.0, 50.0, 50.0]]]
    each = [Annotated("", size, corners[:1], [label], corners[1:]) for label in range(classes)]
    return BoxedImages(each, list(map(str, range(classes))), None, True, None)


def adapt_augment(augment):
    """The augment after which images have one size again, boxes and masks along with them: batches need that."""
    if not carried(augment, "per_sample"):
        return augment

    def adapted(inputs, targets, generator):
        return augment(inputs, targets, generator)

    def per_sample(image, target):
        size = image.shape[-2:]
        image, target = augment.per_sample(image, target)
        return (image, target) if image.shape[-2:] == size else v2.Resize(list(size))(image, target)

    adapted.per_sample = per_sample
    return adapted


def find_detector(name: str, options: dict | None = None):
    """The builder of a registered detector or of a detection model of torchvision. See `find_backbone`."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models.detection)
    names = [known for known in names if known.startswith(("fasterrcnn", "maskrcnn", "retinanet", "fcos", "ssd"))]
    return find_backbone(name, options, names, _torchvision_detector)


def _torchvision_detector(name: str, in_channels: int, output_classes: int, options: dict) -> torch.nn.Module:
    background = int(not name.startswith(("retinanet", "fcos")))
    settings = {"num_classes": output_classes + background, "weights_backbone": None}
    model = torchvision_model(name, in_channels=3, **settings | options)
    model.first_label = background
    return model


def build_model(architecture, shape: list[int], classes: int) -> torch.nn.Module:
    """The detector for samples of `shape` (3, H, W), tried once so that a misfit shows before training."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    model = find_detector(architecture.backbone, architecture.options)(shape[0], classes)
    model.first_label = getattr(model, "first_label", 0)  # 1 if label 0 is the background
    transform = dict(model.named_children()).get("transform")
    if isinstance(transform, GeneralizedRCNNTransform) and transform.fixed_size is None:  # images have their size
        transform.min_size, transform.max_size = (min(shape[1:]),), max(shape[1:])
    with torch.inference_mode():
        outputs = model.eval()([torch.zeros(shape)])
    if not {"boxes", "labels", "scores"} <= set(outputs[0]):
        message = f"returns {', '.join(outputs[0])}, expected boxes, labels and scores"
        raise SettingError("model.architecture.backbone", message)
    return model


def default_loss() -> None:
    """A detector has losses of its own."""


def loss(model, inputs, targets, criterion=None) -> torch.Tensor:
    """The sum of the detector's losses of one batch: inputs (N, 3, H, W), N targets {boxes, labels}."""
    losses = model(list(inputs), [_for_training(target, inputs.shape[-2:], model.first_label) for target in targets])
    return sum(losses.values())


def _for_training(target: dict, size, first_label: int) -> dict:
    """A target after augmentation: boxes clipped to the image, those of less than a pixel removed."""
    corners = target["boxes"].as_subclass(torch.Tensor)
    corners = torch.stack([corners[:, 0::2].clamp(0, size[1]), corners[:, 1::2].clamp(0, size[0])], 2).flatten(1)
    kept = (corners[:, 2:] - corners[:, :2]).amin(1) >= 1
    found = {"boxes": corners[kept], "labels": target["labels"][kept] + first_label}
    if "masks" in target:
        found["masks"] = target["masks"].as_subclass(torch.Tensor)[kept]
    return found


@torch.inference_mode()
def evaluate(model, batches, metrics, views=None) -> dict[str, float]:
    """COCO's mean average precision: over IoU thresholds of 0.5 to 0.95, at 0.5, and of each class; of masks too."""
    from torchmetrics.detection import MeanAveragePrecision

    model.eval()
    by_kind, computed = {}, {}
    seen = ((detect(model, inputs), [_plain(target) for target in targets]) for inputs, targets in batches)
    for found, truth in metrics.gathered(seen):
        metrics.update(found, truth)
        for kind, key in (("bbox", "boxes"), ("segm", "masks")):
            if key in truth[0] and key in found[0]:
                settings = {"iou_type": kind, "backend": "faster_coco_eval", "class_metrics": True}
                settings["sync_on_compute"] = False  # all has been gathered
                by_kind.setdefault(kind, MeanAveragePrecision(**settings)).update(found, truth)
    for kind, metric in by_kind.items():
        metric.warn_on_many_detections = False  # a detector returns its hundred best
        values, name = metric.compute(), {"bbox": "map", "segm": "mask_map"}[kind]
        computed |= {name: max(0.0, float(values["map"])), f"{name}50": max(0.0, float(values["map_50"]))}
        if kind == "bbox" and values["classes"].numel() > 1:
            each = zip(values["classes"].tolist(), values["map_per_class"].tolist(), strict=True)
            computed |= {f"map.{model.class_names[label]}": value for label, value in each}
    return computed


def _plain(target: dict) -> dict:
    plain = {key: value.detach().cpu().as_subclass(torch.Tensor) for key, value in target.items()}
    return plain | ({"masks": plain["masks"].bool()} if "masks" in plain else {})


def detect(model, inputs) -> list[dict]:
    """{"boxes" (M, 4), "labels", "scores", of Mask R-CNN "masks" (M, H, W)} on the CPU for each of the inputs."""
    results = []
    for found in model(list(inputs)):
        found = {key: value.detach().float().cpu() for key, value in found.items()}
        found["labels"] = found["labels"].long() - model.first_label
        if "masks" in found:
            found["masks"] = found["masks"][:, 0] > 0.5
        results.append(found)
    return results


def exported(model, inputs, views=None) -> list[tuple]:
    """for one image: boxes (M, 4), scores (M,), classes (M,), of Mask R-CNN masks (M, H, W)"""
    keys = ("boxes", "scores", "labels", "masks")
    return [tuple(found[key] for key in keys if key in found) for found in detect(model, inputs)]


def restored(model, run, images) -> list[dict]:
    """What the detector returns, by an exported file."""
    results = []
    for image in images:
        boxes, scores, labels, *masks = run(image[None])
        found = {"boxes": boxes, "scores": scores, "labels": labels + model.first_label}
        results.append(found | ({"masks": masks[0][:, None].float()} if masks else {}))
    return results


def write_onnx(path, pipeline, image, properties: dict[str, str]) -> None:
    """Write a detector by the exporter that follows one call: the newer one cannot trace torchvision's."""
    import warnings

    import onnx

    names = ["boxes", "scores", "classes", "masks"]
    axes = {"samples": {2: "height", 3: "width"}} | {name: {0: "objects"} for name in names}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that the exporter is old, and of each Python number in the graph
        settings = {"dynamo": False, "opset_version": 17, "input_names": ["samples"], "dynamic_axes": axes}
        torch.onnx.export(pipeline, (image,), path, output_names=names[: len(pipeline(image)[0])], **settings)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def read_sample(source, input_format: dict):
    """An image file in its own size: the detector resizes it, and returns boxes in that size."""
    return decode_image(source, 3)


@torch.inference_mode()
def predict(model, inputs, classes: list[str], views=None, top=1, thresholds=None) -> list[dict]:
    """{"objects": [{"class", "score", "box": corners in pixels}, ...]}, best first, for each of inputs (N, 3, H, W).

    Those that reach the threshold of their class, or SHOWN. Of Mask R-CNN also {"_masks": (M, H, W)}.
    """
    predictions, limits = [], thresholds or {}
    for found in detect(model.eval(), inputs):
        names = [classes[label] for label in found["labels"].tolist()]
        scores = found["scores"].tolist()
        sure = [index for index, name in enumerate(names) if scores[index] >= limits.get(name, SHOWN)]
        boxes = [[round(corner, 2) for corner in box] for box in found["boxes"].tolist()]
        objects = [{"class": names[i], "score": round(scores[i], 6), "box": boxes[i]} for i in sure]
        masks = {"_masks": found["masks"][sure]} if "masks" in found else {}
        predictions.append({"objects": objects} | masks)
    return predictions


def draw(inputs, targets, classes: list[str], model=None) -> list:
    """Images with boxes, classes and masks; with a model, truth on the left and its prediction on the right."""
    drawn = [_drawn(sample, _plain(target), classes) for sample, target in zip(inputs, targets, strict=True)]
    if model is None:
        return drawn
    pairs = []
    for truth, sample, found in zip(drawn, inputs, detect(model.eval(), inputs), strict=True):
        sure = {key: value[found["scores"] >= SHOWN] for key, value in found.items()}
        pairs.append(torch.cat([captioned(truth, "truth"), captioned(_drawn(sample, sure, classes), "prediction")], 2))
    return pairs


def draw_prediction(pixels, prediction: dict, classes: list[str], step: int):
    """The objects of a prediction on an image of bytes (3, H, W), of which every `step`-th pixel is drawn."""
    names = [f"{found['class']} {found['score']:.2f}" for found in prediction["objects"]]
    boxes = torch.tensor([found["box"] for found in prediction["objects"]]).reshape(-1, 4)
    target = {"boxes": boxes / step, "labels": torch.arange(len(names))}
    if "_masks" in prediction:
        target["masks"] = prediction["_masks"][:, ::step, ::step]
    return _drawn(pixels[:, ::step, ::step] / 255, target, names)


def rows(prediction: dict, classes: list[str]) -> list[dict]:
    """The rows of CSV: one for each object, or an empty one."""
    columns = ("class", "score", "left", "top", "right", "bottom")
    cells = [(found["class"], found["score"], *found["box"]) for found in prediction["objects"]]
    return [dict(zip(columns, row, strict=True)) for row in cells or [[""] * 6]]


def _drawn(sample, target: dict, classes: list[str]) -> torch.Tensor:
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    pixels, times = as_pixels(sample), enlarged(sample)
    if len(target["labels"]) == 0:
        return pixels
    if "masks" in target:
        masks = target["masks"].repeat_interleave(times, 1).repeat_interleave(times, 2)
        pixels = draw_segmentation_masks(pixels, masks.bool(), alpha=0.4)
    names = [classes[label] for label in target["labels"].tolist()]
    return draw_bounding_boxes(pixels, target["boxes"] * times, names, colors="lime")
