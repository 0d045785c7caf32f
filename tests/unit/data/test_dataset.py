"""DetectionDataset: boxes follow the decoded size, the cache keeps its budget, a bad image is told with its line."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import label_set, memory_images, picture

from ssd_train.boxes import as_boxes
from ssd_train.data.dataset import DetectionDataset, ImageCache
from ssd_train.data.image_io import EncodedImage, encode_jpeg
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.transforms import View
from ssd_train.errors import DataError


@pytest.mark.parametrize("told", [True, False], ids=["size-in-the-labels", "size-unknown"])
@pytest.mark.parametrize(
    "size_wh, side, decoded",
    [
        pytest.param((800, 600), 300, (800, 600), id="whole"),
        pytest.param((1200, 600), 300, (600, 300), id="half-is-just-enough"),
        pytest.param((2400, 600), 300, (1200, 300), id="panorama"),
        pytest.param((550, 2400), 300, (550, 2400), id="narrow-panorama"),
        pytest.param((1200, 900), 300, (600, 450), id="half"),
        pytest.param((2400, 1800), 300, (600, 450), id="quarter"),
        pytest.param((2403, 1801), 150, (301, 226), id="eighth-of-odd-sides"),
    ],
)
def test_dataset_large_image_is_downscaled_with_its_boxes(size_wh, side, decoded, told):
    width, height = size_wh
    image = np.zeros((height, width, 3), np.uint8)
    box = [width // 4, height // 3, width // 2, height - 100]
    image[box[1] : box[3], box[0] : box[2]] = 255
    labels = label_set([[box]], size_wh=size_wh if told else None)
    dataset = DetectionDataset(labels, MemoryImages({"0.png": encode_jpeg(image)}), side, cache_bytes=10**8)
    for _ in range(2):  # decoded, then from the cache
        found, boxes, _ = dataset[0]
        assert found.shape[1::-1] == decoded
        y, x = np.nonzero(found[..., 0] > 127)
        np.testing.assert_allclose(boxes[0], [x.min(), y.min(), x.max() + 1, y.max() + 1], atol=1.01)
        assert dataset.size_wh(0) == size_wh
    np.testing.assert_array_equal(dataset.record(0).boxes, as_boxes([box]))  # the labels stay as they are


def test_images_are_kept_while_they_fit():
    labels = label_set([[]] * 5)
    size = picture().nbytes
    dataset = DetectionDataset(labels, memory_images(labels), 32, cache_bytes=int(2.5 * size))
    for _ in range(2):
        for index in range(5):
            np.testing.assert_array_equal(dataset[index][0], picture(seed=index))
    assert len(dataset.cache) == 2 and dataset.cache.bytes_used == 2 * size <= dataset.cache.max_bytes


def test_a_kept_image_is_not_read_again_and_cannot_be_changed():
    labels = label_set([[], []])
    source = memory_images(labels)
    dataset = DetectionDataset(labels, source, 32, cache_bytes=picture().nbytes)
    dataset[0], dataset[1]
    source._images.clear()
    image = dataset[0][0]
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0
    with pytest.raises(DataError, match="train.manifest:2: image '1.png' not found"):
        dataset[1]


def test_the_cache_counts_an_image_once():
    cache = ImageCache(100)
    for _ in range(3):
        cache.put(7, np.zeros(40, np.uint8))
    cache.put(8, np.zeros(61, np.uint8))
    assert (len(cache), cache.bytes_used, cache.get(8)) == (1, 40, None)
    cache.put(9, np.zeros(60, np.uint8))
    assert (len(cache), cache.bytes_used) == (2, 100)


def test_damage_is_looked_for_once_in_each_image(monkeypatch):
    """Here a JPEG of which the end is missing, and which was given an end."""
    data = encode_jpeg(picture((160, 120), 1))
    half = data[: len(data) // 2] + b"\xff\xd9"
    dataset = DetectionDataset(label_set([[]], size_wh=(160, 120)), MemoryImages({"0.png": half}), 32)
    with pytest.raises(DataError, match="train.manifest:1: found a JPEG cut off after too little data"):
        dataset[0]
    dataset = DetectionDataset(label_set([[]], size_wh=(160, 120)), MemoryImages({"0.png": data}), 32)
    dataset[0]
    monkeypatch.setattr(EncodedImage, "check_decoded", None)
    dataset[0]


class FixedView:
    """A transform that always draws one view, and returns that which it is to be applied to."""

    def __init__(self, view):
        self.view, self.drawn_from = view, []

    def policy(self, size_wh, boxes, random):
        self.drawn_from.append((size_wh, boxes))
        return self.view

    def apply(self, image, boxes, class_ids, view):
        return image, boxes, class_ids, view


RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("told", [True, False], ids=["size-in-the-labels", "size-unknown"])
@pytest.mark.parametrize(
    "rect, decoded",
    [
        pytest.param((0, 0, 800, 600), (800, 600), id="whole"),
        pytest.param((100, 100, 500, 400), (800, 600), id="a-part"),
        pytest.param((-200, 0, 1200, 600), (400, 300), id="just-large-enough"),
        pytest.param((-400, -300, 1600, 1200), (400, 300), id="zoomed-out"),
        pytest.param((-800, -600, 2400, 1800), (200, 150), id="zoomed-out-further"),
        pytest.param((-400, 0, 1600, 400), (800, 600), id="one-side-too-short"),
    ],
)
def test_only_as_many_pixels_are_decoded_as_a_view_shows(rect, decoded, told):
    labels = label_set([[[100, 150, 500, 450]]], size_wh=(800, 600) if told else None)
    dataset = DetectionDataset(labels, MemoryImages({"0.png": encode_jpeg(picture((800, 600)))}), 300)
    transform = FixedView(View(rect, flip_x=True))
    image, boxes, ids, view = dataset.train_sample(0, transform, RANDOM)
    (size_wh, given), share = transform.drawn_from[0], decoded[0] / 800
    assert size_wh == (800, 600) and given.tolist() == [[100, 150, 500, 450]]
    assert image.shape[1::-1] == decoded and ids.tolist() == [0]
    np.testing.assert_allclose(boxes, given * share)
    np.testing.assert_allclose(view.rect, np.array(rect) * share)
    assert view.flip_x


def test_a_view_of_kept_images_does_not_depend_on_which_are_kept():
    """Else a run that is taken up again would see other pixels."""
    labels = label_set([[]] * 2, size_wh=(800, 600))
    encoded = encode_jpeg(picture((800, 600)))
    source = MemoryImages({"0.png": encoded, "1.png": encoded})
    dataset = DetectionDataset(labels, source, 300, cache_bytes=800 * 600 * 3)
    whole = FixedView(View((0, 0, 800, 600)))
    shown = [dataset.train_sample(index, whole, RANDOM)[0] for index in (0, 1, 0, 1)]
    assert len(dataset.cache) == 1
    assert all(np.array_equal(shown[0], image) for image in shown[1:])
