"""Box geometry.

Box invariant: *boxes are float32 (N, 4) ``xyxy`` pixels of their image, ``0 <= x1 < x2 <= width`` and
``0 <= y1 < y2 <= height``*. Coordinates refer to pixel edges, so a box over the whole image is (0, 0, width, height)
and has an area of width * height. Readers and writers of formats convert; no other code does, except the encoding of
the network's targets.
"""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np

SizeWH = Tuple[int, int]

_LARGEST = float(np.finfo(np.float32).max)


def as_boxes(values: "Sequence[Sequence[float]] | np.ndarray") -> np.ndarray:
    """Return `values` as float32 (N, 4); an empty sequence becomes (0, 4)."""
    return np.asarray(values, dtype=np.float32).reshape(-1, 4)


def xyxy_to_cxcywh(boxes: np.ndarray) -> np.ndarray:
    """Convert corners (N, 4) to centre x, centre y, width, height (N, 4)."""
    boxes = as_boxes(boxes)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def cxcywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Convert centre x, centre y, width, height (N, 4) to corners (N, 4)."""
    boxes = as_boxes(boxes)
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (N,) in square pixels of boxes (N, 4).

    A box with a negative side has area 0.
    """
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def short_sides(boxes: np.ndarray) -> np.ndarray:
    """Return the shorter of width and height (N,) of boxes (N, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU matrix (N, M) of two sets of boxes, (N, 4) and (M, 4).

    The IoU of two empty boxes is 0.
    """
    intersection = intersection_matrix(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def intersection_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection areas (N, M) of two sets of boxes, in square pixels."""
    # one coordinate at a time: (N, M) temporaries only, twice as fast as (N, M, 2)
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def clip_boxes(boxes: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Clip boxes (N, 4) to an image of `size_wh`.

    A box outside the image becomes empty (x1 == x2 or y1 == y2).
    """
    width, height = size_wh
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))


def flip_x(boxes: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Flip boxes (N, 4) left to right, with their image."""
    width, _ = size_wh
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def flip_y(boxes: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Flip boxes (N, 4) top to bottom, with their image."""
    _, height = size_wh
    return np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1)


def rotate_ccw(boxes: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Rotate boxes (N, 4) by 90 degrees counter-clockwise, with their image.

    Args:
        boxes: Boxes before the rotation.
        size_wh: Size of the image before the rotation.
    """
    width, _ = size_wh
    return np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], axis=1)


def rotate_cw(boxes: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Rotate boxes (N, 4) by 90 degrees clockwise, with their image.

    Args:
        boxes: Boxes before the rotation.
        size_wh: Size of the image before the rotation.
    """
    _, height = size_wh
    return np.stack([height - boxes[:, 3], boxes[:, 0], height - boxes[:, 1], boxes[:, 2]], axis=1)


def find_invalid_box(boxes: np.ndarray, size_wh: "SizeWH | None" = None) -> "Tuple[int, str] | None":
    """Find the first box that violates the box invariant.

    Args:
        boxes: (N, 4) xyxy.
        size_wh: Size of the image; without it no upper limit is checked.

    Returns:
        Index and fault of the box, or None if all are valid.
    """
    if _is_lawful(boxes, size_wh):  # fast path: nearly all boxes are valid, and there may be 100 000 records
        return None
    limit = np.array([np.inf] * 4 if size_wh is None else [*size_wh, *size_wh], dtype=np.float32)
    finite = np.isfinite(boxes).all(axis=1)
    ordered = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    inside = (boxes >= 0).all(axis=1) & (boxes <= limit).all(axis=1)
    for ok, fault in ((finite, "is not finite"), (ordered, "has x2 <= x1 or y2 <= y1"), (inside, "leaves the image")):
        if not ok.all():
            return int(np.argmin(ok)), fault
    return None


def _is_lawful(boxes: np.ndarray, size_wh: "SizeWH | None") -> bool:
    width, height = size_wh or (_LARGEST, _LARGEST)
    return all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in boxes.tolist())
