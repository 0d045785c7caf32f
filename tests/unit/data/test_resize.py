"""Pictures made smaller, and grey, before a network sees them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.data import picture

from ssd_train.data.transforms import resize, to_gray

pytestmark = pytest.mark.usefixtures("pixel_library")


def test_to_gray_weighs_by_luma():
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[:20, :30, 0] = colours[:20, 30:, 1] = colours[20:, :30, 2] = colours[20:, 30:] = 255
    gray = to_gray(colours)
    assert gray.shape == (40, 60, 3) and (gray == gray[..., :1]).all()
    assert [int(gray[y, x, 0]) for y, x in ((5, 5), (5, 55), (35, 5), (35, 55))] == [76, 150, 29, 255]


@pytest.mark.parametrize(
    "size_wh, to",
    [
        pytest.param((640, 480), (300, 300), id="one-side-halved"),
        pytest.param((640, 480), (100, 77), id="halved-several-times"),
        pytest.param((427, 401), (150, 200), id="odd-sides"),
        pytest.param((301, 299), (300, 298), id="a-pixel-less"),
    ],
)
def test_resize_is_close_to_the_mean_over_areas(size_wh, to):
    image = cv2.resize(picture((size_wh[0] // 8, size_wh[1] // 8)), size_wh, interpolation=cv2.INTER_CUBIC)
    expected = cv2.resize(image, to, interpolation=cv2.INTER_AREA).astype(int)
    off = np.abs(resize(image, to) - expected)
    assert off.mean() < 0.02 * expected.std() + 2
