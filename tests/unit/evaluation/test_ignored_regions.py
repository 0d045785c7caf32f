"""Crowds and difficult objects: scored as by pycocotools and GluonCV's metric, and no background in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.coco import pycocotools_precision

from ssd_train import mxnet_compat
from ssd_train.boxes import iou_matrix
from ssd_train.data.structures import ClassNames, Detections, Ignored, LabeledImage, Labels
from ssd_train.data.transforms import View, transform_boxes
from ssd_train.evaluation.metrics import MeanAveragePrecision
from ssd_train.model.loss import DetectionLoss
from ssd_train.model.targets import IGNORED, TargetEncoder

SIZE, CLASSES = (500, 400), 3
CASES = 200
NAMES = ClassNames(("a", "b", "c"))


def random_boxes(random, count, most=100):
    corner = random.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(10, most, (count, 2))], axis=1).round(2)
    return np.minimum(boxes, [500, 400, 500, 400]).astype(np.float32)


def random_case(seed, crowds, difficult):
    """A few images: objects, regions to be ignored, and detections most of which lie near or in one of these."""
    random = np.random.RandomState(seed)
    images = []
    for number in range(random.randint(1, 5)):
        objects = random_boxes(random, random.randint(0, 6))
        regions = np.concatenate(
            [
                random_boxes(random, random.randint(0, 3), 100 + 200 * kind)
                for kind, wanted in enumerate((difficult, crowds))
                if wanted
            ]
        )
        # of a crowd nothing is larger than 100 px, of which the parts lie anywhere in it
        kinds = (
            (regions[:, 2:] - regions[:, :2]).max(axis=1) > 100
            if crowds and difficult
            else np.full(len(regions), crowds)
        )
        ids, region_ids = random.randint(0, CLASSES, len(objects)), random.randint(0, CLASSES, len(regions))
        truth, truth_ids = np.concatenate([objects, regions]), np.concatenate([ids, region_ids])
        near = random.randint(0, len(truth), 12) if len(truth) else np.zeros(0, int)
        found = np.concatenate([truth[near] + random.normal(0, 4, (len(near), 4)), random_boxes(random, 6)])
        if len(regions):
            inside = regions[random.randint(0, len(regions), 6)]
            corner = inside[:, :2] + random.rand(6, 2) * (inside[:, 2:] - inside[:, :2]) * 0.7
            found = np.concatenate([found, np.concatenate([corner, corner + random.uniform(8, 60, (6, 2))], axis=1)])
        found = np.clip(found, 0, [500, 400, 500, 400])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        found_ids = np.concatenate([truth_ids[near], random.randint(0, CLASSES, len(found) - len(near))])
        scores = np.sort(random.rand(len(found)))[::-1]
        order = random.permutation(len(found))
        detections = Detections(found[order], scores, found_ids[order], SIZE)
        truth_record = LabeledImage(f"{number}.jpg", objects, ids, SIZE, "", Ignored(regions, region_ids, kinds))
        images.append((detections, truth_record))
    return images


def scored(images):
    metric = MeanAveragePrecision(NAMES)
    for detections, truth in images:
        metric.update(detections, truth)
    return metric.compute(0.5)


@pytest.mark.parametrize(
    "crowds, difficult", [(True, False), (False, True), (True, True)], ids=["crowds", "difficult", "both"]
)
def test_coco_figures_with_ignored_regions_equal_pycocotools(crowds, difficult):
    compared = moved = 0
    for seed in range(CASES):
        images = random_case(seed, crowds, difficult)
        expected, scores = pycocotools_precision(images, CLASSES), scored(images)
        plain = scored([(detections, replace(truth, ignored=Ignored())) for detections, truth in images])
        for class_id, found in enumerate(scores.per_class):
            if np.isnan(expected[0, class_id]):
                assert found.coco is None
            else:
                assert found.coco == pytest.approx(expected[:, class_id].mean(), abs=1e-7), seed
                assert found.ap50 == pytest.approx(expected[0, class_id], abs=1e-7), seed
                compared += 1
                moved += abs(found.coco - plain.per_class[class_id].coco) > 1e-3
    assert compared > CASES and moved > CASES / 5  # the regions matter


def eleven_points(recall, precision):
    """VOC 2007's mean; GluonCV's own compares recalls with sums of 0.1, and so loses points at 0.3, 0.6 and 0.7."""
    if recall is None or precision is None:
        return 0.0
    return np.mean([np.max(np.nan_to_num(precision)[recall >= tenth / 10 - 1e-9], initial=0) for tenth in range(11)])


def test_voc_figures_with_difficult_objects_equal_gluoncv():
    metrics = mxnet_compat.gluoncv().utils.metrics.voc_detection
    edge = np.array([0, 0, 1, 1])  # the metric counts a pixel more, as VOC's whole numbers have it
    compared = moved = 0
    for seed in range(CASES):
        images = random_case(seed, crowds=False, difficult=True)
        area = metrics.VOCMApMetric(iou_thresh=0.5, class_names=list(NAMES))
        for detections, truth in images:
            boxes = np.concatenate([truth.boxes, truth.ignored.boxes]) - edge
            ids = np.concatenate([truth.class_ids, truth.ignored.class_ids])
            flags = np.repeat([0, 1], [len(truth.boxes), len(truth.ignored)])
            found = (detections.boxes - edge, detections.class_ids, detections.scores)
            area.update(*(array[None] for array in (*found, boxes, ids, flags)))
        scores = scored(images)
        plain = scored([(detections, replace(truth, ignored=Ignored())) for detections, truth in images])
        expected = dict(zip(*area.get()))
        expected07 = [eleven_points(*curve) for curve in zip(*area._recall_prec())]
        for class_id, (found, without) in enumerate(zip(scores.per_class, plain.per_class)):
            if found.boxes:
                assert found.voc07 == pytest.approx(expected07[class_id], abs=1e-6), seed
                assert found.voc_area == pytest.approx(expected[found.name], abs=1e-6), seed
                compared += 1
                moved += abs(found.voc_area - without.voc_area) > 1e-3
    assert compared > CASES and moved > CASES / 5


def test_image_with_ignored_regions_only_is_no_background():
    record = LabeledImage("a.jpg", [], [], SIZE, "", Ignored([[0, 0, 50, 50]], [0], [True]))
    scores = scored(
        [
            (Detections([[0, 0, 50, 50]], [0.9], [0], SIZE), record),
            (Detections([], [], [], SIZE), LabeledImage("b.jpg", [], [], SIZE)),
        ]
    )
    assert not record.is_background and scores.background_images == 1 and not len(scores.background_scores)


ANCHORS = np.array([[50, 50, 40, 40], [50, 50, 20, 20], [150, 50, 40, 40], [120, 50, 40, 40]], np.float32)


def test_target_encoder_anchor_in_a_region_is_neither_positive_nor_negative():
    encode = TargetEncoder(ANCHORS)
    boxes = np.array([[132, 30, 172, 70], [20, 20, 85, 80]], np.float32)
    classes, offsets = encode(boxes, np.array([1, -1]))
    # the last anchor is a negative: a quarter of it lies in the region
    assert classes.tolist() == [IGNORED, IGNORED, 2, 0] and not offsets[classes <= 0].any()
    assert iou_matrix(boxes[1:], np.array([[40, 40, 60, 60]]))[0, 0] < 0.5  # ignored for its own share, not for its IoU


def test_target_encoder_object_in_a_region_is_learned():
    classes, _ = TargetEncoder(ANCHORS)(np.array([[30, 30, 70, 70], [0, 0, 200, 100]], np.float32), np.array([0, -1]))
    assert classes.tolist() == [1, IGNORED, IGNORED, IGNORED]


def test_project_part_of_a_region_in_view_stays():
    view = View((0, 0, 100, 100))
    boxes, ids = transform_boxes(
        np.array([[60, 0, 400, 100], [60, 0, 400, 100]], np.float32), np.array([0, -1]), view, 100
    )
    assert ids.tolist() == [-1] and boxes.tolist() == [[60, 0, 100, 100]]


@pytest.mark.parametrize("kind", [{}, {"focal": True}, {"label_smoothing": 0.1}], ids=["mined", "focal", "smoothed"])
def test_loss_ignored_anchors_have_no_gradient_and_the_others_theirs(kind):
    mx = mxnet_compat.mxnet()
    random = np.random.RandomState(0)
    predicted = random.normal(0, 2, (2, 60, 4)), random.normal(0, 2, (2, 60, 4))
    targets = np.zeros((2, 60))
    targets[:, :5] = 1
    ignored = np.zeros((2, 60), bool)
    ignored[:, 50:] = True

    def gradients(preds, boxes, targets):
        arrays = [mx.nd.array(a) for a in (preds, boxes, targets, np.zeros_like(boxes))]
        for array in arrays[:2]:
            array.attach_grad()
        with mx.autograd.record():
            parts = DetectionLoss(3.0, 0, **kind)(*arrays)
            total = parts[0] + parts[1]
        total.backward()
        return [array.grad.asnumpy() for array in arrays[:2]], total.asscalar()

    with_flags, total = gradients(*predicted, np.where(ignored, -1, targets))
    without, expected = gradients(*(p[:, :50] for p in predicted), targets[:, :50])
    assert total == pytest.approx(expected, rel=1e-5)
    for mine, theirs in zip(with_flags, without):
        assert not mine[:, 50:].any()
        np.testing.assert_allclose(mine[:, :50], theirs, atol=1e-6)


def test_with_classes_ids_of_ignored_regions_follow():
    record = LabeledImage(
        "a.jpg", [[0, 0, 5, 5]], [1], SIZE, "", Ignored([[0, 0, 9, 9], [1, 1, 9, 9]], [0, 2], [True, False])
    )
    moved = Labels((record,), NAMES).remap_classes(ClassNames(("b", "a")))
    assert moved.records[0].class_ids.tolist() == [0] and moved.records[0].ignored.class_ids.tolist() == [1, -1]
    assert moved.records[0].ignored.crowds.tolist() == [True, False]
