"""Annotations as Ground Truth and the built-in algorithm write them: left, top, width, height in pixels, class id.

The value of a manifest's label attribute, a record of Pipe mode and an image's JSON file all have this shape:
``{"annotations": [{"class_id": 0, "left": 3, "top": 4, "width": 5, "height": 6}], "image_size": [{"width": 64, ...}]}``
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

from ssd_train.data.boxes import SizeWH
from ssd_train.data.formats.fields import BoxLabel, Corners, box_corners, class_number, image_size, number, shown
from ssd_train.data.records import Record
from ssd_train.errors import DataError


def box_label(record: Record) -> Dict[str, Any]:
    """Annotations and, where it is known, image_size of one record; class ids are our own."""
    annotations = []
    for (x1, y1, x2, y2), class_id in zip(record.boxes.tolist(), record.class_ids.tolist()):
        box = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        annotations.append({"class_id": class_id, **{key: _short(value) for key, value in box.items()}})
    label: Dict[str, Any] = {"annotations": annotations}
    if record.size_wh is not None:
        label["image_size"] = [{"width": record.size_wh[0], "height": record.size_wh[1], "depth": 3}]
    return label


def read_box_label(label: Dict[str, Any], table: Mapping[int, int]) -> BoxLabel:
    """Boxes of one label; `table` maps the class ids of the file to ours. A DataError names the box and its field."""
    annotations = label.get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"annotations: found {shown(annotations)}, expected a list")
    read = BoxLabel([], [], _size(label))
    for index, annotation in enumerate(annotations):
        try:
            corners, class_id = _box(annotation, table)
        except DataError as error:
            raise error.at(f"box {index}") from None
        read.boxes.append(corners)
        read.class_ids.append(class_id)
    return read


def _box(annotation: Any, table: Mapping[int, int]) -> Tuple[Corners, int]:
    if not isinstance(annotation, dict):
        raise DataError(f"found {shown(annotation)}, expected an object")
    class_id = class_number(annotation.get("class_id"), "class_id")
    if class_id not in table:
        raise DataError(
            f"class_id: found {class_id}, expected one of the class-map: {sorted(table)[:20]}", "unknown-class"
        )
    left, top, width, height = (number(annotation.get(key), key) for key in ("left", "top", "width", "height"))
    return box_corners(left, top, width, height), table[class_id]


def _size(label: Dict[str, Any]) -> Optional[SizeWH]:
    sizes = label.get("image_size")
    if sizes is None:
        return None
    if not isinstance(sizes, list) or len(sizes) != 1:
        raise DataError(f"image_size: found {shown(sizes)}, expected a list of one object", "bad-image-size")
    return image_size(sizes[0], "image_size")


def _short(value: float) -> float:
    return int(value) if value == int(value) else value
