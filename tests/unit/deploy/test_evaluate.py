"""Answers scored against labels: which belongs to which image, and the same figures as from pycocotools."""

import numpy as np
import pytest
from helpers.data import memory_images, write_predictions

from ssd_train.data.image_sources import FolderImages, MemoryImages
from ssd_train.data.labels import LabeledDataset
from ssd_train.data.structures import ClassNames, Detections, LabeledImage, Labels
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.evaluate import match_names, score_images, score_predictions
from ssd_train.errors import DataError

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


def without_images(labels):
    """Labels whose images cannot be read, because their sizes are known."""
    return LabeledDataset(labels, MemoryImages({}))


@pytest.mark.parametrize(
    "names, answers, expected",
    [
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
        pytest.param(
            ["x/a.jpg", "b.jpg"],
            ["p/a.jpg", "q/a.jpg", "b.jpg"],
            {"b.jpg": "b.jpg"},
            id="basename twice in the answers",
        ),
        pytest.param(["x/a.jpg", "y/a.jpg", "b"], ["q/a.jpg", "b"], {"b": "b"}, id="basename twice in the labels"),
        pytest.param(["xa.jpg", "b"], ["a.jpg", "b"], {"b": "b"}, id="the end of a word is not the end of a path"),
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


def test_score_predictions_class_ids_are_those_of_the_model(tmp_path):
    path = write(tmp_path, ("a.jpg", hit(class_id=1)))
    model_names = ClassNames(("dog", "cat", "bird"))
    scores = score_predictions(path, without_images(labels(record("a.jpg"))), model_names)
    assert {found.name: found.ap50 for found in scores.per_class} == {"dog": None, "cat": 1.0, "bird": None}
    assert score_predictions(path, without_images(labels(record("a.jpg")))).ap50 == 0.0


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
        score_predictions(path, without_images(labels(record("a.jpg"))), class_names)


class ByShade:
    """Answers a picture of the shade `n` with the answer of that number."""

    name, class_names, side, grayscale = "mxnet", NAMES, 100, False

    def __init__(self, answers):
        self.answers = answers

    def run(self, pictures):
        found = [self.answers[picture[0, 0, 0]] for picture in pictures]
        to_input = np.array([self.side / side for side in (*SIZE, *SIZE)])
        return np.array([[[one.class_ids[0], one.scores[0], *(one.boxes[0] * to_input)]] for one in found], np.float32)


def test_score_images_equals_score_predictions(tmp_path):
    records = [record("a.jpg"), record("b.jpg", [BOX, OTHER], [0, 1]), record("c.jpg", [], [])]
    said = {"a.jpg": hit(), "b.jpg": hit(1, OTHER, 0.7), "c.jpg": hit(0, OTHER, 0.4)}
    labelled = labels(*records)
    images = memory_images(labelled, [np.full((200, 400, 3), shade, np.uint8) for shade in range(3)])
    direct = score_images(Detector(ByShade(list(said.values()))), LabeledDataset(labelled, images))
    assert direct == score_predictions(write(tmp_path, *said.items()), without_images(labelled))
    assert (direct.images, direct.background_images, direct.boxes) == (3, 1, 3)


def test_score_images_not_found_are_counted_before_any_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"never decoded")
    labelled = labels(*[record(name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg")])
    with pytest.raises(DataError) as error:
        score_images(Detector(ByShade([])), LabeledDataset(labelled, FolderImages(tmp_path)))
    text = str(error.value)
    assert text.startswith("5 of 6 images ") and all(f"'{name}.jpg'" in text for name in "bcd") and "e.jpg" not in text
