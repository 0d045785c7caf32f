"""A validation picture as a person wants to see it: truth and detections together, matched, whole or cropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH, areas, clip_boxes, intersection_matrix, iou_matrix
from ssd_train.data.records import ClassNames, Detections
from ssd_train.view.draw import TRUE, Marks, class_label, draw_marks, fitted, scaled, size_of
from ssd_train.view.palette import WHITE, class_colour
from ssd_train.view.report_data import Sample

OVERLAP = 0.5
# with more boxes than this in view, names and scores would hide the picture
_LABELS_AT_MOST = 14
# a crop shows at least this share of the longer side, so that one sees where in the picture it is
_LEAST_SHARE = 0.25
# small pictures and crops are made larger, so that lines and letters are fine beside the objects
ENLARGED = 4.0

Crop = Tuple[int, int, int, int]


@dataclass(frozen=True)
class Matching:
    """Which true boxes were found and which detections are right.

    detections   those that score at least the threshold, M of them
    true_boxes   float32 (N, 4) xyxy in the same pixels as the detections
    found        bool (N,) for each true box
    correct      bool (M,) for each detection; also what lies by half in a region to be ignored is not wrong
    """

    detections: Detections
    true_boxes: np.ndarray
    found: np.ndarray
    correct: np.ndarray


def match(sample: Sample, threshold: float) -> Matching:
    """Each detection, surest first, takes the free true box of its class that it overlaps most, by OVERLAP or more."""
    shown = sample.detections.above(threshold)
    truth = scaled(sample.truth.boxes, sample.truth.size_wh, shown.size_wh)
    # (M, N)
    overlaps = iou_matrix(shown.boxes, truth)
    overlaps[shown.class_ids[:, None] != sample.truth.class_ids[None, :]] = 0
    found, correct = np.zeros(len(truth), bool), np.zeros(len(shown), bool)
    for index, row in enumerate(overlaps):
        free = np.where(found, 0, row)
        if free.size and free.max() >= OVERLAP:
            found[int(free.argmax())] = correct[index] = True
    regions = sample.truth.ignored
    if len(regions):
        shares = intersection_matrix(shown.boxes, scaled(regions.boxes, sample.truth.size_wh, shown.size_wh))
        shares[shown.class_ids[:, None] != regions.class_ids[None, :]] = 0
        correct |= shares.max(axis=1) >= OVERLAP * np.maximum(areas(shown.boxes), 1e-9)
    return Matching(shown, truth, found, correct)


def draw_scene(
    sample: Sample, matching: Matching, class_names: ClassNames, room_wh: SizeWH, around: Optional[np.ndarray] = None
) -> np.ndarray:
    """The picture, fitted into `room_wh` pixels: detections solid, truth dashed; missed objects are named.

    `around` (K, 4), in the detections' pixels, crops to these boxes with a margin.
    """
    image, spoken = sample.picture(), matching.detections
    size_wh = size_of(image)
    crop = (0, 0, *size_wh) if around is None else crop_around(scaled(around, spoken.size_wh, size_wh), size_wh)
    canvas = fitted(image[crop[1] : crop[3], crop[0] : crop[2]], room_wh, ENLARGED)
    view = _View(crop, size_of(canvas))

    boxes, seen = view.of(scaled(matching.true_boxes, spoken.size_wh, size_wh))
    ids, missed = sample.truth.class_ids[seen], ~matching.found[seen]
    names = [class_label(class_names, int(c)) if lost else "" for c, lost in zip(ids, missed)]
    truth = Marks(boxes, _few(names), [WHITE] * len(names), TRUE)

    boxes, seen = view.of(scaled(spoken.boxes, spoken.size_wh, size_wh))
    ids, scores = spoken.class_ids[seen], spoken.scores[seen]
    labels = [f"{class_label(class_names, int(c))} {score:.2f}" for c, score in zip(ids, scores)]
    return draw_marks(canvas, Marks(boxes, _few(labels), [class_colour(int(c)) for c in ids]), truth)


def crop_around(boxes: np.ndarray, size_wh: SizeWH, margin: float = 0.6) -> Crop:
    """Whole pixels x1, y1, x2, y2 around all `boxes` (N, 4), with `margin` of their extent on each side."""
    limit = np.array(size_wh, dtype=np.float64)
    low, high = boxes[:, :2].min(axis=0).astype(np.float64), boxes[:, 2:].max(axis=0).astype(np.float64)
    half = (high - low) * (0.5 + margin)
    # square where the picture allows it: a sliver of a crop tells nothing
    half = np.minimum(np.maximum(half.max(), _LEAST_SHARE * limit.max() / 2), limit / 2)
    centre = np.clip((low + high) / 2, half, limit - half)
    (x1, y1), (x2, y2) = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    return max(int(x1), 0), max(int(y1), 0), min(int(x2), size_wh[0]), min(int(y2), size_wh[1])


def _few(labels: Sequence[str]) -> List[str]:
    """The labels, or none of them where they are too many to be read."""
    return list(labels) if sum(map(bool, labels)) <= _LABELS_AT_MOST else [""] * len(labels)


@dataclass(frozen=True)
class _View:
    """The window `crop` of an image, resized to `size_wh`."""

    crop: Crop
    size_wh: SizeWH

    def of(self, boxes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The boxes (N, 4) that reach into the window, cut to it and in its pixels, and their indices (K,)."""
        x1, y1, x2, y2 = self.crop
        inside = clip_boxes(boxes - np.array([x1, y1, x1, y1], dtype=np.float32), (x2 - x1, y2 - y1))
        seen = np.flatnonzero((inside[:, 0] < inside[:, 2]) & (inside[:, 1] < inside[:, 3]))
        return scaled(inside[seen], (x2 - x1, y2 - y1), self.size_wh), seen
