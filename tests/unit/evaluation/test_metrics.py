"""Average precision against pycocotools and against figures worked out by hand."""

import json

import numpy as np
import pytest
from helpers.coco import pycocotools_precision

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import ConfigError, DataError
from ssd_train.evaluation.metrics import (
    MeanAveragePrecision,
    coco_average_precision,
    voc07_average_precision,
    voc_area_average_precision,
)

SIZE = (500, 400)


def class_names(count):
    return ClassNames(tuple(f"class {index}" for index in range(count)))


def labels(boxes, class_ids=None, name="a.jpg", size_wh=SIZE):
    return LabeledImage(name, boxes, [0] * len(boxes) if class_ids is None else class_ids, size_wh, f"labels:{name}")


def answers(boxes, scores, class_ids=None, size_wh=SIZE):
    return Detections(boxes, scores, [0] * len(boxes) if class_ids is None else class_ids, size_wh)


def score(images, count=1, iou_threshold=0.5):
    metric = MeanAveragePrecision(class_names(count))
    for detections, truth in images:
        metric.update(detections, truth)
    return metric.compute(iou_threshold)


def random_boxes(random, count):
    corner = random.uniform(0, 300, (count, 2))
    return np.concatenate([corner, corner + random.uniform(10, 100, (count, 2))], axis=1)


def random_image(random, name, classes, detections, whole_pixels=False, score_steps=None):
    """Labels, and detections half of which lie near labels; rounded boxes and coarse scores make ties."""
    boxes, class_ids = random_boxes(random, random.randint(0, 9)), None
    class_ids = random.randint(0, classes, len(boxes))
    near = random.randint(0, len(boxes), detections // 2) if len(boxes) else np.zeros(0, int)
    found = boxes[near] + random.normal(0, 6, (len(near), 4))
    found_ids = np.where(random.rand(len(near)) < 0.8, class_ids[near], random.randint(0, classes, len(near)))
    stray = detections - len(near)
    found = np.clip(np.concatenate([found, random_boxes(random, stray)]), 0, [[500, 400, 500, 400]])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    found_ids = np.concatenate([found_ids, random.randint(0, classes, stray)])
    scores = random.rand(detections)
    if score_steps:
        scores = np.ceil(scores * score_steps) / score_steps
    if whole_pixels:
        boxes, found = np.round(boxes / 10) * 10, np.round(found / 10) * 10
    order = np.argsort(-scores, kind="stable")
    return answers(found[order], scores[order], found_ids[order]), labels(boxes, class_ids, name)


def random_images(seed, images, classes, most, **options):
    random = np.random.RandomState(seed)
    counts = random.randint(0, most + 1, images)
    return [random_image(random, f"{i:05d}.jpg", classes, count, **options) for i, count in enumerate(counts)]


@pytest.mark.parametrize(
    "images, classes, most, options",
    [
        pytest.param(40, 1, 30, {}, id="one class"),
        pytest.param(60, 5, 60, {}, id="five classes"),
        pytest.param(40, 80, 100, {}, id="many classes, some without boxes"),
        pytest.param(25, 2, 350, {}, id="more than 100 detections of a class in an image"),
        pytest.param(40, 3, 40, {"score_steps": 5}, id="equal scores"),
        pytest.param(40, 2, 120, {"whole_pixels": True, "score_steps": 10}, id="equal overlaps and scores"),
    ],
)
def test_coco_figures_equal_pycocotools(images, classes, most, options):
    data = random_images(0, images, classes, most, **options)
    expected = pycocotools_precision(data, classes)
    scores = score(data, classes)
    assert scores.ap50 > 0
    assert scores.coco == pytest.approx(np.nanmean(expected), abs=1e-7)
    assert scores.ap50 == pytest.approx(np.nanmean(expected[0]), abs=1e-7)
    assert scores.ap75 == pytest.approx(np.nanmean(expected[5]), abs=1e-7)
    for class_id, found in enumerate(scores.per_class):
        if np.isnan(expected[0, class_id]):
            assert found.coco is found.ap50 is found.ap75 is None
        else:
            assert found.coco == pytest.approx(expected[:, class_id].mean(), abs=1e-7)


@pytest.mark.parametrize(
    "ranks, boxes, voc07, voc_area, coco",
    [
        pytest.param([1, 2], 2, 1, 1, 1, id="all found, no false alarm"),
        pytest.param([], 3, 0, 0, 0, id="nothing found"),
        # precision 1 up to recall 1/2, then 2/4
        pytest.param([1, 4], 2, (6 + 5 / 2) / 11, 3 / 4, (51 + 50 / 2) / 101, id="second hit at rank 4"),
        # the better precision 2/3 at recall 1 counts for recall 1/2 as well
        pytest.param([2, 3], 2, 2 / 3, 2 / 3, 2 / 3, id="envelope"),
        # recalls that a rounded 0.1 * 3, 0.1 * 6, 0.1 * 7 would lose
        pytest.param([1, 2, 3], 10, 4 / 11, 0.3, 31 / 101, id="recall 0.3"),
        pytest.param(range(1, 7), 10, 7 / 11, 0.6, 61 / 101, id="recall 0.6"),
        # pycocotools does lose one of its 101 at 0.7, and COCO figures are to equal its own
        pytest.param(range(1, 8), 10, 8 / 11, 0.7, 70 / 101, id="recall 0.7"),
        pytest.param([1], 3, 4 / 11, 1 / 3, 34 / 101, id="recall of a third"),
    ],
)
def test_average_precision_by_hand(ranks, boxes, voc07, voc_area, coco):
    ranks = np.array(ranks, dtype=np.int64)
    assert voc07_average_precision(ranks, boxes) == pytest.approx(voc07)
    assert voc_area_average_precision(ranks, boxes) == pytest.approx(voc_area)
    assert coco_average_precision(ranks, boxes) == pytest.approx(coco)


def test_voc07_reaches_each_tenth_exactly():
    for boxes in range(1, 400):
        for hits in range(1, boxes + 1, 7):
            expected = sum(10 * hits >= tenth * boxes for tenth in range(11)) / 11
            assert voc07_average_precision(np.arange(1, hits + 1), boxes) == pytest.approx(expected)


SQUARE = [100, 100, 200, 200]


@pytest.mark.parametrize(
    "found, voc07, coco, ap50, ap75",
    [
        pytest.param([100, 100, 200, 200], 1, 1, 1, 1, id="exact"),
        pytest.param([100, 100, 200, 150], 1, 0.1, 1, 0, id="overlap of just 0.5, both edges without + 1"),
        pytest.param([100, 100, 200, 149.9], 0, 0, 0, 0, id="overlap just below 0.5"),
        pytest.param([100, 100, 200, 175], 1, 0.6, 1, 1, id="overlap of just 0.75"),
        pytest.param([200, 100, 300, 200], 0, 0, 0, 0, id="beside"),
        pytest.param([200, 200, 200, 200], 0, 0, 0, 0, id="empty box at the rim"),
    ],
)
def test_overlap_is_taken_in_pixels(found, voc07, coco, ap50, ap75):
    scores = score([(answers([found], [0.5]), labels([SQUARE]))])
    assert (scores.voc07, scores.coco, scores.ap50, scores.ap75) == pytest.approx((voc07, coco, ap50, ap75))


def test_tiny_boxes_gain_nothing_by_a_pixel():
    # with "+ 1" the overlap of these would be 12 / 20
    assert score([(answers([[10, 10, 13, 12]], [0.9]), labels([[10, 11, 13, 14]]))]).voc07 == 0


def test_voc_and_coco_differ_on_a_taken_box():
    """The second detection overlaps the taken box more: a duplicate for VOC; COCO lets it take its second choice."""
    left, right = [100, 100, 200, 200], [130, 100, 230, 200]
    between = [112, 100, 212, 200]
    scores = score([(answers([left, between], [0.9, 0.8]), labels([left, right]))])
    assert scores.voc_area == pytest.approx(0.5)
    assert scores.ap50 == pytest.approx(1.0)


def test_the_order_of_updates_does_not_matter():
    images = random_images(3, 30, 4, 40, score_steps=4)
    expected = score(images, 4)
    shuffled = [images[i] for i in np.random.RandomState(0).permutation(len(images))]
    assert score(shuffled, 4) == expected
    assert expected.ap50 > 0


def test_classes_without_boxes_are_left_out_of_the_mean():
    scores = score([(answers([SQUARE, SQUARE], [0.9, 0.8], [0, 1]), labels([SQUARE], [0]))], count=3)
    assert [found.ap50 for found in scores.per_class] == [1.0, None, None]
    assert [found.voc07 for found in scores.per_class] == [1.0, None, None]
    assert (scores.ap50, scores.voc07, scores.voc_area, scores.coco, scores.ap75) == (1, 1, 1, 1, 1)
    assert list(scores.curves) == ["class 0"]


@pytest.mark.parametrize("found", [[], [SQUARE]], ids=["nothing detected", "false alarm"])
def test_without_labelled_boxes_there_is_no_figure(found):
    scores = score([(answers(found, [0.9] * len(found)), labels([]))])
    assert set(scores.means().values()) == {None}
    assert scores.best_f1 is None
    assert scores.false_positives_per_image(0.3) == len(found)
    assert scores.to_json()["mAP"] is None
    assert "mAP@0.5 n/a" in scores.lines()


def test_no_image_is_an_error():
    with pytest.raises(DataError, match="no image"):
        MeanAveragePrecision(class_names(1)).compute()


@pytest.mark.parametrize("threshold", [0, -0.5, 1.5, float("nan")])
def test_an_overlap_threshold_outside_its_range_is_refused(threshold):
    with pytest.raises(ConfigError, match="overlap_threshold"):
        score([(answers([], []), labels([SQUARE]))], iou_threshold=threshold)


def test_the_overlap_threshold_is_that_of_voc_alone():
    image = (answers([[100, 100, 200, 160]], [0.9]), labels([SQUARE]))
    assert [score([image], 1, at).voc07 for at in (0.3, 0.6, 0.65)] == [1, 1, 0]
    assert [score([image], 1, at).ap50 for at in (0.3, 0.6, 0.65)] == [1, 1, 1]
    low = (answers([[100, 100, 200, 140]], [0.9]), labels([SQUARE]))
    assert (score([low], 1, 0.3).voc_area, score([low], 1, 0.3).ap50) == (1, 0)


def test_dead_nets_cannot_be_scored():
    with pytest.raises(DataError, match="NaN"):
        answers([[np.nan] * 4], [np.nan])


@pytest.mark.parametrize(
    "detections, truth, fault",
    [
        pytest.param(
            answers([SQUARE], [0.9], [2]), labels([SQUARE]), "id 2 in the detections", id="class of a detection"
        ),
        pytest.param(answers([SQUARE], [0.9], [-1]), labels([SQUARE]), "id -1 in the detections", id="padding"),
        pytest.param(
            answers([], []), labels([SQUARE], [5]), "a.jpg: found class id 5 in the labels", id="class of a label"
        ),
        pytest.param(
            answers([], [], size_wh=(300, 300)), labels([SQUARE]), r"labels:a.jpg: .*\(300, 300\)", id="image size"
        ),
    ],
)
def test_score_detections_mismatched_input_is_an_error(detections, truth, fault):
    with pytest.raises(DataError, match=fault):
        score([(detections, truth)], count=2)


def test_best_f1_and_false_alarms():
    images = [
        (answers([SQUARE, [300, 10, 350, 60]], [0.9, 0.6]), labels([SQUARE], name="a.jpg")),
        (answers([SQUARE], [0.8]), labels([SQUARE], name="b.jpg")),
        (answers([SQUARE], [0.1]), labels([SQUARE], name="c.jpg")),
        (answers([SQUARE, SQUARE], [0.85, 0.4]), labels([], name="d.jpg")),
        (answers([SQUARE], [0.2]), labels([], name="e.jpg")),
    ]
    scores = score(images)
    # at 0.8: two of three boxes found, and one false alarm
    assert scores.best_f1.threshold == pytest.approx(0.8)
    assert (scores.best_f1.precision, scores.best_f1.recall) == pytest.approx((2 / 3, 2 / 3))
    assert scores.best_f1.f1 == pytest.approx(2 / 3)
    assert scores.background_images == 2
    assert scores.false_positives_at_best_f1 == 0.5
    assert scores.false_positives_per_image(0.3) == 1.0
    assert scores.false_positives_per_image(0.2 - 1e-6) == 1.5


def test_equal_scores_stand_on_one_side_of_the_threshold():
    scores = score([(answers([SQUARE, [300, 10, 350, 60], [10, 10, 40, 40]], [0.5] * 3), labels([SQUARE]))])
    assert scores.best_f1.precision == pytest.approx(1 / 3)


def test_scores_json_and_lines_agree():
    scores = score(random_images(5, 20, 2, 20), 2)
    told = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert told["mAP@0.5"] == scores.ap50
    assert told["per_class"]["class 1"]["AP@0.75"] == scores.per_class[1].ap75
    assert sum(found["boxes"] for found in told["per_class"].values()) == told["boxes"] == scores.boxes
    assert set(told["best_f1"]) == {"threshold", "precision", "recall", "f1"}
    for name in ("mAP", "mAP@0.5", "mAP@0.75", "VOC07", "VOC_area"):
        assert f"{name} {told[name]:.3f}" in scores.lines()
