"""Encode and decode the label array of MXNet's detection records.

The label of one image is a float32 array:
``[A, B, (A - 2 more header values), (class id, xmin, ymin, xmax, ymax, (B - 5 more values)) * N]``
where A is the length of the header (2 when written) and B is the number of values per object. Coordinates are fractions
of the image's width and height, 0..1. A row that starts with -1 is padding.

The sixth value of an object is read as GluonCV's "difficult" flag if it is 0 or 1 in every row. All other values beyond
the fifth are ignored.
"""

from __future__ import annotations

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.formats.fields import DIFFICULT, OBJECT, BoxLabel
from ssd_train.data.records import MAX_CLASSES, Record
from ssd_train.errors import DataError

_HEADER = (2.0, 5.0)
_PADDING = -1.0
_PIXELS = 2.0  # a coordinate beyond this is in pixels instead of normalized, a common mistake


def pack_label(record: Record, size_wh: SizeWH, flagged: bool = False) -> np.ndarray:
    """Encode the boxes of a record as a float32 label array.

    An image without boxes gets one row of padding.

    Args:
        record: Boxes in pixels of an image of `size_wh`.
        size_wh: (width, height) of the image in pixels.
        flagged: Write six values per object, the last one the "difficult" flag, and include the difficult objects of
            `record.ignored`.

    Returns:
        Array of shape (2 + 5 N,), or (2 + 6 N,) if `flagged`.
    """
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
    """Decode a float32 label array (n,) into boxes in pixels of an image of `size_wh`.

    Raises:
        DataError: the label is malformed; the message names no file.
    """
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
    inverted = (shares[:, 2] < shares[:, 0]) | (shares[:, 3] < shares[:, 1])  # `fit_boxes` drops boxes of size 0
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
    """Return the rows of the objects, float32 (N, B)."""
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
    """Convert normalized corners (N, 4) to pixels.

    A value within float32 precision of a whole pixel is rounded to it.
    """
    scale = np.array([*size_wh, *size_wh], np.float64)
    pixels = shares * scale
    whole = np.round(pixels)
    return np.where(np.abs(pixels - whole) <= scale * 2.0**-24, whole, pixels)
