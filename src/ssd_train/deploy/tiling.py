"""Split a large image into overlapping tiles, and merge the detections of the tiles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import List, Sequence, Tuple

import numpy as np

from ssd_train.boxes import SizeWH, areas, intersection_matrix
from ssd_train.data.structures import Detections
from ssd_train.errors import ConfigError

Rect = Tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image

MIN_TILE, MAX_OVERLAP = 32, 0.9
EDGE = 0.01  # share of a tile's side: a box that ends so close to an inner edge of its tile may be part of an object
CUT_WEIGHT = 0.5  # of the score of such a box in the order of suppression, so that the whole object goes first
COVERED = 0.6  # share of such a box that a kept box of another tile must cover to suppress it


def check_tile(tile: int, overlap: float) -> None:
    """Raise a ConfigError unless `tile` is 0 (none) or a usable side in pixels, and `overlap` a usable share."""
    if tile and tile < MIN_TILE:
        raise ConfigError(f"tile: found {tile}, expected at least {MIN_TILE} px, or 0 for the whole image")
    if not 0 <= overlap <= MAX_OVERLAP:
        raise ConfigError(f"tile_overlap: found {overlap:g}, expected 0 to {MAX_OVERLAP:g}")


def tile_rects(size_wh: SizeWH, tile: int, overlap: float) -> List[Rect]:
    """Return the tiles of an image row by row, and after several the whole image, for objects larger than a tile.

    Tiles are evenly spaced, lie inside the image, cover it, and share at least `overlap` of their side.
    """
    width, height = size_wh
    rects = [
        (x, y, min(x + tile, width), min(y + tile, height))
        for y in _starts(height, tile, overlap)
        for x in _starts(width, tile, overlap)
    ]
    return rects if len(rects) == 1 else [*rects, (0, 0, width, height)]


def _starts(length: int, tile: int, overlap: float) -> List[int]:
    if length <= tile:
        return [0]
    step = max(1, math.floor(tile - tile * overlap))
    count = math.ceil((length - tile) / step) + 1
    return np.linspace(0, length - tile, count).astype(int).tolist()


def merge_tiles(
    parts: Sequence[Detections], rects: Sequence[Rect], size_wh: SizeWH, shared: float, nms_threshold: float
) -> Detections:
    """Merge the detections of tiles by one non-maximum suppression per class.

    A box is suppressed by one of a higher score if their IoU is above `nms_threshold`. A box at an inner edge of its
    tile, which may be part of an object, counts half its score in this order, and is also suppressed by a box of
    another tile that covers most of it.

    Of the whole image only boxes larger than the shared part of two tiles count: smaller objects are whole in a tile,
    where the network sees them larger.

    Args:
        parts: detections of each tile, boxes in pixels of the tile.
        rects: the tiles, and last the whole image, see `tile_rects`.
        size_wh: (width, height) of the image.
        shared: pixels that two neighbouring tiles share at least.
        nms_threshold: IoU above which the lower score is dropped.

    Returns:
        Boxes in pixels of the image, best first.
    """
    parts = [*parts[:-1], _larger_than(parts[-1], shared)]
    boxes = np.concatenate(
        [part.boxes + np.array([*rect[:2], *rect[:2]], np.float32) for part, rect in zip(parts, rects)]
    )
    scores = np.concatenate([part.scores for part in parts])
    class_ids = np.concatenate([part.class_ids for part in parts])
    tiles = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    cut = np.concatenate([_at_inner_edge(part.boxes, rect, size_wh) for part, rect in zip(parts, rects)])
    order = np.argsort(-scores * np.where(cut, CUT_WEIGHT, 1), kind="stable")
    kept: List[int] = []
    for class_id in np.unique(class_ids):
        remaining = order[class_ids[order] == class_id]
        while len(remaining):
            best, remaining = remaining[0], remaining[1:]
            kept.append(best)
            common = intersection_matrix(boxes[[best]], boxes[remaining])[0]
            own = areas(boxes[remaining])
            same = common > nms_threshold * (areas(boxes[[best]])[0] + own - common)
            part_of_it = cut[remaining] & (tiles[remaining] != tiles[best]) & (common > COVERED * own)
            remaining = remaining[~(same | part_of_it)]
    chosen = np.array(kept, dtype=np.int64)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return Detections(boxes[chosen], scores[chosen], class_ids[chosen], size_wh)


def _larger_than(part: Detections, side: float) -> Detections:
    """Return the detections with a box whose longer side is at least `side` pixels."""
    keep = (part.boxes[:, 2:] - part.boxes[:, :2]).max(axis=1, initial=0) >= side
    return replace(part, boxes=part.boxes[keep], scores=part.scores[keep], class_ids=part.class_ids[keep])


def _at_inner_edge(boxes: np.ndarray, rect: Rect, size_wh: SizeWH) -> np.ndarray:
    """Return for each box (N, 4), in pixels of its tile, True if it ends at an edge of the tile inside the image."""
    x1, y1, x2, y2 = rect
    width, height = x2 - x1, y2 - y1
    near = [
        (boxes[:, 0] <= EDGE * width) & (x1 > 0),
        (boxes[:, 1] <= EDGE * height) & (y1 > 0),
        (boxes[:, 2] >= (1 - EDGE) * width) & (x2 < size_wh[0]),
        (boxes[:, 3] >= (1 - EDGE) * height) & (y2 < size_wh[1]),
    ]
    return np.any(near, axis=0)
