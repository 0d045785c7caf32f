"""Statistics of labels: counts, box sizes, and suitable settings."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from ssd_train.boxes import SizeWH, areas
from ssd_train.data.checks.anchors import AnchorGrid, best_iou
from ssd_train.data.checks.labels import Scaled, label_width
from ssd_train.data.file_names import folded
from ssd_train.data.structures import Labels

# COCO's areas in square pixels of the original image (https://cocodataset.org/#detection-eval)
AREAS = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}
# square root of the fraction of the image that a box covers
SIZE_CLASSES = {"0-5 %": 0.05, "5-10 %": 0.1, "10-25 %": 0.25, "25-50 %": 0.5, "50-100 %": np.inf}
MATCH_IOU = 0.5  # from which on an anchor is assigned to a box
CELL = 16.0  # px: a cell of the first feature map; boxes with a shorter side are not found reliably
SERVED = 0.95
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

    These are results of verification jobs, and class names that differ only in case, blanks or hyphens.
    """
    lines = list(filter(None, [labels.details.get("verification", "")]))
    alike: Dict[str, List[str]] = {}
    for name in labels.class_names:
        alike.setdefault("".join(re.split(r"[\s_-]+", folded(name))), []).append(name)
    lines += [
        f"class names that differ only in case, blanks or hyphens: {', '.join(map(repr, names))}"
        for names in alike.values()
        if len(names) > 1
    ]
    return lines


def recommend_image_shape(boxes: Scaled, anchors: Mapping[int, Sequence[AnchorGrid]]) -> Dict[str, Any]:
    """Recommend an input side for the boxes.

    The recommended side is the smallest one that serves 95 % of the boxes that the best side serves. A box is served if
    an anchor has an IoU of at least 0.5 with it, or if its short side has at least 16 px. (A box of unusual shape has
    no such anchor at any side, and an accidental click has no pixels: neither is a reason for a larger side.)

    Args:
        boxes: Boxes of the labels.
        anchors: Input side -> its anchors.

    Returns:
        "recommended" side, None without boxes, and "served": fraction of served boxes by side.
    """
    if not len(boxes.boxes):
        return {"recommended": None, "served": {}}
    fractions = {side: _fraction_served(boxes.boxes * side, anchors[side]) for side in sorted(anchors)}
    wanted = SERVED * max(fractions.values())
    recommended = next(side for side, fraction in fractions.items() if fraction >= wanted)
    return {
        "recommended": recommended,
        "served": {str(side): round(fraction, 4) for side, fraction in fractions.items()},
    }


def _fraction_served(pixels: np.ndarray, anchors: Sequence[AnchorGrid]) -> float:
    short = np.minimum(pixels[:, 2] - pixels[:, 0], pixels[:, 3] - pixels[:, 1])
    served = short >= CELL
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
