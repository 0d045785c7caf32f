"""Pixel operations: opencv_pixels if OpenCV can be imported, else pillow_pixels."""

from __future__ import annotations

import importlib
import logging
import types
from typing import Any

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.errors import DependencyError

HOW_TO_INSTALL = "expected: pip install opencv-python-headless"


def _chosen() -> types.ModuleType:
    try:
        return importlib.import_module("ssd_train.data.opencv_pixels")
    except ImportError as error:  # not installed, or a system library such as libGL.so.1 is missing
        logging.getLogger(__name__).warning(
            "OpenCV cannot be imported (%s): Pillow and NumPy take its place, which is slower", error
        )
    return importlib.import_module("ssd_train.data.pillow_pixels")


operations: Any = _chosen()


def resize(image: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Resize an image (H, W, 3) to `size_wh`.

    Halves each side while it is at least twice too long, then interpolates linearly. The result is within about one
    gray level of the area mean (OpenCV's INTER_AREA), three to nine times as fast.
    """
    (width, height), (w, h) = size_wh, (image.shape[1], image.shape[0])
    while w >= 2 * width or h >= 2 * height:
        w, h = (-(-w // 2) if w >= 2 * width else w), (-(-h // 2) if h >= 2 * height else h)
        image = operations.resize_linear(image, (w, h))
    return operations.resize_linear(image, (width, height))


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Divide each side of an image (H, W, 3) by 1, 2, 4 or 8, rounded up.

    Equals the first halvings of `resize`.
    """
    while factor > 1:
        image, factor = operations.resize_linear(image, (-(-image.shape[1] // 2), -(-image.shape[0] // 2))), factor // 2
    return image


def opencv() -> Any:
    """Return the `cv2` module, for drawing images and reading videos.

    Raises:
        DependencyError: OpenCV cannot be imported.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise DependencyError(f"OpenCV cannot be imported ({error}), {HOW_TO_INSTALL}") from error
