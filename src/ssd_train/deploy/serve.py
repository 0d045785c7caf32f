"""Requests and answers of SageMaker's MXNet serving container: model_fn and transform_fn, with its exact signatures.

A request is an encoded image (its kind is told by its bytes), or its pixels as JSON or .npy, as the SDK's predictors
send them: see requests.py. What comes back is in answers.py.

The container calls these from `sagemaker_inference`, which writes the trace of any error, with the paths of files, into
the body of its answer; `model_fn` puts an end to that. It also passes over an import that fails, and then answers
"Prediction failed" for ever: so this module can be imported without a library that it needs, and says so in each
answer.
"""

from __future__ import annotations

import http
import logging
import sys
from typing import Any, List, Optional, Tuple, Union

import numpy as np

from ssd_train.environment import payload_limit
from ssd_train.errors import DataError, DependencyError

try:
    from ssd_train.deploy.answers import check_accept, write_answer
    from ssd_train.deploy.detector import Detector
    from ssd_train.deploy.requests import (
        DEFAULT_REQUEST_LIMITS,
        MODEL_FAULT,
        RequestError,
        RequestLimits,
        read_request,
    )

    MISSING: Optional[DependencyError] = None
except (ImportError, DependencyError) as error:
    MISSING = DependencyError(f"{error}: a library that serving needs is missing")

Body = Union[bytes, bytearray, str]


def model_fn(model_dir: str) -> Detector:
    """The model in the folder `model_dir`, warmed up.

    Raises:
        DependencyError: a library that it needs is missing.
        WeightsError: the model is not there, or damaged.
    """
    _hide_traces()
    if MISSING is not None:
        raise MISSING
    detector = Detector.load(model_dir)
    warm_up(detector)
    return detector


def transform_fn(model: Detector, data: Body, content_type: str, accept: str) -> Tuple[str, str]:
    """The answer to a request, and its content type; an error of the container's own kind says why there is none."""
    try:
        return answer(model, data, content_type, accept, RequestLimits(payload_limit()))
    except RequestError as error:
        raise _for_container(error) from None


def answer(
    detector: Detector,
    body: Body,
    content_type: str,
    accept: str = "application/json",
    limits: "Optional[RequestLimits]" = None,
) -> Tuple[str, str]:
    """What `detector` finds in the picture of a request, and the content type of that.

    Raises:
        RequestError: there is no answer; 400, 406, 413, 415, or 500 where the network says NaN.
    """
    check_accept(accept)  # before any work
    data = body.encode("utf-8") if isinstance(body, str) else bytes(body)
    image, size_wh = read_request(data, content_type, detector.engine.side, limits or DEFAULT_REQUEST_LIMITS)
    return write_answer(find_one(detector, detector.to_input(image), size_wh), detector.class_names, accept)


def warm_up(detector: Detector) -> None:
    """Have the first run, which allocates and compiles, behind it."""
    detector(np.zeros((detector.engine.side, detector.engine.side, 3), np.uint8))


def find_one(detector: Detector, picture: np.ndarray, size_wh: Tuple[int, int]) -> Any:
    """The Detections in a picture made ready by `detector.to_input`; a RequestError (500) in place of NaN."""
    try:
        return detector.find([picture], [size_wh])[0]
    except DataError as error:  # NaN of a dead network never leaves
        raise RequestError(MODEL_FAULT, str(error)) from None


def _for_container(error: RequestError) -> Exception:
    """The error that the serving container turns into its status; the error itself outside of it."""
    try:
        from sagemaker_inference.errors import GenericInferenceToolkitError
    except ImportError:
        return error
    return GenericInferenceToolkitError(error.status, str(error))


def _hide_traces() -> None:
    """Make the container's toolkit, where there is one, answer an error with one line."""
    try:
        from sagemaker_inference.transformer import Transformer
    except ImportError:
        return
    Transformer.handle_error = staticmethod(_one_line)


def _one_line(context: Any, error: Any, trace: str) -> List[str]:
    """In place of the toolkit's own: the answer to a request that ended in `error`, made of what was raised."""
    raised = sys.exc_info()[1]
    if raised is error or isinstance(raised, DependencyError):
        status, message = error.status_code, error.message
    elif isinstance(raised, UnicodeDecodeError):  # the toolkit's own, before we are asked
        status, message = 400, "request: found bytes that are no UTF-8, expected text, as its Content-Type says"
    else:
        status, message = 500, "internal error: the log of the server says more"
    if status >= 500:
        logging.getLogger(__name__).error(trace)
    context.set_response_status(code=status, phrase=http.HTTPStatus(status).phrase)
    return [message]
