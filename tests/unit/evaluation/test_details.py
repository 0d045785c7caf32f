"""AP by size and intervals against pycocotools, the confusion matrix and the score curve against counts by hand."""

import numpy as np
import pytest
from helpers.coco import pycocotools_precision

from ssd_train.data.structures import ClassNames, Detections, Ignored, LabeledImage
from ssd_train.evaluation.metrics import (
    COCO_RECALLS,
    MeanAveragePrecision,
    map_intervals,
    resampled_precision,
)

WH = (800, 800)


def random_image(random, name, classes, with_ignored=False):
    """Return boxes of 8 to 300 px, detections of which most lie near one, and perhaps ignored regions."""
    count, stray = random.randint(0, 8), random.randint(0, 12)
    boxes = random_boxes(random, count)
    ids = random.randint(0, classes, count)
    near = boxes + random.normal(0, 0.04, (count, 4)) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    detected = np.clip(np.concatenate([near, random_boxes(random, stray)]), 0, 800)
    detected_ids = np.concatenate([np.where(random.rand(count) < 0.8, ids, random.randint(0, classes, count)),
                                   random.randint(0, classes, stray)])  # fmt: skip
    scores = random.rand(count + stray)
    order = np.argsort(-scores)
    regions = {}
    if with_ignored:
        some = random.randint(0, 3)
        crowds = random.rand(some) < 0.5
        regions = {"ignored": Ignored(random_boxes(random, some), random.randint(0, classes, some), crowds)}
    detections = Detections(detected[order], scores[order], detected_ids[order].astype(int), WH)
    return detections, LabeledImage(name, boxes, ids, WH, name, **regions)


def random_boxes(random, count):
    corner, size = random.uniform(0, 480, (count, 2)), np.exp(random.uniform(np.log(8), np.log(300), (count, 2)))
    return np.concatenate([corner, corner + size], axis=1)


def random_images(seed, images, classes, with_ignored=False):
    random = np.random.RandomState(seed)
    return [random_image(random, f"{index:04d}.jpg", classes, with_ignored) for index in range(images)]


def metric_of(images, classes):
    metric = MeanAveragePrecision(ClassNames(tuple(f"class {index}" for index in range(classes))))
    for detections, truth in images:
        metric.update(detections, truth)
    return metric


def class_matches(images, classes, monkeypatch):
    """Return the matches from which `compute` makes the intervals."""
    kept = []
    monkeypatch.setattr("ssd_train.evaluation.metrics.map_intervals", lambda matches, _: kept.append(matches) or {})
    metric_of(images, classes).compute(detailed=True)
    return kept[0]


@pytest.mark.parametrize("with_ignored", [False, True])
@pytest.mark.parametrize("size", ["small", "medium", "large"])
@pytest.mark.parametrize("seed", range(3))
def test_by_size_equals_pycocotools(seed, size, with_ignored):
    images = random_images(seed, 40, 3, with_ignored)
    expected = pycocotools_precision(images, 3, size)
    found = metric_of(images, 3).compute(detailed=True).details.by_size[size]
    assert 0.05 < found.ap < 0.95
    assert found.ap == pytest.approx(np.nanmean(expected), abs=1e-7)


def test_by_size_without_boxes_of_a_size_is_none():
    image = Detections([[0, 0, 10, 10]], [0.9], [0], WH), LabeledImage("a", [[0, 0, 10, 10]], [0], WH)
    by_size = metric_of([image], 1).compute(detailed=True).details.by_size
    assert by_size["small"] == (pytest.approx(1), 1)
    assert by_size["medium"] == by_size["large"] == (None, 0)


@pytest.mark.parametrize("with_ignored", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_resampled_precision_equals_pycocotools_on_repeated_images(seed, with_ignored, monkeypatch):
    images = random_images(seed, 12, 3, with_ignored)
    weights = np.random.RandomState(seed).multinomial(12, [1 / 12] * 12, 4)
    found = resampled_precision(class_matches(images, 3, monkeypatch), weights, COCO_RECALLS)
    for row, precision in zip(weights, found):
        repeated = [image for image, times in zip(images, row) for _ in range(times)]
        np.testing.assert_allclose(precision.T, pycocotools_precision(repeated, 3), atol=1e-7)


def test_intervals_surround_the_score_and_are_reproducible():
    images = random_images(1, 50, 3)
    first, second = (metric_of(order, 3).compute(detailed=True) for order in (images, images[::-1]))
    assert first.details.intervals == second.details.intervals
    for name, value in (("mAP", first.coco), ("mAP@0.5", first.ap50)):
        low, high = first.details.intervals[name]
        assert 0 < low < value < high < 1


def test_intervals_hold_the_score_of_the_population():
    """In 60 samples of 40 images the interval holds the score of 3,000 images in about 95 %; percentiles do in 75 %."""
    population = metric_of(random_images(99, 3000, 1), 1).compute().ap50
    held = 0
    for seed in range(60):
        low, high = metric_of(random_images(seed, 40, 1), 1).compute(detailed=True).details.intervals["mAP@0.5"]
        held += low <= population <= high
    assert held >= 52


@pytest.mark.parametrize("images", [0, 1])
def test_intervals_of_fewer_than_two_images_are_none(images, monkeypatch):
    matches = class_matches(random_images(0, images, 2), 2, monkeypatch) if images else []
    assert map_intervals(matches, COCO_RECALLS) == {"mAP": None, "mAP@0.5": None}


def test_intervals_without_any_box_are_none():
    image = Detections([[0, 0, 10, 10]], [0.9], [0], WH), LabeledImage("a", np.zeros((0, 4)), [], WH)
    assert metric_of([image] * 3, 1).compute(detailed=True).details.intervals == {"mAP": None, "mAP@0.5": None}


def test_confusion_counts_hits_confusions_misses_and_false_positives():
    boxes = [[0, 0, 100, 100], [200, 0, 300, 100], [400, 0, 500, 100]]
    truth = LabeledImage("a", boxes, [0, 1, 1], WH)
    detections = Detections(
        [[0, 0, 100, 98], [0, 0, 100, 99], [200, 0, 300, 99], [600, 600, 700, 700], [400, 0, 500, 99]],
        [0.95, 0.9, 0.8, 0.7, 0.1], [1, 0, 0, 1, 1], WH,
    )  # fmt: skip
    scores = metric_of([(detections, truth)], 2).compute(detailed=True)
    # F1 is best with all five: 2 * 2 / (5 + 3)
    assert scores.best_f1.threshold == pytest.approx(0.1)
    # the detection of class 1 on the first box is a false positive: the box belongs to the hit of its class
    assert scores.details.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 2, 0]]


@pytest.mark.parametrize("with_ignored", [False, True])
def test_confusion_agrees_with_best_f1_and_counts(with_ignored):
    images = random_images(5, 40, 4, with_ignored)
    scores = metric_of(images, 4).compute(detailed=True)
    matrix, best = scores.details.confusion, scores.best_f1
    assert matrix[:-1].sum(axis=1).tolist() == [one.boxes for one in scores.per_class]
    assert np.trace(matrix) / scores.boxes == pytest.approx(best.recall)
    assert np.trace(matrix) / matrix[:, :-1].sum() == pytest.approx(best.precision)
    assert matrix[:-1, :-1].sum() > np.trace(matrix) and matrix[-1, -1] == 0


def test_score_curve_peaks_at_the_best_f1():
    scores = metric_of(random_images(7, 30, 2), 2).compute()
    recall, precision, score = scores.score_curve
    f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
    best = int(np.argmax(f1))
    assert (np.diff(score) < 0).all() and (np.diff(recall) >= 0).all()
    assert (f1[best], score[best]) == (pytest.approx(scores.best_f1.f1), pytest.approx(scores.best_f1.threshold))
    assert (recall[best], precision[best]) == (
        pytest.approx(scores.best_f1.recall),
        pytest.approx(scores.best_f1.precision),
    )


def test_details_are_in_json_and_lines_only_if_asked_for():
    metric = metric_of(random_images(3, 20, 2), 2)
    plain, detailed = metric.compute(), metric.compute(detailed=True)
    assert plain == detailed
    added = {name: value for name, value in detailed.to_json().items() if name not in plain.to_json()}
    assert set(added) == {"intervals", "by_size", "confusion"}
    assert added["intervals"]["mAP"] == list(detailed.details.intervals["mAP"])
    low, high = (f"{limit:.3f}" for limit in detailed.details.intervals["mAP"])
    added_lines = [line for line in detailed.lines() if line not in plain.lines()]
    assert len(added_lines) == 2 and f"mAP {low} to {high}" in added_lines[0]
