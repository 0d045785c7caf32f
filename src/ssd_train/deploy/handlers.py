"""Implement the handlers of SageMaker's MXNet serving container.

They are model_fn and transform_fn.

A request is an encoded image (its bytes decide the format), or pixels as JSON or .npy, as the SDK's predictors send
them: see codec.py.

The container's `sagemaker_inference` writes the traceback of any error, with file paths, into the response; `model_fn`
turns that off. It also ignores an ImportError of this module and then responds "Prediction failed" to every request. So
this module can be imported without the libraries that it needs, and reports the missing one in each response.
"""

from __future__ import annotations

import http
import logging
import sys
from typing import Any, List, Optional, Tuple, Union

import numpy as np

from ssd_train.environment import payload_limit
from ssd_train.errors import DependencyError

try:
    from ssd_train.deploy.codec import (
        DEFAULT_REQUEST_LIMITS,
        ImageRequest,
        RequestError,
        RequestLimits,
        encode_response,
        negotiate_accept,
        predict_one,
    )
    from ssd_train.deploy.detector import Detector

    MISSING: Optional[DependencyError] = None
except (ImportError, DependencyError) as error:
    MISSING = DependencyError(f"{error}: a library that serving needs is missing")

Body = Union[bytes, bytearray, str]


def model_fn(model_dir: str) -> Detector:
    """Load the model in `model_dir`, and warm it up.

    Raises:
        DependencyError: a required library is missing.
        WeightsError: the model is missing or damaged.
    """
    _hide_tracebacks()
    if MISSING is not None:
        raise MISSING
    detector = Detector.load(model_dir)
    warm_up(detector)
    return detector


def transform_fn(model: Detector, data: Body, content_type: str, accept: str) -> Tuple[str, str]:
    """Return the response body and its content type.

    Raise the container's own error class if the request fails.
    """
    try:
        return handle_request(model, data, content_type, accept, RequestLimits(payload_limit()))
    except RequestError as error:
        raise _for_container(error) from None


def handle_request(
    detector: Detector,
    body: Body,
    content_type: str,
    accept: str = "application/json",
    limits: "Optional[RequestLimits]" = None,
) -> Tuple[str, str]:
    """Detect objects in the image of a request.

    Args:
        detector: the model.
        body: the request's body, see codec.ImageRequest.
        content_type: the Content-Type header.
        accept: the Accept header.
        limits: maximum sizes.

    Returns:
        The response body and its content type.

    Raises:
        RequestError: 400, 406, 413, 415, or 500 if the network returns NaN.
    """
    negotiate_accept(accept)  # before anything is decoded
    data = body.encode("utf-8") if isinstance(body, str) else bytes(body)
    request = ImageRequest(data, content_type, limits or DEFAULT_REQUEST_LIMITS)
    image, size_wh = request.decode(detector.engine.side)
    return encode_response(predict_one(detector, detector.to_input(image), size_wh), detector.class_names, accept)


def warm_up(detector: Detector) -> None:
    """Run the network once, so that it allocates memory and compiles its kernels."""
    detector(np.zeros((detector.engine.side, detector.engine.side, 3), np.uint8))


def _for_container(error: RequestError) -> Exception:
    """Convert an error to the container's error class, if that is installed."""
    try:
        from sagemaker_inference.errors import GenericInferenceToolkitError
    except ImportError:
        return error
    return GenericInferenceToolkitError(error.status, str(error))


def _hide_tracebacks() -> None:
    """Make the container's toolkit, if installed, respond to an error with one line."""
    try:
        from sagemaker_inference.transformer import Transformer
    except ImportError:
        return
    Transformer.handle_error = staticmethod(_handle_error)


def _handle_error(context: Any, error: Any, trace: str) -> List[str]:
    """Return the response to a request that failed; replaces Transformer.handle_error."""
    raised = sys.exc_info()[1]
    if raised is error or isinstance(raised, DependencyError):
        status, message = error.status_code, error.message
    elif isinstance(raised, UnicodeDecodeError):  # raised by the toolkit before it calls us
        status, message = 400, "request: found bytes that are not UTF-8, expected text as its Content-Type says"
    else:
        status, message = 500, "internal error: see the server's log"
    if status >= 500:
        logging.getLogger(__name__).error(trace)
    context.set_response_status(code=status, phrase=http.HTTPStatus(status).phrase)
    return [message]
