"""Detections -> the body of an answer, in the form that the request's Accept header asks for.

application/json                 {"prediction": [[class, score, xmin, ymin, xmax, ymax], ...]} as the built-in
                                 algorithm answers: coordinates in 0..1 of the image, best first
application/json;annotation=1    {"image_size": [{"width", "height", "depth"}], "annotations": [{"class_id", "score",
                                 "left", "top", "width", "height"}, ...]} in whole pixels, as it does for labelling
application/json;verbose=1       the same with class names, in fractions of pixels
application/jsonlines            any of them, ended by a line feed
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
    """The body of an answer, and its content type; `check_accept` has passed `accept`."""
    kind, document = check_accept(accept)
    text = json.dumps(document(detections, class_names), allow_nan=False, ensure_ascii=False)
    return (f"{text}\n" if kind == JSON_LINES else text), kind


def check_accept(accept: str) -> "Tuple[str, Callable[[Detections, ClassNames], Document]]":
    """The content type that an Accept header asks for, and what makes its document: the first that is known, whatever
    its weight; a RequestError (406) where none is."""
    for offer in (accept or "").split(","):
        found = _known(offer)
        if found is not None:
            return found
    raise RequestError(
        NOT_ACCEPTABLE,
        f"Accept: found {shortened(accept)}, expected {JSON}, {JSON};{ANNOTATION}, {JSON};{VERBOSE} or {JSON_LINES}",
    )


def _known(offer: str) -> "Optional[Tuple[str, Callable[[Detections, ClassNames], Document]]]":
    kind, *parameters = ("".join(part.split()).lower() for part in offer.split(";"))
    if kind not in (JSON, JSON_LINES, *ANYTHING):
        return None
    document = _verbose if VERBOSE in parameters else _annotations if ANNOTATION in parameters else _builtin
    return (JSON_LINES if kind == JSON_LINES else JSON), document


def _builtin(detections: Detections, class_names: ClassNames) -> Document:
    return {"prediction": detections.to_rows()}


def _annotations(detections: Detections, class_names: ClassNames) -> Document:
    rows = zip(detections.class_ids.tolist(), detections.scores.tolist(), _whole(detections))
    return {
        "image_size": _image_size(detections),
        "annotations": [{"class_id": id, "score": score, **_sides(*box)} for id, score, box in rows],
    }


def _verbose(detections: Detections, class_names: ClassNames) -> Document:
    rows = zip(detections.class_ids.tolist(), detections.scores.tolist(), detections.boxes.tolist())
    return {
        "image_size": _image_size(detections),
        "annotations": [
            {"class_id": id, "class_name": class_names[id], "score": score, **_sides(*box)} for id, score, box in rows
        ],
    }


def _whole(detections: Detections) -> List[List[int]]:
    """The boxes in whole pixels."""
    return np.rint(detections.boxes).astype(int).tolist()


def _sides(x1: float, y1: float, x2: float, y2: float) -> Document:
    return {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}


def _image_size(detections: Detections) -> List[Dict[str, int]]:
    width, height = detections.size_wh
    return [{"width": int(width), "height": int(height), "depth": 3}]
