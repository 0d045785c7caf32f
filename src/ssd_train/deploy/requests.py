"""The body of a request -> the picture in it. What a body may cost is bounded before anything in it is decoded."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.damage import decode_whole
from ssd_train.data.images import DEFAULT_LIMITS, ImageHeader, ImageLimits, check_limits, read_header
from ssd_train.errors import DataError, SsdTrainError

BAD_REQUEST, NOT_ACCEPTABLE, TOO_LARGE, UNSUPPORTED_TYPE, MODEL_FAULT = 400, 406, 413, 415, 500
JSON, NPY = "application/json", "application/x-npy"
IMAGE_TYPES = ("image/jpeg", "image/jpg", "image/png", "application/x-image")
_COSTLY_BYTES, _COSTLY_PIXELS = 1 << 20, 8_000_000  # some 100 ms
_NPY_HEADER = 10_000  # bytes; NumPy's own limit, which its older versions lack


class RequestError(SsdTrainError):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RequestLimits:
    """What is refused with 413, before decoding: bodies above `max_bytes`, pictures above `image.max_pixels`."""

    max_bytes: int = 6 << 20  # what SageMaker's endpoints take
    image: ImageLimits = DEFAULT_LIMITS


DEFAULT_REQUEST_LIMITS = RequestLimits()
Read = Tuple[np.ndarray, SizeWH]


def check_type(content_type: str) -> None:
    """A RequestError (415) for a type of content that is not known."""
    if _kind(content_type) not in READERS:
        raise RequestError(
            UNSUPPORTED_TYPE, f"Content-Type: found {shortened(content_type)}, expected one of {', '.join(READERS)}"
        )


def check_size(count: int, limits: RequestLimits) -> None:
    """A RequestError (413) for a body of `count` bytes that is too large."""
    if count > limits.max_bytes:
        raise RequestError(TOO_LARGE, f"request: found {count} bytes, expected at most {limits.max_bytes}")


def read_request(body: bytes, content_type: str, side: int, limits: RequestLimits = DEFAULT_REQUEST_LIMITS) -> Read:
    """RGB uint8 (H, W, 3) of the picture in a request, of a large one a smaller picture that is still large enough for
    a network that looks at (side, side) pixels, and the (width, height) of the whole one.

    Raises:
        RequestError: 400 what is no whole picture, 413 too large, 415 a type of content that is not known.
    """
    check_type(content_type)
    check_size(len(body), limits)
    try:
        return READERS[_kind(content_type)](body, side, limits.image)
    except DataError as error:
        raise RequestError(BAD_REQUEST, one_line(str(error))) from None


def is_costly(body: bytes, content_type: str) -> bool:
    """Whether making a picture of the body takes a processor for longer than most requests do from end to end."""
    if _kind(content_type) not in IMAGE_TYPES:
        return len(body) > _COSTLY_BYTES
    try:
        header = read_header(body, "request")
    except DataError:  # which costs no more, and is told by read_request
        return False
    return header.width * header.height > _COSTLY_PIXELS


def _kind(content_type: str) -> str:
    return (content_type or "").split(";")[0].strip().lower()


def shortened(text: Any) -> str:
    """What somebody sent, fit to be told back to them."""
    shown = ascii(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def one_line(text: str) -> str:
    """`text`, some of which may come from a library, without line breaks."""
    return " ".join(text.split())


def _encoded(body: bytes, side: int, limits: ImageLimits) -> Read:
    header = read_header(body, "request")
    _check_pixels(header, limits)
    return decode_whole(body, "request", side, limits=limits)


def _check_pixels(header: ImageHeader, limits: ImageLimits) -> None:
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise RequestError(
            TOO_LARGE,
            f"request: found {header.width}x{header.height} = {pixels / 1e6:.1f} Mpx, "
            f"expected at most {limits.max_pixels / 1e6:g} Mpx",
        )


def _pixels_of_json(body: bytes, side: int, limits: ImageLimits) -> Read:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"request: found no JSON ({str(error)[:80]}), expected an image's pixels as nested lists"
        ) from None
    try:
        array = np.array(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # ragged lists, texts, objects, numbers beyond all bounds
        found = None  # which the error's traceback would keep, ten times as large as the body
        raise DataError("request: found JSON that is no array of numbers, expected height x width x 3 pixels") from None
    return _checked(array, limits)


def _pixels_of_npy(body: bytes, side: int, limits: ImageLimits) -> Read:
    file = io.BytesIO(body)
    try:
        shape, by_column, kind = _npy_header(file)
    except Exception as error:  # NumPy evaluates the header as Python's literals, which fail in many ways
        raise DataError(f"request: found no .npy array ({type(error).__name__}), expected an image's pixels") from None
    if kind.kind not in "uif" or kind.hasobject:
        raise DataError("request: found an .npy that is no array of numbers, expected an image's pixels")
    _check_shape(shape)
    count = shape[0] * shape[1] * shape[2] * (shape[3] if len(shape) == 4 else 1)
    if count * kind.itemsize != len(body) - file.tell():
        raise DataError(
            f"request: found {len(body) - file.tell()} bytes of data, expected {count * kind.itemsize} for {shape}"
        )
    array = np.frombuffer(body, kind, count, file.tell())
    return _checked(array.reshape(shape, order="F" if by_column else "C"), limits)


def _npy_header(file: io.BytesIO) -> "Tuple[Tuple[int, ...], bool, np.dtype[Any]]":
    """Shape, order and type, before anything of that size is made."""
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.getvalue()[8:12][: 2 if version == (1, 0) else 4], "little")
    if length > _NPY_HEADER:
        raise DataError(f"a header of {length} bytes")
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    return read(file)


def _check_shape(shape: Tuple[int, ...]) -> None:
    """A DataError for what is not (H, W, 3) or (1, H, W, 3)."""
    one = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(one) != 3 or one[2] != 3 or min(one) < 1:
        raise DataError(f"request: found an array of {shortened(shape)}, expected height x width x 3 pixels")


def _checked(array: np.ndarray, limits: ImageLimits) -> Read:
    """RGB uint8 (H, W, 3) of (H, W, 3) or (1, H, W, 3) numbers in 0..255."""
    _check_shape(array.shape)
    height, width = array.shape[-3:-1]
    header = ImageHeader("array", width, height)
    _check_pixels(header, limits)
    check_limits(header, "request", limits)
    image = array.reshape(height, width, 3)
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 255:
        raise DataError("request: found values beyond 0 to 255, expected pixels in 8 bits")
    whole = np.rint(image)
    if image.max() <= 1 and (whole != image).any():  # as other networks take them; here they would all be black
        raise DataError("request: found fractions from 0 to 1, expected pixels 0 to 255")
    return np.ascontiguousarray(whole, dtype=np.uint8), header.shown_wh


# content type -> what makes a picture of a body, for a network that looks at (side, side) pixels
READERS: Dict[str, Callable[[bytes, int, ImageLimits], Read]] = {
    **dict.fromkeys(IMAGE_TYPES, _encoded),
    JSON: _pixels_of_json,
    NPY: _pixels_of_npy,
}
