"""Box voting in plain NumPy, one box at a time (Gidaris & Komodakis 2015)."""

from __future__ import annotations

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """The intersection over union of two boxes, xyxy."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def candidates_of(scores: np.ndarray, boxes: np.ndarray, topk: int, floor: float = 0.01) -> np.ndarray:
    """The rows (K, 6) of the best `topk` of scores (A, classes) and boxes (A, 4) that are above `floor`."""
    best = np.argsort(-scores, axis=None, kind="stable")[:topk]
    anchors, classes = np.unravel_index(best, scores.shape)
    rows = np.column_stack([classes, scores[anchors, classes], boxes[anchors]])
    return rows[rows[:, 1] > floor]


def voted(rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The rows (P, 6) that suppression kept of an image's candidates (K, 6), after voting; class id -1: unused."""
    result = rows.astype(np.float64)
    used = candidates[candidates[:, 0] >= 0].astype(np.float64)
    for row in result[: (rows[:, 0] >= 0).sum()]:  # unused rows are the last
        near = [other for other in used if other[0] == row[0] and iou(row[2:], other[2:]) >= 0.5]
        row[2:] = sum(other[1] * other[2:] for other in near) / sum(other[1] for other in near)
    return result
