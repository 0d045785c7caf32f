"""Read and write predictions as JSON Lines in the built-in algorithm's form.

There is one image per line:
``{"image": name, "prediction": [[class, score, xmin, ymin, xmax, ymax], ...]}``: class is an index into the model's
class names, the score is in 0..1, and coordinates are fractions (0..1) of the image's width and height. An optional
``classes`` maps the ids to names, ``{"0": "cat"}``; class may also be a name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np

from ssd_train.data.formats.jsonl import PathLike, dump_json, read_json_lines
from ssd_train.data.records import ClassNames, Detections
from ssd_train.errors import DataError
from ssd_train.storage import open_atomic

Row = List[Any]

ROW = ("class", "score", "xmin", "ymin", "xmax", "ymax")
CLASS_LIMIT = 2**31  # JSON integers have any length, array elements do not
OVERHANG = 1.0  # image sides by which a box may leave the image and be clipped; beyond that it must be in pixels


class Answer(NamedTuple):
    """The prediction for one image.

    Attributes:
        image: Name of the image.
        rows: Rows as in ROW; coordinates are in 0..1, or in pixels if `pixels` is set.
        where: ``file:line``, for messages.
        names: Class id -> name, if the prediction contains names.
        pixels: Whether coordinates are in pixels.
    """

    image: str
    rows: List[Row]
    where: str
    names: Mapping[int, str] = {}
    pixels: bool = False


def write_predictions(
    target: "Union[PathLike, BinaryIO]",
    answers: Iterable[Tuple[str, Detections]],
    class_names: Optional[ClassNames] = None,
) -> None:
    """Write one line for each (name, detections).

    Args:
        target: Path, which is written atomically, or open binary file.
        answers: Image names and detections.
        class_names: If given, each line has the names of its classes.
    """
    if hasattr(target, "write"):
        for name, detections in answers:
            target.write(_line(name, detections, class_names))
    else:
        with open_atomic(Path(target)) as file:
            write_predictions(file, answers, class_names)


def read_predictions(path: PathLike) -> Dict[str, List[Row]]:
    """Return rows by image name, as checked by `read_answers`."""
    return {answer.image: answer.rows for answer in read_answers(path)}


def read_answers(path: PathLike) -> Iterator[Answer]:
    """Yield the checked predictions of a file in order; see `checked_answers`."""
    return checked_answers(read_json_lines(path))


def checked_answers(lines: Iterable[Tuple[str, Dict[str, Any]]]) -> Iterator[Answer]:
    """Validate predictions; clip coordinates to 0..1.

    Args:
        lines: (``file:line``, object) of each line.

    Raises:
        DataError: A line has no image name or no rows, an image is repeated, a row has not six finite numbers (class
            may be a name), class is not an index, the score is outside 0..1, xmax < xmin or ymax < ymin, or a box is so
            far outside the image that its coordinates must be pixels; the message starts with ``file:line``.
    """
    seen: Dict[str, str] = {}
    for where, line in lines:
        try:
            answer = Answer(_image(line), rows_of(line), where, _names(line))
            if answer.image in seen:
                raise DataError(f"found image {answer.image!r} again, as in {seen[answer.image]}, expected it once")
        except DataError as error:
            raise error.at(where) from None
        seen[answer.image] = where
        yield answer


def _line(name: str, detections: Detections, class_names: Optional[ClassNames] = None) -> bytes:
    # the shortest decimals that round-trip as float32
    rows = np.asarray(detections.to_rows(), dtype=np.float32).reshape(-1, len(ROW)).astype(str).astype(float).tolist()
    line: Dict[str, Any] = {"image": name, "prediction": [[int(row[0]), *row[1:]] for row in rows]}
    if class_names is not None:
        line["classes"] = {
            str(class_id): class_names[class_id] for class_id in np.unique(detections.class_ids).tolist()
        }
    return dump_json(line) + b"\n"


def _names(line: Dict[str, Any]) -> Dict[int, str]:
    names = line.get("classes", {})
    if not isinstance(names, dict) or not all(
        key.isascii() and key.isdigit() and isinstance(name, str) for key, name in names.items()
    ):
        raise DataError(f"found classes {names!r}, expected names of class ids, as {{'0': 'cat'}}")
    return {int(key): name for key, name in names.items()}


def _image(line: Dict[str, Any]) -> str:
    name = line.get("image")
    if not isinstance(name, str) or not name:
        raise DataError(f"found image {name!r}, expected the name of an image under the key 'image'")
    return name


def rows_of(line: Dict[str, Any]) -> List[Row]:
    """Return the validated rows of a prediction, with coordinates clipped to 0..1.

    Raises:
        DataError: A row cannot be used; without a place.
    """
    rows = line.get("prediction")
    if not isinstance(rows, list):
        raise DataError(f"found prediction {rows!r}, expected a list of rows under the key 'prediction'")
    for index, row in enumerate(rows):
        fault = _fault(row)
        if fault:
            raise DataError(f"row {index} {fault}: {row!r}, expected [{', '.join(ROW)}] with coordinates in 0..1")
    return [[_class(row[0]), float(row[1]), *(min(max(float(value), 0.0), 1.0) for value in row[2:])] for row in rows]


def _class(value: Any) -> "int | str":
    return value if isinstance(value, str) else int(value)


def _fault(row: Any) -> Optional[str]:
    """Return the fault of a row, or None."""
    if not isinstance(row, list) or len(row) != len(ROW):
        return f"has not {len(ROW)} numbers"
    class_id, score, xmin, ymin, xmax, ymax = row
    named = isinstance(class_id, str) and class_id.strip()
    # type() instead of isinstance(): a bool is an int
    if not all(type(value) in (int, float) and abs(value) < math.inf for value in row[1 if named else 0 :]):
        return "has not only finite numbers"
    if named:
        pass
    elif class_id != math.floor(class_id) or not 0 <= class_id < CLASS_LIMIT:
        return "has a class that is not an index"
    if not 0 <= score <= 1:
        return "has a score outside 0..1"
    if xmax < xmin or ymax < ymin:
        return "has xmax < xmin or ymax < ymin"
    if min(xmin, ymin) < -OVERHANG or max(xmax, ymax) > 1 + OVERHANG:
        return "lies far outside the image"
    return None
