"""Detector with a simple engine: order, pixels of the original image, preprocessing, and errors."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from helpers.data import picture
from helpers.engines import WhiteBox
from helpers.images import with_exif
from PIL import Image

from ssd_train.data.image_io import encode_jpeg, encode_png
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.detector import DetectionResult, Detector, ImageRef
from ssd_train.errors import DataError, WeightsError

SIDE = 64


def engine_of(grayscale=False):
    """An engine whose second box lies across the border."""
    return WhiteBox(SIDE, (-5, -5, 10, SIDE + 9), grayscale)


def white(size_wh, box):
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def picture_of(name, image, **more):
    return ImageRef(name, lambda: encode_png(image), f"labels:{name}", **more)


def test_call_large_image_returns_boxes_in_its_pixels():
    detections = Detector(engine_of())(white((640, 320), (100, 40, 300, 200)))
    assert (detections.size_wh, detections.class_ids.tolist()) == ((640, 320), [1, 0])
    np.testing.assert_allclose(detections.boxes[0], [100, 40, 300, 200], atol=5)
    np.testing.assert_allclose(detections.boxes[1], [0, 0, 100, 320], atol=1e-3)  # clipped to the image
    np.testing.assert_allclose(detections.scores, [0.9, 0.2])


def test_call_image_gives_the_engine_preprocessed_pixels():
    for grayscale in (False, True):
        engine = engine_of(grayscale)
        image = picture((90, 50))
        Detector(engine)(image)
        np.testing.assert_array_equal(engine.seen[0][0], preprocess(image, SIDE, grayscale))


def test_call_black_image_returns_no_detections():
    detections = Detector(engine_of())(np.zeros((30, 40, 3), np.uint8))
    assert len(detections) == 0 and detections.boxes.shape == (0, 4)


def test_batch_of_two_runs_the_engine_once_and_of_none_never():
    engine = engine_of()
    results = Detector(engine).batch([white((100, 100), (10, 10, 50, 50)), np.zeros((20, 30, 3), np.uint8)])
    assert [len(detections) for detections in results] == [2, 0] and len(engine.seen) == 1
    assert Detector(engine).batch([]) == []


@pytest.mark.parametrize(
    "image, value",
    [
        pytest.param(None, "NoneType", id="none"),
        pytest.param(7, "int", id="number"),
        pytest.param(np.zeros((30, 40), np.uint8), "uint8 (30, 40)", id="gray"),
        pytest.param(np.zeros((30, 40, 4), np.uint8), "uint8 (30, 40, 4)", id="alpha"),
        pytest.param(np.zeros((2, 30, 40, 3), np.uint8), "uint8 (2, 30, 40, 3)", id="batch"),
        pytest.param(np.zeros((30, 40, 3), np.float32), "float32 (30, 40, 3)", id="floats"),
        pytest.param(np.zeros((0, 40, 3), np.uint8), "uint8 (0, 40, 3)", id="empty"),
    ],
)
def test_call_no_rgb_array_raises(image, value):
    engine = engine_of()
    with pytest.raises(DataError) as error:
        Detector(engine)(image)
    assert str(error.value).startswith(f"image: found {value}") and not engine.seen


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_stream_many_images_keeps_their_order(batch_size, workers):
    boxes = [(index, 5, index + 20, 60) for index in range(23)]
    refs = [picture_of(f"{index}.png", white((80, 70), box)) for index, box in enumerate(boxes)]
    engine = engine_of()
    answers = list(Detector(engine).predict_iter(iter(refs), batch_size, workers))
    assert [answer.image_ref.name for answer in answers] == [p.name for p in refs]
    for answer, box in zip(answers, boxes):
        np.testing.assert_allclose(answer.detections.boxes[0], box, atol=2)
        assert answer.error == "" and answer.image.shape == (70, 80, 3)
    assert max(len(batch) for batch in engine.seen) == min(batch_size, 23)


def test_stream_bad_images_reports_each_and_goes_on():
    def gone():
        raise FileNotFoundError(2, "No such file or directory")

    def unlabelled():
        raise DataError("a.manifest:7: image 'x' not found")

    refs = [
        picture_of("a.png", white((80, 70), (5, 5, 30, 30))),
        ImageRef("text", lambda: b"no image", "b/text"),
        ImageRef("gone", gone, "b/gone"),
        ImageRef("unlabelled", unlabelled, "a.manifest:7"),
        picture_of("size.png", white((80, 70), (5, 5, 30, 30)), expected_wh=(81, 70)),
        ImageRef("half", lambda: encode_jpeg(picture((40, 40)))[:-50], "b/half"),
        ImageRef("repaired", lambda: encode_jpeg(picture((160, 120), 1))[:4000] + b"\xff\xd9", "b/repaired"),
        picture_of("z.png", white((80, 70), (40, 5, 60, 30))),
    ]
    answers = list(Detector(engine_of()).predict_iter(refs, batch_size=3))
    assert [answer.detections is not None for answer in answers] == [True, *[False] * 6, True]
    errors = [answer.error for answer in answers if answer.error]
    for error, expected in zip(
        errors,
        [
            "b/text: ",
            "b/gone: cannot be read (No such file or directory)",
            "a.manifest:7: image 'x' not found",
            "labels:size.png: found 80x70, expected 81x70",
            "b/half: ",
            "b/repaired: ",
        ],
    ):
        assert error.startswith(expected)
    np.testing.assert_allclose(answers[-1].detections.boxes[0], (40, 5, 60, 30), atol=2)


@pytest.mark.parametrize("size_known", [True, False])
def test_stream_large_image_is_downscaled_and_boxes_are_not(size_known):
    image = white((1600, 800), (400, 200, 1200, 600))
    size = (1600, 800) if size_known else None
    (answer,) = Detector(engine_of()).predict_iter([ImageRef("a.jpg", lambda: encode_jpeg(image), "a.jpg", size)])
    assert answer.image.shape == (100, 200, 3)
    assert answer.detections.size_wh == (1600, 800)
    np.testing.assert_allclose(answer.detections.boxes[0], (400, 200, 1200, 600), atol=30)
    rows = answer.detections.to_rows()
    np.testing.assert_allclose(rows[0][2:], [0.25, 0.25, 0.75, 0.75], atol=0.02)


def test_call_network_returns_nan_raises():
    class Dead(WhiteBox):
        def run(self, images):
            return np.full((len(images), 5, 6), np.nan, np.float32)

    with pytest.raises(DataError, match="NaN"):
        Detector(Dead(SIDE, ()))(picture())


BOX = (20, 10, 60, 40)  # in an image of 80 x 60


def turned(box):
    """Return a JPEG whose stored pixels are turned by its EXIF orientation 6: shown turned clockwise."""
    return with_exif(np.ascontiguousarray(np.rot90(white((80, 60), box))), 6)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: str(path), id="path as text"),
        pytest.param(lambda path: path, id="path"),
        pytest.param(lambda path: path.read_bytes(), id="bytes"),
        pytest.param(lambda path: bytearray(path.read_bytes()), id="bytearray"),
        pytest.param(lambda path: Image.open(path), id="pil"),
        pytest.param(lambda path: Image.open(path).convert("P"), id="pil-palette"),
        pytest.param(lambda path: Image.open(path).convert("RGBA"), id="pil-alpha"),
        pytest.param(lambda path: Image.open(path).convert("L"), id="pil-gray"),
        pytest.param(lambda path: np.asarray(Image.open(path)), id="array"),
        pytest.param(lambda path: turned(BOX), id="turned bytes"),
        pytest.param(lambda path: Image.open(io.BytesIO(turned(BOX))), id="turned pil"),
    ],
)
def test_call_each_kind_of_image_returns_the_same_box(tmp_path, make):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(white((80, 60), BOX)))
    result = Detector(engine_of())(make(path))
    assert isinstance(result, DetectionResult) and result.size_wh == (80, 60)
    np.testing.assert_allclose(result.boxes[0], BOX, atol=2)
    drawn = np.asarray(result.draw())
    assert drawn.shape == (60, 80, 3), "upright, at its full size"
    assert drawn[25, 40].min() > 240 and drawn[55, 10].max() < 20, "the white box is where it was"


def test_call_pil_image_of_16_bits_is_scaled_to_8(tmp_path):
    values = np.zeros((60, 80), np.uint16)
    values[10:40, 20:60] = 65535
    values[50:, :] = 256  # 1 of 255; clipping instead of scaling would make it white
    result = Detector(engine_of())(Image.fromarray(values))
    np.testing.assert_allclose(result.boxes[0], BOX, atol=2)


@pytest.mark.parametrize("kind", [list, tuple])
def test_call_list_returns_a_result_for_each(tmp_path, kind):
    boxes = [(index, 5, index + 20, 50) for index in range(11)]
    images = [white((80, 60), box) for box in boxes]
    (tmp_path / "a.png").write_bytes(encode_png(images[0]))
    results = Detector(engine_of())(kind([tmp_path / "a.png", Image.fromarray(images[1]), *images[2:]]))
    assert isinstance(results, list) and [result.image_name for result in results][:2] == [
        str(tmp_path / "a.png"),
        "image",
    ]
    for result, box in zip(results, boxes):
        np.testing.assert_allclose(result.boxes[0], box, atol=2)
    assert Detector(engine_of())([]) == []


@pytest.mark.parametrize("image, value", [("none.jpg", "none.jpg: cannot be read"), (b"text", "image: found text")])
@pytest.mark.parametrize("listed", [False, True])
def test_call_unreadable_image_raises_with_its_name(tmp_path, monkeypatch, image, value, listed):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        Detector(engine_of())([picture(), image] if listed else image)
    assert str(error.value).startswith(value)


def test_load_is_the_constructor(tmp_path):
    for make in (Detector, Detector.load):
        with pytest.raises(WeightsError, match="nothing"):
            make(tmp_path / "nothing")


def test_stream_closed_early_ends_its_threads():
    before = threading.active_count()
    answers = Detector(engine_of()).predict_iter((picture_of(str(i), picture()) for i in range(10**6)), batch_size=2)
    next(answers)
    answers.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_stream_many_images_reads_few_batches_ahead():
    read = []

    def reader(index):
        return lambda: read.append(index) or encode_png(picture())

    refs = [ImageRef(str(index), reader(index), str(index)) for index in range(200)]
    answers = Detector(engine_of()).predict_iter(refs, batch_size=4, workers=2)
    next(answers)
    time.sleep(0.3)
    assert len(read) <= (2 + 1) * 4 + 4
    answers.close()
