"""Pixel operations with OpenCV. Images are RGB uint8 (H, W, 3).

`pillow_pixels` has the same functions without OpenCV.
"""

from __future__ import annotations

from typing import Optional, Tuple

import cv2
import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.errors import DataError

NAME = "OpenCV"

_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_QUARTER_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}


def decode(data: bytes, format: str, where: str, scale: int = 1) -> np.ndarray:
    """Decode the stored pixels without applying an orientation.

    Args:
        data: The encoded image.
        format: Its format, for messages.
        where: Place for messages.
        scale: 1, 2, 4 or 8; divides each side. 1 for formats other than JPEG.

    Raises:
        DataError: The image is damaged.
    """
    flags = _REDUCED[scale] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{where}: {error.err}") from error
        raise DataError(f"{where}: found a damaged {format} ({error.err}), expected a whole image") from error
    if bgr is None:
        raise DataError(
            f"{where}: found a {format} that cannot be decoded (damaged or cut off), expected a whole image"
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def encode(image: np.ndarray, format: str, quality: int) -> Optional[bytes]:
    """Encode as JPEG, PNG, BMP, TIFF or WEBP; None on failure.

    `quality` 1..100 is used by JPEG and WEBP.
    """
    options = {"JPEG": [cv2.IMWRITE_JPEG_QUALITY, quality], "WEBP": [cv2.IMWRITE_WEBP_QUALITY, quality]}.get(format, [])
    ok, encoded = cv2.imencode(f".{format.lower()}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return bytes(encoded) if ok else None


def resize_linear(image: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Resize by bilinear interpolation between the four nearest pixels."""
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_LINEAR)


def resize_area(image: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Resize a grayscale image (H, W) by averaging over the area of each new pixel."""
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)


def rotate(image: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Rotate by 1, 2 or 3 quarter turns counter-clockwise."""
    return cv2.rotate(image, _QUARTER_TURNS[quarter_turns])


def flip(image: np.ndarray, flip_x: bool, flip_y: bool) -> np.ndarray:
    """Flip left to right, top to bottom, or both."""
    return cv2.flip(image, _FLIPS[flip_x, flip_y])


def transform_colour(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a (3, 4) matrix to (R, G, B, 1) of each pixel; clips to 0..255."""
    return cv2.transform(image, matrix)


def pad(image: np.ndarray, rims: Tuple[int, int, int, int], colour: Tuple[int, int, int]) -> np.ndarray:
    """Add a border of (top, bottom, left, right) pixels of one colour."""
    return cv2.copyMakeBorder(image, *rims, cv2.BORDER_CONSTANT, value=colour)


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return three equal channels of luma (ITU-R BT.601)."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
