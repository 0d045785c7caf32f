"""Requests and answers of SageMaker's MXNet serving container: model_fn and transform_fn, with its exact signatures.

A request is an encoded image (its kind is told by its bytes), or its pixels as JSON or .npy, as the SDK's predictors
send them. The answer is the built-in algorithm's:

    {"prediction": [[class, score, xmin, ymin, xmax, ymax], ...]}    coordinates in 0..1 of the image, best first
"""

from __future__ import annotations

import io
import json
from typing import Any, Callable, Dict, Tuple, Union

import numpy as np

from ssd_train.data.images import DEFAULT_LIMITS, decode_for
from ssd_train.data.records import Detections
from ssd_train.deploy.detector import Detector
from ssd_train.errors import DataError, SsdTrainError

Body = Union[bytes, bytearray, str]

BAD_REQUEST, NOT_ACCEPTABLE, UNSUPPORTED_TYPE, MODEL_FAULT = 400, 406, 415, 500
JSON = "application/json"


class RequestError(SsdTrainError):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def model_fn(model_dir: str) -> Detector:
    """The model in the folder `model_dir`."""
    return Detector.load(model_dir)


def transform_fn(model: Detector, data: Body, content_type: str, accept: str) -> Tuple[str, str]:
    """The answer to a request, and its content type; an error of the container's own kind says why there is none."""
    try:
        return answer(model, data, content_type, accept)
    except RequestError as error:
        raise _for_container(error) from None


def answer(detector: Detector, body: Body, content_type: str, accept: str = JSON) -> Tuple[str, str]:
    """What `detector` finds in the image of a request, and the content type of that; a RequestError with 400, 406,
    415, or 500 when there is no answer to it."""
    write = _chosen(WRITERS, accept, NOT_ACCEPTABLE, "Accept")
    read = _chosen(READERS, content_type, UNSUPPORTED_TYPE, "Content-Type")
    try:
        image = read(body.encode("utf-8") if isinstance(body, str) else bytes(body), detector.engine.side)
    except DataError as error:
        raise RequestError(BAD_REQUEST, str(error)) from None
    try:
        return write(detector(image)), JSON
    except DataError as error:  # NaN of a dead network never leaves
        raise RequestError(MODEL_FAULT, str(error)) from None


def _chosen(table: "Dict[str, Any]", wanted: str, status: int, header: str) -> Any:
    kind = (wanted or "").split(";")[0].strip().lower()
    if kind not in table:
        raise RequestError(status, f"{header}: found {wanted!r}, expected one of {', '.join(filter(None, table))}")
    return table[kind]


def _for_container(error: RequestError) -> Exception:
    """The error that the serving container turns into its status; the error itself outside of it."""
    try:
        from sagemaker_inference.errors import GenericInferenceToolkitError
    except ImportError:
        return error
    return GenericInferenceToolkitError(error.status, str(error))


def _encoded(body: bytes, side: int) -> np.ndarray:
    return decode_for(body, "request", side)


def _pixels_of_json(body: bytes, side: int) -> np.ndarray:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise DataError(f"request: found no JSON ({error}), expected an image's pixels as nested lists") from None
    try:
        return _checked_pixels(np.array(found, dtype=np.float64))
    except (TypeError, ValueError):  # ragged lists, texts, objects
        raise DataError("request: found JSON that is no array of numbers, expected height x width x 3 pixels") from None


def _pixels_of_npy(body: bytes, side: int) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"request: found no .npy array ({error}), expected an image's pixels") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "uif":
        raise DataError("request: found an .npy that is no array of numbers, expected an image's pixels")
    return _checked_pixels(found)


def _checked_pixels(array: np.ndarray) -> np.ndarray:
    """RGB uint8 (H, W, 3) of (H, W, 3) or (1, H, W, 3) numbers in 0..255."""
    image = array[0] if array.ndim == 4 and len(array) == 1 else array
    if image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"request: found an array of {array.shape}, expected height x width x 3 pixels")
    height, width = image.shape[:2]
    if min(height, width) < DEFAULT_LIMITS.min_side or height * width > DEFAULT_LIMITS.max_pixels:
        raise DataError(
            f"request: found {width}x{height} pixels, expected sides of at least {DEFAULT_LIMITS.min_side} px and at "
            f"most {DEFAULT_LIMITS.max_pixels / 1e6:g} Mpx"
        )
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 255:
        raise DataError("request: found values beyond 0 to 255, expected pixels in 8 bits")
    return np.ascontiguousarray(np.rint(image), dtype=np.uint8)


def _builtin_rows(detections: Detections) -> str:
    return json.dumps({"prediction": detections.to_rows()}, allow_nan=False)


# content type -> what makes RGB uint8 (H, W, 3) of a body, for a network that looks at (side, side) pixels
READERS: Dict[str, Callable[[bytes, int], np.ndarray]] = {
    **dict.fromkeys(("image/jpeg", "image/jpg", "image/png", "application/x-image"), _encoded),
    JSON: _pixels_of_json,
    "application/x-npy": _pixels_of_npy,
}
WRITERS: Dict[str, Callable[[Detections], str]] = dict.fromkeys((JSON, "*/*", ""), _builtin_rows)
