"""TargetEncoder: ground truth boxes matched to anchors and encoded, in numpy.

Matching is SSD's (section 2.2): each ground truth takes its best anchor, one each, greedily by IoU; further anchors
join the ground truth they overlap most when the IoU is at least 0.5. Equal to GluonCV's SSDTargetGenerator but for
ties: every anchor of one size that contains an object has the same IoU with it (all objects of 5 to 10 px, with SSD's
sizes). GluonCV takes the first, the one farthest to the upper left; here the nearest centre does.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ssd_train.data.boxes import areas, cxcywh_to_xyxy, intersection_matrix, iou_matrix, xyxy_to_cxcywh

# variances of the offsets: Caffe SSD and GluonCV's NormalizedBoxCenterEncoder
STDS = np.array([0.1, 0.1, 0.2, 0.2], dtype=np.float32)
MATCH_IOU = 0.5
TIE = 1e-4  # relative; equal overlaps differ by up to 1e-5 in float32, as anchors lie near or far from 0
IGNORED = -1.0
IGNORED_SHARE = 0.5  # of an anchor's area; any anchor with an IoU of 0.5 has as much


class TargetEncoder:
    """Turns the boxes of one image into what the network should answer at each of its A anchors.

    anchors     (A, 4) centre x, centre y, width, height in input pixels
    """

    def __init__(self, anchors: np.ndarray) -> None:
        self.anchors = np.asarray(anchors, dtype=np.float32)
        self._corners = np.asfortranarray(cxcywh_to_xyxy(self.anchors))  # a column is worked on at a time

    def __call__(self, boxes: np.ndarray, class_ids: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Class targets float32 (A,), 0 background, IGNORED or class id + 1, and box targets float32 (A, 4), 0 where no
        object is, for boxes (N, 4) xyxy input pixels and class ids (N,), -1 of a region to be ignored: an anchor of
        which IGNORED_SHARE lies in one is no negative. An image without boxes is all background."""
        class_targets = np.zeros(len(self.anchors), dtype=np.float32)
        box_targets = np.zeros((len(self.anchors), 4), dtype=np.float32)
        regions = class_ids < 0
        if regions.any():
            inside = intersection_matrix(boxes[regions], self._corners).max(axis=0)
            class_targets[inside >= IGNORED_SHARE * areas(self._corners)] = IGNORED
            boxes, class_ids = boxes[~regions], class_ids[~regions]
        if len(boxes):
            matches = match(iou_matrix(boxes, self._corners), boxes, self.anchors)
            positive = np.flatnonzero(matches >= 0)
            matched = matches[positive]
            class_targets[positive] = class_ids[matched] + 1
            box_targets[positive] = encode(boxes[matched], self.anchors[positive])
        return class_targets, box_targets


def match(iou: np.ndarray, boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return the ground truth of each anchor, -1 for none: int64 (A,).

    Args:
        iou: (N, A) of ground truths and anchors, N > 0; long rows are what NumPy is fast at.
        boxes: ground truths (N, 4) xyxy.
        anchors: (A, 4) cxcywh.
    """
    centres = xyxy_to_cxcywh(boxes)[:, :2]
    matches = np.full(iou.shape[1], -1)
    overlapping = np.flatnonzero(iou.max(axis=0) >= MATCH_IOU)
    matches[overlapping] = _nearest_best(iou[:, overlapping].T, anchors[overlapping, :2], centres)[0]
    for truth, anchor in bipartite(iou, centres, anchors[:, :2]):
        matches[anchor] = truth
    return matches


def bipartite(iou: np.ndarray, centres: np.ndarray, anchor_centres: np.ndarray) -> "list[Tuple[int, int]]":
    """Return pairs (ground truth, anchor), the pair of highest IoU first, of equal ones the pair whose centres are
    nearest; each is used once, and a pair must overlap at all.

    Args:
        iou: (N, A) of ground truths and anchors.
        centres: of the ground truths (N, 2).
        anchor_centres: (A, 2).
    """
    anchors, best = _nearest_best(iou, centres, anchor_centres)
    waiting = best > 0
    if len(set(anchors[waiting].tolist())) == np.count_nonzero(waiting):
        # nobody competes, so the greedy order does not matter
        return [(int(truth), int(anchors[truth])) for truth in np.flatnonzero(waiting)]
    pairs = []
    left = iou.copy()
    apart = _squared_distance(centres, anchor_centres[anchors])
    while waiting.any():
        first = waiting & (best >= best[waiting].max() * (1 - TIE))
        truth = int(np.where(first, apart, np.inf).argmin())
        pairs.append((truth, int(anchors[truth])))
        waiting[truth] = False
        left[:, anchors[truth]] = 0
        robbed = np.flatnonzero(waiting & (anchors == anchors[truth]))  # they take their next best
        if len(robbed):
            anchors[robbed], best[robbed] = _nearest_best(left[robbed], centres[robbed], anchor_centres)
            apart[robbed] = _squared_distance(centres[robbed], anchor_centres[anchors[robbed]])
            waiting &= best > 0
    return pairs


def _nearest_best(iou: np.ndarray, centres: np.ndarray, other_centres: np.ndarray) -> "Tuple[np.ndarray, np.ndarray]":
    """Return for each row of `iou` (N, M) the column of its highest value, of equal ones that of the nearest centre,
    and that value."""
    found = iou.argmax(axis=1)
    best = iou[np.arange(len(iou)), found]
    tied = iou >= (best * (1 - TIE))[:, None]
    for row in np.flatnonzero((np.count_nonzero(tied, axis=1) > 1) & (best > 0)):
        columns = np.flatnonzero(tied[row])
        found[row] = columns[_squared_distance(centres[row], other_centres[columns]).argmin()]
    return found, best


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared distances of points (..., 2)."""
    return np.square(a - b).sum(axis=-1)


def encode(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Offsets (N, 4) of boxes (N, 4) xyxy from anchors (N, 4) cxcywh, divided by STDS (SSD, equation 2)."""
    centred = xyxy_to_cxcywh(boxes)
    shift = (centred[:, :2] - anchors[:, :2]) / anchors[:, 2:]
    stretch = np.log(centred[:, 2:] / anchors[:, 2:])
    return np.concatenate([shift, stretch], axis=1) / STDS


def decode(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) xyxy from offsets (N, 4): the inverse of `encode`."""
    scaled = offsets * STDS
    centre = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
    return cxcywh_to_xyxy(np.concatenate([centre, np.exp(scaled[:, 2:]) * anchors[:, 2:]], axis=1))
