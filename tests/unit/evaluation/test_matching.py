"""Matching for all images at once, against the plain loops that the rules are told in."""

import numpy as np
import pytest
from helpers.coco import pycocotools_precision

from ssd_train.data.structures import Detections, LabeledImage
from ssd_train.evaluation.matching import GroupedBoxes, iou_pairs, match_coco, match_voc


def boxes(random, count):
    corner = random.randint(0, 30, (count, 2))
    return np.concatenate([corner, corner + random.randint(0, 20, (count, 2))], axis=1).astype(np.float32)


def scene(seed):
    """Detections and labelled boxes of five groups, on a coarse grid so that overlaps are often equal."""
    random = np.random.RandomState(seed)
    found = GroupedBoxes(boxes(random, 120), random.randint(0, 5, 120))
    return found, GroupedBoxes(boxes(random, 40), random.randint(0, 5, 40))


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def coco_loop(found, truth, threshold):
    """As pycocotools: the free box of the largest overlap, the last of equals."""
    taken, hits = set(), []
    for d, box in enumerate(found.boxes.astype(float)):
        best, match = threshold, None
        for t, label in enumerate(truth.boxes.astype(float)):
            if truth.groups[t] == found.groups[d] and t not in taken and iou(box, label) >= best:
                best, match = iou(box, label), t
        if match is not None:
            taken.add(match)
            hits.append((d, match))
    return hits


def voc_loop(found, truth, threshold):
    """As the VOC kit: the box of the largest overlap, the first of equals, once."""
    taken, hits = set(), []
    for d, box in enumerate(found.boxes.astype(float)):
        best, match = 0.0, None
        for t, label in enumerate(truth.boxes.astype(float)):
            if truth.groups[t] == found.groups[d] and iou(box, label) > best:
                best, match = iou(box, label), t
        if best >= threshold and match not in taken:
            taken.add(match)
            hits.append(d)
    return hits


@pytest.mark.parametrize("seed", range(10))
def test_matching_equals_the_loops(seed):
    found, truth = scene(seed)
    thresholds = [0.05, 0.2, 0.5]
    pairs = iou_pairs(found, truth, thresholds[0])
    for threshold, matches in zip(thresholds, match_coco(pairs, thresholds)):
        assert list(zip(matches.detection, matches.truth)) == coco_loop(found, truth, threshold)
        assert match_voc(pairs, threshold).tolist() == voc_loop(found, truth, threshold)


def test_match_coco_equal_overlaps_takes_the_last_box_as_pycocotools():
    """The first detection lies midway between two labelled boxes, the second on the first of them: both are hits."""
    found, truth = np.float32([[10, 10, 20, 20], [8, 10, 18, 20]]), np.float32([[8, 10, 18, 20], [12, 10, 22, 20]])
    ids = np.zeros(2, int)
    (matches,) = match_coco(iou_pairs(GroupedBoxes(found, ids), GroupedBoxes(truth, ids), 0.5), [0.5])
    assert list(zip(matches.detection, matches.truth)) == [(0, 1), (1, 0)]
    images = [(Detections(found, [0.9, 0.8], ids, (40, 40)), LabeledImage("a.jpg", truth, ids))]
    assert pycocotools_precision(images, 1)[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("found, labelled", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_pair(found, labelled):
    random = np.random.RandomState(0)
    nothing = iou_pairs(
        GroupedBoxes(boxes(random, found), np.zeros(found, int)),
        GroupedBoxes(boxes(random, labelled), np.zeros(labelled, int)),
        0.5,
    )
    assert [len(column) for column in nothing] == [0, 0, 0]
    assert match_voc(nothing, 0.5).tolist() == []
    assert [len(matches.detection) for matches in match_coco(nothing, [0.5, 0.75])] == [0, 0]
