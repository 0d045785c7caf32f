"""How well boxes fit the anchors of a network, without an (N, A) matrix: 500 000 boxes in about a second."""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import numpy as np

from ssd_train.data.boxes import as_boxes, xyxy_to_cxcywh


class Axis(NamedTuple):
    """Evenly spaced centres along one axis, input pixels."""

    first: float
    step: float
    cells: int


class AnchorGrid(NamedTuple):
    """The anchors of one shape: width and height in input pixels, and where their columns and rows stand."""

    width: float
    height: float
    columns: Axis
    rows: Axis


def anchor_grids(anchors: np.ndarray) -> List[AnchorGrid]:
    """`anchors` (A, 4) centre x, centre y, width, height as the even grids that SSD's anchors stand on."""
    shapes = np.ascontiguousarray(anchors[:, 2:], np.float32).view(np.int64).ravel()  # both sides as one number
    order = np.argsort(shapes, kind="stable")
    starts = np.flatnonzero(np.diff(shapes[order])) + 1
    return [
        AnchorGrid(float(mine[0, 2]), float(mine[0, 3]), _axis(mine[:, 0]), _axis(mine[:, 1]))
        for mine in np.split(anchors[order], starts)
    ]


def best_iou(boxes: np.ndarray, grids: Sequence[AnchorGrid]) -> np.ndarray:
    """The IoU (N,) of each box (N, 4) xyxy with the anchor it overlaps most: of each shape that is the nearest one."""
    x, y, width, height = xyxy_to_cxcywh(as_boxes(boxes)).T
    # several shapes share an axis
    apart_x = {axis: _distance(x, axis) for axis in {grid.columns for grid in grids}}
    apart_y = {axis: _distance(y, axis) for axis in {grid.rows for grid in grids}}
    area, best = width * height, np.zeros(len(x), np.float32)
    for grid in grids:
        common = _overlap(apart_x[grid.columns], width, grid.width)
        common *= _overlap(apart_y[grid.rows], height, grid.height)
        best = np.maximum(best, common / (area + grid.width * grid.height - common))
    return best


def _axis(centres: np.ndarray) -> Axis:
    """The axis of a full grid, of which each column (or row) has equally many of the `centres`."""
    first, last = float(centres.min()), float(centres.max())
    cells = len(centres) // int((centres == centres.min()).sum())
    return Axis(first, (last - first) / max(cells - 1, 1) or 1.0, cells)


def _distance(centres: np.ndarray, axis: Axis) -> np.ndarray:
    """The distance (N,) of each of `centres` to the nearest of the axis."""
    # np.minimum and np.maximum: np.clip costs more for a few boxes
    cell = np.minimum(np.maximum(np.rint((centres - axis.first) / axis.step), 0), axis.cells - 1)
    return np.abs(centres - (axis.first + axis.step * cell))


def _overlap(distance: np.ndarray, sides: np.ndarray, side: float) -> np.ndarray:
    """The common length (N,), along one axis, of boxes and anchors whose centres are `distance` apart."""
    return np.maximum(np.minimum((sides + side) / 2 - distance, np.minimum(sides, side)), 0)
