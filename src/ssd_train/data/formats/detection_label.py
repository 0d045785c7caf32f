"""The label of one image as MXNet's detection records hold it: one array of float32.

``[A, B, (A - 2 more of header), (class id, xmin, ymin, xmax, ymax, (B - 5 more)) * N]``: A is the length of the header
(2), B the numbers of one object. A sixth number that is 0 or 1 throughout is GluonCV's "difficult"; other numbers
beyond the five are ignored. Coordinates are shares of the image's width and height, 0..1. A row that begins with -1 is
padding.
"""

from __future__ import annotations

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.formats.fields import DIFFICULT, OBJECT, BoxLabel
from ssd_train.data.records import MAX_CLASSES, Record
from ssd_train.errors import DataError

_HEADER = (2.0, 5.0)
_PADDING = -1.0
_PIXELS = 2.0  # a share of the image beyond this is a pixel coordinate, a common mistake


def pack_label(record: Record, size_wh: SizeWH, flagged: bool = False) -> np.ndarray:
    """float32 (2 + 5 N,) of a record with boxes in pixels of an image of `size_wh`; one row of padding without any.
    `flagged`: rows of six, the last "difficult", with the difficult objects of the record among them."""
    header = (2.0, 6.0) if flagged else _HEADER
    boxes, class_ids = record.boxes, record.class_ids
    if flagged:
        difficult = record.ignored.take(~record.ignored.crowds)
        boxes, class_ids = np.concatenate([boxes, difficult.boxes]), np.concatenate([class_ids, difficult.class_ids])
    if not len(boxes):
        return np.array([*header, *[_PADDING] * int(header[1])], "<f4")
    width, height = size_wh
    shares = boxes.astype(np.float64) / (width, height, width, height)
    columns = [class_ids[:, None], shares]
    if flagged:
        columns.append((np.arange(len(boxes)) >= len(record.boxes))[:, None])
    return np.concatenate([header, np.concatenate(columns, axis=1).ravel()]).astype("<f4")


def unpack_label(label: np.ndarray, size_wh: SizeWH) -> BoxLabel:
    """Boxes in pixels of an image of `size_wh` from float32 (n,); a DataError without a place when it is broken."""
    rows = _rows(label)
    rows = rows[rows[:, 0] != _PADDING]
    if not np.isfinite(rows[:, :5]).all():
        raise DataError("label: found NaN or infinity, expected finite numbers", "bad-coordinates")
    ids, shares = rows[:, 0], rows[:, 1:5].astype(np.float64)
    bad = ids[(ids < 0) | (ids % 1 != 0) | (ids >= MAX_CLASSES)]
    if len(bad):
        raise DataError(f"class id: found {bad[0]:g}, expected an integer of 0 to {MAX_CLASSES - 1}", "unknown-class")
    if (np.abs(shares) > _PIXELS).any():
        raise DataError(
            f"coordinates: found {np.abs(shares).max():g}, expected shares of the image, 0..1 (not pixels)",
            "bad-coordinates",
        )
    inverted = (shares[:, 2] < shares[:, 0]) | (shares[:, 3] < shares[:, 1])  # of no size: left out by `fit_boxes`
    if inverted.any():
        index = int(np.argmax(inverted))
        raise DataError(
            f"box {index}: found {shares[index].tolist()}, expected xmin <= xmax and ymin <= ymax", "box-degenerate"
        )
    corners = _pixels(shares, size_wh)
    read = BoxLabel([tuple(row) for row in corners.tolist()], ids.astype(int).tolist(), size_wh)
    flags = rows[:, 5] if rows.shape[1] > 5 else ids[:0]
    if not (flags == 1).any() or not np.isin(flags, (0, 1)).all():
        return read
    return read._replace(kinds=[DIFFICULT if flag else OBJECT for flag in flags.tolist()])


def _rows(label: np.ndarray) -> np.ndarray:
    """float32 (N, B) of the objects."""
    if len(label) < 2 or not np.isfinite(label[:2]).all() or (label[:2] % 1).any():
        raise DataError(f"label: found {label[:2].tolist()}, expected the integer lengths of header and objects first")
    header, width = int(label[0]), int(label[1])
    if not 2 <= header <= len(label) or width < 5:
        raise DataError(
            f"label: found lengths {header} of the header and {width} of an object in {len(label)} numbers, "
            "expected at least 2 and 5"
        )
    if (len(label) - header) % width:
        raise DataError(f"label: found {len(label) - header} numbers of objects, expected a multiple of {width}")
    return label[header:].reshape(-1, width)


def _pixels(shares: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Shares (N, 4) as pixels; one that float32 cannot tell from a whole pixel is that pixel."""
    scale = np.array([*size_wh, *size_wh], np.float64)
    pixels = shares * scale
    whole = np.round(pixels)
    return np.where(np.abs(pixels - whole) <= scale * 2.0**-24, whole, pixels)
