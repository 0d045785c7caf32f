"""Answers as JSON Lines: what is written is read again, and what cannot be meant is refused with file:line."""

import json

import numpy as np
import pytest
from helpers.data import read_predictions, write_predictions

from ssd_train.data.structures import Detections
from ssd_train.errors import DataError
from ssd_train.evaluation.predictions import read_prediction_lines

ROW = [1, 0.5, 0.1, 0.2, 0.3, 0.4]


def detections(count, seed=0, size_wh=(640, 480)):
    random = np.random.RandomState(seed)
    corner = random.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 150, (count, 2))], axis=1)
    return Detections(boxes, np.sort(random.rand(count))[::-1] ** 8, random.randint(0, 30, count), size_wh)


def write_lines(path, *lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def line(image="a.jpg", rows=(ROW,), **more):
    return json.dumps({"image": image, "prediction": list(rows), **more})


def with_value(column, value):
    row = list(ROW)
    row[column] = value
    return row


def test_prediction_line_is_read_exactly(tmp_path):
    said = [("frames/a.jpg", detections(100)), ("b ü.jpg", detections(3, 1)), ("empty.jpg", detections(0))]
    write_predictions(tmp_path / "answers.jsonl", said)
    rows = read_predictions(tmp_path / "answers.jsonl")
    assert list(rows) == [name for name, _ in said]
    for name, expected in said:
        found = Detections.from_rows(rows[name], expected.size_wh)
        assert np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.class_ids, expected.class_ids)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_allclose(np.reshape(rows[name], (-1, 6)), np.reshape(expected.to_rows(), (-1, 6)), atol=1e-6)


@pytest.mark.parametrize(
    "row, expected",
    [
        pytest.param([4.0, 1, 0, 0, 1, 1], [4, 1.0, 0.0, 0.0, 1.0, 1.0], id="whole class as float, as endpoints say"),
        pytest.param([0, 0, -0.02, 0.5, 1.3, 0.5], [0, 0.0, 0.0, 0.5, 1.0, 0.5], id="clipped, empty box at the rim"),
    ],
)
def test_rows_that_are_meant(tmp_path, row, expected):
    path = write_lines(tmp_path / "answers.jsonl", line(rows=[row], extra=1), "", line("b.jpg", rows=[]))
    assert read_predictions(path) == {"a.jpg": [expected], "b.jpg": []}


def test_check_prediction_lines_errors_name_the_line(tmp_path):
    path = write_lines(tmp_path / "answers.jsonl", line(), "", line("b.jpg"))
    assert [(answer.image, answer.where) for answer in read_prediction_lines(path)] == [
        ("a.jpg", f"{path}:1"),
        ("b.jpg", f"{path}:3"),
    ]


@pytest.mark.parametrize(
    "bad, fault",
    [
        pytest.param('{"image": "b.jpg", "prediction": [', "bad JSON", id="truncated line"),
        pytest.param("[1, 2]", "JSON", id="not an object"),
        pytest.param(line("b.jpg").replace("0.5", "1e999"), "not only finite numbers", id="infinite"),
        pytest.param('{"prediction": []}', "found image None", id="no image"),
        pytest.param(line("b.jpg", [[1, 0.5, 0.1, 0.2, 0.3]]), "has not 6 numbers", id="short row"),
        pytest.param(line("b.jpg", [ROW, "row"]), "row 1 has not 6 numbers", id="row is no list"),
        pytest.param(line("b.jpg", [with_value(2, "0.1")]), "not only finite numbers", id="number as text"),
        pytest.param(line("b.jpg", [with_value(0, 1.5)]), "class that is not an index", id="class is no integer"),
        pytest.param(line("b.jpg", [with_value(4, 10**400)]), "far outside", id="coordinate of 400 digits"),
        pytest.param(line("b.jpg", [with_value(1, 1.01)]), "score outside 0..1", id="score above 1"),
        pytest.param(line("b.jpg", [with_value(4, 0.05)]), "xmax < xmin", id="x2 below x1"),
        pytest.param(line("b.jpg", [[0, 0.5, 10, 20, 300, 200]]), "far outside the image", id="pixels"),
        pytest.param(line("a.jpg"), r"found image 'a.jpg' again, as in .*answers.jsonl:1", id="image twice"),
    ],
)
def test_bad_lines_are_refused_with_their_place(tmp_path, bad, fault):
    path = write_lines(tmp_path / "answers.jsonl", line(), bad)
    with pytest.raises(DataError, match=fault) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}:2: ")
