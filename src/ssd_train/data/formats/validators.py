"""Validate single label fields, and fit boxes to their image.

All readers use these functions, so that the same rules apply to every format. Invalid values raise a DataError whose
message names no file; the caller adds it.
"""

from __future__ import annotations

import re
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ssd_train.boxes import SizeWH
from ssd_train.errors import DataError

MAX_SIDE = 1_000_000  # px; below 2**23, so the corners of a box of 1 px differ in float32
MIN_SIDE = 1.0  # px of a clipped box, with a tolerance of ROUNDING; thinner boxes make the loss infinite
MIN_KEPT = 0.1  # fraction of a box's area that must be inside the image
ROUNDING = 1e-3  # px outside the image that are attributed to float arithmetic in a labelling tool
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_THIN = MIN_SIDE - ROUNDING

CLIPPED = "box clipped to the image"
TOO_SMALL = "box left out: smaller than 1 pixel"
OUTSIDE = "box left out: less than 10 % of it inside the image"

OBJECT, DIFFICULT, CROWD = range(3)  # kinds of boxes; detections of the last two are neither right nor wrong

Corners = Tuple[float, float, float, float]


class BoxLabel(NamedTuple):
    """One label as read from its file, not yet fitted to the image.

    Attributes:
        boxes: xyxy corners in pixels.
        class_ids: Class id of each box.
        size_wh: (width, height) of the image in pixels, or None if the label does not contain it.
        kinds: OBJECT, DIFFICULT or CROWD for each box; empty if all are OBJECT.
    """

    boxes: List[Corners]
    class_ids: List[int]
    size_wh: Optional[SizeWH]
    kinds: Sequence[int] = ()

    def map_ids(self, table: Mapping[int, int], field: str = "class_id") -> "BoxLabel":
        """Return the label with class ids mapped by `table`.

        Raises:
            DataError: a class id is not in the table; the message names the box and the field, but not the file.
        """
        for index, class_id in enumerate(self.class_ids):
            if class_id not in table:
                raise DataError(
                    f"box {index}: {field}: found {class_id}, expected one of the class-map: {sorted(table)[:20]}",
                    "unknown-class",
                )
        return self._replace(class_ids=[table[class_id] for class_id in self.class_ids])


def number(value: Any, field: str) -> float:
    """Return `value` if it is a JSON number of at most MAX_SIDE in magnitude.

    Strings, booleans, null, NaN and infinity are invalid.
    """
    if type(value) is not int and type(value) is not float:
        raise DataError(f"{field}: found {short_repr(value)}, expected a number", "bad-coordinates")
    if not -MAX_SIDE <= value <= MAX_SIDE:  # false for NaN too
        raise DataError(
            f"{field}: found {short_repr(value)}, expected a number of pixels up to {MAX_SIDE}", "bad-coordinates"
        )
    return value


def text_number(text: str, field: str) -> float:
    """Parse a decimal number and validate it as `number` does.

    A pattern is checked first, because float() also accepts nan, inf and 1_000.
    """
    if len(text) > 100 or not _DECIMAL.fullmatch(text):
        raise DataError(f"{field}: found {short_repr(text)}, expected a number", "bad-coordinates")
    return number(float(text), field)


def whole_number(value: Any, field: str) -> int:
    """Parse an integer from 0 to 10**9 - 1; a string of digits (``"0"``) is valid."""
    if type(value) is int and 0 <= value < 10**9:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    raise DataError(f"{field}: found {short_repr(value)}, expected an integer of 0 or more")


def class_number(value: Any, field: str) -> int:
    """Parse a class id as `whole_number` does."""
    try:
        return whole_number(value, field)
    except DataError as fault:
        raise DataError(str(fault), "unknown-class") from None


def image_size(value: Any, field: str) -> SizeWH:
    """Parse ``{"width": 640, "height": 480, ...}`` into (width, height) in pixels."""
    if not isinstance(value, dict):
        raise DataError(
            f"{field}: found {short_repr(value)}, expected an object with width and height", "bad-image-size"
        )
    return side(value.get("width"), f"{field} width"), side(value.get("height"), f"{field} height")


def side(value: Any, field: str) -> int:
    """Validate the width or height of an image: an integer from 1 to MAX_SIDE."""
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise DataError(
            f"{field}: found {short_repr(value)}, expected an integer from 1 to {MAX_SIDE}", "bad-image-size"
        )
    return value


def image_name(value: Any, field: str) -> str:
    """Validate an image name: a non-empty string without NUL or lone surrogates.

    File systems reject NUL, and UTF-8 cannot encode lone surrogates.
    """
    if not isinstance(value, str) or not value:
        raise DataError(f"{field}: found {short_repr(value)}, expected the name of an image", "bad-image-name")
    if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise DataError(
            f"{field}: found {short_repr(value)}, expected a name without NUL and lone surrogates", "bad-image-name"
        )
    return value


def box_corners(left: float, top: float, width: float, height: float) -> Corners:
    """Convert left, top, width, height to xyxy corners.

    A negative size is invalid. A size of 0 is valid here: `fit_box` drops such a box as too small.
    """
    if width < 0 or height < 0:
        raise DataError(
            f"found width {short_repr(width)} and height {short_repr(height)}, expected neither below 0",
            "box-degenerate",
        )
    return (left, top, left + width, top + height)


def fit_box(box: Corners, size_wh: Optional[SizeWH]) -> "Tuple[Optional[Corners], str]":
    """Clip a box (xyxy, pixels) to the image.

    Args:
        box: The corners of the box.
        size_wh: (width, height) of the image; if None, MAX_SIDE is assumed for both.

    Returns:
        The clipped box, or None if it is dropped, and the reason: CLIPPED, TOO_SMALL or OUTSIDE. The reason is "" if
        the box is unchanged or exceeds the image by at most ROUNDING.
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


def shortest(value: Any) -> Any:
    """Convert a float without a fraction such as ``200.0`` to an int; return any other value unchanged."""
    return int(value) if type(value) is float and value.is_integer() else value


def short_repr(value: Any) -> str:
    """Format an invalid value for an error message: short, and in JSON's terms."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = {list: "an array", dict: "an object", type(None): "null"}.get(type(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
