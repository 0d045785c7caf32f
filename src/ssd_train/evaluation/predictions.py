"""Read and write predictions in formats other than JSON Lines (`predictions`).

jsonl    {"image", "prediction": [[class, score, xmin, ymin, xmax, ymax], ...], "classes": {"0": name}}; 0..1
coco     COCO results: [{"image_id", "category_id", "bbox": [left, top, width, height], "score"}, ...]; pixels
csv      image, class_id, class, score, xmin, ymin, xmax, ymax; pixels; written only
out      a folder with one NAME.out per image, as SageMaker's batch transform jobs write it; 0..1
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, NamedTuple, Optional

from ssd_train.data.file_names import files_below
from ssd_train.data.formats.coco import Key, id_key, read_ids
from ssd_train.data.formats.fields import number, shown
from ssd_train.data.formats.jsonl import PathLike, dump_json, parse_json, read_bytes, read_json
from ssd_train.data.predictions import Answer, read_answers, rows_of, write_predictions
from ssd_train.data.records import ClassNames, Detections, LabelSet
from ssd_train.errors import DataError
from ssd_train.storage import write_bytes_atomic

# format -> default name of the output
DEFAULTS = {"jsonl": "predictions.jsonl", "coco": "predictions.json", "csv": "predictions.csv", "out": "predictions"}
OUT = ".out"
_COLUMNS = ("image", "class_id", "class", "score", "xmin", "ymin", "xmax", "ymax")


class CocoIds(NamedTuple):
    """Ids of a COCO file: of images by file name, of categories by name."""

    images: Mapping[str, Any]
    categories: Mapping[str, Any]


def read_any_answers(path: PathLike, labels: LabelSet) -> Iterator[Answer]:
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
    place = Path(path)
    if place.is_dir():
        files = [file for file in files_below(place) if file.suffix == OUT]
        if not files:
            raise DataError(
                f"{path}: found no *{OUT}, expected answers of a batch transform job, a file for each image"
            )
        for file in files:
            yield _of_out(file, file.relative_to(place).as_posix()[: -len(OUT)])
    elif place.suffix == OUT and b'"image"' not in _head(place):
        yield _of_out(place, place.name[: -len(OUT)])
    elif _head(place).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _of_coco(place, labels)
    else:
        yield from read_answers(path)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 12)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a file of answers") from None


def _of_out(file: Path, name: str) -> Answer:
    try:
        value = parse_json(read_bytes(file))
        if not isinstance(value, dict):
            raise DataError(f"found {shown(value)}, expected an object with prediction")
        if "annotations" in value and "prediction" not in value:
            return _of_annotations(value["annotations"], name, str(file))
        return Answer(name, rows_of(value), str(file))
    except DataError as fault:
        raise fault.at(file) from None


def _of_annotations(annotations: Any, name: str, where: str) -> Answer:
    """Convert an endpoint's response in annotation format, with boxes in pixels."""
    rows = []
    for index, box in enumerate(annotations if isinstance(annotations, list) else [annotations]):
        try:
            if not isinstance(box, dict):
                raise DataError(f"found {shown(box)}, expected an object")
            sides = [number(box.get(key), key) for key in ("left", "top", "width", "height")]
            rows.append(_pixel_row(box.get("class_name", box.get("class_id")), box.get("score"), sides))
        except DataError as fault:
            raise fault.at(f"annotations[{index}]") from None
    return Answer(name, rows, where, pixels=True)


def _pixel_row(label: Any, score: Any, sides: List[float]) -> List[Any]:
    left, top, width, height = sides
    if not 0 <= number(score, "score") <= 1:
        raise DataError(f"score: found {shown(score)}, expected a number in 0..1")
    if width < 0 or height < 0:
        raise DataError(f"found width {shown(width)} and height {shown(height)}, expected 0 or more")
    if isinstance(label, bool) or not isinstance(label, (int, str)) or label == "":
        raise DataError(f"class: found {shown(label)}, expected an id or a name")
    return [label, float(score), left, top, left + width, top + height]


def _of_coco(path: Path, labels: LabelSet) -> Iterator[Answer]:
    try:
        results = read_json(path)
    except DataError as fault:
        raise fault.at(path) from None
    known = read_ids(labels.source) if labels.details.get("format") == "coco" else None
    names = known.images if known else _names_by_id(labels)
    answers: Dict[str, Answer] = {}
    for index, result in enumerate(results):
        where = f"{path}:[{index}]"
        try:
            if not isinstance(result, dict):
                raise DataError(f"found {shown(result)}, expected an object")
            image, category = id_key(result.get("image_id"), "image_id"), result.get("category_id")
            name = result.get("file_name") if not known else None
            name = name if isinstance(name, str) and name else names.get(image, str(image))
            if known:
                label = known.categories.get(id_key(category, "category_id"))
                if label is None:
                    raise DataError(f"category_id: found {shown(category)}, expected the id of a category")
            else:
                label = result.get("category_name", category)
            box = result.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise DataError(f"bbox: found {shown(box)}, expected [left, top, width, height]")
            row = _pixel_row(label, result.get("score"), [number(value, "bbox") for value in box])
        except DataError as fault:
            raise fault.at(where) from None
        answers.setdefault(name, Answer(name, [], where, pixels=True)).rows.append(row)
    yield from answers.values()


def _names_by_id(labels: LabelSet) -> Dict[Key, str]:
    """Map possible values of image_id to image names.

    These are file names without extension, and the numbers that they stand for.
    """
    found: Dict[Key, str] = {}
    for record in labels.records:
        stem = record.basename.rpartition(".")[0] or record.basename
        found.setdefault(stem, record.name)
        if stem.isascii() and stem.isdigit():
            found.setdefault(int(stem), record.name)
    return found


class Writer:
    """Write predictions one image at a time; must be closed.

    Args:
        format: Key of DEFAULTS.
        target: Open binary file; for "out", the path of a folder.
        class_names: Names of the class ids.
        ids: Ids for COCO results; without them, ids are derived from image names and class ids.
    """

    def __init__(
        self, format: str, target: "BinaryIO | Path", class_names: ClassNames, ids: Optional[CocoIds] = None
    ) -> None:
        self._format, self._target, self._names, self._ids = format, target, class_names, ids
        self._count = 0
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
        self._target.write(data)  # type: ignore[union-attr]

    def _jsonl(self, name: str, detections: Detections) -> None:
        write_predictions(self._target, [(name, detections)], self._names)  # type: ignore[arg-type]

    def _out(self, name: str, detections: Detections) -> None:
        text = dump_json({"prediction": detections.to_rows()})
        write_bytes_atomic(Path(self._target) / f"{name}{OUT}", text)  # type: ignore[arg-type]

    def _csv(self, name: str, detections: Detections) -> None:
        for class_id, score, box in _numbers(detections):
            self._write(_csv_line([name, class_id, self._names[class_id], score, *box]))

    def _coco(self, name: str, detections: Detections) -> None:
        images, categories = self._ids or CocoIds({}, {})
        stem = name.rsplit("/", 1)[-1].rpartition(".")[0]
        own = int(stem) if stem.isascii() and stem.isdigit() else name
        for class_id, score, (x1, y1, x2, y2) in _numbers(detections):
            label = self._names[class_id]
            ids = {"image_id": images.get(name, own), "category_id": categories.get(label, class_id + 1)}
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
