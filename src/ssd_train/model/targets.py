"""Match ground truth boxes to anchors and encode them as training targets, in numpy.

Matching follows SSD, section 2.2: each ground truth box takes its best anchor, one each, greedily by IoU; every other
anchor takes the box that it overlaps most, if the IoU is at least 0.5. Targets equal those of GluonCV's
SSDTargetGenerator except for ties: all anchors of one size that contain an object have the same IoU with it (with SSD's
sizes, all objects of 5 to 10 px). GluonCV takes the first of them, which is farthest to the upper left; this module
takes the one with the nearest centre.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ssd_train.boxes import areas, cxcywh_to_xyxy, intersection_matrix, iou_matrix, xyxy_to_cxcywh

# standard deviations of the offsets, as in Caffe SSD and GluonCV's NormalizedBoxCenterEncoder
STDS = np.array([0.1, 0.1, 0.2, 0.2], dtype=np.float32)
MATCH_IOU = 0.5
TIE = 1e-4  # relative; equal IoUs differ by up to 1e-5 in float32, depending on the distance from 0
IGNORED = -1.0
IGNORED_FRACTION = 0.5  # fraction of an anchor's area; any anchor with an IoU of 0.5 has as much


class TargetEncoder:
    """Encodes the boxes of one image as targets for each of A anchors.

    Args:
        anchors: (A, 4), cxcywh in input pixels.
    """

    def __init__(self, anchors: np.ndarray) -> None:
        self.anchors = np.asarray(anchors, dtype=np.float32)
        self._corners = np.asfortranarray(cxcywh_to_xyxy(self.anchors))  # iou_matrix reads it column by column

    def __call__(self, boxes: np.ndarray, class_ids: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Encode the ground truth of one image. Without boxes, all anchors are background.

        Args:
            boxes: (N, 4), xyxy in input pixels.
            class_ids: (N,); -1 marks a region to ignore: an anchor with IGNORED_FRACTION of its area in it is not
                a negative.

        Returns:
            Class targets float32 (A,): 0 for background, IGNORED, or class id + 1. Box targets float32 (A, 4):
            0 without an object.
        """
        class_targets = np.zeros(len(self.anchors), dtype=np.float32)
        box_targets = np.zeros((len(self.anchors), 4), dtype=np.float32)
        regions = class_ids < 0
        if regions.any():
            inside = intersection_matrix(boxes[regions], self._corners).max(axis=0)
            class_targets[inside >= IGNORED_FRACTION * areas(self._corners)] = IGNORED
            boxes, class_ids = boxes[~regions], class_ids[~regions]
        if len(boxes):
            matches = match(iou_matrix(boxes, self._corners), boxes, self.anchors)
            positive = np.flatnonzero(matches >= 0)
            matched = matches[positive]
            class_targets[positive] = class_ids[matched] + 1
            box_targets[positive] = encode(boxes[matched], self.anchors[positive])
        return class_targets, box_targets


def match(iou: np.ndarray, boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return the index of each anchor's ground truth box, -1 for background: int64 (A,).

    Args:
        iou: (N, A), N > 0; NumPy is fastest on long rows.
        boxes: ground truth (N, 4), xyxy.
        anchors: (A, 4), cxcywh.
    """
    centres = xyxy_to_cxcywh(boxes)[:, :2]
    matches = np.full(iou.shape[1], -1)
    overlapping = np.flatnonzero(iou.max(axis=0) >= MATCH_IOU)
    matches[overlapping] = _nearest_best(iou[:, overlapping].T, anchors[overlapping, :2], centres)[0]
    for truth, anchor in greedy_bipartite_match(iou, centres, anchors[:, :2]):
        matches[anchor] = truth
    return matches


def greedy_bipartite_match(iou: np.ndarray, centres: np.ndarray, anchor_centres: np.ndarray) -> "list[Tuple[int, int]]":
    """Match greedily one to one, highest IoU first, the nearest centre among equal ones.

    Args:
        iou: (N, A) of ground truth boxes and anchors.
        centres: of the ground truth boxes (N, 2).
        anchor_centres: (A, 2).

    Returns:
        Pairs (ground truth index, anchor index) with an IoU above 0.
    """
    anchors, best = _nearest_best(iou, centres, anchor_centres)
    unmatched = best > 0
    if len(set(anchors[unmatched].tolist())) == np.count_nonzero(unmatched):
        # no two boxes have the same best anchor, so the order does not matter
        return [(int(truth), int(anchors[truth])) for truth in np.flatnonzero(unmatched)]
    pairs = []
    remaining_iou = iou.copy()
    distances = _squared_distance(centres, anchor_centres[anchors])
    while unmatched.any():
        tied = unmatched & (best >= best[unmatched].max() * (1 - TIE))
        truth = int(np.where(tied, distances, np.inf).argmin())
        pairs.append((truth, int(anchors[truth])))
        unmatched[truth] = False
        remaining_iou[:, anchors[truth]] = 0
        conflicts = np.flatnonzero(unmatched & (anchors == anchors[truth]))  # they take their next best anchor
        if len(conflicts):
            anchors[conflicts], best[conflicts] = _nearest_best(
                remaining_iou[conflicts], centres[conflicts], anchor_centres
            )
            distances[conflicts] = _squared_distance(centres[conflicts], anchor_centres[anchors[conflicts]])
            unmatched &= best > 0
    return pairs


def _nearest_best(iou: np.ndarray, centres: np.ndarray, other_centres: np.ndarray) -> "Tuple[np.ndarray, np.ndarray]":
    """Return the column of each row's maximum in `iou` (N, M), and the maximum.

    Among equal maxima it is the column whose centre is nearest.
    """
    indices = iou.argmax(axis=1)
    best = iou[np.arange(len(iou)), indices]
    tied = iou >= (best * (1 - TIE))[:, None]
    for row in np.flatnonzero((np.count_nonzero(tied, axis=1) > 1) & (best > 0)):
        columns = np.flatnonzero(tied[row])
        indices[row] = columns[_squared_distance(centres[row], other_centres[columns]).argmin()]
    return indices, best


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared distances of points (..., 2)."""
    return np.square(a - b).sum(axis=-1)


def encode(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return box offsets (N, 4) relative to anchors, divided by STDS (SSD, equation 2).

    Args:
        boxes: (N, 4), xyxy.
        anchors: (N, 4), cxcywh.
    """
    centred = xyxy_to_cxcywh(boxes)
    shift = (centred[:, :2] - anchors[:, :2]) / anchors[:, 2:]
    stretch = np.log(centred[:, 2:] / anchors[:, 2:])
    return np.concatenate([shift, stretch], axis=1) / STDS


def decode(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return the boxes (N, 4) xyxy of offsets (N, 4) from anchors (N, 4) cxcywh: the inverse of `encode`."""
    scaled = offsets * STDS
    centre = scaled[:, :2] * anchors[:, 2:] + anchors[:, :2]
    return cxcywh_to_xyxy(np.concatenate([centre, np.exp(scaled[:, 2:]) * anchors[:, 2:]], axis=1))
