"""Anchor sizes chosen by the boxes of a data set."""

from __future__ import annotations

import itertools
from typing import Tuple

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.data.anchor_fit import anchor_grids, best_iou
from ssd_train.data.augment import ZOOM, View
from ssd_train.data.records import LabelSet
from ssd_train.errors import DataError
from ssd_train.model.anchors import anchor_layout, even_shares, feature_cells, make_anchors

MOST_BOXES = 2000  # more change the choice little
# what is tried, of the image's side; SSD's own are 0.1, 0.2 (0.15 with seven maps) and 1.05
SMALLEST = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2)
SECOND = (1.4, 2.0, 2.8)  # times the smallest
LARGEST = (0.4, 0.55, 0.75, 1.05)


def fitted_shares(config: TrainConfig, labels: LabelSet) -> Tuple[Tuple[float, ...], float, float]:
    """The anchor sizes, as shares of the image's side, that the training boxes overlap best on average, and this mean
    IoU beside that of SSD's own sizes.

    The boxes are taken as they lie in the input, and half and twice as large where augmentation zooms so.
    """
    boxes = _boxes_in_input(labels, config)
    maps = len(feature_cells(config.base_network, config.image_shape))
    shapes = itertools.product(SMALLEST, SECOND, LARGEST)
    candidates = [even_shares(maps, s, s * times, top) for s, times, top in shapes if s * times < top]
    scores = [_mean_iou(config, boxes, shares) for shares in candidates]
    best = int(np.argmax(scores))
    usual = _mean_iou(config, boxes, ())
    if usual >= scores[best]:
        layout = anchor_layout(config.base_network, config.image_shape)
        return tuple(size / config.image_shape for size in layout.sizes), usual, usual
    return tuple(round(share, 4) for share in candidates[best]), scores[best], usual


def _boxes_in_input(labels: LabelSet, config: TrainConfig) -> np.ndarray:
    """Boxes (N, 4) xyxy in pixels of the input."""
    side = config.image_shape
    sized = [(record.boxes, record.size_wh) for record in labels.records if record.size_wh and len(record.boxes)]
    parts = [boxes * (side / np.array([*size_wh, *size_wh])) for boxes, size_wh in sized]
    if not parts:
        raise DataError(f"{labels.source}: found no box of an image of known size, expected some to fit anchors to")
    boxes = np.concatenate(parts)
    boxes = boxes[:: -(-len(boxes) // MOST_BOXES)]
    if config.augmentation != "strong":
        return boxes.astype(np.float32)
    # zoomed about the image's middle: where a box stands matters little
    zoomed = np.concatenate([boxes, *((boxes - side / 2) * zoom + side / 2 for zoom in (1 / ZOOM, ZOOM))])
    seen = zoomed.clip(0, side)
    area, whole = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (seen, zoomed))
    kept = area >= View.least_visible * whole
    return seen[kept].astype(np.float32)


def _mean_iou(config: TrainConfig, boxes: np.ndarray, shares: Tuple[float, ...]) -> float:
    anchors = make_anchors(anchor_layout(config.base_network, config.image_shape, shares))
    return float(best_iou(boxes, anchor_grids(anchors)).mean())
