"""Training, prediction and serving see every picture alike, and refuse the same ones in the same words."""

from __future__ import annotations

import numpy as np
import pytest
from odd_images import BAD, GOOD, encoded, noise, quadrants, with_exif

from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.records import ClassNames, LabelSet, Record
from ssd_train.data.sources import MemoryImages
from ssd_train.data.transforms import EvalTransform
from ssd_train.deploy.detector import Detector, Picture
from ssd_train.deploy.requests import RequestError
from ssd_train.deploy.serve import answer
from ssd_train.errors import DataError

pytestmark = pytest.mark.usefixtures("pixel_library")

SIDE = 20
EXIF = {f"exif {n} {kind}": with_exif(noise(60, 40), n, kind) for n in range(1, 9) for kind in ("JPEG", "PNG", "WEBP")}
SEEN = {
    **{name: data for name, (data, _) in GOOD.items()},
    **EXIF,
    "gray": encoded(quadrants(), mode="L"),
    "bilevel": encoded(quadrants(), mode="1"),
    "gray and alpha": encoded(quadrants(), mode="LA"),
    "16 bit": encoded(np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)),
    "large": encoded(quadrants(800, 500), "JPEG", quality=90),
}


class Engine:
    """Finds nothing, and keeps the pictures."""

    name, class_names, side, grayscale = "mxnet", ClassNames(("cat",)), SIDE, False

    def __init__(self):
        self.seen = []

    def run(self, pictures):
        self.seen.extend(pictures)
        return np.full((len(pictures), 1, 6), -1, np.float32)


def trained_on(data):
    """The picture as training and evaluation see it; its labels do not tell its size."""
    labels = LabelSet([Record("a", [], [])], ClassNames(("cat",)), "labels")
    dataset = DetectionDataset(labels, MemoryImages({"a": data}), SIDE)
    return EvalTransform(SIDE, lambda boxes, class_ids: ())(*dataset[0])[0]


@pytest.mark.parametrize("data", SEEN.values(), ids=SEEN)
def test_pictures_are_seen_alike(data):
    served, predicted = Engine(), Engine()
    answer(Detector(served), data, "image/jpeg", "application/json")
    list(Detector(predicted).stream([Picture("a", lambda: data, "a")]))
    expected = trained_on(data)
    assert expected.std() > 10
    np.testing.assert_array_equal(served.seen[0], expected)
    np.testing.assert_array_equal(predicted.seen[0], expected)


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD.keys())
def test_pictures_are_refused_alike(data, message):
    with pytest.raises(DataError, match=message) as in_training:
        trained_on(data)
    with pytest.raises(RequestError, match=message) as in_service:
        answer(Detector(Engine()), data, "image/jpeg", "application/json")
    (found,) = Detector(Engine()).stream([Picture("a", lambda: data, "a")])
    words = [str(error).split(": ", 1)[1] for error in (in_training.value, in_service.value, found.fault)]
    assert words[0] == words[1] == words[2]
    assert in_service.value.status in (400, 413)
