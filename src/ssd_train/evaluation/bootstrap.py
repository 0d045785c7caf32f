"""Bootstrap confidence intervals of COCO mAP: images are drawn with replacement, their matches are kept."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

RESAMPLES, SEED = 300, 0
LEVEL = 0.95
_ELEMENTS_AT_ONCE = 1 << 22  # bounds the memory of the cumulative counts

Interval = Tuple[float, float]


class ClassMatches(NamedTuple):
    """The detections of one class by falling score, with their matches at each IoU threshold.

    Attributes:
        images: index of each detection's image (D,).
        hits: sorted indexes of the hits, one array for each threshold.
        ignored: sorted indexes of the ignored detections, one array for each threshold.
        boxes: number of labelled boxes in each image (I,).
    """

    images: np.ndarray
    hits: Sequence[np.ndarray]
    ignored: Sequence[np.ndarray]
    boxes: np.ndarray


def map_intervals(classes: Sequence[ClassMatches], recalls: np.ndarray) -> Dict[str, Optional[Interval]]:
    """Return the 95 % intervals of "mAP" and "mAP@0.5"; None for fewer than two images or without boxes.

    They are basic bootstrap intervals: the mAP of a few images is too high, that of a resample again by as much, and
    percentile intervals, which do not correct this, hold the true value far less often.
    """
    images = len(classes[0].boxes) if classes else 0
    if images < 2 or not any(one.boxes.any() for one in classes):
        return {"mAP": None, "mAP@0.5": None}
    drawn = np.random.RandomState(SEED).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    weights = np.concatenate([np.ones((1, images), drawn.dtype), drawn])  # the first row is the data set itself
    precision = resampled_precision(classes, weights, recalls)
    labelled = ~np.isnan(precision[:, :, 0])  # (B, classes)
    usable = labelled.any(axis=1)  # a resample may lack labelled boxes
    means = np.nansum(precision[usable], axis=1) / labelled[usable].sum(axis=1)[:, None]  # (B, IoUs)
    return {"mAP": _interval(means.mean(axis=1)), "mAP@0.5": _interval(means[:, 0])}


def _interval(values: np.ndarray) -> Interval:
    """Return the basic bootstrap interval of values[0] by those of its resamples, within 0..1."""
    value = values[0]
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return max(0.0, min(value, 2 * value - high)), min(1.0, max(value, 2 * value - low))


def resampled_precision(classes: Sequence[ClassMatches], weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the average precision (B, classes, IoUs) of each resample; NaN for a class without labelled boxes.

    It equals that of a data set in which image i occurs weights[b, i] times.

    Args:
        classes: detections and labels by class.
        weights: number of times (B, I) that each resample contains each image.
        recalls: recalls at which the precision is averaged.
    """
    largest = max((len(one.images) for one in classes), default=0)
    rows = max(1, _ELEMENTS_AT_ONCE // max(largest, 1))
    parts = [weights[start : start + rows] for start in range(0, len(weights), rows)]
    return np.concatenate([np.stack([_class_precision(one, part, recalls) for one in classes], 1) for part in parts])


def _class_precision(matches: ClassMatches, weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the average precision (B, IoUs)."""
    boxes = weights @ matches.boxes  # (B,)
    copies = weights[:, matches.images]  # (B, D)
    shown = np.cumsum(copies, axis=1)
    needed = _hits_needed(boxes, recalls)
    by_iou: List[np.ndarray] = []
    for hits, ignored in zip(matches.hits, matches.ignored):
        counted = shown[:, hits]
        if len(ignored):
            left_out = np.cumsum(copies[:, ignored], axis=1)
            counted = counted - np.pad(left_out, ((0, 0), (1, 0)))[:, np.searchsorted(ignored, hits)]
        by_iou.append(_mean_precision(np.cumsum(copies[:, hits], axis=1), counted, needed))
    precision = np.stack(by_iou, axis=1)
    precision[boxes == 0] = np.nan
    return precision


def _hits_needed(boxes: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the number of hits (B, R) from which each recall is reached, at least 1."""
    counts, inverse = np.unique(boxes, return_inverse=True)
    # the comparison of metrics.coco_average_precision, so that rounding is the same
    needed = [np.searchsorted(np.arange(1, n + 1) / max(n, 1), recalls, side="left") + 1 for n in counts]
    return np.stack(needed)[inverse.ravel()]


def _mean_precision(hits: np.ndarray, shown: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Return the mean (B,) of the precision envelope at each recall.

    Copies of a hit follow each other, and precision rises within them: the last one decides.

    Args:
        hits: cumulative number of hits (B, H).
        shown: cumulative number of counted detections at each hit (B, H).
        needed: number of hits (B, R) from which each recall is reached.
    """
    envelope = np.maximum.accumulate((hits / np.maximum(shown, 1))[:, ::-1], axis=1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))  # the last value, 0, is for recalls that are not reached
    length = hits.shape[1]
    rows = np.arange(len(hits))[:, None]
    # all resamples in one search: those of row b lie between b * stride and (b + 1) * stride
    stride = int(max(hits.max(initial=0), needed.max(initial=0))) + 1
    position = np.searchsorted((hits + rows * stride).ravel(), (needed + rows * stride).ravel(), side="left")
    position = np.minimum(position.reshape(needed.shape) - rows * length, length)
    return np.take_along_axis(envelope, position, axis=1).mean(axis=1)
