"""Average precision against pycocotools and against figures worked out by hand."""

import contextlib
import io

import numpy as np
import pytest

from ssd_train.data.records import ClassNames, Detections, Record
from ssd_train.errors import ConfigError, DataError, TrainingDiverged
from ssd_train.training.average_precision import (
    coco_average_precision,
    voc07_average_precision,
    voc_area_average_precision,
)
from ssd_train.training.metrics import MeanAveragePrecision, RunningMean

SIZE = (500, 400)


def class_names(count):
    return ClassNames(tuple(f"class {index}" for index in range(count)))


def labels(boxes, class_ids=None, name="a.jpg", size_wh=SIZE):
    return Record(name, boxes, [0] * len(boxes) if class_ids is None else class_ids, size_wh, f"labels:{name}")


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


def pycocotools_precision(images, classes):
    """AP (10 IoUs, classes) by pycocotools, NaN for a class without labelled boxes."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    labelled, found = [], []
    for number, (detections, truth) in enumerate(images):
        for box, class_id in zip(truth.boxes.astype(float), truth.class_ids):
            x1, y1, x2, y2 = box
            entry = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            # an annotation of id 0 would count as no match
            labelled.append({"id": len(labelled) + 1, "image_id": number, "category_id": int(class_id), **entry})
        for box, value, class_id in zip(detections.boxes.astype(float), detections.scores, detections.class_ids):
            x1, y1, x2, y2 = box
            found.append([number, x1, y1, x2 - x1, y2 - y1, value, class_id])
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = coco.COCO()
        truth_set.dataset = {
            "images": [{"id": number} for number in range(len(images))],
            "annotations": labelled,
            "categories": [{"id": class_id} for class_id in range(classes)],
        }
        truth_set.createIndex()
        evaluation = cocoeval.COCOeval(truth_set, truth_set.loadRes(np.array(found, dtype=float)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # (IoU, recall, class)
    return np.where((precision > -1).all(axis=1), precision.mean(axis=1), np.nan)


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
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_coco_figures_equal_pycocotools(seed, images, classes, most, options):
    data = random_images(seed, images, classes, most, **options)
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
