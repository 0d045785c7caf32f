"""Single fields of labels, checked: numbers, class ids, image sizes, and how a box is fitted to its image.

Every text format reads its fields with these, so that one rule holds whatever the labels came as. All raise DataError
without a place, which the caller adds.
"""

from __future__ import annotations

import re
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

from ssd_train.data.boxes import SizeWH
from ssd_train.errors import DataError

MAX_SIDE = 1_000_000  # px; below 2**23, so float32 keeps every box of at least 1 px apart
MIN_SIDE = 1.0  # px of a box after clipping, but for ROUNDING; thinner boxes make the loss infinite
MIN_KEPT = 0.1  # share of a box's area that must lie inside the image
ROUNDING = 1e-3  # px over the rim that is float arithmetic of a labelling tool, not a box outside the image
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_THIN = MIN_SIDE - ROUNDING

CLIPPED = "box clipped to the image"
TOO_SMALL = "box left out: smaller than 1 pixel"
OUTSIDE = "box left out: less than 10 % of it inside the image"

OBJECT, DIFFICULT, CROWD = range(3)  # kinds of boxes; a detection of the last two is neither right nor wrong

Corners = Tuple[float, float, float, float]


class BoxLabel(NamedTuple):
    """One label as it stands in its file: xyxy corners, not yet fitted to the image, our class ids, size if told, and
    for each box OBJECT, DIFFICULT or CROWD; no kinds where all are objects."""

    boxes: List[Corners]
    class_ids: List[int]
    size_wh: Optional[SizeWH]
    kinds: Sequence[int] = ()

    def split(self) -> "Tuple[BoxLabel, BoxLabel]":
        """The objects, and what is to be ignored."""
        if not self.kinds:
            return self, BoxLabel([], [], self.size_wh)
        rows = list(zip(self.boxes, self.class_ids, self.kinds))
        parts = [row for row in rows if not row[2]], [row for row in rows if row[2]]
        objects, ignored = (
            BoxLabel([r[0] for r in part], [r[1] for r in part], self.size_wh, [r[2] for r in part]) for part in parts
        )
        return objects, ignored


class FittedBoxes(NamedTuple):
    """Boxes of one image after `fit_boxes`: xyxy rows, class ids, and (reason, detail) of each one not as it was."""

    rows: List[Corners]
    class_ids: List[int]
    changes: List[Tuple[str, str]]
    kept: List[int]  # their numbers before


def number(value: Any, field: str) -> float:
    """A finite JSON number of at most MAX_SIDE in size; strings, booleans and null are none."""
    if type(value) is not int and type(value) is not float:
        raise DataError(f"{field}: found {shown(value)}, expected a number", "bad-coordinates")
    if not -MAX_SIDE <= value <= MAX_SIDE:  # false for NaN too
        raise DataError(
            f"{field}: found {shown(value)}, expected a number of pixels up to {MAX_SIDE}", "bad-coordinates"
        )
    return value


def text_number(text: str, field: str) -> float:
    """A decimal number written out, as `number`; Python's float() would also take nan, inf and 1_000."""
    if len(text) > 100 or not _DECIMAL.fullmatch(text):
        raise DataError(f"{field}: found {shown(text)}, expected a number", "bad-coordinates")
    return number(float(text), field)


def whole_number(value: Any, field: str) -> int:
    """A JSON integer, or its digits as a string (``"0"``), of 0 or more."""
    if type(value) is int and 0 <= value < 10**9:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    raise DataError(f"{field}: found {shown(value)}, expected an integer of 0 or more")


def class_number(value: Any, field: str) -> int:
    """A class id, as `whole_number`."""
    try:
        return whole_number(value, field)
    except DataError as fault:
        raise DataError(str(fault), "unknown-class") from None


def image_size(value: Any, field: str) -> SizeWH:
    """(width, height) in pixels of ``{"width": 640, "height": 480, ...}``."""
    if not isinstance(value, dict):
        raise DataError(f"{field}: found {shown(value)}, expected an object with width and height", "bad-image-size")
    return side(value.get("width"), f"{field} width"), side(value.get("height"), f"{field} height")


def side(value: Any, field: str) -> int:
    """The width or height of an image in pixels: an integer from 1 to MAX_SIDE."""
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise DataError(f"{field}: found {shown(value)}, expected an integer from 1 to {MAX_SIDE}", "bad-image-size")
    return value


def image_name(value: Any, field: str) -> str:
    """A name that is a string, not empty, and that a file system and UTF-8 can hold."""
    if not isinstance(value, str) or not value:
        raise DataError(f"{field}: found {shown(value)}, expected the name of an image", "bad-image-name")
    if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise DataError(
            f"{field}: found {shown(value)}, expected a name without NUL and lone surrogates", "bad-image-name"
        )
    return value


def box_corners(left: float, top: float, width: float, height: float) -> Corners:
    """Corners of a box; one of negative size is an error. One of no size is left out by `fit_box`, as a small one."""
    if width < 0 or height < 0:
        raise DataError(
            f"found width {shown(width)} and height {shown(height)}, expected neither below 0", "box-degenerate"
        )
    return (left, top, left + width, top + height)


def fit_boxes(boxes: Sequence[Corners], class_ids: Sequence[int], size_wh: Optional[SizeWH]) -> FittedBoxes:
    """Clip `boxes` to the image and leave out those of which too little remains; each change is told by its reason."""
    fitted = FittedBoxes([], [], [], [])
    for index, (box, class_id) in enumerate(zip(boxes, class_ids)):
        kept, reason = fit_box(box, size_wh)
        if reason:
            fitted.changes.append((reason, f"box {index}: {[round(value, 2) for value in box]}"))
        if kept is not None:
            fitted.rows.append(kept)
            fitted.class_ids.append(class_id)
            fitted.kept.append(index)
    return fitted


def fit_box(box: Corners, size_wh: Optional[SizeWH]) -> "Tuple[Optional[Corners], str]":
    """The part of `box` (xyxy) inside the image, or None, and why it is not the box itself ("" where it is).

    Without a size only the left and top rim are known.
    """
    x1, y1, x2, y2 = box
    width, height = size_wh or (MAX_SIDE, MAX_SIDE)
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return (box, "") if x2 - x1 >= _THIN and y2 - y1 >= _THIN else (None, TOO_SMALL)
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    kept_width, kept_height = max(right - left, 0.0), max(bottom - top, 0.0)
    if kept_width * kept_height < MIN_KEPT * (x2 - x1) * (y2 - y1):
        return None, OUTSIDE
    if kept_width < _THIN or kept_height < _THIN:
        return None, TOO_SMALL
    excess = max(left - x1, top - y1, x2 - right, y2 - bottom)
    return (left, top, right, bottom), CLIPPED if excess > ROUNDING else ""


def shown(value: Any) -> str:
    """A value of bad input as a message shows it: short, and in the words of JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = {list: "an array", dict: "an object", type(None): "null"}.get(type(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
