"""Detector over a simple engine: answers in order and in the image's own pixels, the one preprocessing, faults told."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from builders import picture

from ssd_train.data.images import encode_jpeg, encode_png
from ssd_train.data.records import ClassNames
from ssd_train.data.transforms import to_input
from ssd_train.deploy.detector import Detector, Picture
from ssd_train.errors import DataError, WeightsError

SIDE = 64


class WhiteBox:
    """An engine that finds the hull of what is white, as class 1 with score 0.9, and one of class 0 at the rim."""

    class_names = ClassNames(("rim", "white"))
    side = SIDE

    def __init__(self, grayscale=False):
        self.grayscale = grayscale
        self.seen = []

    def run(self, pictures):
        assert pictures.dtype == np.uint8 and pictures.shape[1:] == (SIDE, SIDE, 3)
        self.seen.append(pictures)
        rows = np.full((len(pictures), 5, 6), -1, np.float32)
        for row, pixels in zip(rows, pictures):
            y, x = np.nonzero(pixels.min(axis=2) > 127)
            if len(x):
                row[0] = [1, 0.9, x.min(), y.min(), x.max() + 1, y.max() + 1]
                row[1] = [0, 0.2, -5, -5, 10, SIDE + 9]
        return rows


def white(size_wh, box):
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def shown(name, image, **more):
    return Picture(name, lambda: encode_png(image), f"labels:{name}", **more)


def test_a_picture_is_answered_in_its_own_pixels():
    found = Detector(WhiteBox())(white((640, 320), (100, 40, 300, 200)))
    assert (found.size_wh, found.class_ids.tolist()) == ((640, 320), [1, 0])
    np.testing.assert_allclose(found.boxes[0], [100, 40, 300, 200], atol=5)
    np.testing.assert_allclose(found.boxes[1], [0, 0, 100, 320], atol=1e-3)  # clipped to the image
    np.testing.assert_allclose(found.scores, [0.9, 0.2])


def test_the_engine_sees_what_evaluation_and_service_see():
    for grayscale in (False, True):
        engine = WhiteBox(grayscale)
        image = picture((90, 50))
        Detector(engine)(image)
        np.testing.assert_array_equal(engine.seen[0][0], to_input(image, SIDE, grayscale))


def test_nothing_found():
    found = Detector(WhiteBox())(np.zeros((30, 40, 3), np.uint8))
    assert len(found) == 0 and found.boxes.shape == (0, 4)


def test_a_batch_and_none():
    engine = WhiteBox()
    found = Detector(engine).batch([white((100, 100), (10, 10, 50, 50)), np.zeros((20, 30, 3), np.uint8)])
    assert [len(answer) for answer in found] == [2, 0] and len(engine.seen) == 1
    assert Detector(engine).batch([]) == []


@pytest.mark.parametrize(
    "image, found",
    [
        pytest.param(None, "NoneType, expected a numpy array", id="none"),
        pytest.param("a.jpg", "str, expected a numpy array", id="path"),
        pytest.param(np.zeros((30, 40), np.uint8), "uint8 (30, 40), expected RGB uint8", id="gray"),
        pytest.param(np.zeros((30, 40, 4), np.uint8), "uint8 (30, 40, 4), expected RGB uint8", id="alpha"),
        pytest.param(np.zeros((2, 30, 40, 3), np.uint8), "uint8 (2, 30, 40, 3), expected RGB uint8", id="batch"),
        pytest.param(np.zeros((30, 40, 3), np.float32), "float32 (30, 40, 3), expected RGB uint8", id="floats"),
        pytest.param(np.zeros((0, 40, 3), np.uint8), "uint8 (0, 40, 3), expected RGB uint8", id="empty"),
    ],
)
def test_what_is_no_picture_is_refused(image, found):
    engine = WhiteBox()
    with pytest.raises(DataError) as error:
        Detector(engine)(image)
    assert str(error.value).startswith(f"image: found {found}") and not engine.seen


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_a_stream_answers_in_order(batch_size, workers):
    boxes = [(index, 5, index + 20, 60) for index in range(23)]
    pictures = [shown(f"{index}.png", white((80, 70), box)) for index, box in enumerate(boxes)]
    engine = WhiteBox()
    answers = list(Detector(engine).stream(iter(pictures), batch_size, workers))
    assert [answer.picture.name for answer in answers] == [p.name for p in pictures]
    for answer, box in zip(answers, boxes):
        np.testing.assert_allclose(answer.detections.boxes[0], box, atol=2)
        assert answer.fault == "" and answer.image.shape == (70, 80, 3)
    assert max(len(batch) for batch in engine.seen) == min(batch_size, 23)


def test_a_picture_that_cannot_be_looked_at_is_told_and_the_others_answered():
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    def unlabelled():
        raise DataError("a.manifest:7: image 'x' not found")

    pictures = [
        shown("a.png", white((80, 70), (5, 5, 30, 30))),
        Picture("text", lambda: b"no image", "b/text"),
        Picture("gone", gone, "b/gone"),
        Picture("unlabelled", unlabelled, "a.manifest:7"),
        shown("size.png", white((80, 70), (5, 5, 30, 30)), expected_wh=(81, 70)),
        Picture("half", lambda: encode_jpeg(picture((40, 40)))[:-50], "b/half"),
        Picture("mended", lambda: encode_jpeg(picture((160, 120), 1))[:4000] + b"\xff\xd9", "b/mended"),
        shown("z.png", white((80, 70), (40, 5, 60, 30))),
    ]
    answers = list(Detector(WhiteBox()).stream(pictures, batch_size=3))
    assert [answer.detections is not None for answer in answers] == [True, *[False] * 6, True]
    faults = [answer.fault for answer in answers if answer.fault]
    for fault, expected in zip(
        faults,
        [
            "b/text: found ",
            "b/gone: cannot be read (No such file or directory)",
            "a.manifest:7: image 'x' not found",
            "labels:size.png: found 80x70, expected 81x70",
            "b/half: found a JPEG cut off",
            "b/mended: found a JPEG cut off after too little data",
        ],
    ):
        assert fault.startswith(expected)
    np.testing.assert_allclose(answers[-1].detections.boxes[0], (40, 5, 60, 30), atol=2)


@pytest.mark.parametrize("told", [True, False])
def test_a_large_picture_is_decoded_smaller_and_answered_whole(told):
    image = white((1600, 800), (400, 200, 1200, 600))
    size = (1600, 800) if told else None
    pictured = Picture("a.jpg", lambda: encode_jpeg(image), "a.jpg", size)
    (answer,) = Detector(WhiteBox()).stream([pictured])
    assert answer.image.shape == (100, 200, 3)
    assert answer.detections.size_wh == (1600, 800)
    np.testing.assert_allclose(answer.detections.boxes[0], (400, 200, 1200, 600), atol=30)
    rows = answer.detections.to_rows()
    np.testing.assert_allclose(rows[0][2:], [0.25, 0.25, 0.75, 0.75], atol=0.02)


def test_an_answer_that_is_not_finite_is_an_error():
    class Dead(WhiteBox):
        def run(self, pictures):
            return np.full((len(pictures), 5, 6), np.nan, np.float32)

    with pytest.raises(DataError, match="found NaN or infinity in the network's answer"):
        Detector(Dead())(picture())


def test_leaving_a_stream_early_ends_its_threads():
    before = threading.active_count()
    answers = Detector(WhiteBox()).stream((shown(str(i), picture()) for i in range(10**6)), batch_size=2)
    next(answers)
    answers.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_pictures_are_read_a_few_batches_ahead_and_no_more():
    read = []

    def reader(index):
        return lambda: read.append(index) or encode_png(picture())

    pictures = [Picture(str(index), reader(index), str(index)) for index in range(200)]
    answers = Detector(WhiteBox()).stream(pictures, batch_size=4, workers=2)
    next(answers)
    time.sleep(0.3)
    assert len(read) <= (2 + 1) * 4 + 4
    answers.close()


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_a_model_that_is_none(tmp_path, name):
    (tmp_path / "file.txt").write_text("a text")
    with pytest.raises(WeightsError, match=name):
        Detector.load(tmp_path / name)
