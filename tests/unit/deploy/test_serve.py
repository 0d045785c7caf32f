"""Requests and answers of an endpoint, with an engine that always finds the same two things."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from ssd_train.data.images import encode_jpeg, encode_png
from ssd_train.data.records import ClassNames
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.serve import RequestError, answer, transform_fn

WIDTH, HEIGHT, SIDE = 80, 40, 40
ROWS = np.array([[1, 0.9, 10, 10, 20, 40], [0, 0.25, 0, 0, 40, 40], [-1, 0, 0, 0, 0, 0]], np.float32)
EXPECTED = [[1.0, 0.9, 0.25, 0.25, 0.5, 1.0], [0.0, 0.25, 0.0, 0.0, 1.0, 1.0]]


class FixedEngine:
    """Answers ROWS for every picture and keeps the pictures."""

    class_names = ClassNames(("cat", "dog"))
    side = SIDE
    grayscale = False

    def __init__(self, rows=ROWS):
        self.rows, self.seen = rows, []

    def run(self, pictures):
        self.seen.extend(pictures)
        return np.stack([self.rows] * len(pictures))


IMAGE = np.random.RandomState(1).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def as_json(array):
    return json.dumps(array.tolist())


@pytest.mark.parametrize(
    "body, content_type",
    [
        pytest.param(encode_jpeg(IMAGE), "image/jpeg", id="jpeg"),
        pytest.param(encode_png(IMAGE), "image/png", id="png"),
        pytest.param(encode_png(IMAGE), "image/jpeg", id="told-by-its-bytes"),
        pytest.param(encode_png(IMAGE), "application/x-image", id="x-image"),
        pytest.param(bytearray(encode_png(IMAGE)), "Application/X-Image; charset=binary", id="bytearray"),
        pytest.param(as_json(IMAGE), "application/json", id="json-text"),
        pytest.param(as_json(IMAGE).encode(), "application/json", id="json-bytes"),
        pytest.param(as_json(IMAGE[None].astype(float)), "application/json", id="json-batch-of-one"),
        pytest.param(npy(IMAGE), "application/x-npy", id="npy"),
        pytest.param(npy(IMAGE.astype(np.float32)), "application/x-npy", id="npy-float"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "*/*", ""])
def test_the_answer_is_the_builtin_algorithms(body, content_type, accept):
    said, kind = answer(Detector(FixedEngine()), body, content_type, accept)
    assert kind == "application/json"
    document = json.loads(said)
    assert list(document) == ["prediction"]
    np.testing.assert_allclose(document["prediction"], EXPECTED, rtol=1e-6)


def test_pixels_and_files_of_them_are_looked_at_alike():
    seen = []
    bodies = {"image/png": encode_png(IMAGE), "application/json": as_json(IMAGE), "application/x-npy": npy(IMAGE)}
    for content_type, body in bodies.items():
        engine = FixedEngine()
        answer(Detector(engine), body, content_type)
        seen += engine.seen
    assert seen[0].shape == (SIDE, SIDE, 3)
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize(
    "body, content_type, accept, status, message",
    [
        pytest.param(b"", "image/jpeg", "", 400, "request: found", id="empty"),
        pytest.param(encode_jpeg(IMAGE)[:-300], "image/jpeg", "", 400, "cut off", id="cut-off"),
        pytest.param(b"<html>", "application/x-image", "", 400, "expected an image", id="html"),
        pytest.param(b"{", "application/json", "", 400, "found no JSON", id="no-json"),
        pytest.param(b"[[1],[2,3]]", "application/json", "", 400, "no array of numbers|an array of", id="ragged"),
        pytest.param(b'{"a": 1}', "application/json", "", 400, "no array of numbers", id="object"),
        pytest.param(as_json(IMAGE[0]), "application/json", "", 400, r"array of \(80, 3\)", id="no-picture"),
        pytest.param(as_json(IMAGE[:4, :4]), "application/json", "", 400, "4x4 pixels", id="tiny"),
        pytest.param(npy(IMAGE / 0.5), "application/x-npy", "", 400, "beyond 0 to 255", id="beyond"),
        pytest.param(npy(np.full((40, 40, 3), np.nan)), "application/x-npy", "", 400, "beyond 0", id="nan"),
        pytest.param(b"\x93NUMPY", "application/x-npy", "", 400, "no .npy array", id="npy-cut-off"),
        pytest.param(npy(np.array([{}], dtype=object)), "application/x-npy", "", 400, "no .npy array", id="pickle"),
        pytest.param(npy(np.array(["a"])), "application/x-npy", "", 400, "no array of numbers", id="npy-text"),
        pytest.param(b"a,b", "text/csv", "", 415, "Content-Type: found 'text/csv', expected", id="type"),
        pytest.param(b"x", "", "", 415, "Content-Type: found ''", id="no-type"),
        pytest.param(encode_png(IMAGE), "image/png", "text/csv", 406, "Accept: found 'text/csv'", id="accept"),
    ],
)
def test_what_cannot_be_answered_says_why(body, content_type, accept, status, message):
    with pytest.raises(RequestError, match=message) as error:
        answer(Detector(FixedEngine()), body, content_type, accept)
    assert error.value.status == status and "\n" not in str(error.value)


def test_nan_never_leaves():
    engine = FixedEngine(np.full((1, 6), np.nan, np.float32))
    with pytest.raises(RequestError, match="NaN") as error:
        answer(Detector(engine), encode_png(IMAGE), "image/png")
    assert error.value.status == 500


def test_the_containers_signature():
    said, kind = transform_fn(Detector(FixedEngine()), encode_png(IMAGE), "image/png", "application/json")
    assert kind == "application/json" and len(json.loads(said)["prediction"]) == 2
    with pytest.raises(RequestError):
        transform_fn(Detector(FixedEngine()), b"", "text/csv", "application/json")
