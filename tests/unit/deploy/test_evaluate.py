"""Answers scored against labels: which belongs to which image, and the same figures as from pycocotools."""

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from builders import memory_images

from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import ClassNames, Detections, LabeledImage, Labels
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import match_names, score_images, score_predictions
from ssd_train.errors import DataError
from ssd_train.evaluation.predictions import write_predictions

SIZE = (400, 200)
NAMES = ClassNames(("cat", "dog"))
BOX = [40, 20, 200, 120]
OTHER = [220, 30, 380, 190]


def record(name, boxes=(BOX,), class_ids=(0,), size_wh=SIZE):
    return LabeledImage(name, boxes, class_ids, size_wh, f"labels:{name}")


def labels(*records, class_names=NAMES):
    return Labels(records, class_names, source="labels")


def hit(class_id=0, box=BOX, score=0.9, size_wh=SIZE):
    return Detections([box], [score], [class_id], size_wh)


def write(tmp_path, *answers):
    path = tmp_path / "answers.jsonl"
    write_predictions(path, answers)
    return path


def no_sizes(record):
    raise AssertionError(f"the size of {record.name} is in the labels")


@pytest.mark.parametrize(
    "names, answers, expected",
    [
        pytest.param(["a.jpg"], ["a.jpg"], {"a.jpg": "a.jpg"}, id="same name"),
        pytest.param(
            ["s3://b/x/a.jpg"], ["x/a.jpg"], {"s3://b/x/a.jpg": "x/a.jpg"}, id="answer is the end of the label"
        ),
        pytest.param(["x/a.jpg"], ["pics/x/a.jpg"], {"x/a.jpg": "pics/x/a.jpg"}, id="label is the end of the answer"),
        pytest.param(["p/a.jpg"], ["q/a.jpg"], {"p/a.jpg": "q/a.jpg"}, id="unique basename"),
        pytest.param(
            ["s3://b/x/a.jpg", "s3://b/y/a.jpg"],
            ["y/a.jpg", "x/a.jpg"],
            {"s3://b/x/a.jpg": "x/a.jpg", "s3://b/y/a.jpg": "y/a.jpg"},
            id="same basename in two folders",
        ),
        pytest.param(
            ["a/b/c.jpg"], ["c.jpg", "b/c.jpg"], {"a/b/c.jpg": "b/c.jpg"}, id="the longer end of the path goes first"
        ),
        pytest.param(["x/a.jpg"], ["a.jpg", "x/a.jpg"], {"x/a.jpg": "x/a.jpg"}, id="the same name goes first"),
        pytest.param(
            ["x/a.jpg", "b.jpg"],
            ["p/a.jpg", "q/a.jpg", "b.jpg"],
            {"b.jpg": "b.jpg"},
            id="basename twice in the answers",
        ),
        pytest.param(["x/a.jpg", "y/a.jpg", "b"], ["q/a.jpg", "b"], {"b": "b"}, id="basename twice in the labels"),
        pytest.param(
            ["x/a.jpg", "y/a.jpg"],
            ["x/a.jpg", "q/a.jpg"],
            {"x/a.jpg": "x/a.jpg"},
            id="what is left over is not guessed",
        ),
        pytest.param(["xa.jpg", "b"], ["a.jpg", "b"], {"b": "b"}, id="the end of a word is not the end of a path"),
        pytest.param(["a.jpg"], [], {}, id="no answers"),
    ],
)
def test_names_are_matched(names, answers, expected):
    assert match_names(names, answers) == expected


@pytest.mark.parametrize(
    "names, answers, fault",
    [
        pytest.param(["a.jpg"], ["x/a.jpg", "y/a.jpg"], "both fit 'a.jpg'", id="two answers for one image"),
        pytest.param(["x/a.jpg", "y/a.jpg"], ["a.jpg"], "fits 'x/a.jpg' and 'y/a.jpg'", id="one answer for two images"),
        pytest.param(["x/a.jpg"], ["b.jpg"], "'b.jpg', expected", id="nothing fits"),
    ],
)
def test_names_that_cannot_be_matched_are_refused(names, answers, fault):
    with pytest.raises(DataError, match=fault):
        match_names(names, answers)


def test_images_without_an_answer_are_scored_as_nothing_detected(tmp_path):
    path = write(tmp_path, ("a.jpg", hit()), ("unknown.jpg", hit()))
    scores = score_predictions(path, labels(record("x/a.jpg"), record("x/b.jpg")), no_sizes)
    assert (scores.unanswered_images, scores.unlabelled_answers) == (1, 1)
    assert (scores.images, scores.boxes, scores.detections) == (2, 2, 1)
    assert scores.per_class[0].voc_area == pytest.approx(0.5)
    assert scores.best_f1.recall == 0.5
    assert (
        "images without predictions 1 (scored as nothing detected), predictions without a label 1 (left out)"
        in scores.lines()
    )


def test_sizes_are_asked_for_where_the_labels_do_not_tell(tmp_path):
    path = write(tmp_path, ("a.jpg", hit()), ("b.jpg", hit()))
    asked = []

    def sizes(record):
        asked.append(record.name)
        return SIZE

    scores = score_predictions(path, labels(record("a.jpg", size_wh=None), record("b.jpg")), sizes)
    assert asked == ["a.jpg"]
    assert scores.coco == 1.0


def test_class_ids_mean_what_the_model_says(tmp_path):
    path = write(tmp_path, ("a.jpg", hit(class_id=1)))
    model_names = ClassNames(("dog", "cat", "bird"))
    scores = score_predictions(path, labels(record("a.jpg")), no_sizes, model_names)
    assert {found.name: found.ap50 for found in scores.per_class} == {"dog": None, "cat": 1.0, "bird": None}
    assert score_predictions(path, labels(record("a.jpg")), no_sizes).ap50 == 0.0


@pytest.mark.parametrize(
    "class_id, class_names, fault",
    [
        pytest.param(
            2, None, r"answers.jsonl:2: found class id 2, expected less than 2 \(cat, dog\)", id="class unknown"
        ),
        pytest.param(0, ClassNames(("dog",)), "labels: found class 'cat'", id="label that the model does not know"),
    ],
)
def test_unknown_classes_are_refused(tmp_path, class_id, class_names, fault):
    path = write(tmp_path, ("b.jpg", hit()), ("a.jpg", hit(class_id=class_id)))
    with pytest.raises(DataError, match=fault):
        score_predictions(path, labels(record("a.jpg")), no_sizes, class_names)


def test_ambiguous_answers_name_the_file(tmp_path):
    path = write(tmp_path, ("a.jpg", hit()))
    with pytest.raises(DataError, match="answers.jsonl: found prediction 'a.jpg'"):
        score_predictions(path, labels(record("x/a.jpg"), record("y/a.jpg")), no_sizes)


def test_the_overlap_threshold_is_handed_on(tmp_path):
    path = write(tmp_path, ("a.jpg", hit(box=[40, 20, 200, 90])))  # IoU 0.7
    for threshold, expected in ((0.65, 1.0), (0.75, 0.0)):
        assert score_predictions(path, labels(record("a.jpg")), no_sizes, None, threshold).voc07 == expected


class ByShade:
    """Answers a picture of the shade `n` with the answer of that number."""

    name, class_names, side, grayscale = "mxnet", NAMES, 100, False

    def __init__(self, answers):
        self.answers = answers

    def run(self, pictures):
        found = [self.answers[picture[0, 0, 0]] for picture in pictures]
        to_input = np.array([self.side / side for side in (*SIZE, *SIZE)])
        return np.array([[[one.class_ids[0], one.scores[0], *(one.boxes[0] * to_input)]] for one in found], np.float32)


def test_a_detector_and_its_answers_get_the_same_scores(tmp_path):
    records = [record("a.jpg"), record("b.jpg", [BOX, OTHER], [0, 1]), record("c.jpg", [], [])]
    said = {"a.jpg": hit(), "b.jpg": hit(1, OTHER, 0.7), "c.jpg": hit(0, OTHER, 0.4)}
    labelled = labels(*records)
    images = memory_images(labelled, [np.full((200, 400, 3), shade, np.uint8) for shade in range(3)])
    direct = score_images(Detector(ByShade(list(said.values()))), LabeledDataset(labelled, images))
    assert direct == score_predictions(write(tmp_path, *said.items()), labelled, no_sizes)
    assert (direct.images, direct.background_images, direct.boxes) == (3, 1, 3)


def pycocotools_stats(records, answers, num_classes):
    """COCO mAP, mAP@0.5 and mAP@0.75 of (name -> rows) by pycocotools."""
    from pycocotools import coco, cocoeval

    labelled, found = [], []
    for number, truth in enumerate(records):
        for (x1, y1, x2, y2), class_id in zip(truth.boxes.astype(float), truth.class_ids):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            labelled.append({"id": len(labelled) + 1, "image_id": number, "category_id": int(class_id), **box})
        width, height = truth.size_wh
        for class_id, score, x1, y1, x2, y2 in answers[truth.name]:
            box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
            found.append([number, *box, score, class_id])
    with contextlib.redirect_stdout(io.StringIO()):
        truth_set = coco.COCO()
        truth_set.dataset = {
            "images": [{"id": number} for number in range(len(records))],
            "annotations": labelled,
            "categories": [{"id": class_id} for class_id in range(num_classes)],
        }
        truth_set.createIndex()
        evaluation = cocoeval.COCOeval(truth_set, truth_set.loadRes(np.array(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:3]


def random_answer(random, truth, num_classes):
    """Rows near the labelled boxes, some of them of the wrong class, and stray ones."""
    near = np.repeat(truth.boxes, 2, axis=0) / [*truth.size_wh, *truth.size_wh]
    boxes = np.concatenate([near + random.normal(0, 0.02, near.shape), random.rand(10, 4)]).clip(0, 1)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    class_ids = random.randint(0, num_classes, len(boxes))
    scores = random.rand(len(boxes)).astype(np.float32).astype(float)
    return [[int(c), s, *box] for c, s, box in zip(class_ids, scores, boxes.tolist())]


def test_real_labels_score_as_by_pycocotools(tmp_path):
    root = os.environ.get("SSD_TRAIN_DATA")
    if not root:
        pytest.skip("SSD_TRAIN_DATA is not set: no real labels at hand")
    ground_truth = pytest.importorskip("ssd_train.data.formats.ground_truth")
    real = ground_truth.read_ground_truth(Path(root) / "data" / "bccd" / "output.manifest")
    random = np.random.RandomState(0)
    answers = {truth.name: random_answer(random, truth, len(real.class_names)) for truth in real.records}
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"image": n, "prediction": rows}) + "\n" for n, rows in answers.items()))
    scores = score_predictions(path, real, no_sizes)
    # ties are ranked by image name
    records = sorted(real.records, key=lambda truth: truth.name)
    expected = pycocotools_stats(records, answers, len(real.class_names))
    assert scores.ap50 > 0.01
    assert [scores.coco, scores.ap50, scores.ap75] == pytest.approx(expected, abs=1e-6)
