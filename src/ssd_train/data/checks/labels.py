"""Check labels alone: skipped and repaired lines, hard boxes, fit to a network's anchors; and their statistics."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.boxes import SizeWH, areas, as_boxes, short_sides, xyxy_to_cxcywh
from ssd_train.config import FINE_STRIDES, TrainConfig
from ssd_train.data.checks.codes import Finding
from ssd_train.data.file_names import folded
from ssd_train.data.formats.builder import BAD_LINE, CLIPPED, DUPLICATE, NO_BOX_LEFT
from ssd_train.data.formats.ground_truth import FAILED, OTHER_TYPE
from ssd_train.data.formats.image_json import OTHER_IDS
from ssd_train.data.formats.voc import OTHER_NAME
from ssd_train.data.labels import align_classes
from ssd_train.data.split import unseen_classes
from ssd_train.data.structures import LabelIssue, Labels
from ssd_train.errors import DataError


class Axis(NamedTuple):
    """Evenly spaced centres along one axis, input pixels."""

    first: float
    step: float
    cells: int


class AnchorGrid(NamedTuple):
    """The anchors of one shape; width, height and centres in input pixels."""

    width: float
    height: float
    columns: Axis
    rows: Axis


def anchor_grids(anchors: np.ndarray) -> List[AnchorGrid]:
    """Group anchors into one regular grid per anchor shape.

    Args:
        anchors: (A, 4) centre x, centre y, width, height in input pixels.
    """
    shapes = np.ascontiguousarray(anchors[:, 2:], np.float32).view(np.int64).ravel()  # width and height as one integer
    order = np.argsort(shapes, kind="stable")
    starts = np.flatnonzero(np.diff(shapes[order])) + 1
    return [
        AnchorGrid(float(mine[0, 2]), float(mine[0, 3]), _axis(mine[:, 0]), _axis(mine[:, 1]))
        for mine in np.split(anchors[order], starts)
    ]


def best_iou(boxes: np.ndarray, grids: Sequence[AnchorGrid]) -> np.ndarray:
    """Return the IoU (N,) of each box with the anchor that overlaps it most.

    Among the anchors of one shape, that is the one with the nearest centre.

    Args:
        boxes: (N, 4) xyxy in input pixels.
        grids: Anchors as returned by `anchor_grids`.
    """
    x, y, width, height = xyxy_to_cxcywh(as_boxes(boxes)).T
    # several shapes share an axis: compute its distances once
    apart_x = {axis: _distance(x, axis) for axis in {grid.columns for grid in grids}}
    apart_y = {axis: _distance(y, axis) for axis in {grid.rows for grid in grids}}
    area, best = width * height, np.zeros(len(x), np.float32)
    for grid in grids:
        common = _overlap(apart_x[grid.columns], width, grid.width)
        common *= _overlap(apart_y[grid.rows], height, grid.height)
        best = np.maximum(best, common / (area + grid.width * grid.height - common))
    return best


def _axis(centres: np.ndarray) -> Axis:
    """Return the axis of a full grid, in which every coordinate occurs equally often."""
    first, last = float(centres.min()), float(centres.max())
    cells = len(centres) // int((centres == centres.min()).sum())
    return Axis(first, (last - first) / max(cells - 1, 1) or 1.0, cells)


def _distance(centres: np.ndarray, axis: Axis) -> np.ndarray:
    """Return the distance (N,) of each centre to the nearest centre of the axis."""
    # np.clip is slower for a few boxes
    cell = np.minimum(np.maximum(np.rint((centres - axis.first) / axis.step), 0), axis.cells - 1)
    return np.abs(centres - (axis.first + axis.step * cell))


def _overlap(distance: np.ndarray, sides: np.ndarray, side: float) -> np.ndarray:
    """Return the common length (N,) of boxes and anchors along one axis.

    Args:
        distance: (N,) distances between the centres.
        sides: (N,) sides of the boxes.
        side: Side of the anchor.
    """
    return np.maximum(np.minimum((sides + side) / 2 - distance, np.minimum(sides, side)), 0)


FEW = 10  # boxes of a class
TINY = 8.0  # input pixels; half a cell of the first feature map
NO_ANCHOR = 0.2  # IoU of nested boxes of which one has five times the area of the other
LABEL_HEADER, LABEL_OBJECT = 2, 5  # the built-in algorithm's label has 2 numbers, and 5 more per object
_DEFAULTS = TrainConfig()

_SKIPPED = {
    DUPLICATE: "duplicate-line",
    NO_BOX_LEFT: "image-dropped",
    FAILED: "failed-line",
    OTHER_TYPE: "other-job-line",
}

_CODE_OF_REPAIR = {CLIPPED: "box-clipped", OTHER_IDS: "categories-ignored", OTHER_NAME: "filename-differs"}


@dataclass(frozen=True)
class Scaled:
    """Boxes of a `Labels` whose image sizes are known, in one array.

    Attributes:
        boxes: Float32 (N, 4) xyxy as fractions of the image, 0..1.
        records: Int64 (N,), index of each box's record.
        class_ids: Int64 (N,).
        sizes_wh: Float32 (N, 2), (width, height) of each box's image in pixels.
    """

    boxes: np.ndarray
    records: np.ndarray
    class_ids: np.ndarray
    sizes_wh: np.ndarray


def scaled_boxes(labels: Labels, sizes: Sequence[Optional[SizeWH]]) -> Scaled:
    """Collect the boxes of `labels` as fractions of their images.

    Args:
        labels: The labels.
        sizes: (width, height) of each record's image, or None if unknown; such records are left out.
    """
    known = [index for index, record in enumerate(labels.records) if len(record.boxes) and sizes[index]]
    counts = np.array([len(labels.records[index].boxes) for index in known], np.int64)
    if not known:
        return Scaled(np.zeros((0, 4), np.float32), counts, counts, np.zeros((0, 2), np.float32))
    sizes_wh = np.repeat(np.array([sizes[index] for index in known], np.float32), counts, axis=0)
    boxes = np.concatenate([labels.records[index].boxes for index in known])
    return Scaled(
        boxes / np.tile(sizes_wh, 2),
        np.repeat(np.array(known, np.int64), counts),
        np.concatenate([labels.records[index].class_ids for index in known]),
        sizes_wh,
    )


def check_lines(labels: Labels) -> List[Finding]:
    """Report lines that were skipped or repaired when the labels were read, and labels without a box.

    The labels must have been read with ``on_bad="skip"`` for the list to be complete.
    """
    findings = [skipped_findings(line) for line in labels.skipped] + [_of_repair(line) for line in labels.repaired]
    if not labels.boxes_per_class().sum():
        detail = f"found no box in {len(labels)} images, expected at least one"
        findings.append(Finding("no-objects", labels.source, detail))
    return findings


def check_boxes(labels: Labels, boxes: Scaled, image_shape: int, anchors: Sequence[AnchorGrid]) -> List[Finding]:
    """Report boxes that are too small, or that no anchor matches.

    There is one finding per image and kind, and no box counts for both kinds.

    Args:
        labels: The labels.
        boxes: Boxes of `labels`.
        image_shape: Input side of the network in pixels.
        anchors: Anchors for this side.
    """
    pixels = boxes.boxes * image_shape
    short = short_sides(pixels)
    iou = best_iou(pixels, anchors)
    tiny, lonely = short < TINY, (short >= TINY) & (iou < NO_ANCHOR)
    return [
        *_of_boxes("box-tiny", labels, boxes, tiny, short, f"px at {image_shape}, expected at least {TINY:g} px"),
        *_of_boxes("box-without-anchor", labels, boxes, lonely, iou, f"IoU, expected at least {NO_ANCHOR:g}"),
    ]


def check_counts(labels: Labels) -> List[Finding]:
    """Report images with many boxes, and classes with few boxes or none."""
    most = max((len(record.boxes) for record in labels.records), default=0)
    findings = [
        Finding("crowded", record.location, f"found {len(record.boxes)} boxes", record.name)
        for record in labels.records
        if len(record.boxes) > _DEFAULTS.post_nms
    ]
    if label_width(most) > _DEFAULTS.label_width:
        findings.append(Finding("label-width", labels.source, f"found {most} boxes, which need {label_width(most)}"))
    unused = labels.unused_ids()
    for class_id in unused:
        detail = f"found no name and no box of class id {class_id} ({labels.class_names[class_id]})"
        findings.append(Finding("unused-class-id", labels.source, detail))
    for class_id, (name, count) in enumerate(zip(labels.class_names, labels.boxes_per_class())):
        if count < FEW and class_id not in unused:
            findings.append(Finding("few-examples", labels.source, f"found {count} boxes of class {name!r}"))
    return findings


def check_classes(training: Labels, validation: Labels) -> List[Finding]:
    """Report classes with boxes in one split only, and unknown validation classes."""
    try:
        validation = align_classes(validation, training.class_names)
    except DataError as fault:
        return [Finding("unknown-class", validation.source, str(fault).partition(": ")[2])]
    return [
        *(
            Finding("class-only-in-validation", validation.source, f"found class {name!r} in no training image")
            for name in unseen_classes(training, validation)
        ),
        *(
            Finding("class-only-in-training", training.source, f"found class {name!r} in no validation image")
            for name in unseen_classes(validation, training)
        ),
    ]


def label_width(boxes: int) -> int:
    """Return the built-in algorithm's label_width for images of at most `boxes` boxes."""
    return LABEL_HEADER + LABEL_OBJECT * boxes


def skipped_findings(line: LabelIssue) -> Finding:
    """Return the finding for a skipped line."""
    if line.reason == BAD_LINE:
        return Finding(line.code or "bad-line", line.where, line.detail)
    return Finding(_SKIPPED.get(line.reason, "unlabelled-line"), line.where, f"{line.reason}: {line.detail}")


def _of_repair(line: LabelIssue) -> Finding:
    """Return the finding for a box or line that was changed or left out."""
    code = _CODE_OF_REPAIR.get(line.reason, "box-dropped")
    return Finding(code, line.where, line.detail if line.reason in _CODE_OF_REPAIR else f"{line.reason}: {line.detail}")


def _of_boxes(
    code: str, labels: Labels, boxes: Scaled, bad: np.ndarray, values: np.ndarray, unit: str
) -> List[Finding]:
    """Return one finding per image with bad boxes: their number and worst value.

    Args:
        code: Code of the findings.
        labels: The labels.
        boxes: Boxes of `labels`.
        bad: Bool (N,), the boxes to report.
        values: (N,), smaller is worse.
        unit: Text after the value.
    """
    worst: Dict[int, float] = {}
    counts: Dict[int, int] = {}
    for index, value in zip(boxes.records[bad].tolist(), values[bad].tolist()):
        worst[index] = min(value, worst.get(index, value))
        counts[index] = counts.get(index, 0) + 1
    findings = []
    for index, count in counts.items():
        record = labels.records[index]
        detail = f"found {count} of {len(record.boxes)} boxes, the worst with {worst[index]:.2f} {unit}"
        findings.append(Finding(code, record.location, detail, record.name))
    return findings


# COCO's areas in square pixels of the original image (https://cocodataset.org/#detection-eval)
AREAS = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}
# square root of the fraction of the image that a box covers
SIZE_CLASSES = {"0-5 %": 0.05, "5-10 %": 0.1, "10-25 %": 0.25, "25-50 %": 0.5, "50-100 %": np.inf}
MATCH_IOU = 0.5  # from which on an anchor is assigned to a box
CELL, FINE_CELL = 16.0, 8.0  # px: a cell of the first feature map, usually and with feature_strides 8,16,...
SERVED = 0.95
# a finer map helps if more than this fraction of a class's boxes match no anchor, and if it lowers the fraction
UNMATCHED, LESS_UNMATCHED = 1 / 3, 0.1
_LISTED_SIZES = 5


def statistics(labels: Labels, boxes: Scaled, sizes: Sequence[Optional[SizeWH]]) -> Dict[str, Any]:
    """Return the statistics of one split, ready for JSON; see docs/check-codes.md."""
    objects = np.array([len(record.boxes) for record in labels.records], np.int64)
    flags = np.concatenate([np.zeros(0, bool), *(record.ignored.crowds for record in labels.records)])
    return {
        "labels": labels.source,
        "images": len(labels),
        "background_images": sum(record.is_background for record in labels.records),
        "ignored": {"difficult": len(flags) - int(flags.sum()), "crowds": int(flags.sum())},
        "boxes": int(objects.sum()),
        "remarks": remarks(labels),
        "classes": _by_class(labels, boxes),
        "objects_per_image": _spread(objects),
        "image_sizes": _image_sizes(sizes),
        "label_width": label_width(int(objects.max(initial=0))),
    }


def remarks(labels: Labels) -> List[str]:
    """Return remarks about the labels for the user, one line each.

    These are results of verification jobs, categories that are no classes, and class names that differ only in case,
    blanks or hyphens.
    """
    lines = list(filter(None, [labels.details.get("verification", "")]))
    if labels.details.get("left_out_categories"):
        lines.append(f"no class, because it groups others and has no box: {labels.details['left_out_categories']}")
    alike: Dict[str, List[str]] = {}
    for name in labels.class_names:
        alike.setdefault("".join(re.split(r"[\s_-]+", folded(name))), []).append(name)
    lines += [
        f"class names that differ only in case, blanks or hyphens: {', '.join(map(repr, names))}"
        for names in alike.values()
        if len(names) > 1
    ]
    return lines


def recommend_image_shape(
    boxes: Scaled, anchors: Mapping[int, Sequence[AnchorGrid]], cell: float = CELL
) -> Dict[str, Any]:
    """Recommend an input side for the boxes.

    The recommended side is the smallest one that serves 95 % of the boxes that the best side serves. A box is served if
    an anchor has an IoU of at least 0.5 with it, or if its short side is not below `cell`. (A box of unusual shape has
    no such anchor at any side, and an accidental click has no pixels: neither is a reason for a larger side.)

    Args:
        boxes: Boxes of the labels.
        anchors: Input side -> its anchors.
        cell: Pixels between the cells of the first feature map.

    Returns:
        "recommended" side, None without boxes, and "served": fraction of served boxes by side.
    """
    if not len(boxes.boxes):
        return {"recommended": None, "served": {}}
    fractions = {side: _fraction_served(boxes.boxes * side, anchors[side], cell) for side in sorted(anchors)}
    wanted = SERVED * max(fractions.values())
    recommended = next(side for side, fraction in fractions.items() if fraction >= wanted)
    return {
        "recommended": recommended,
        "served": {str(side): round(fraction, 4) for side, fraction in fractions.items()},
    }


def advised_settings(
    boxes: Scaled, fine_anchors: Mapping[int, Sequence[AnchorGrid]], recommended: Optional[int]
) -> Dict[str, Any]:
    """Return the settings of training that small boxes need, if they need any: a map of stride 8, and the side.

    The map is advised if a smaller side then serves the boxes, or for a small class (`small_classes`).

    Args:
        boxes: Boxes of the labels.
        fine_anchors: Input side -> its anchors with such a map; empty: the network has it anyway.
        recommended: The recommended side without it; None without boxes.
    """
    if recommended is None or not fine_anchors:
        return {}
    side = recommend_image_shape(boxes, fine_anchors, FINE_CELL)["recommended"]
    if side < recommended or small_classes(boxes, side):
        return {"feature_strides": FINE_STRIDES, "image_shape": side}
    return {}


def small_classes(boxes: Scaled, side: int) -> Dict[int, Tuple[float, float]]:
    """Return the classes whose boxes lie between the anchors of stride 16, and not between those of stride 8.

    A box does if even an anchor of its own shape at the nearest centre has an IoU below MATCH_IOU with it. More than
    UNMATCHED of such a class's boxes do, and with stride 8 the fraction is lower by LESS_UNMATCHED.

    Args:
        boxes: Boxes of the labels.
        side: Side of the input in pixels.

    Returns:
        Class id -> fraction of its boxes that do, with stride 16 and with stride 8.
    """
    pixels, counts = boxes.boxes * side, np.bincount(boxes.class_ids)
    usual, fine = (
        np.bincount(boxes.class_ids, _iou_of_own_shape(pixels, side, cell) < MATCH_IOU) / np.maximum(counts, 1)
        for cell in (CELL, FINE_CELL)
    )
    small = np.flatnonzero(usual > np.maximum(UNMATCHED, fine + LESS_UNMATCHED))
    return {int(class_id): (float(usual[class_id]), float(fine[class_id])) for class_id in small}


def _iou_of_own_shape(boxes: np.ndarray, side: int, cell: float) -> np.ndarray:
    """Return the IoU (N,) of each box (N, 4) with an anchor of its shape at the nearest centre of a map's cells."""
    step = side / math.ceil(side / cell)
    x, y, width, height = xyxy_to_cxcywh(boxes).T
    common = np.ones(len(boxes))
    for centre, length in ((x, width), (y, height)):
        common = common * np.maximum(length - np.abs(centre - (np.floor(centre / step) + 0.5) * step), 0)
    return common / (2 * width * height - common)


def _fraction_served(pixels: np.ndarray, anchors: Sequence[AnchorGrid], cell: float) -> float:
    served = short_sides(pixels) >= cell
    served[~served] = best_iou(pixels[~served], anchors) >= MATCH_IOU
    return float(served.mean())


def _by_class(labels: Labels, boxes: Scaled) -> Dict[str, Any]:
    """Count boxes, images and box sizes of each class.

    Sizes are counted only for boxes in images of known size.
    """
    absolute = areas(boxes.boxes) * boxes.sizes_wh.prod(axis=1)
    relative = np.sqrt(areas(boxes.boxes))
    images = _images_per_class(labels)
    classes = {}
    for class_id, (name, count) in enumerate(zip(labels.class_names, labels.boxes_per_class().tolist())):
        mine = boxes.class_ids == class_id
        classes[name] = {
            "boxes": count,
            "images": int(images[class_id]),
            "areas": _histogram(absolute[mine], AREAS),
            "shares": _histogram(relative[mine], SIZE_CLASSES),
        }
    return classes


def _images_per_class(labels: Labels) -> np.ndarray:
    """Count the images (num_classes,) with a box of each class."""
    classes = max(len(labels.class_names), 1)
    counts = [len(record.class_ids) for record in labels.records]
    ids = np.concatenate([record.class_ids for record in labels.records] or [np.zeros(0, np.int64)])
    pairs = np.unique(np.repeat(np.arange(len(counts)), counts) * classes + ids)
    return np.bincount(pairs % classes, minlength=classes)


def _histogram(values: np.ndarray, limits: Mapping[str, float]) -> Dict[str, int]:
    """Count the values in the bins below each of the ascending `limits`."""
    below = [int((values < limit).sum()) for limit in limits.values()]
    return {name: count - before for name, count, before in zip(limits, below, [0, *below])}


def _spread(values: np.ndarray) -> Dict[str, float]:
    if not len(values):
        return {}
    marks = {"least": 0, "median": 50, "95 of 100 below": 95, "most": 100}
    return {name: float(np.percentile(values, mark)) for name, mark in marks.items()}


def _image_sizes(sizes: Sequence[Optional[SizeWH]]) -> Dict[str, Any]:
    known = [size for size in sizes if size]
    if not known:
        return {"unknown": len(sizes)}
    counts: List[Any] = Counter(known).most_common()
    pixels = sorted(known, key=lambda size: size[0] * size[1])
    return {
        "unknown": len(sizes) - len(known),
        "different": len(counts),
        "smallest": _shown(pixels[0]),
        "largest": _shown(pixels[-1]),
        "most_common": {_shown(size): count for size, count in counts[:_LISTED_SIZES]},
    }


def _shown(size: SizeWH) -> str:
    return f"{size[0]}x{size[1]}"
