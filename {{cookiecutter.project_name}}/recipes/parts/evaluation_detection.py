"""Evaluation of boxes, and of masks with them: what was found, missed and made up; intervals of average precision.

A prediction is right if it overlaps an object of its class that no better one has taken; average precision counts that
at ten overlaps (IoU), all the rest here at an IoU of 0.5. Those shown reach the threshold of their class, or SHOWN.
"""

import numpy
import torch
from PIL import Image, ImageDraw
from torchvision.ops import box_convert
from torchvision.utils import draw_bounding_boxes

from recipes.detection import SHOWN
from recipes.parts import evaluation
from recipes.parts.evaluation import Analysis, by_class, calibration
from recipes.parts.pictures import as_pixels, enlarged

# As torchmetrics and COCO have them.
OVERLAPS = numpy.array(torch.linspace(0.5, 0.95, 10).tolist())
RECALLS = numpy.array(torch.linspace(0, 1, 101).tolist())
MOST = 100  # predictions of a class in an image
COLOURS = {"found": "lime", "false": "tomato", "missed": "yellow"}


class Kept(evaluation.Kept):
    """Keeps of each image (predictions, objects, {"map": their IoU (M, objects), "mask_map": ...})."""

    def update(self, found: list[dict], truth: list[dict]) -> None:
        for one, there in zip(found, truth, strict=True):
            ious = {"map": box_iou(one["boxes"], there["boxes"])}
            if "masks" in one and "masks" in there:
                ious["mask_map"] = mask_iou(one["masks"], there["masks"])
            plain = ({key: part[key].numpy() for key in part if key != "masks"} for part in (one, there))
            self.seen.append((*plain, ious))


def box_iou(found, truth) -> numpy.ndarray:
    """(M, objects) of corners; in the arithmetic of COCO, so that values at an edge fall on the same side."""
    (x, y, w, h), (left, top, width, height) = (
        box_convert(boxes.float(), "xyxy", "xywh").double().numpy().T for boxes in (found, truth)
    )
    across = numpy.minimum.outer(x + w, left + width) - numpy.maximum.outer(x, left)
    down = numpy.minimum.outer(y + h, top + height) - numpy.maximum.outer(y, top)
    shared = across.clip(0) * down.clip(0)
    return shared / (numpy.add.outer(w * h, width * height) - shared).clip(1e-12)


def mask_iou(found, truth) -> numpy.ndarray:
    found, truth = found.flatten(1).float(), truth.flatten(1).float()
    shared = (found @ truth.T).double()
    return (shared / (found.sum(1)[:, None] + truth.sum(1) - shared).clamp(min=1e-12)).numpy()


class Matches:
    """Which predictions of all images are right, sorted by class and score: `hits` (M, overlaps).

    image, label, score: of the predictions (M,); objects (images, classes): how many there are
    """

    def __init__(self, seen: list, kind: str, classes: int):
        columns = [[], [], [], []]
        self.objects = numpy.zeros((len(seen), classes), dtype=int)
        for number, (found, truth, ious) in enumerate(seen):
            numpy.add.at(self.objects[number], truth["labels"], 1)
            for label in numpy.unique(found["labels"]):
                chosen = numpy.flatnonzero(found["labels"] == label)
                chosen = chosen[numpy.argsort(-found["scores"][chosen], kind="stable")[:MOST]]
                hits = match(ious[kind][chosen][:, truth["labels"] == label])
                values = (
                    numpy.full(len(chosen), number),
                    numpy.full(len(chosen), label),
                    found["scores"][chosen],
                    hits,
                )
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
        empty = (numpy.zeros(0, int), numpy.zeros(0, int), numpy.zeros(0), numpy.zeros((0, len(OVERLAPS)), bool))
        found = [numpy.concatenate([none, *column]) for none, column in zip(empty, columns, strict=True)]
        order = numpy.lexsort((-found[2], found[1]))
        self.image, self.label, self.score, self.hits = (column[order] for column in found)
        places, overlap = numpy.nonzero(self.hits)
        part = self.label[places] * len(OVERLAPS) + overlap  # one for each class and overlap
        order = numpy.argsort(part, kind="stable")
        self.places, self.part = places[order], part[order]

    def average_precision(self, weights: numpy.ndarray) -> numpy.ndarray:
        """(classes, overlaps), with each image counted `weights` times: the area below the precision that 101 recalls
        reach at least. nan where there are no objects.

        All parts go through each operation at once: sums run over all of them, less what they were at its start.
        """
        count, parts = weights @ self.objects, self.objects.shape[1] * len(OVERLAPS)
        passed = _running(weights[self.image], self.label)[self.places]
        right = _running(weights[self.image[self.places]], self.part)
        precision = right / passed.clip(1e-12)
        shift = 2.0 * (parts - self.part)  # the highest to the right of each, in its part
        precision = numpy.maximum.accumulate((precision + shift)[::-1])[::-1] - shift
        recall = right / count[self.part // len(OVERLAPS)].clip(1)
        reached = numpy.searchsorted(RECALLS, recall, side="right")
        steps = numpy.diff(reached, prepend=0)
        first = numpy.flatnonzero(numpy.diff(self.part, prepend=-1))
        steps[first] = reached[first]
        area = numpy.bincount(self.part, precision * steps, parts).reshape(-1, len(OVERLAPS)) / len(RECALLS)
        return numpy.where(count[:, None] > 0, area, numpy.nan)


def match(ious: numpy.ndarray) -> numpy.ndarray:
    """Which predictions (M, objects), the best first, are right at each overlap: (M, overlaps)."""
    hits = numpy.zeros((len(ious), len(OVERLAPS)), dtype=bool)
    free, each = numpy.ones((len(OVERLAPS), ious.shape[1]), dtype=bool), numpy.arange(len(OVERLAPS))
    for row in numpy.flatnonzero(ious.max(1, initial=0) >= OVERLAPS[0]):
        left = numpy.where(free, ious[row], -1.0)[:, ::-1]  # of equal ones COCO takes the last
        best = left.shape[1] - 1 - left.argmax(1)
        hits[row] = left.max(1) >= OVERLAPS
        free[each[hits[row]], best[hits[row]]] = False
    return hits


def _running(values, part) -> numpy.ndarray:
    """The sums of values up to each, begun anew in each part."""
    sums = numpy.cumsum(values)
    first = numpy.flatnonzero(numpy.diff(part, prepend=-1))
    before = numpy.append(0, sums)[first]
    return sums - numpy.repeat(before, numpy.diff(numpy.append(first, len(part))))


def pair(found: dict, truth: dict, ious, shown) -> list[tuple[int, int]]:
    """(prediction, object) of the predictions that are shown, those of one class first, then the largest IoU."""
    wanted = (ious >= OVERLAPS[0]) & shown[:, None]
    rank = numpy.where(wanted, ious + (found["labels"][:, None] == truth["labels"]), -1.0)
    pairs = []
    while rank.size and rank.max() > 0:
        row, column = map(int, numpy.unravel_index(rank.argmax(), rank.shape))
        pairs.append((row, column))
        rank[row], rank[:, column] = -1.0, -1.0
    return pairs


def analyse(experiment, kept: Kept, metrics: dict) -> Analysis:
    classes, seen = experiment.meta["classes"], kept.seen
    matches = {kind: Matches(seen, kind, len(classes)) for kind in seen[0][2]}
    boxes, counts = matches["map"], numpy.zeros((len(classes) + 1,) * 2, dtype=int)  # the last is the background
    thresholds = experiment.meta.get("thresholds", {})
    limits = numpy.array([thresholds.get(name, SHOWN) for name in classes])
    outcomes = [_outcome(one, limits, counts) for one in seen]

    def statistic(indices) -> dict:
        values, weights = {}, numpy.bincount(indices, minlength=len(seen))
        for kind, found in matches.items():
            area = found.average_precision(weights)
            each = dict(zip(classes, area.mean(1).tolist(), strict=True))
            known = area[~numpy.isnan(area[:, 0])]
            values |= {kind: known.mean(), f"{kind}50": known[:, 0].mean()} if len(known) else {}
            values |= {
                f"map.{name}": value for name, value in each.items() if kind == "map" and f"map.{name}" in metrics
            }
        return values

    def ranked() -> dict:
        of = [boxes.label == label for label in range(len(classes))]
        there = boxes.objects.sum(0)
        return {name: (boxes.score[of[k]], boxes.hits[of[k], 0], there[k]) for k, name in enumerate(classes)}

    shown, area = (
        boxes.score >= limits[boxes.label],
        numpy.nan_to_num(boxes.average_precision(numpy.ones(len(seen), int))),
    )
    counted = [
        numpy.bincount(boxes.label[which], minlength=len(classes)) for which in (shown & boxes.hits[:, 0], shown)
    ]
    table = by_class(classes, *counted, boxes.objects.sum(0), ap=area.mean(1), ap50=area[:, 0])
    facts = {"confusion": {"classes": [*classes, "background"], "counts": counts.tolist()}}
    facts |= {"calibration": calibration(boxes.score, boxes.hits[:, 0])}
    return Analysis(
        statistic=statistic,
        table=table,
        facts=facts,
        ranked=ranked,
        has_curves=True,
        badness=numpy.array([len(one["false"]) + len(one["missed"]) for one in outcomes]),
        describe=lambda index: {name: len(outcomes[index][name]) for name in COLOURS},
        draw=lambda index, sample: draw(sample, *seen[index][:2], outcomes[index], classes),
    )


def _outcome(one: tuple, limits, counts: numpy.ndarray) -> dict[str, list[int]]:
    """The numbers of predictions that are right ("found") and wrong ("false"), and of objects "missed"; adds to the
    confusion matrix [truth, prediction]."""
    found, truth, ious = one
    is_shown = found["scores"] >= limits[found["labels"]]
    paired, background = pair(found, truth, ious["map"], is_shown), len(counts) - 1
    shown = numpy.flatnonzero(is_shown).tolist()
    right = [(row, column) for row, column in paired if found["labels"][row] == truth["labels"][column]]
    for row, column in paired:
        counts[truth["labels"][column], found["labels"][row]] += 1
    for row in {*shown} - {row for row, _ in paired}:
        counts[background, found["labels"][row]] += 1
    for column in {*range(len(truth["labels"]))} - {column for _, column in paired}:
        counts[truth["labels"][column], background] += 1
    rows, columns = ({pair[place] for pair in right} for place in (0, 1))
    missed = [column for column in range(len(truth["labels"])) if column not in columns]
    return {"found": sorted(rows), "false": [row for row in shown if row not in rows], "missed": missed}


def draw(sample, found: dict, truth: dict, outcome: dict, classes: list[str]) -> torch.Tensor:
    """The image (3, H, W) with what was found, false and missed in their colours, and a legend above."""
    pixels, times = as_pixels(sample), enlarged(sample)
    for name, part in (("missed", truth), ("found", found), ("false", found)):
        if chosen := outcome[name]:
            labels = [classes[label] for label in part["labels"][chosen]]
            if part is found:
                labels = [f"{label} {part['scores'][row]:.2f}" for label, row in zip(labels, chosen, strict=True)]
            corners = torch.from_numpy(part["boxes"][chosen]) * times
            pixels = draw_bounding_boxes(pixels, corners, labels, colors=COLOURS[name])
    strip, left = Image.new("RGB", (pixels.shape[2], 14)), 2
    for name, colour in COLOURS.items():
        text = f"{len(outcome[name])} {name}"
        ImageDraw.Draw(strip).text((left, 1), text, fill=colour)
        left += int(ImageDraw.Draw(strip).textlength(text)) + 8
    return torch.cat([torch.from_numpy(numpy.array(strip)).permute(2, 0, 1), pixels], 1)
