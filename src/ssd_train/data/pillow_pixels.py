"""Pixel operations with Pillow and NumPy, where OpenCV is missing.

AWS's inference container, for example, has no OpenCV. The functions are those of `opencv_pixels`, with the same results
to within one of 255 levels (JPEG: two).
"""

from __future__ import annotations

import io
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from ssd_train.boxes import SizeWH
from ssd_train.errors import DataError

NAME = "Pillow"

# Called directly, because Image.open enforces a global size limit of its own.
READERS: Dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_ROWS = 128  # rows computed at once: the float arrays of a 50 Mpx image would take a gigabyte
# OpenCV's weights of R, G and B in 1/2^15 (modules/imgproc/src/color.hpp)
_LUMA, _LUMA_BITS = np.array([9798, 19235, 3735], np.int32), 15


def decode(data: bytes, format: str, where: str, scale: int = 1) -> np.ndarray:
    """Decode the stored pixels without applying an orientation.

    Args:
        data: The encoded image.
        format: Key of READERS.
        where: Place for messages.
        scale: 1, 2, 4 or 8; divides each side of a JPEG and has no effect on other formats.

    Raises:
        DataError: The image is damaged.
    """
    # importing GluonCV sets it to True for the whole process; Pillow would then fill in missing pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = READERS[format](io.BytesIO(data))
        if format == "JPEG" and scale > 1:
            image.draft(None, (max(image.width // scale, 1), max(image.height // scale, 1)))
        image.load()
        return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise many kinds of exception on damage
        kind = f"{format} that cannot be decoded (damaged or cut off)"
        if format == "TIFF":
            kind = f"damaged TIFF ({' '.join(str(error).split())})"
        raise DataError(f"{where}: found a {kind}, expected a whole image") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert any mode to RGB as OpenCV does.

    16 bits are scaled to 8; transparency is dropped, not blended.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # convert("RGB") saturates
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("found 32 bits a value, expected 8 or 16")
    image.info.pop("transparency", None)  # convert() warns about a palette's transparency
    return np.array(image.convert("RGB"))


def encode(image: np.ndarray, format: str, quality: int) -> Optional[bytes]:
    """Encode as JPEG, PNG, BMP, TIFF or WEBP; None on failure.

    `quality` 1..100 is used by JPEG and WEBP.
    """
    options: Dict[str, Dict[str, Any]] = {
        "JPEG": {"quality": quality},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_lzw"},
    }
    stream = io.BytesIO()
    try:
        Image.fromarray(image).save(stream, format, **options.get(format, {}))
    except (OSError, ValueError):
        return None
    return stream.getvalue()


def resize_linear(image: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Resize by bilinear interpolation between the four nearest pixels.

    Pillow's own BILINEAR averages over more pixels when downscaling.
    """
    (width, height), (w, h) = size_wh, (image.shape[1], image.shape[0])
    x, x_next, x_weight = _neighbours(w, width)
    y, y_next, y_weight = _neighbours(h, height)
    result = np.empty((height, width, image.shape[2]), np.uint8)
    for start in range(0, height, _ROWS):
        part = slice(start, start + _ROWS)
        weight = y_weight[part, None, None]
        rows = image[y[part]] * (1 - weight) + image[y_next[part]] * weight  # (rows, w, 3)
        columns = rows[:, x] * (1 - x_weight[:, None]) + rows[:, x_next] * x_weight[:, None]
        result[part] = columns + np.float32(0.5)
    return result


def _neighbours(length: int, wanted: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two neighbours and the weight of the second for each new pixel of a side.

    Args:
        length: Number of pixels before resizing.
        wanted: Number of pixels after resizing.
    """
    position = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
    first = position.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), (position - first).astype(np.float32)


def resize_area(image: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Resize a grayscale image (H, W) by averaging over the area of each new pixel."""
    columns, rows = (_overlaps(length, wanted) for length, wanted in zip(image.shape[::-1], size_wh))
    return (rows @ image.astype(np.float32) @ columns.T + np.float32(0.5)).astype(np.uint8)


def _overlaps(length: int, wanted: int) -> np.ndarray:
    """Return the weights float32 (wanted, length) of old pixels in new pixels."""
    edges = np.arange(wanted + 1)[:, None] * (length / wanted)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(covered, 0) * (wanted / length)).astype(np.float32)


def rotate(image: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Rotate by 1, 2 or 3 quarter turns counter-clockwise."""
    return np.ascontiguousarray(np.rot90(image, quarter_turns))


def flip(image: np.ndarray, flip_x: bool, flip_y: bool) -> np.ndarray:
    """Flip left to right, top to bottom, or both."""
    return np.ascontiguousarray(image[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def transform_colour(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a (3, 4) matrix to (R, G, B, 1) of each pixel; clips to 0..255."""
    values = image.reshape(-1, 3).astype(np.float32) @ matrix[:, :3].T + matrix[:, 3]
    return np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(image.shape)


def pad(image: np.ndarray, rims: Tuple[int, int, int, int], colour: Tuple[int, int, int]) -> np.ndarray:
    """Add a border of (top, bottom, left, right) pixels of one colour."""
    top, bottom, left, right = rims
    height, width = image.shape[:2]
    result = np.empty((top + height + bottom, left + width + right, 3), np.uint8)
    result[:] = colour
    result[top : top + height, left : left + width] = image
    return result


def to_gray(image: np.ndarray) -> np.ndarray:
    """Return three equal channels of luma (ITU-R BT.601)."""
    luma = (image @ _LUMA + (1 << (_LUMA_BITS - 1))) >> _LUMA_BITS
    return np.repeat(luma.astype(np.uint8)[:, :, None], 3, axis=2)
