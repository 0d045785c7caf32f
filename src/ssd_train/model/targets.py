"""TargetEncoder: ground truth boxes matched to anchors and encoded, in numpy.

Matching is SSD's (section 2.2): each ground truth takes its best anchor, one each, greedily by IoU; further anchors
join the ground truth they overlap most when the IoU is at least 0.5. Equal to GluonCV's SSDTargetGenerator but for
exact ties.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ssd_train.data.boxes import areas, cxcywh_to_xyxy, intersection_matrix, iou_matrix, xyxy_to_cxcywh

# variances of the offsets: Caffe SSD and GluonCV's NormalizedBoxCenterEncoder
STDS = np.array([0.1, 0.1, 0.2, 0.2], dtype=np.float32)
MATCH_IOU = 0.5
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
            # (N, A), seen as (A, N): long rows are what NumPy is fast at
            matches = match(iou_matrix(boxes, self._corners).T)
            positive = np.flatnonzero(matches >= 0)
            matched = matches[positive]
            class_targets[positive] = class_ids[matched] + 1
            box_targets[positive] = encode(boxes[matched], self.anchors[positive])
        return class_targets, box_targets


def match(iou: np.ndarray) -> np.ndarray:
    """The ground truth of each anchor, -1 for none: int64 (A,) from an IoU matrix (A, N), N > 0."""
    matches = np.full(len(iou), -1)
    overlapping = np.flatnonzero(iou.max(axis=1) >= MATCH_IOU)
    matches[overlapping] = iou[overlapping].argmax(axis=1)
    for truth, anchor in bipartite(iou):
        matches[anchor] = truth
    return matches


def bipartite(iou: np.ndarray) -> "list[Tuple[int, int]]":
    """Pairs (ground truth, anchor), the pair of highest IoU first, each used once; a pair must overlap at all."""
    anchors = iou.argmax(axis=0)
    if len(set(anchors.tolist())) == iou.shape[1]:
        # nobody competes, so the greedy order does not matter
        return [(truth, int(a)) for truth, a in enumerate(anchors) if iou[a, truth] > 0]
    pairs = []
    left = iou.copy()
    for _ in range(min(iou.shape)):
        anchor, truth = np.unravel_index(left.argmax(), left.shape)
        if left[anchor, truth] <= 0:
            break
        pairs.append((int(truth), int(anchor)))
        left[anchor, :] = -1
        left[:, truth] = -1
    return pairs


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
