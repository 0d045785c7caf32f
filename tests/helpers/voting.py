"""Box voting in plain NumPy, one box at a time (Gidaris & Komodakis 2015)."""

from __future__ import annotations

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """The intersection over union of two boxes, xyxy."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def voted(rows: np.ndarray, scores: np.ndarray, boxes: np.ndarray, topk: int, floor: float = 0.01) -> np.ndarray:
    """Rows (P, 6) of an image after voting by the best `topk` of scores (A, classes) and boxes (A, 4)."""
    rows, scores, boxes = (array.astype(np.float64) for array in (rows, scores, boxes))
    best = np.argsort(-scores, axis=None, kind="stable")[:topk]
    anchors, classes = np.unravel_index(best, scores.shape)
    entered = [(scores[a, c], c, boxes[a]) for a, c in zip(anchors, classes) if scores[a, c] > floor]
    result = rows.copy()
    for row, to in zip(rows, result):
        votes = [(score, box) for score, c, box in entered if c == row[0] and iou(row[2:], box) >= 0.5]
        if votes:
            to[2:] = sum(score * box for score, box in votes) / sum(score for score, _ in votes)
    return result
