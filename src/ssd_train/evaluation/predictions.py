"""Read and write predictions as JSON Lines in the built-in algorithm's form.

There is one image per line:
``{"image": name, "prediction": [[class, score, xmin, ymin, xmax, ymax], ...]}``: class is an index into the model's
class names, the score is in 0..1, and coordinates are fractions (0..1) of the image's width and height. An optional
``classes`` maps the ids to names, ``{"0": "cat"}``; class may also be a name.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from ssd_train.data.file_names import files_below
from ssd_train.data.formats.builder import number, short_repr
from ssd_train.data.formats.coco import Key, id_key, is_coco_file, read_ids
from ssd_train.data.formats.json_lines import PathLike, dump_json, parse_json, read_bytes, read_json, read_json_lines
from ssd_train.data.structures import ClassNames, Detections, Labels
from ssd_train.errors import DataError, locate_errors, reading
from ssd_train.storage.atomic import write_bytes_atomic

Row = List[Any]

ROW = ("class", "score", "xmin", "ymin", "xmax", "ymax")
CLASS_LIMIT = 2**31  # JSON integers have any length, array elements do not
OVERHANG = 1.0  # image sides by which a box may leave the image and be clipped; beyond that it must be in pixels


class ImagePredictions(NamedTuple):
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


def read_prediction_lines(path: PathLike) -> Iterator[ImagePredictions]:
    """Yield the checked predictions of a file in order; see `check_prediction_lines`."""
    return check_prediction_lines(read_json_lines(path))


def check_prediction_lines(lines: Iterable[Tuple[str, Dict[str, Any]]]) -> Iterator[ImagePredictions]:
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
        with locate_errors(where):
            prediction = ImagePredictions(_image(line), rows_of(line), where, _names(line))
            if prediction.image in seen:
                raise DataError(
                    f"found image {prediction.image!r} again, as in {seen[prediction.image]}, expected it once"
                )
        seen[prediction.image] = where
        yield prediction


def prediction_line(name: str, detections: Detections, class_names: Optional[ClassNames] = None, **more: Any) -> bytes:
    """Return the line of an image, with the names of its classes if `class_names` is given, and `more` keys."""
    # the shortest decimals that round-trip as float32
    rows = np.asarray(detections.to_rows(), dtype=np.float32).reshape(-1, len(ROW)).astype(str).astype(float).tolist()
    line: Dict[str, Any] = {"image": name, **more, "prediction": [[int(row[0]), *row[1:]] for row in rows]}
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


# format -> default name of the output
DEFAULTS = {"jsonl": "predictions.jsonl", "coco": "predictions.json", "csv": "predictions.csv", "out": "predictions"}
OUT = ".out"
_COLUMNS = ("image", "class_id", "class", "score", "xmin", "ymin", "xmax", "ymax")


class CocoIds(NamedTuple):
    """Ids for COCO results: of images by file name, of categories by name.

    Images without ids (None) get the number in their names, or their names. With ids, an image or a class that has none
    is left out.
    """

    images: Optional[Mapping[str, Any]]
    categories: Mapping[str, Any]


def read_any_predictions(path: PathLike, labels: Labels) -> Iterator[ImagePredictions]:
    """Yield the predictions of a file or folder in any format that can be read.

    These are JSON Lines, COCO results, a .out file, and a folder of .out files.

    If `labels` are from a COCO file, COCO results must use its ids. Otherwise file_name and category_name are used, or
    image_id is an image name, with or without its extension, or the number in it, and category_id is a class id.

    Args:
        path: File or folder.
        labels: Labels of the images.

    Raises:
        DataError: A prediction cannot be used; the message starts with its place.
    """
    source = Path(path)
    if source.is_dir():
        files = [file for file in files_below(source) if file.suffix == OUT]
        if not files:
            raise DataError(
                f"{path}: found no *{OUT}, expected answers of a batch transform job, a file for each image"
            )
        for file in files:
            yield _of_out(file, file.relative_to(source).as_posix()[: -len(OUT)])
    elif source.suffix == OUT and b'"image"' not in _head(source):
        yield _of_out(source, source.name[: -len(OUT)])
    elif _head(source).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _of_coco(source, labels)
    else:
        yield from read_prediction_lines(path)


def _head(path: Path) -> bytes:
    with reading(path, "a file of answers"), open(path, "rb") as file:
        return file.read(1 << 12)


def _of_out(file: Path, name: str) -> ImagePredictions:
    with locate_errors(file):
        value = parse_json(read_bytes(file))
        if not isinstance(value, dict):
            raise DataError(f"found {short_repr(value)}, expected an object with prediction")
        if "annotations" in value and "prediction" not in value:
            return _of_annotations(value["annotations"], name, str(file))
        return ImagePredictions(name, rows_of(value), str(file))


def _of_annotations(annotations: Any, name: str, where: str) -> ImagePredictions:
    """Convert an endpoint's response in annotation format, with boxes in pixels."""
    rows = []
    for index, box in enumerate(annotations if isinstance(annotations, list) else [annotations]):
        with locate_errors(f"annotations[{index}]"):
            if not isinstance(box, dict):
                raise DataError(f"found {short_repr(box)}, expected an object")
            sides = [number(box.get(key), key) for key in ("left", "top", "width", "height")]
            rows.append(_pixel_row(box.get("class_name", box.get("class_id")), box.get("score"), sides))
    return ImagePredictions(name, rows, where, pixels=True)


def _pixel_row(label: Any, score: Any, sides: List[float]) -> List[Any]:
    left, top, width, height = sides
    if not 0 <= number(score, "score") <= 1:
        raise DataError(f"score: found {short_repr(score)}, expected a number in 0..1")
    if width < 0 or height < 0:
        raise DataError(f"found width {short_repr(width)} and height {short_repr(height)}, expected 0 or more")
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        raise DataError(f"class: found {short_repr(label)}, expected an id or a name")
    return [label, float(score), left, top, left + width, top + height]


def _of_coco(path: Path, labels: Labels) -> Iterator[ImagePredictions]:
    with locate_errors(path):
        results = read_json(path)
    known = read_ids(labels.source) if is_coco_file(labels) else None
    names = known.images if known else _names_by_id(labels)
    category_names = list(known.categories.values()) if known else []
    # class ids count from 1 in COCO results of this package and of Ultralytics; those of other programs have a 0
    unnamed = [one.get("category_id") for one in results if isinstance(one, dict) and "category_name" not in one]
    first_id = 0 if 0 in unnamed else 1
    predictions: Dict[str, ImagePredictions] = {}
    for index, result in enumerate(results):
        where = f"{path}:[{index}]"
        with locate_errors(where):
            if not isinstance(result, dict):
                raise DataError(f"found {short_repr(result)}, expected an object")
            image, category = id_key(result.get("image_id"), "image_id"), result.get("category_id")
            name = result.get("file_name") if not known else None
            name = name if isinstance(name, str) and name else names.get(image, str(image))
            label: Any
            if known and result.get("category_name") in category_names:
                label = result["category_name"]  # `predict` without these labels gives ids of its own
            elif known:
                label = known.categories.get(id_key(category, "category_id"))
                if label is None:
                    raise DataError(f"category_id: found {short_repr(category)}, expected the id of a category")
            else:
                label = result.get("category_name", category)
                if "category_name" not in result and type(category) is int:
                    label = category - first_id
            box = result.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise DataError(f"bbox: found {short_repr(box)}, expected [left, top, width, height]")
            row = _pixel_row(label, result.get("score"), [number(value, "bbox") for value in box])
        predictions.setdefault(name, ImagePredictions(name, [], where, pixels=True)).rows.append(row)
    yield from predictions.values()


def _names_by_id(labels: Labels) -> Dict[Key, str]:
    """Map possible values of image_id to image names.

    These are file names without extension, and the numbers that they stand for.
    """
    names: Dict[Key, str] = {}
    for record in labels.records:
        stem = record.basename.rpartition(".")[0] or record.basename
        names.setdefault(stem, record.name)
        if stem.isascii() and stem.isdigit():
            names.setdefault(int(stem), record.name)
    return names


class Writer:
    """Write predictions one image at a time; must be closed.

    Args:
        format: Key of DEFAULTS.
        target: Open binary file; for "out", the path of a folder.
        class_names: Names of the class ids.
        ids: Ids for COCO results. A class without one gets its class id + 1.
    """

    def __init__(
        self, format: str, target: "BinaryIO | Path", class_names: ClassNames, ids: Optional[CocoIds] = None
    ) -> None:
        self._format, self._target, self._names, self._ids = format, target, class_names, ids
        self._count = 0
        self.left_out = 0
        if format == "csv":
            self._write(_csv_line(_COLUMNS))

    def add(self, name: str, detections: Detections) -> None:
        """Write the detections of one image."""
        getattr(self, f"_{self._format}")(name, detections)

    def close(self) -> None:
        """Write the end of the file; does not close it."""
        if self._format == "coco":
            self._write(b"\n]\n" if self._count else b"[]\n")

    def _write(self, data: bytes) -> None:
        self._target.write(data)  # type: ignore[union-attr]  # a folder for `_out` only

    def _jsonl(self, name: str, detections: Detections) -> None:
        self._write(prediction_line(name, detections, self._names))

    def _out(self, name: str, detections: Detections) -> None:
        text = dump_json({"prediction": detections.to_rows()})
        write_bytes_atomic(Path(self._target) / f"{name}{OUT}", text)  # type: ignore[arg-type]  # a folder

    def _csv(self, name: str, detections: Detections) -> None:
        for class_id, score, box in _numbers(detections):
            self._write(_csv_line([name, class_id, self._names[class_id], score, *box]))

    def _coco(self, name: str, detections: Detections) -> None:
        images, categories = self._ids or CocoIds(None, {})
        stem = name.rsplit("/", 1)[-1].rpartition(".")[0]
        own = int(stem) if stem.isascii() and stem.isdigit() else name
        for class_id, score, (x1, y1, x2, y2) in _numbers(detections):
            label = self._names[class_id]
            if images is not None and (name not in images or label not in categories):
                self.left_out += 1  # a number of ours could be that of another image or class
                continue
            image_id = own if images is None else images[name]
            ids = {"image_id": image_id, "category_id": categories.get(label, class_id + 1)}
            result = {**ids, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            self._write(
                (b",\n" if self._count else b"[\n") + dump_json({**result, "file_name": name, "category_name": label})
            )
            self._count += 1


def _numbers(detections: Detections) -> Iterator[Any]:
    """Yield class id, score and box of each detection.

    The floats have the shortest decimals that round-trip as float32.
    """
    scores = detections.scores.astype(str).astype(float).tolist()
    boxes = detections.boxes.astype(str).astype(float).tolist()
    return zip(detections.class_ids.tolist(), scores, boxes)


def _csv_line(values: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "surrogateescape")
