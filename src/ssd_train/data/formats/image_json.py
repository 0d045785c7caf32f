"""Read and write the built-in algorithm's image format: one JSON file per image.

``{"file": "dir/a.jpg", "image_size": [...], "annotations": [...], "categories": [{"class_id": 0, "name": "x"}]}``
where `file` is relative to the folder of the images (channel `train`). The JSON files are in another folder (channel
`train_annotation`). Boxes are left, top, width, height in pixels (`box_label`). `categories` may be missing. The schema
is in the AWS developer guide, "Object Detection".

The class ids of `annotations` are used, as in the built-in algorithm. If the categories of any file lack an id of its
annotations, the ids of `categories` are of another kind (AWS's COCO notebook writes COCO's ids there). Then the
categories of all files are ignored, because their names would belong to other classes. Each file with such categories
is listed in `Labels.repaired`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ssd_train.data.formats.builder import (
    LabelsBuilder,
    class_number,
    class_table,
    image_name,
    label_files,
    new_folder,
    new_label_file,
    short_repr,
    whole_number,
)
from ssd_train.data.formats.ground_truth import box_label, read_box_label
from ssd_train.data.formats.json_lines import PathLike, dump_json, read_json
from ssd_train.data.image_sources import key_parts
from ssd_train.data.structures import MAX_CLASSES, ClassNames, LabeledImage, Labels
from ssd_train.errors import DataError

OTHER_IDS = "categories of no file used: here they lack a class id of the annotations"


def read_image_json(path: PathLike, class_names: Optional[ClassNames] = None, on_bad: str = "error") -> Labels:
    """Read all JSON files below a folder; `LabeledImage.where` is the file.

    Args:
        path: The folder.
        class_names: Names of the ids 0, 1, ...; with these, `categories` is ignored. Without them, ids without a name
            in `categories` are named class_N.
        on_bad: "error" raises one DataError for all bad files, "skip" skips them.

    Raises:
        DataError: there is no JSON file, or `on_bad` is "error" and some files are unusable; the message names them.
    """
    files = label_files(path, ".json")
    builder = LabelsBuilder(str(path), on_bad)
    survey = _survey(files)
    named = class_names is None and not survey.other_ids
    if class_names is None:
        names, table = class_table(survey.origins) if named else (ClassNames(()), {})
        class_names = ClassNames.of_ids(dict(enumerate(names)), survey.highest + 1)
        table = {**{class_id: class_id for class_id in range(len(class_names))}, **table}
    else:
        table = {class_id: class_id for class_id in range(len(class_names))}
    for file in files:
        with builder.collect_errors(str(file)):
            label = _object(read_json(file))
            name = image_name(label.get("file"), "file")
            if named:
                list(_categories(label))  # raises if one is malformed
            builder.add(str(file), name, read_box_label(label).map_ids(table))
    for where, detail in survey.other_ids:
        builder.add_repair(where, [(OTHER_IDS, detail)])
    return builder.build(class_names)


def write_image_json(path: PathLike, records: Iterable[LabeledImage], class_names: ClassNames) -> None:
    """Write one JSON file per record to a new folder.

    The folder appears only when it is complete. `file` is the name of the record without the bucket. The JSON file has
    the same relative path with the extension .json.

    Raises:
        DataError: a name points outside the folder, two names differ only in their extension, or the folder is not
            empty.
    """
    categories = [{"class_id": class_id, "name": name} for class_id, name in enumerate(class_names)]
    with new_folder(path) as folder:
        for record in records:
            name = "/".join(key_parts(record))
            value = {"file": name, **box_label(record), "categories": categories}
            new_label_file(folder, name, ".json", record.location).write_bytes(dump_json(value))


class _Survey(NamedTuple):
    """Result of the first pass over the files.

    Attributes:
        origins: (class id, name) in `categories` -> first file with it.
        highest: Highest class id of a box, -1 if there are no boxes.
        other_ids: (file, detail) of files whose categories lack a class id of their annotations.
    """

    origins: Dict[Tuple[int, str], str]
    highest: int
    other_ids: List[Tuple[str, str]]


def _survey(files: List[Path]) -> _Survey:
    """Collect the classes of all files. Invalid files are reported in the second pass."""
    origins: Dict[Tuple[int, str], str] = {}
    highest, other_ids = -1, []
    for file in files:
        try:
            label = _object(read_json(file))
            ids = set(_ids(label))
            highest = max([highest, *(class_id for class_id in ids if class_id < MAX_CLASSES)])
            categories = list(_categories(label))
        except DataError:
            continue
        for category in categories:
            origins.setdefault(category, str(file))
        unknown = ids - {class_id for class_id, _ in categories}
        if categories and unknown:
            other_ids.append((str(file), f"class_id {min(unknown)}"))
    return _Survey(origins, highest, other_ids)


def _object(value: Any) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"found {short_repr(value)}, expected one JSON object")
    return value


def _categories(label: Mapping[str, Any]) -> Iterator[Tuple[int, str]]:
    """Yield (class id, name) of `categories`, if present."""
    categories = label.get("categories", [])
    if not isinstance(categories, list):
        raise DataError(f"categories: found {short_repr(categories)}, expected a list")
    for index, category in enumerate(categories):
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"categories: found {short_repr(category)} at {index}, expected class_id and name")
        yield whole_number(category.get("class_id"), f"categories: class_id at {index}"), name


def _ids(label: Mapping[str, Any]) -> List[int]:
    annotations = label.get("annotations")
    listed = annotations if isinstance(annotations, list) else []
    return [class_number(box.get("class_id"), "class_id") for box in listed if isinstance(box, dict)]
