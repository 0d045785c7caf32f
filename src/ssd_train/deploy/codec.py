"""Decode a request, detect, and encode the response.

Limits are checked before anything is decoded.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data.image_io import DEFAULT_LIMITS, EncodedImage, ImageHeader, ImageLimits, check_limits
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.deploy.detector import Detector
from ssd_train.errors import DataError, SsdTrainError

BAD_REQUEST, NOT_ACCEPTABLE, TOO_LARGE, UNSUPPORTED_TYPE, MODEL_FAULT = 400, 406, 413, 415, 500
JSON, NPY = "application/json", "application/x-npy"
IMAGE_TYPES = ("image/jpeg", "image/jpg", "image/png", "application/x-image")
CONTENT_TYPES = (*IMAGE_TYPES, JSON, NPY)
_COSTLY_BYTES, _COSTLY_PIXELS = 1 << 20, 8_000_000  # about 100 ms
_NPY_HEADER = 10_000  # bytes; the limit of newer NumPy versions


class RequestError(SsdTrainError):
    """A request that failed, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RequestLimits:
    """Limits above which requests are refused with status 413."""

    max_bytes: int = 6 << 20  # maximum of SageMaker's endpoints
    image: ImageLimits = DEFAULT_LIMITS


DEFAULT_REQUEST_LIMITS = RequestLimits()
DecodedImage = Tuple[np.ndarray, SizeWH]


def check_type(content_type: str) -> None:
    """Raise a RequestError (415) for an unsupported content type."""
    if _media_type(content_type) not in CONTENT_TYPES:
        raise RequestError(
            UNSUPPORTED_TYPE,
            f"Content-Type: found {truncate(content_type)}, expected one of {', '.join(CONTENT_TYPES)}",
        )


def check_size(count: int, limits: RequestLimits) -> None:
    """Raise a RequestError (413) if a body of `count` bytes is too large."""
    if count > limits.max_bytes:
        raise RequestError(TOO_LARGE, f"request: found {count} bytes, expected at most {limits.max_bytes}")


class ImageRequest:
    """A request's body: an encoded image, whose header is parsed once, or pixels as JSON or .npy.

    Args:
        body: the body.
        content_type: the Content-Type header.
        limits: maximum sizes.

    Raises:
        RequestError: 415, unsupported content type.
    """

    def __init__(self, body: bytes, content_type: str, limits: RequestLimits = DEFAULT_REQUEST_LIMITS) -> None:
        check_type(content_type)
        self._body, self._type, self._limits = body, _media_type(content_type), limits
        self._encoded = EncodedImage(body, "request", limits.image) if self._type in IMAGE_TYPES else None

    def is_expensive(self) -> bool:
        """Return True if decoding the body takes longer than most requests do."""
        if self._encoded is None:
            return len(self._body) > _COSTLY_BYTES
        try:
            header = self._encoded.header
        except DataError:  # `decode` fails as fast, and reports it
            return False
        return header.width * header.height > _COSTLY_PIXELS

    def decode(self, side: int) -> DecodedImage:
        """Decode the image.

        Args:
            side: input size of the network, in pixels; large images are downscaled, but not below it.

        Returns:
            RGB uint8 (H, W, 3), and the (width, height) of the full-size image.

        Raises:
            RequestError: 400 not a complete image, 413 too large.
        """
        check_size(len(self._body), self._limits)
        try:
            if self._encoded is None:
                return (_decode_json if self._type == JSON else _decode_npy)(self._body, self._limits.image)
            _check_pixels(self._encoded.header, self._limits.image)
            return self._encoded.decode_verified(side)
        except DataError as error:
            raise RequestError(BAD_REQUEST, single_line(str(error))) from None


def _media_type(content_type: str) -> str:
    return (content_type or "").split(";")[0].strip().lower()


def truncate(text: Any) -> str:
    """Return request data quoted and cut to 80 characters, for error messages."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:77]}..."


def single_line(text: str) -> str:
    """Replace line breaks by spaces."""
    return " ".join(text.split())


def _check_pixels(header: ImageHeader, limits: ImageLimits) -> None:
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise RequestError(
            TOO_LARGE,
            f"request: found {header.width}x{header.height} = {pixels / 1e6:.1f} Mpx, "
            f"expected at most {limits.max_pixels / 1e6:g} Mpx",
        )


def _decode_json(body: bytes, limits: ImageLimits) -> DecodedImage:
    try:
        lists = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"request: found no JSON ({str(error)[:80]}), expected an image's pixels as nested lists"
        ) from None
    try:
        array = np.array(lists, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # ragged lists, strings, objects, huge integers
        lists = None  # or the traceback keeps it alive: ten times the memory of the body
        raise DataError("request: found JSON that is no array of numbers, expected height x width x 3 pixels") from None
    return _check_array(array, limits)


def _decode_npy(body: bytes, limits: ImageLimits) -> DecodedImage:
    file = io.BytesIO(body)
    try:
        shape, fortran_order, dtype = _npy_header(file)
    except Exception as error:  # NumPy evaluates the header as a Python literal, which fails in many ways
        raise DataError(f"request: found no .npy array ({type(error).__name__}), expected an image's pixels") from None
    if dtype.kind not in "uif" or dtype.hasobject:
        raise DataError("request: found an .npy that is no array of numbers, expected an image's pixels")
    _check_shape(shape)
    count = shape[0] * shape[1] * shape[2] * (shape[3] if len(shape) == 4 else 1)
    if count * dtype.itemsize != len(body) - file.tell():
        raise DataError(
            f"request: found {len(body) - file.tell()} bytes of data, expected {count * dtype.itemsize} for {shape}"
        )
    array = np.frombuffer(body, dtype, count, file.tell())
    return _check_array(array.reshape(shape, order="F" if fortran_order else "C"), limits)


def _npy_header(file: io.BytesIO) -> "Tuple[Tuple[int, ...], bool, np.dtype[Any]]":
    """Read shape, Fortran order and dtype without allocating the array."""
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.getvalue()[8:12][: 2 if version == (1, 0) else 4], "little")
    if length > _NPY_HEADER:
        raise DataError(f"a header of {length} bytes")
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    return read(file)


def _check_shape(shape: Tuple[int, ...]) -> None:
    """Raise a DataError unless `shape` is (H, W, 3) or (1, H, W, 3)."""
    image_shape = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(image_shape) != 3 or image_shape[2] != 3 or min(image_shape) < 1:
        raise DataError(f"request: found an array of {truncate(shape)}, expected height x width x 3 pixels")


def _check_array(array: np.ndarray, limits: ImageLimits) -> DecodedImage:
    """Convert numbers in 0..255, (H, W, 3) or (1, H, W, 3), to RGB uint8 (H, W, 3)."""
    _check_shape(array.shape)
    height, width = array.shape[-3:-1]
    header = ImageHeader("array", width, height)
    _check_pixels(header, limits)
    check_limits(header, "request", limits)
    image = array.reshape(height, width, 3)
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 255:
        raise DataError("request: found values beyond 0 to 255, expected pixels in 8 bits")
    rounded = np.rint(image)
    if image.max() <= 1 and (rounded != image).any():  # the input of other networks; here the image would be black
        raise DataError("request: found fractions from 0 to 1, expected pixels 0 to 255")
    return np.ascontiguousarray(rounded, dtype=np.uint8), header.display_wh


def predict_one(detector: Detector, image: np.ndarray, size_wh: SizeWH) -> Detections:
    """Return the detections in an image resized by `detector.to_input`.

    Args:
        detector: the model.
        image: uint8 (side, side, 3).
        size_wh: (width, height) of the full-size image, in whose pixels the boxes are.

    Raises:
        RequestError: 500, the network returns NaN.
    """
    try:
        return detector.predict_inputs([image], [size_wh])[0]
    except DataError as error:
        raise RequestError(MODEL_FAULT, str(error)) from None


JSON_LINES = "application/jsonlines"
ANYTHING = ("", "*/*", "application/*")
ANNOTATION, VERBOSE = "annotation=1", "verbose=1"
Document = Dict[str, Any]


def encode_response(detections: Detections, class_names: ClassNames, accept: str) -> Tuple[str, str]:
    """Return the response body and its content type.

    Raises:
        RequestError: 406, no content type in `accept` is supported.
    """
    content_type, encode = negotiate_accept(accept)
    text = json.dumps(encode(detections, class_names), allow_nan=False, ensure_ascii=False)
    return (f"{text}\n" if content_type == JSON_LINES else text), content_type


def negotiate_accept(accept: str) -> "Tuple[str, Callable[[Detections, ClassNames], Document]]":
    """Return the first supported content type of an Accept header, and its encoder.

    Quality values (q=) are ignored.

    Raises:
        RequestError: 406, no content type in `accept` is supported.
    """
    for offer in (accept or "").split(","):
        encoder = _find_encoder(offer)
        if encoder is not None:
            return encoder
    raise RequestError(
        NOT_ACCEPTABLE,
        f"Accept: found {truncate(accept)}, expected {JSON}, {JSON};{ANNOTATION}, {JSON};{VERBOSE} or {JSON_LINES}",
    )


def _find_encoder(offer: str) -> "Optional[Tuple[str, Callable[[Detections, ClassNames], Document]]]":
    content_type, *parameters = ("".join(part.split()).lower() for part in offer.split(";"))
    if content_type not in (JSON, JSON_LINES, *ANYTHING):
        return None
    encode = _verbose if VERBOSE in parameters else _annotations if ANNOTATION in parameters else _builtin
    return (JSON_LINES if content_type == JSON_LINES else JSON), encode


def _builtin(detections: Detections, class_names: ClassNames) -> Document:
    return {"prediction": detections.to_rows()}


def _annotations(detections: Detections, class_names: ClassNames) -> Document:
    """Return corners as whole numbers, and no class names."""
    rounded = np.rint(detections.boxes).astype(int)
    return _document(detections, [{"class_id": id} for id in detections.class_ids.tolist()], rounded)


def _verbose(detections: Detections, class_names: ClassNames) -> Document:
    classes = [{"class_id": id, "class_name": class_names[id]} for id in detections.class_ids.tolist()]
    return _document(detections, classes, detections.boxes)


def _document(detections: Detections, classes: List[Document], boxes: np.ndarray) -> Document:
    width, height = detections.size_wh
    rows = zip(classes, detections.scores.tolist(), boxes.tolist())
    return {
        "image_size": [{"width": int(width), "height": int(height), "depth": 3}],
        "annotations": [{**names, "score": score, **_ltwh(*box)} for names, score, box in rows],
    }


def _ltwh(x1: float, y1: float, x2: float, y2: float) -> Document:
    return {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
