"""Image and JSON: the built-in algorithm's format with one JSON file for each image, read and written.

``{"file": "dir/a.jpg", "image_size": [...], "annotations": [...], "categories": [{"class_id": 0, "name": "x"}]}``
where `file` is relative to the folder of the images (channel `train`); the JSON files have a folder of their own
(channel `train_annotation`). `categories` may be missing. The schema: AWS developer guide, "Object Detection".

A file's class ids must be among its own categories, if it has any: AWS's COCO notebook writes other ids into the one
than into the other, and matching them across files would give boxes the name of another class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from ssd_train.data.formats.box_label import box_label, read_box_label
from ssd_train.data.formats.fields import class_number, image_name, shown, whole_number
from ssd_train.data.formats.gather import Gather, class_table, numbered_classes
from ssd_train.data.formats.jsonl import PathLike, dump_json, read_json
from ssd_train.data.formats.label_folder import label_files, new_folder, new_label_file
from ssd_train.data.records import ClassNames, LabelSet, Record
from ssd_train.data.sources import key_parts
from ssd_train.errors import DataError

_MAX_CLASSES = 10_000  # of labels without names; a higher id is a mistake, not a class


def read_image_json(path: PathLike, class_names: Optional[ClassNames] = None, on_bad: str = "error") -> LabelSet:
    """Read the JSON files of a folder and those below it; `Record.where` is the file.

    `class_names` stand for the ids 0, 1, ... and make `categories` void; without either, there is class_0 and so on.

    Raises:
        DataError: there is no JSON file, or (`on_bad` "error") a file cannot be used; begins with the file.
    """
    files = label_files(path, ".json")
    gather = Gather(str(path), on_bad)
    places, highest = _survey(files)
    names, table = class_table(places) if places else numbered_classes(highest + 1)
    if class_names is not None:
        names, table = class_names, {class_id: class_id for class_id in range(len(class_names))}
    for file in files:
        try:
            label = _object(read_json(file))
            name = image_name(label.get("file"), "file")
            if class_names is None:
                _check_categories(label)
            gather.add(str(file), name, read_box_label(label, table))
        except DataError as fault:
            gather.fault(str(file), fault)
    return gather.label_set(names)


def write_image_json(path: PathLike, records: Iterable[Record], class_names: ClassNames) -> int:
    """Write one JSON file for each record into a new folder, which appears whole or not at all; return their number.

    `file` is the record's name without the bucket, and the JSON file stands at the same path with the ending .json.

    Raises:
        DataError: a name points out of the folder, or two differ only in their ending.
    """
    categories = [{"class_id": class_id, "name": name} for class_id, name in enumerate(class_names)]
    count = 0
    with new_folder(path) as folder:
        for record in records:
            name = "/".join(key_parts(record))
            value = {"file": name, **box_label(record), "categories": categories}
            new_label_file(folder, name, ".json", record.where or record.name).write_bytes(dump_json(value))
            count += 1
    return count


def _survey(files: List[Path]) -> Tuple[Dict[Tuple[int, str], str], int]:
    """(class id, name) -> first file with it in `categories`, and the highest id of a box; skips what is bad."""
    places: Dict[Tuple[int, str], str] = {}
    highest = -1
    for file in files:
        try:
            label = _object(read_json(file))
            for category in _categories(label):
                places.setdefault(category, str(file))
            highest = max(highest, *(class_id for class_id in _ids(label) if class_id < _MAX_CLASSES), -1)
        except DataError:
            continue  # met again, and told, when the labels are read
    return places, highest


def _object(value: Any) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"found {shown(value)}, expected one JSON object")
    return value


def _categories(label: Mapping[str, Any]) -> Iterator[Tuple[int, str]]:
    """(class id, name) of `categories`, if there are any."""
    categories = label.get("categories", [])
    if not isinstance(categories, list):
        raise DataError(f"categories: found {shown(categories)}, expected a list")
    for index, category in enumerate(categories):
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"categories: found {shown(category)} at {index}, expected class_id and name")
        yield whole_number(category.get("class_id"), f"categories: class_id at {index}"), name


def _ids(label: Mapping[str, Any]) -> List[int]:
    annotations = label.get("annotations")
    listed = annotations if isinstance(annotations, list) else []
    return [class_number(box.get("class_id"), "class_id") for box in listed if isinstance(box, dict)]


def _check_categories(label: Mapping[str, Any]) -> None:
    known = {class_id for class_id, _ in _categories(label)}
    unknown = sorted(set(_ids(label)) - known)
    if known and unknown:
        raise DataError(
            f"class_id: found {unknown[0]}, expected one of the file's categories: {sorted(known)[:20]}",
            "unknown-class",
        )
