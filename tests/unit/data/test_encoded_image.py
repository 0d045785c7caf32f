"""An encoded image's header is parsed once, whatever is done with the image; counted at Pillow's parser."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from helpers.data import label_set, picture
from helpers.engines import BlindEngine
from helpers.images import encoded

from ssd_train.data import image_io, opencv_pixels, pixels
from ssd_train.data.checks.images import inspect, quick_inspect
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.formats.recordio import write_recordio
from ssd_train.data.image_io import EncodedImage, ImageLimits
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.pipe.channel import parse_sample
from ssd_train.data.pipe.samples import read_samples
from ssd_train.data.transforms import TrainTransform
from ssd_train.deploy.codec import RequestLimits
from ssd_train.deploy.detector import Detector, ImageRef
from ssd_train.deploy.handlers import handle_request
from ssd_train.deploy.server.workers import InferencePool
from ssd_train.errors import DataError
from ssd_train.prepare.images import WriteOptions, grayscale
from ssd_train.progress import Progress
from ssd_train.visualization.draw import Layout, labelled_sheet

SIDE = 64
SIZE = (320, 240)


JPEG = encoded(picture(SIZE), "JPEG", progressive=True)  # the kind of JPEG whose scans are looked through, too
IMAGES = MemoryImages({"0.png": JPEG})


class Counter:
    """Calls of a function."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


@pytest.fixture()
def parses(monkeypatch):
    """How often a JPEG's header was parsed; OpenCV decodes the pixels."""
    monkeypatch.setattr(pixels, "operations", opencv_pixels)
    counter = Counter(image_io.jpeg_header)
    monkeypatch.setattr(image_io, "jpeg_header", counter)
    return counter


@pytest.fixture()
def scans(monkeypatch):
    """How often the segments of a JPEG were walked to its first scan."""
    counter = Counter(image_io.first_scan)
    monkeypatch.setattr(image_io, "first_scan", counter)
    return counter


def serve(_):
    handle_request(Detector(BlindEngine(SIDE)), JPEG, "image/jpeg")


def serve_light(_):
    pool = InferencePool(Detector(BlindEngine(SIDE)), RequestLimits())
    asyncio.run(pool.detect(JPEG, "image/jpeg"))
    pool.close()


def predict(_):
    list(Detector(BlindEngine(SIDE)).predict_iter([ImageRef("a", lambda: JPEG, "a")]))


def evaluate(size_wh):
    DetectionDataset(label_set([[]], size_wh=size_wh), IMAGES, SIDE)[0]


def train(size_wh):
    transform = TrainTransform(SIDE, "strong", lambda boxes, class_ids: (boxes, class_ids))
    dataset = DetectionDataset(label_set([[[1, 2, 30, 40]]], size_wh=size_wh), IMAGES, SIDE)
    dataset.train_sample(0, transform, np.random.RandomState(0))


def check(size_wh):
    assert inspect(label_set([[]], size_wh=size_wh).records[0], IMAGES).digest


def check_quickly(size_wh):
    assert quick_inspect(label_set([[]], size_wh=size_wh).records[0], IMAGES).findings == ()


def draw(size_wh):
    labelled_sheet(label_set([[]], size_wh=size_wh), IMAGES, Layout(1, 1, (64, 64)), Progress())


@pytest.mark.parametrize("size_wh", [SIZE, None], ids=["size-in-the-labels", "size-unknown"])
@pytest.mark.parametrize("work", [serve, serve_light, predict, evaluate, train, check, check_quickly, draw])
def test_header_of_an_image_is_parsed_once(work, size_wh, parses, scans):
    work(size_wh)
    assert (parses.calls, scans.calls) == (1, 1)


def test_header_of_an_image_made_gray_is_parsed_once(tmp_path, parses):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(JPEG)
    assert grayscale(tmp_path / "in", tmp_path / "out", WriteOptions(), Progress()).written == 1
    assert parses.calls == 1


def test_header_of_a_piped_record_is_parsed_once(tmp_path, parses):
    labels = label_set([[[1, 2, 30, 40]]], size_wh=SIZE)
    write_recordio(tmp_path / "x.rec", labels.records, IMAGES)
    parses.calls = 0
    with open(tmp_path / "x.rec", "rb") as file:
        (sample,) = read_samples(file, "train_0")
    _, ending, label = parse_sample(sample)
    assert (ending, label.size_wh, parses.calls) == ("jpeg", SIZE, 1)


def test_limits_are_checked_at_each_decoding():
    image = EncodedImage(JPEG, "a:1", ImageLimits(max_pixels=1000))
    for _ in range(2):
        with pytest.raises(DataError, match="^a:1: found 320x240 "):
            image.decode()


def test_header_that_cannot_be_parsed_raises_each_time():
    image = EncodedImage(b"\xff\xd8\xff", "a:1")
    for _ in range(2):
        with pytest.raises(DataError, match="^a:1: found "):
            assert image.header
