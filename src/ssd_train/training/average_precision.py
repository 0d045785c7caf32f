"""Compute average precision of a class by three rules, and the best F1.

The detections of a class are sorted by falling score. `ranks` int (H,), rising, are the 1-based positions of the hits.
They determine the precision-recall curve, because between two hits precision only falls. `boxes`, at least 1, is the
number of labelled boxes.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from ssd_train.training.scores import BestF1

# the expression of pycocotools, so that comparisons with a recall agree: its 0.70 is 0.7000000000000001
COCO_RECALLS = np.linspace(0.0, 1.0, 101)


def precision_envelope(ranks: np.ndarray) -> np.ndarray:
    """Return the best precision (H,) at the recall of each hit or above it."""
    precision = np.arange(1, len(ranks) + 1) / ranks
    return np.maximum.accumulate(precision[::-1])[::-1]


def voc07_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Return the mean of the envelope at recalls 0, 0.1 ... 1 (VOC 2007)."""
    # hits needed for a recall of i / 10, in integers, because 0.1 * 3 is above 3 / 10 and would lose a point
    hits_needed = -(-np.arange(11) * boxes // 10)
    return _mean_at(precision_envelope(ranks), np.maximum(hits_needed, 1) - 1)


def voc_area_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Return the area under the envelope (VOC since 2010)."""
    return float(precision_envelope(ranks).sum() / boxes)


def coco_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Return the mean of the envelope at recalls 0, 0.01 ... 1 (COCO)."""
    recall = np.arange(1, len(ranks) + 1) / boxes
    return _mean_at(precision_envelope(ranks), np.searchsorted(recall, COCO_RECALLS, side="left"))


def _mean_at(envelope: np.ndarray, points: np.ndarray) -> float:
    """Return the mean of the envelope at `points`; unreached recalls count as 0."""
    return float(envelope[points[points < len(envelope)]].sum() / len(points))


def best_f1(scores: np.ndarray, hit_scores: np.ndarray, boxes: int) -> Optional[BestF1]:
    """Return the score threshold with the best F1; None without labelled boxes.

    A threshold keeps all detections of a score or none.

    Args:
        scores: scores of all detections (N,).
        hit_scores: scores of the hits (H,).
        boxes: number of labelled boxes.
    """
    if not boxes:
        return None
    if not len(hit_scores):
        return BestF1(f1=0.0, recall=0.0, precision=None, threshold=None)
    scores, hit_scores = np.sort(scores), np.sort(hit_scores)
    shown = len(scores) - np.searchsorted(scores, hit_scores, side="left")
    hits = len(hit_scores) - np.searchsorted(hit_scores, hit_scores, side="left")
    f1 = 2 * hits / (shown + boxes)
    best = int(np.argmax(f1))
    return BestF1(
        f1=float(f1[best]),
        recall=float(hits[best] / boxes),
        precision=float(hits[best] / shown[best]),
        threshold=float(hit_scores[best]),
    )
