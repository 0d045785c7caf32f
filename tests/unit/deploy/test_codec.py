"""Bodies of requests at their limits, and arrays in either order."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ssd_train.data.image_io import DEFAULT_LIMITS, ImageHeader, ImageLimits, check_limits
from ssd_train.deploy.codec import NPY, ImageRequest, RequestError, RequestLimits, check_size
from ssd_train.errors import DataError

IMAGE = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.mark.parametrize("order", ["C", "F"])
def test_read_request_of_an_npy_in_either_order_returns_the_image(order):
    file = io.BytesIO()
    np.save(file, np.array(IMAGE, order=order))
    image, size_wh = ImageRequest(file.getvalue(), NPY).decode(20)
    np.testing.assert_array_equal(image, IMAGE)
    assert size_wh == (30, 20)


def test_check_size_refuses_one_byte_more_than_the_limit():
    limits = RequestLimits(max_bytes=100)
    check_size(100, limits)
    with pytest.raises(RequestError) as caught:
        check_size(101, limits)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "at, beyond, code",
    [
        pytest.param((100, 50), (100, 51), "too-large", id="pixels"),
        pytest.param((10, 10), (10, 9), "too-small", id="side"),
        pytest.param((500, 10), (501, 10), "aspect-ratio", id="aspect"),
    ],
)
def test_check_limits_refuses_one_pixel_more_than_the_limit(at, beyond, code):
    limits = ImageLimits(5000 if code == "too-large" else DEFAULT_LIMITS.max_pixels)
    check_limits(ImageHeader("PNG", *at), "a", limits)
    with pytest.raises(DataError) as caught:
        check_limits(ImageHeader("PNG", *beyond), "a", limits)
    assert caught.value.code == code
