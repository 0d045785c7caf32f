"""Detect image damage that decoders do not report: missing pixels or scans.

The check of a dataset runs it for every image, training once for each image, and prediction for its inputs.
"""

from __future__ import annotations

import io
from typing import Dict, Optional, Tuple

import numpy as np
from PIL import JpegImagePlugin, TiffImagePlugin

from ssd_train.data.boxes import SizeWH
from ssd_train.data.encoded import first_scan
from ssd_train.data.images import DEFAULT_LIMITS, ImageHeader, ImageLimits, decode_for, decode_stored, read_header
from ssd_train.errors import DataError

_FILL = [128, 128, 128]  # libjpeg fills missing data with this gray
_MORE = b"\x5a\x3c\xa6\x69" * 64  # arbitrary data without the 0xff of a marker
_PROGRESSIVE, _SCAN, _END = b"\xff\xc2", b"\xff\xda", b"\xff\xd9"
_COEFFICIENTS = 64


def check_undamaged(data: bytes, header: ImageHeader, image: np.ndarray, where: str) -> None:
    """Check that a decoded image is complete although its file has an end marker.

    Detects a JPEG that was truncated and given an end marker by a repair tool, or that lost a part, and a TIFF with a
    damaged strip. Does not detect data changed into other decodable data, nor a progressive JPEG cut off within its
    last refinement scan.

    Args:
        data: The encoded image.
        header: Header of `data`.
        image: The decoded pixels (H, W, 3) as stored, without orientation.
        where: Place for messages.

    Raises:
        DataError: The image is damaged.
    """
    if header.format == "JPEG":
        # missing data affects the last pixel first
        if _lacks_scans(data) or (image[-1, -1].tolist() == _FILL and _wants_more(data)):
            raise DataError(
                f"{where}: found a JPEG cut off after too little data for its pixels, expected a whole image",
                "truncated-image",
            )
    elif header.format == "TIFF":
        try:
            # Pillow is strict where OpenCV is not
            TiffImagePlugin.TiffImageFile(io.BytesIO(data)).load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{where}: found a damaged TIFF ({error}), expected a whole image") from error


def check_decoded(data: bytes, image: np.ndarray, where: str) -> None:
    """Check like `check_undamaged` an image that was rotated upright or downscaled.

    This is cheap: only TIFFs, images with a corner in the gray that decoders fill in, and progressive JPEGs without all
    their scans are decoded again.

    Raises:
        DataError: The image is damaged.
    """
    header = read_header(data, where)
    suspicious = header.format == "TIFF" or (image[[0, 0, -1, -1], [0, -1, 0, -1]] == _FILL).all(axis=1).any()
    if suspicious or (header.format == "JPEG" and _lacks_scans(data)):
        stored, header = decode_stored(data, where)
        check_undamaged(data, header, stored, where)


def decode_whole(
    data: bytes,
    where: str,
    side: int,
    expected_wh: Optional[SizeWH] = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Tuple[np.ndarray, SizeWH]:
    """Decode an image for a network with input side `side`, and check it for damage.

    Args:
        data: The encoded image.
        where: Place for messages.
        side: Input side of the network in pixels.
        expected_wh: (width, height) in the labels, if known.
        limits: Limits checked before decoding.

    Returns:
        The image as `decode_for` returns it, and (width, height) of the full-size image, upright.

    Raises:
        DataError: The image cannot be used.
    """
    size_wh = expected_wh or read_header(data, where).shown_wh
    image = decode_for(data, where, side, size_wh, limits)
    check_decoded(data, image, where)
    return image, size_wh


def _wants_more(data: bytes) -> bool:
    """Return whether additional data before the end of a JPEG changes its pixels.

    It does not if the JPEG is complete. Decodes with Pillow, which prints no warnings to standard error.
    """
    end = data.rfind(_END)
    try:
        pixels, longer = (
            np.asarray(JpegImagePlugin.JpegImageFile(io.BytesIO(part)))
            for part in (data, data[:end] + _MORE + data[end:])
        )
    except (OSError, SyntaxError, ValueError):
        return True
    return not np.array_equal(longer, pixels)


def _lacks_scans(data: bytes) -> bool:
    """Return whether a progressive JPEG lacks scans: a coefficient lacks its last bit.

    See ITU-T T.81, B.2.3 and G.1.1. A baseline JPEG is never reported.
    """
    place = first_scan(data)
    if data.find(_PROGRESSIVE, 0, place) < 0:
        return False
    end = data.find(_END, place)
    bits_missing: Dict[int, bytearray] = {}
    while 0 <= place < end:
        count = data[place + 4]
        first, last, approximation = data[place + 5 + 2 * count : place + 8 + 2 * count]
        for component in data[place + 5 : place + 5 + 2 * count : 2]:
            left = bits_missing.setdefault(component, bytearray(b"\xff" * _COEFFICIENTS))
            left[first : last + 1] = bytes([approximation & 15]) * (last + 1 - first)
        place = data.find(_SCAN, place + 2)
    return any(any(left) for left in bits_missing.values())
