"""Confusion matrix of a detector, with background as a class of its own."""

from __future__ import annotations

import numpy as np

from ssd_train.evaluation.matching import GroupedBoxes, ImageBoxes, IouPairs, iou_pairs, match_coco


def confusion_matrix(
    truth: ImageBoxes, detections: ImageBoxes, matches: IouPairs, num_classes: int, iou_threshold: float
) -> np.ndarray:
    """Return the counts int64 (classes + 1, classes + 1) of labelled class (rows) by detected class (columns).

    The last row is background that was detected, the last column are labelled boxes that were missed.

    Detections that match a box of their class count there, as for AP. Of the others, in order of falling scores, each
    takes the free box of any class that it overlaps most.

    Args:
        truth: labelled boxes; scores are not used.
        detections: the detections to count.
        matches: matched pairs of the same class; other pairs are not used.
        num_classes: number of classes.
        iou_threshold: least IoU of a match.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    free_truth, free = np.ones(len(truth.boxes), bool), np.ones(len(detections.boxes), bool)
    free_truth[matches.truth] = free[matches.detection] = False
    np.add.at(matrix, (truth.class_ids[matches.truth], detections.class_ids[matches.detection]), 1)

    labelled, rest = np.flatnonzero(free_truth), np.flatnonzero(free)
    rest = rest[np.argsort(-detections.scores[rest], kind="stable")]
    groups = (
        GroupedBoxes(detections.boxes[rest], detections.images[rest]),
        GroupedBoxes(truth.boxes[labelled], truth.images[labelled]),
    )
    (confused,) = match_coco(iou_pairs(*groups, iou_threshold), [iou_threshold])
    confused_truth, confused_detections = labelled[confused.truth], rest[confused.detection]
    np.add.at(matrix, (truth.class_ids[confused_truth], detections.class_ids[confused_detections]), 1)
    missed, false = np.setdiff1d(labelled, confused_truth), np.setdiff1d(rest, confused_detections)
    matrix[:-1, -1] = np.bincount(truth.class_ids[missed], minlength=num_classes)
    matrix[-1, :-1] = np.bincount(detections.class_ids[false], minlength=num_classes)
    return matrix
