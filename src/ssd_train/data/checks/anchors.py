"""Fit of boxes to a network's anchors, computed without an (N, A) IoU matrix.

500 000 boxes take about a second.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import numpy as np

from ssd_train.boxes import as_boxes, xyxy_to_cxcywh


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
