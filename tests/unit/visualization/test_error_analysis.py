"""Matching of detections and labels against hand-made cases and pycocotools, and crops."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.structures import ClassNames, Detections, Ignored, LabeledImage
from ssd_train.evaluation.metrics import MeanAveragePrecision
from ssd_train.visualization.draw import CLASS_COLOURS
from ssd_train.visualization.error_analysis import Focus, MatchResult, crop_around, draw_scene, drawn_detections, match
from ssd_train.visualization.report_data import Sample

A, B = (10, 10, 50, 50), (100, 10, 140, 50)
NAMES = ClassNames(("apple", "pear"))


def sample(truth, detected, size_wh=(200, 120)) -> Sample:
    """Return a sample from `truth` rows (class, box) and `detected` rows (class, score, box)."""
    record = LabeledImage("a", [box for _, box in truth], [c for c, _ in truth])
    boxes, scores, class_ids = [box for *_, box in detected], [s for _, s, _ in detected], [c for c, *_ in detected]
    detections = Detections(boxes, scores, class_ids, size_wh)
    return Sample("a", np.full((size_wh[1], size_wh[0], 3), 128, np.uint8), record, detections)


@pytest.mark.parametrize(
    "truth, detected, found, correct",
    [
        pytest.param([(0, A)], [(0, 0.9, A)], [True], [True], id="hit"),
        pytest.param([(0, A)], [(1, 0.9, A)], [False], [False], id="other class"),
        pytest.param([(0, A)], [(0, 0.2, A)], [False], [], id="below the threshold"),
        pytest.param([(0, A)], [(0, 0.9, A), (0, 0.8, A)], [True], [True, False], id="duplicate"),
        pytest.param(
            [(0, A), (0, (10, 12, 50, 52))], [(0, 0.9, A), (0, 0.8, A)], [True, True], [True, True], id="two objects"
        ),
        pytest.param([(0, A)], [(0, 0.9, (30, 10, 70, 50))], [False], [False], id="overlap of a third"),
        pytest.param([(0, A)], [(0, 0.9, (10, 10, 50, 30))], [True], [True], id="overlap of exactly a half"),
        pytest.param([(0, A), (1, B)], [], [False, False], [], id="no detections"),
        pytest.param([], [(0, 0.9, A)], [], [False], id="background"),
        pytest.param([], [], [], [], id="empty"),
    ],
)
def test_match_by_class_score_and_iou(truth, detected, found, correct):
    result = match(sample(truth, detected), 0.3)
    assert result.detected.tolist() == found and result.correct.tolist() == correct


@pytest.mark.parametrize("seed", range(20))
def test_match_crowded_boxes_equals_pycocotools(seed):
    from pycocotools import cocoeval

    random = np.random.RandomState(seed)
    corners = random.randint(0, 5, (40, 2)) * 10.0  # whole tens: many equal overlaps
    boxes = np.concatenate([corners, corners + random.randint(2, 5, (40, 2)) * 10], axis=1)
    case = sample([(0, box) for box in boxes[:15]], [(0, 0.9 - i / 100, box) for i, box in enumerate(boxes[15:])])

    result = match(case, 0.3)

    evaluation = cocoeval.COCOeval(iouType="bbox")
    evaluation.params.imgIds, evaluation.params.catIds = [0], [0]
    truth, found = (
        [
            # annotations of id 0 count as no match
            {
                "id": i,
                "bbox": [*box[:2], *(box[2:] - box[:2])],
                "area": 1,
                "iscrowd": 0,
                "ignore": 0,
                "score": 1 - i / 99,
            }
            for i, box in enumerate(group, 1)
        ]
        for group in (boxes[:15], boxes[15:])
    )
    evaluation._gts[0, 0], evaluation._dts[0, 0] = truth, found
    evaluation.ious = {(0, 0): evaluation.computeIoU(0, 0)}
    expected = evaluation.evaluateImg(0, 0, [0, 1e5**2], 100)
    assert result.correct.tolist() == (expected["dtMatches"][0] > 0).tolist()
    assert result.detected.tolist() == (expected["gtMatches"][0] > 0).tolist()


def test_match_scales_labels_of_another_size():
    record = LabeledImage("a", [[20, 20, 100, 100]], [0], (400, 240))
    detections = Detections([A], [0.9], [0], (200, 120))
    assert match(Sample("a", np.zeros((120, 200, 3), np.uint8), record, detections), 0.3).detected.all()


@pytest.mark.parametrize(
    "box, expected",
    [
        pytest.param((90, 50, 110, 70), (75, 35, 125, 85), id="in the middle"),
        pytest.param((0, 0, 20, 20), (0, 0, 50, 50), id="corner"),
        pytest.param((180, 100, 200, 120), (150, 70, 200, 120), id="other corner"),
        pytest.param((0, 0, 200, 120), (0, 0, 200, 120), id="whole image"),
        pytest.param((90, 59, 110, 61), (75, 35, 125, 85), id="a flat box gets a square crop"),
    ],
)
def test_crop_around_is_square_inside_the_image(box, expected):
    assert crop_around(np.array([box], np.float32), (200, 120)) == expected


def test_crop_around_contains_all_boxes():
    x1, y1, x2, y2 = crop_around(np.array([A, (150, 80, 170, 100)], np.float32), (200, 120))
    assert x1 <= 10 and y1 <= 10 and x2 >= 170 and y2 >= 100


def test_draw_scene_crop_enlarges_the_box():
    case = sample([], [(0, 0.9, (90, 50, 110, 70))])
    drawn = draw_scene(case, match(case, 0.3), NAMES, (400, 400), Focus(detections=[0]))
    # a crop of 50 pixels, four times as large: the box begins 15 pixels into it, and is tinted
    assert drawn.shape == (200, 200, 3)
    assert (drawn[70:130, 60] == CLASS_COLOURS[0]).all(axis=1).any()
    assert tuple(drawn[20, 100]) == (128, 128, 128) != tuple(drawn[100, 100])


@pytest.mark.parametrize(
    "labels, hits, false, expected",
    [
        pytest.param(3, 2, 40, (2, 4), id="weak model"),
        pytest.param(3, 3, 0, (3, 0), id="good model"),
        pytest.param(0, 0, 40, (0, 2), id="no label"),
        pytest.param(1, 0, 1, (0, 1), id="few"),
    ],
)
def test_drawn_detections_are_at_most_twice_the_labels(labels, hits, false, expected):
    correct = np.zeros(hits + false, bool)
    correct[len(correct) - hits :] = True  # the hits score lowest, and are drawn all the same
    matching = MatchResult(None, np.zeros((labels, 4)), np.zeros(labels, bool), correct)
    drawn = drawn_detections(matching, np.arange(len(correct)), labels)
    assert (int(correct[drawn].sum()), int((~correct[drawn]).sum())) == expected
    assert sorted(drawn[~correct[drawn]]) == list(range(expected[1])), "the best of them"


def test_drawn_detections_keep_the_marked_one():
    matching = MatchResult(None, np.zeros((1, 4)), np.ones(1, bool), np.array([True] * 5 + [False]))
    assert 5 in drawn_detections(matching, np.arange(6), 1, [5])


def test_draw_scene_false_positive_looks_unlike_a_hit():
    case = sample([(0, A)], [(0, 0.9, A), (0, 0.8, (120, 20, 180, 80))])
    drawn = draw_scene(case, match(case, 0.3), NAMES, (200, 120))
    (x1, _, x2, y2) = A
    hit, false = drawn[y2 - 1, x1:x2], drawn[79, 120:180]
    assert (hit == CLASS_COLOURS[0]).all(axis=1).mean() > 0.9
    assert (false == CLASS_COLOURS[0]).all(axis=1).mean() < 0.7


def test_match_detection_in_an_ignored_region_is_not_wrong():
    ignored = Ignored([[100, 20, 180, 100]], [0], [True])
    record = LabeledImage("a", [[10, 20, 60, 70]], [0], (200, 120), "", ignored)
    said = Detections(
        [[110, 30, 130, 50], [110, 30, 130, 50], [150, 90, 190, 118]], [0.9, 0.8, 0.7], [0, 1, 0], (200, 120)
    )
    answer = match(Sample("a", np.zeros((120, 200, 3), np.uint8), record, said), 0.3)
    assert answer.correct.tolist() == [True, False, False] and not answer.detected.any()


def test_match_difficult_box_excuses_one_detection_as_in_the_scores():
    ignored = Ignored([[100, 20, 180, 100]], [0], [False])
    record = LabeledImage("a", [[10, 20, 60, 70]], [0], (200, 120), "", ignored)
    detections = Detections([[100, 20, 180, 100], [102, 22, 178, 98]], [0.9, 0.8], [0, 0], (200, 120))
    metric = MeanAveragePrecision(NAMES)
    metric.update(detections, record)
    counted = metric.compute().curves[NAMES[0]]
    assert match(Sample("a", np.zeros((120, 200, 3), np.uint8), record, detections), 0.3).correct.tolist() == [
        True,
        False,
    ]
    assert len(counted.score) == 1 and counted.precision.tolist() == [0.0]
