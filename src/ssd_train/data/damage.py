"""Damage that decoders pass over without a word: what they paint where data is missing, and scans that never came.

Looked for by a check of the data, and once in each picture that is trained on or looked at.
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

_FILL = [128, 128, 128]  # gray: what libjpeg paints where data is missing
_MORE = b"\x5a\x3c\xa6\x69" * 64  # data of no meaning, without the 0xff of a marker
_PROGRESSIVE, _SCAN, _END = b"\xff\xc2", b"\xff\xda", b"\xff\xd9"
_COEFFICIENTS = 64


def check_undamaged(data: bytes, header: ImageHeader, image: np.ndarray, where: str) -> None:
    """A DataError when `image` (H, W, 3), as stored in `data`, is not all there although its file has an end: a JPEG
    that was cut off and given an end by a repair tool, or lost a part; a TIFF with a damaged strip. Data changed into
    other data that can be decoded, and the end of a progressive JPEG's last refinement, are not missed."""
    if header.format == "JPEG":
        # data is missed at the end of a picture first
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
    """`check_undamaged` for an `image` that was turned upright, and perhaps decoded smaller. Cheap: only a file whose
    picture has a corner of the gray that stands for missing data, or that is a TIFF, is decoded once more."""
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
    """What a network that looks at (side, side) pixels is given of an encoded picture, as `decode_for`, seen to be all
    there; and the (width, height) of the whole picture, upright."""
    size_wh = expected_wh or read_header(data, where).shown_wh
    image = decode_for(data, where, side, size_wh, limits)
    check_decoded(data, image, where)
    return image, size_wh


def _wants_more(data: bytes) -> bool:
    """Whether more data before the end of a JPEG changes its pixels: a whole one has no use for it. Asked of Pillow,
    whose decoder writes no warnings to standard error."""
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
    """Whether the scans of a progressive JPEG leave a coefficient without its last bit (ITU-T T.81, B.2.3 and G.1.1).
    A baseline JPEG says everything in one scan."""
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
