"""COCO object detection JSON, read and written: images, annotations and categories in one file.

``bbox`` is [left, top, width, height] in pixels. The schema: cocodataset.org, "Data format". Places in messages are
``file:images[3]`` and ``file:annotations[7]``, counted from 0.

- Every image is a record, those without annotations too: they are background.
- A crowd (``iscrowd`` 1) is a region, not an object: its box is left out and told in `LabelSet.mended`.
- An annotation that is broken makes its image bad: without that box the object would count as background.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ssd_train.data.boxes import areas
from ssd_train.data.formats.fields import (
    BoxLabel,
    box_corners,
    class_number,
    image_name,
    number,
    shown,
    side,
    whole_number,
)
from ssd_train.data.formats.gather import Gather, ordered_classes
from ssd_train.data.formats.jsonl import PathLike, dump_json, read_json
from ssd_train.data.records import ClassNames, LabelSet, Record
from ssd_train.data.sources import key_parts
from ssd_train.errors import DataError
from ssd_train.storage import open_atomic

CROWD = "box left out: a crowd"


def read_coco(path: PathLike, on_bad: str = "error") -> LabelSet:
    """Read a COCO file; classes are all its categories, numbered in the order of their ids (`LabelSet.category_ids`).

    Raises:
        DataError: the file as a whole cannot be used, or (`on_bad` "error") some images or annotations.
    """
    try:
        value = read_json(path)
        images, annotations, categories = (_list(value, key) for key in ("images", "annotations", "categories"))
    except DataError as fault:
        raise fault.at(path) from None
    names, table, category_ids = ordered_classes(_categories(categories, path))
    gather = Gather(str(path), on_bad)
    boxes = _boxes_by_image(annotations, images, str(path), gather)
    seen: Dict[int, int] = {}
    for index, image in enumerate(images):
        where = f"{path}:images[{index}]"
        try:
            image_id = _id(image)
            if seen.setdefault(image_id, index) != index:
                raise DataError(f"found id {image_id} as in images[{seen[image_id]}], expected each id once")
            _add(gather, where, image, boxes.get(image_id, []), table)
        except DataError as fault:
            gather.fault(where, fault)
    if not images:
        raise DataError(f"{path}: found no images, expected at least one")
    return dataclasses.replace(gather.label_set(names), category_ids=category_ids)


def write_coco(
    path: PathLike,
    records: Sequence[Record],
    class_names: ClassNames,
    category_ids: Optional[Mapping[str, int]] = None,
) -> None:
    """Write `records` as one COCO file, whole or not at all. Images are numbered from 1, and so are categories, unless
    `category_ids` has the ids of all of them.

    `file_name` is the record's name without the bucket.

    Raises:
        DataError: a record has no `size_wh`, which COCO needs.
    """
    annotations: List[Dict[str, Any]] = []
    images = []
    known = category_ids or {}
    given = set(class_names) <= set(known)
    ids = [known[name] if given else number for number, name in enumerate(class_names, 1)]
    for image_id, record in enumerate(records, 1):
        if record.size_wh is None:
            raise DataError(f"{record.where or record.name}: found no image size, expected one: COCO needs it")
        width, height = record.size_wh
        images.append({"id": image_id, "file_name": "/".join(key_parts(record)), "width": width, "height": height})
        rows = zip(_exact_xywh(record), record.class_ids.tolist(), areas(record.boxes).tolist())
        for bbox, class_id, area in rows:
            numbers = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[class_id]}
            annotations.append({**numbers, "bbox": bbox, "area": area, "iscrowd": 0})
    categories = [{"id": category_id, "name": name} for category_id, name in zip(ids, class_names)]
    with open_atomic(Path(path)) as file:
        file.write(dump_json({"images": images, "annotations": annotations, "categories": categories}))


def _list(value: Any, key: str) -> List[Any]:
    if not isinstance(value, dict):
        raise DataError(f"found {shown(value)}, expected an object with images, annotations and categories")
    if not isinstance(value.get(key), list):
        raise DataError(f"{key}: found {shown(value.get(key))}, expected a list")
    return value[key]


def _categories(categories: Sequence[Any], path: PathLike) -> Dict[Tuple[int, str], str]:
    places: Dict[Tuple[int, str], str] = {}
    for index, category in enumerate(categories):
        where = f"{path}:categories[{index}]"
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: found {shown(category)}, expected an object with id and name")
        try:
            places.setdefault((whole_number(category.get("id"), "id"), name), where)
        except DataError as fault:
            raise fault.at(where) from None
    return places


def _id(image: Any) -> int:
    if not isinstance(image, dict):
        raise DataError(f"found {shown(image)}, expected an object")
    return whole_number(image.get("id"), "id")


def _boxes_by_image(
    annotations: Sequence[Any], images: Sequence[Any], path: str, gather: Gather
) -> Dict[int, List[Tuple[int, Any]]]:
    """Image id -> (index, annotation) of its annotations; one that names no image is bad by itself."""
    known = {image.get("id") for image in images if isinstance(image, dict) and isinstance(image.get("id"), (int, str))}
    found: Dict[int, List[Tuple[int, Any]]] = {}
    for index, annotation in enumerate(annotations):
        try:
            if not isinstance(annotation, dict):
                raise DataError(f"found {shown(annotation)}, expected an object")
            image_id = whole_number(annotation.get("image_id"), "image_id")
            if image_id not in known and str(image_id) not in known:
                raise DataError(f"image_id: found {image_id}, expected the id of an image")
            found.setdefault(image_id, []).append((index, annotation))
        except DataError as fault:
            gather.fault(f"{path}:annotations[{index}]", fault)
    return found


def _add(
    gather: Gather,
    where: str,
    image: Mapping[str, Any],
    annotations: Sequence[Tuple[int, Any]],
    table: Mapping[int, int],
) -> None:
    size_wh = side(image.get("width"), "width"), side(image.get("height"), "height")
    name = image_name(image.get("file_name"), "file_name")
    label = BoxLabel([], [], size_wh)
    crowds = []
    for index, annotation in annotations:
        try:
            if whole_number(annotation.get("iscrowd", 0), "iscrowd"):
                crowds.append((CROWD, f"annotations[{index}]"))
                continue
            class_id = class_number(annotation.get("category_id"), "category_id")
            if class_id not in table:
                raise DataError(f"category_id: found {class_id}, expected the id of a category", "unknown-class")
            label.boxes.append(box_corners(*_bbox(annotation.get("bbox"))))
            label.class_ids.append(table[class_id])
        except DataError as fault:
            raise fault.at(f"annotations[{index}]") from None
    gather.add(where, name, label, crowds)


def _bbox(value: Any) -> Iterator[float]:
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"bbox: found {shown(value)}, expected [left, top, width, height]", "bad-coordinates")
    return (number(part, f"bbox {key}") for part, key in zip(value, ("left", "top", "width", "height")))


def _exact_xywh(record: Record) -> List[List[float]]:
    """Rows of left, top, width, height in double precision, so that adding them gives the same corners again."""
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in record.boxes.tolist()]
