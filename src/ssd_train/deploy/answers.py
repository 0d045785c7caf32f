"""Encode detections as a response body of the accepted content type.

application/json                 {"prediction": [[class, score, xmin, ymin, xmax, ymax], ...]}, the built-in algorithm's
                                 format: coordinates in 0..1 of the image, best first
application/json;annotation=1    {"image_size": [{"width", "height", "depth"}], "annotations": [{"class_id", "score",
                                 "left", "top", "width", "height"}, ...]}, its format for labeling: integer pixels
application/json;verbose=1       the same with class names, in fractional pixels
application/jsonlines            any of these, with a line feed at the end
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from ssd_train.data.records import ClassNames, Detections
from ssd_train.deploy.requests import JSON, NOT_ACCEPTABLE, RequestError, shortened

JSON_LINES = "application/jsonlines"
ANYTHING = ("", "*/*", "application/*")
ANNOTATION, VERBOSE = "annotation=1", "verbose=1"
Document = Dict[str, Any]


def write_answer(detections: Detections, class_names: ClassNames, accept: str) -> Tuple[str, str]:
    """Return the response body and its content type.

    Raises:
        RequestError: 406, no content type in `accept` is supported.
    """
    content_type, encode = check_accept(accept)
    text = json.dumps(encode(detections, class_names), allow_nan=False, ensure_ascii=False)
    return (f"{text}\n" if content_type == JSON_LINES else text), content_type


def check_accept(accept: str) -> "Tuple[str, Callable[[Detections, ClassNames], Document]]":
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
        f"Accept: found {shortened(accept)}, expected {JSON}, {JSON};{ANNOTATION}, {JSON};{VERBOSE} or {JSON_LINES}",
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
    boxes = np.rint(detections.boxes).astype(int).tolist()
    rows = zip(detections.class_ids.tolist(), detections.scores.tolist(), boxes)
    return {
        "image_size": _image_size(detections),
        "annotations": [{"class_id": id, "score": score, **_ltwh(*box)} for id, score, box in rows],
    }


def _verbose(detections: Detections, class_names: ClassNames) -> Document:
    rows = zip(detections.class_ids.tolist(), detections.scores.tolist(), detections.boxes.tolist())
    return {
        "image_size": _image_size(detections),
        "annotations": [
            {"class_id": id, "class_name": class_names[id], "score": score, **_ltwh(*box)} for id, score, box in rows
        ],
    }


def _ltwh(x1: float, y1: float, x2: float, y2: float) -> Document:
    return {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}


def _image_size(detections: Detections) -> List[Dict[str, int]]:
    width, height = detections.size_wh
    return [{"width": int(width), "height": int(height), "depth": 3}]
