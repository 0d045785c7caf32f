"""Read the classes of a manifest's boxes, and write new ones.

Each rewritten line gets the full class-map, so that it can be read without the other lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ssd_train.data.formats.fields import shown, whole_number
from ssd_train.data.formats.gather import class_table
from ssd_train.data.formats.ground_truth_survey import METADATA, Survey, choose_attribute, survey
from ssd_train.data.formats.jsonl import bad_lines_error
from ssd_train.data.prepare.lines import Edit, ManifestLine, annotations_of, keep_boxes, local_path
from ssd_train.errors import DataError


@dataclass(frozen=True)
class Labels:
    """Box labels of one manifest.

    Attributes:
        attribute: their label attribute.
        name_of: class name by class id of the file.
        id_of: lowest class id by class name.
    """

    attribute: str
    name_of: Dict[int, str]
    id_of: Dict[str, int]


def read_classes(path: "str | Path", label_attribute: Optional[str] = None) -> Labels:
    """Return the label attribute of a manifest's boxes and their classes.

    Args:
        path: the manifest.
        label_attribute: the attribute to read; None: that of the newest job.

    Raises:
        DataError: a line or a class-map is malformed, or there are no boxes; begins with file:line.
        ConfigError: `label_attribute` has no boxes in the manifest.
    """
    found = survey(local_path(path))
    return labels_of(found, choose_attribute(found, label_attribute, path), path)


def labels_of(found: Survey, attribute: str, path: "str | Path") -> Labels:
    """Return the classes of one attribute of a scanned manifest.

    Raises:
        DataError: a line or a class-map is malformed; begins with file:line.
    """
    faults = {**found.faults, **found.attributes[attribute].faults}
    if faults:
        raise bad_lines_error([(f"{path}:{line}", fault) for line, fault in sorted(faults.items())])
    places = {key: f"{path}:{line}" for key, line in found.attributes[attribute].names.items()}
    names, table = class_table(places)
    name_of = {class_id: names[table[class_id]] for class_id in sorted(table)}
    return Labels(attribute, name_of, {name: table[class_id] for class_id, name in name_of.items()})


def names_on(line: ManifestLine, labels: Labels, from_keys: Sequence[str] = ()) -> List[str]:
    """Return the class name of each box on a labelled line.

    With `from_keys` all boxes get the values of these keys, joined by blanks; else each gets the name of its class id.

    Raises:
        DataError: a class id is unknown, or a key has no usable value; begins with file:line.
    """
    boxes = annotations_of(line, labels.attribute)
    if from_keys and boxes:
        return [_joined(line, from_keys)] * len(boxes)
    return [_name(line, index, box, labels.name_of) for index, box in enumerate(boxes)]


def new_classes(line: ManifestLine, attribute: str, names: Sequence[str], ids: Mapping[str, int]) -> Edit:
    """Return an edit that replaces the classes of a labelled line.

    Args:
        line: the line.
        attribute: its label attribute.
        names: new class name of each box; boxes of a class that is not in `ids` are removed.
        ids: class id by name, for the boxes and the line's class-map.
    """

    def edit(copy: Dict[str, Any]) -> None:
        for box, name in zip(copy[attribute]["annotations"], names):
            box["class_id"] = ids.get(name)
        keep_boxes(line, copy, attribute, [name in ids for name in names])
        copy[attribute + METADATA]["class-map"] = {str(class_id): name for name, class_id in ids.items()}

    return edit


def _name(line: ManifestLine, index: int, box: Dict[str, Any], name_of: Mapping[int, str]) -> str:
    try:
        class_id = whole_number(box.get("class_id"), "class_id")
        if class_id not in name_of:
            raise DataError(f"class_id: found {class_id}, expected one of the class-map: {sorted(name_of)[:20]}")
    except DataError as error:
        raise error.at(f"{line.where}: box {index}") from None
    return name_of[class_id]


def _joined(line: ManifestLine, keys: Sequence[str]) -> str:
    words = []
    for key in keys:
        value = line.value.get(key)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            found = shown(value) if key in line.value else "none"
            raise DataError(f"{line.where}: {key}: found {found}, expected a word for the class name of its boxes")
        words.append(str(value).strip())
    return " ".join(words)
