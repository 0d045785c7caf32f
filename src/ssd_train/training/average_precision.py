"""Average precision of one class from the ranks of its hits, by three rules; and the best F1 of all classes.

A class's detections stand in falling order of scores. `ranks` int (H,), rising, are the places, counted from 1, of
those that hit a labelled box. They tell all of the precision-recall curve, as precision only falls between two hits.
`boxes`, at least 1, is the number of labelled boxes.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from ssd_train.training.scores import BestF1

# spelt as in pycocotools, so that a recall falls on the same side of a threshold: its 0.70 is 0.7000000000000001
COCO_RECALLS = np.linspace(0.0, 1.0, 101)


def precision_envelope(ranks: np.ndarray) -> np.ndarray:
    """Best precision (H,), float64 in 0..1, at the recall of each hit or beyond it."""
    precision = np.arange(1, len(ranks) + 1) / ranks
    return np.maximum.accumulate(precision[::-1])[::-1]


def voc07_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Mean of the envelope at recalls 0, 0.1 ... 1: the rule of VOC 2007."""
    # hits needed for a recall of i / 10, in whole numbers: 0.1 * 3 is above 3 / 10, and would lose a point
    hits_needed = -(-np.arange(11) * boxes // 10)
    return _mean_at(precision_envelope(ranks), np.maximum(hits_needed, 1) - 1)


def voc_area_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Area under the envelope: the rule of VOC since 2010."""
    return float(precision_envelope(ranks).sum() / boxes)


def coco_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Mean of the envelope at recalls 0, 0.01 ... 1: the rule of COCO."""
    recall = np.arange(1, len(ranks) + 1) / boxes
    return _mean_at(precision_envelope(ranks), np.searchsorted(recall, COCO_RECALLS, side="left"))


def _mean_at(envelope: np.ndarray, points: np.ndarray) -> float:
    """Mean of the envelope at `points`; it is 0 at a recall that is never reached."""
    return float(envelope[points[points < len(envelope)]].sum() / len(points))


def best_f1(scores: np.ndarray, hit_scores: np.ndarray, boxes: int) -> Optional[BestF1]:
    """The threshold with the best F1 for detections of `scores` (N,), of which those of `hit_scores` (H,) hit a box.

    A threshold takes all detections of its score or none. None without labelled boxes.
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
