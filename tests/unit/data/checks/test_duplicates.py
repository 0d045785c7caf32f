"""Pictures that look alike, among many that do not; and a still camera's thousands."""

from __future__ import annotations

import time

import numpy as np
import pytest
from helpers.data import picture
from PIL import Image

from ssd_train.data.checks.images import difference_hashes, near_duplicates, same_bytes, thumbnail

pytestmark = pytest.mark.usefixtures("pixel_library")


def photo(seed, size_wh=(320, 240), cells=8):
    return np.asarray(Image.fromarray(picture((cells, cells), seed)).resize(size_wh, Image.BICUBIC))


def pairs(pictures, sides=None):
    thumbnails = np.stack([thumbnail(image) for image in pictures])
    return near_duplicates(thumbnails, np.zeros(len(pictures), int) if sides is None else np.array(sides))


def test_same_bytes_are_paired_with_the_first():
    assert list(same_bytes([b"a", b"b", b"a", b"", b"", b"a"])) == [(0, 2), (0, 5)]


def noisy(image, amount):
    noise = np.random.RandomState(0).randint(-amount, amount + 1, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


CHANGES = {
    "the same": lambda image: image,
    "noise": lambda image: noisy(image, 20),
    "darker": lambda image: (image * 0.7).astype(np.uint8),
    "smaller": lambda image: image[::2, ::2],
    "larger": lambda image: np.repeat(np.repeat(image, 3, 0), 3, 1),
    "other shape": lambda image: image[:, ::2],
    "cut by a hundredth": lambda image: image[3:-3, 3:-3],
    "text over a corner": lambda image: np.concatenate(
        [np.where(np.arange(320)[:, None] < 60, 255, image[:15]), image[15:]]
    ),
}
OTHERS = {
    "another": lambda image: photo(77),
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "a single colour": lambda image: np.full_like(image, 200),
    "the negative": lambda image: 255 - image,
    "half of it": lambda image: image[:, :160],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_duplicates_copies_are_found(change):
    others = [photo(seed) for seed in range(20)]
    assert pairs([*others, photo(50), np.ascontiguousarray(change(photo(50)), dtype=np.uint8)]) == [(20, 21)]


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_duplicates_other_images_are_not_found(change):
    assert pairs([photo(50), np.ascontiguousarray(change(photo(50)))]) == []


def test_hash_by_hand():
    rising = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))  # brighter to the right, the same downwards
    found = difference_hashes(np.stack([rising, rising.T, rising[:, ::-1]]))
    assert found.shape == (3, 16)
    assert found.tolist() == [[255] * 8 + [0] * 8, [0] * 8 + [255] * 8, [0] * 16]


def test_duplicates_a_thousand_different_images_have_none():
    assert pairs([photo(seed, (64, 64)) for seed in range(1000)]) == []


def test_duplicates_images_of_one_colour_are_none():
    assert pairs([np.full((40, 40, 3), value, np.uint8) for value in (0, 0, 128, 255)]) == []


def test_duplicates_name_an_image_once_per_split():
    copies = [noisy(photo(1), amount) for amount in (0, 5, 10, 15)]
    found = pairs(copies, [0, 0, 1, 1])
    assert [later for _, later in found].count(1) == 1
    assert sorted(later for earlier, later in found if earlier < 2 <= later) == [2, 3]  # from training to validation
    assert sorted((earlier, later) for earlier, later in found if earlier >= 2) == [(2, 3)]


def test_a_still_camera_takes_seconds_not_hours():
    thumbnails = np.repeat(thumbnail(photo(1))[None], 5000, axis=0)
    started = time.process_time()
    found = near_duplicates(thumbnails, np.zeros(5000, int))
    assert [later for _, later in found] == list(range(1, 5000))
    assert time.process_time() - started < 20
