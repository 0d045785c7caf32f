"""Training, prediction and serving decode every image alike, and refuse the same ones with the same message."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.engines import BlindEngine
from helpers.images import BAD, GOOD, encoded, noise, quadrants, with_exif

from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.image_io import FORMATS, decode, encode
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.data.transforms import EvalTransform, TrainTransform
from ssd_train.deploy.codec import RequestError
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.deploy.handlers import handle_request
from ssd_train.errors import DataError

pytestmark = pytest.mark.usefixtures("pixel_library")

SIDE = 20
TURNS = [*((n, "JPEG") for n in range(1, 9)), (6, "PNG"), (6, "WEBP")]
EXIF = {f"exif {n} {kind}": with_exif(noise(60, 40), n, kind) for n, kind in TURNS}
SEEN = {
    **{name: data for name, (data, _) in GOOD.items()},
    **EXIF,
    "gray": encoded(quadrants(), mode="L"),
    "bilevel": encoded(quadrants(), mode="1"),
    "gray and alpha": encoded(quadrants(), mode="LA"),
    "16 bit": encoded(np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)),
    "large": encoded(quadrants(800, 500), "JPEG", quality=90),
}


def trained_on(data):
    """Return the network input in training and evaluation; the labels lack the image size."""
    labels = Labels([LabeledImage("a", [], [])], ClassNames(("cat",)), "labels")
    dataset = DetectionDataset(labels, MemoryImages({"a": data}), SIDE)
    return EvalTransform(SIDE, lambda boxes, class_ids: ())(*dataset[0])[0]


@pytest.mark.parametrize("data", SEEN.values(), ids=SEEN)
def test_odd_image_gives_the_same_input_everywhere(data):
    served, predicted = BlindEngine(SIDE), BlindEngine(SIDE)
    handle_request(Detector(served), data, "image/jpeg", "application/json")
    list(Detector(predicted).predict_iter([ImageRef("a", lambda: data, "a")]))
    expected = trained_on(data)
    assert expected.std() > 10
    np.testing.assert_array_equal(served.seen[0], expected)
    np.testing.assert_array_equal(predicted.seen[0], expected)


@pytest.mark.parametrize("size_wh", [(200, 48), (168, 160), (35, 400)], ids=["panorama", "square", "high"])
@pytest.mark.parametrize("format", FORMATS)
def test_file_and_its_pixels_give_the_same_input(format, size_wh):
    """JPEGs may differ by a few levels, where libjpeg's blocks extend beyond the image."""
    image = cv2.resize(noise(9, 7), size_wh, interpolation=cv2.INTER_CUBIC)
    data = encode(image, format)
    by_file, by_pixels, served = BlindEngine(SIDE), BlindEngine(SIDE), BlindEngine(SIDE)
    (streamed,) = Detector(by_file).predict_iter([ImageRef("a", lambda: data, "a")])
    handle_request(Detector(served), data, "image/jpeg", "application/json")
    Detector(by_pixels)(decode(data, "a"))
    off = np.abs(by_file.seen[0].astype(int) - by_pixels.seen[0])
    assert off.max() <= (12 if format == "JPEG" else 0) and off.mean() < 2
    np.testing.assert_array_equal(served.seen[0], by_file.seen[0])
    assert min(streamed.image.shape[:2]) >= SIDE


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cache_bytes", [0, 10**6], ids=["decoded-each-time", "kept"])
def test_large_image_gives_the_same_input_in_training_and_evaluation(format, cache_bytes):
    data = encode(cv2.resize(noise(9, 7), (180, 170), interpolation=cv2.INTER_CUBIC), format)
    labels = Labels([LabeledImage("a", [], [])], ClassNames(("cat",)), "labels")
    dataset = DetectionDataset(labels, MemoryImages({"a": data}), SIDE, cache_bytes)
    transform = TrainTransform(SIDE, "none", lambda boxes, class_ids: (boxes, class_ids))
    image, _, _ = dataset.train_sample(0, transform, np.random.RandomState(0))
    np.testing.assert_array_equal(image, trained_on(data))


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD.keys())
def test_bad_image_is_refused_everywhere_with_the_same_message(data, message):
    with pytest.raises(DataError, match=message) as in_training:
        trained_on(data)
    with pytest.raises(RequestError, match=message) as in_service:
        handle_request(Detector(BlindEngine(SIDE)), data, "image/jpeg", "application/json")
    (streamed,) = Detector(BlindEngine(SIDE)).predict_iter([ImageRef("a", lambda: data, "a")])
    messages = [str(error).split(": ", 1)[1] for error in (in_training.value, in_service.value, streamed.error)]
    assert messages[0] == messages[1] == messages[2]
    assert in_service.value.status in (400, 413)
