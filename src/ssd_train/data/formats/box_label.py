"""Read and write the label object of Ground Truth and the built-in algorithm.

The label attribute of a manifest, the label of a Pipe-mode sample and the JSON file of an image have this form, with
coordinates in pixels:
``{"annotations": [{"class_id": 0, "left": 3, "top": 4, "width": 5, "height": 6}], "image_size": [{"width": 64, ...}]}``
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

from ssd_train.data.boxes import SizeWH
from ssd_train.data.formats.fields import BoxLabel, Corners, box_corners, class_number, image_size, number, shown
from ssd_train.data.records import Record
from ssd_train.errors import DataError


def box_label(record: Record) -> Dict[str, Any]:
    """Return the label object of a record: annotations and, if known, image_size.

    Class ids are those of the record. Ignored regions are not written.
    """
    annotations = []
    for (x1, y1, x2, y2), class_id in zip(record.boxes.tolist(), record.class_ids.tolist()):
        box = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        annotations.append({"class_id": class_id, **{key: _short(value) for key, value in box.items()}})
    label: Dict[str, Any] = {"annotations": annotations}
    if record.size_wh is not None:
        label["image_size"] = [{"width": record.size_wh[0], "height": record.size_wh[1], "depth": 3}]
    return label


def read_box_label(label: Dict[str, Any], table: Mapping[int, int]) -> BoxLabel:
    """Parse a label object.

    Args:
        label: The JSON object.
        table: Class id in the file -> class id in the result.

    Raises:
        DataError: the label is malformed; the message names the box and the field, but not the file.
    """
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
