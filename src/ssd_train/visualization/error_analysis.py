"""Match detections to labels and draw both on a validation image, whole or cropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH, areas, clip_boxes, intersection_matrix
from ssd_train.data.records import ClassNames, Detections
from ssd_train.training.matching import Grouped, match_coco, overlapping_pairs
from ssd_train.view.draw import TRUTH_STYLE, Marks, class_label, draw_marks, fitted, scaled, size_of
from ssd_train.view.palette import WHITE, class_colour
from ssd_train.view.report_data import Sample

IOU_THRESHOLD = 0.5
# more names and scores would hide the image
_MAX_LABELS = 14
# smallest crop as a fraction of the longer side: it shows where in the image the crop lies
_MIN_CROP = 0.25
# small images and crops are enlarged at most by this factor, so that lines and text are small next to the objects
_MAX_ENLARGEMENT = 4.0

Crop = Tuple[int, int, int, int]


@dataclass(frozen=True)
class Matching:
    """Matches of detections and labelled boxes of one image.

    Attributes:
        detections: the M detections of at least the score threshold.
        true_boxes: labelled boxes, float32 (N, 4) xyxy in the detections' pixels.
        found: for each labelled box whether a detection matches it, bool (N,).
        correct: for each detection whether it matches a labelled box or lies in an ignored region, bool (M,).
    """

    detections: Detections
    true_boxes: np.ndarray
    found: np.ndarray
    correct: np.ndarray


def match(sample: Sample, threshold: float) -> Matching:
    """Match detections of at least `threshold` to the labels of their class, as for COCO's mAP@0.5."""
    detections, labels = sample.detections.above(threshold), sample.truth
    true_boxes = scaled(labels.boxes, labels.size_wh, detections.size_wh)
    groups = Grouped(detections.boxes, detections.class_ids), Grouped(true_boxes, labels.class_ids)
    (matches,) = match_coco(overlapping_pairs(*groups, IOU_THRESHOLD), [IOU_THRESHOLD])
    found, correct = np.zeros(len(true_boxes), bool), np.zeros(len(detections), bool)
    found[matches.truth] = correct[matches.detection] = True
    regions = sample.truth.ignored
    if len(regions):
        covered = intersection_matrix(detections.boxes, scaled(regions.boxes, sample.truth.size_wh, detections.size_wh))
        covered[detections.class_ids[:, None] != regions.class_ids[None, :]] = 0
        correct |= covered.max(axis=1) >= IOU_THRESHOLD * np.maximum(areas(detections.boxes), 1e-9)
    return Matching(detections, true_boxes, found, correct)


def draw_scene(
    sample: Sample, matching: Matching, class_names: ClassNames, room_wh: SizeWH, around: Optional[np.ndarray] = None
) -> np.ndarray:
    """Return the image with detections (solid) and labels (dashed, missed objects with their names).

    Args:
        sample: image, labels and detections.
        matching: the result of `match`.
        class_names: names by class id.
        room_wh: maximum (width, height) of the result in pixels.
        around: boxes (K, 4) in the detections' pixels to crop to, with a margin; None for the whole image.
    """
    image, detections = sample.picture(), matching.detections
    size_wh = size_of(image)
    crop = (0, 0, *size_wh) if around is None else crop_around(scaled(around, detections.size_wh, size_wh), size_wh)
    canvas = fitted(image[crop[1] : crop[3], crop[0] : crop[2]], room_wh, _MAX_ENLARGEMENT)
    view = _View(crop, size_of(canvas))

    boxes, visible = view.transform(scaled(matching.true_boxes, detections.size_wh, size_wh))
    ids, found = sample.truth.class_ids[visible], matching.found[visible]
    names = ["" if is_found else class_label(class_names, int(c)) for c, is_found in zip(ids, found)]
    truth = Marks(boxes, _limit_labels(names), [WHITE] * len(names), TRUTH_STYLE)

    boxes, visible = view.transform(scaled(detections.boxes, detections.size_wh, size_wh))
    ids, scores = detections.class_ids[visible], detections.scores[visible]
    labels = [f"{class_label(class_names, int(c))} {score:.2f}" for c, score in zip(ids, scores)]
    return draw_marks(canvas, Marks(boxes, _limit_labels(labels), [class_colour(int(c)) for c in ids]), truth)


def crop_around(boxes: np.ndarray, size_wh: SizeWH, margin: float = 0.6) -> Crop:
    """Return the crop (x1, y1, x2, y2) around all `boxes` (N, 4), with `margin` of their extent on each side."""
    limit = np.array(size_wh, dtype=np.float64)
    low, high = boxes[:, :2].min(axis=0).astype(np.float64), boxes[:, 2:].max(axis=0).astype(np.float64)
    half = (high - low) * (0.5 + margin)
    # square if the image is large enough: a narrow crop shows too little
    half = np.minimum(np.maximum(half.max(), _MIN_CROP * limit.max() / 2), limit / 2)
    centre = np.clip((low + high) / 2, half, limit - half)
    (x1, y1), (x2, y2) = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    return max(int(x1), 0), max(int(y1), 0), min(int(x2), size_wh[0]), min(int(y2), size_wh[1])


def _limit_labels(labels: Sequence[str]) -> List[str]:
    """Return the labels, or empty ones if there are more than _MAX_LABELS."""
    return list(labels) if sum(map(bool, labels)) <= _MAX_LABELS else [""] * len(labels)


@dataclass(frozen=True)
class _View:
    """A crop of an image, resized to `size_wh`."""

    crop: Crop
    size_wh: SizeWH

    def transform(self, boxes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the boxes that overlap the crop, clipped and in its pixels (K, 4), and their indices (K,)."""
        x1, y1, x2, y2 = self.crop
        inside = clip_boxes(boxes - np.array([x1, y1, x1, y1], dtype=np.float32), (x2 - x1, y2 - y1))
        visible = np.flatnonzero((inside[:, 0] < inside[:, 2]) & (inside[:, 1] < inside[:, 3]))
        return scaled(inside[visible], (x2 - x1, y2 - y1), self.size_wh), visible
