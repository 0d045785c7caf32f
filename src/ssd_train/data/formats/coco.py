"""Read and write COCO object detection JSON.

One file holds images, annotations and categories. ``bbox`` is [left, top, width, height] in pixels. The schema is on
cocodataset.org, "Data format". Error messages name ``file:images[3]`` or ``file:annotations[7]``, counted from 0.

- An image without annotations is a background image.
- Ids are integers of any size, written as 3, 3.0 or "3", or other strings. Width and height may be missing, or
  be decimal strings.
- A crowd (``iscrowd`` 1) is an ignored region, not an object. A crowd without a ``bbox`` is dropped and listed in
  `Labels.repaired`.
- A polygon without a ``bbox``, or with one of four zeros, is replaced by its bounding box.
- Normalized boxes, as Azure writes them, are accepted if all boxes of the file are within 0..1.
- An invalid annotation makes its image bad: without that box, the object would count as background.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ssd_train.boxes import SizeWH, areas
from ssd_train.data.formats.builder import (
    CROWD,
    OBJECT,
    BoxLabel,
    LabelsBuilder,
    box_corners,
    image_name,
    number,
    ordered_classes,
    short_repr,
    shortest,
    side,
    whole_number,
)
from ssd_train.data.formats.json_lines import PathLike, dump_json, read_json
from ssd_train.data.image_sources import key_parts
from ssd_train.data.split import split_of_folders
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.errors import DataError, locate_errors
from ssd_train.storage.atomic import open_atomic

NO_BOX = "box left out: a crowd without a box"
_ROUNDING = 1e-6
_NUMBER = re.compile("0|-?[1-9][0-9]{0,99}")
_SIDES = ("left", "top", "width", "height")

Key = Union[int, str]  # id of an image or category


def read_coco(path: PathLike, on_bad: str = "error") -> Labels:
    """Read a COCO file.

    The classes are all categories of the file, sorted by id if the ids are integers, else in the order of the file.
    `Labels.category_ids` has the original ids if all are integers of 0 or more.

    Raises:
        DataError: the file is unusable, or `on_bad` is "error" and images or annotations are bad; the message names the
            path.
    """
    with locate_errors(path):
        value = read_json(path, constants=True)
        images, annotations, categories = (_list(value, key) for key in ("images", "annotations", "categories"))
    groups = _unused_groups(categories, annotations)
    names, table, category_ids = _class_table(categories, path, leave_out=groups)
    builder = LabelsBuilder(str(path), on_bad)
    boxes = _boxes_by_image(annotations, images, str(path), builder)
    normalized = _all_normalized(annotations)
    seen: Dict[Key, int] = {}
    for index, image in enumerate(images):
        where = f"{path}:images[{index}]"
        with builder.collect_errors(where):
            image_id = _id(image)
            if seen.setdefault(image_id, index) != index:
                raise DataError(f"found id {image_id} as in images[{seen[image_id]}], expected each id once")
            name = image_name(image.get("file_name"), "file_name")
            builder.add(where, name, *_label(image, boxes.get(image_id, []), table, normalized))
    if not images:
        raise DataError(f"{path}: found no images, expected at least one")
    details = {"left_out_categories": ", ".join(repr(categories[index]["name"]) for index in groups)} if groups else {}
    return dataclasses.replace(builder.build(names, details), category_ids=category_ids)


def split_files(folder: Path, files: Sequence[Path]) -> Dict[str, Path]:
    """Return split -> COCO file if each of `files`, or its folder, is called after another split, else {}.

    Examples are valid/_annotations.coco.json of Roboflow, annotations/instances_val2017.json of COCO and
    annotations/instances_Validation.json of CVAT.
    """
    splits: Dict[str, Path] = {}
    for file in files:
        words = re.sub("[^a-z]+", "/", file.stem.lower())
        splits[split_of_folders(file.relative_to(folder).as_posix()) or split_of_folders(f"{words}/")] = file
    return splits if len(splits) == len(files) and "" not in splits else {}


def read_coco_splits(folder: Path, files: Mapping[str, Path], on_bad: str = "error") -> Labels:
    """Read a COCO file for each split of a dataset.

    Classes are matched by name. Images beside their file, or in the folder images there, are named from `folder`, e.g.
    valid/a.jpg.

    Args:
        folder: Folder of the dataset.
        files: Split -> its file.
        on_bad: As for `read_coco`.

    Raises:
        DataError: A file is unusable, or an image is in two splits.
    """
    parts = {}
    for split, file in sorted(files.items()):
        read, beside = read_coco(file, on_bad), file.parent.relative_to(folder)
        renamed = []
        for record in read.records:
            paths = (Path(record.name), Path("images") / record.name)
            path = next((path for path in paths if os.path.isfile(file.parent / path)), None)
            renamed.append(record if path is None else dataclasses.replace(record, name=(beside / path).as_posix()))
        parts[split] = dataclasses.replace(read, records=tuple(renamed))
    numbers = {(name, part.category_ids.get(name)) for part in parts.values() for name in part.class_names}
    ids = {name: number for name, number in numbers if number is not None}
    agree = len(ids) == len(set(ids.values())) == len(numbers)  # each name has one id in all files
    names = dict.fromkeys(name for part in parts.values() for name in part.class_names)
    class_names = ClassNames(tuple(sorted(names, key=ids.__getitem__) if agree else names))
    first_seen: Dict[str, str] = {}
    for record in (record for part in parts.values() for record in part.records):
        if first_seen.setdefault(record.name, record.where) != record.where:
            first = first_seen[record.name]
            raise DataError(f"{record.where}: found {record.name!r} again, as in {first}, expected it in one split")
    left_out = {part.details["left_out_categories"] for part in parts.values() if part.details}
    return Labels(
        tuple(record for part in parts.values() for record in part.remap_classes(class_names).records),
        class_names,
        skipped=tuple(issue for part in parts.values() for issue in part.skipped),
        repaired=tuple(issue for part in parts.values() for issue in part.repaired),
        source=str(folder),
        details={"sets": str(folder), **({"left_out_categories": ", ".join(sorted(left_out))} if left_out else {})},
        category_ids=ids if agree else {},
        sets={split: frozenset(record.name for record in part.records) for split, part in parts.items()},
    )


class Ids(NamedTuple):
    """File names of images and names of categories, by id."""

    images: Dict[Key, str]
    categories: Dict[Key, str]


def is_coco_file(labels: Labels) -> bool:
    """Return whether the labels are those of one COCO file, so that its ids are unique."""
    return labels.details.get("format") == "coco" and os.path.isfile(labels.source)


def read_ids(path: PathLike) -> Ids:
    """Return the ids in a COCO file that `read_coco` accepts; skip invalid entries."""
    value = read_json(path, constants=True)
    ids_by_list = []
    for entries, name in (("images", "file_name"), ("categories", "name")):
        ids: Dict[Key, str] = {}
        for entry in value[entries]:
            try:
                ids.setdefault(_id(entry), image_name(entry.get(name), name))
            except DataError:
                continue
        ids_by_list.append(ids)
    return Ids(*ids_by_list)


def write_coco(
    path: PathLike,
    records: Sequence[LabeledImage],
    class_names: ClassNames,
    category_ids: Optional[Mapping[str, int]] = None,
) -> None:
    """Write records as one COCO file, atomically.

    Images are numbered from 1. `file_name` is the name of the record without the bucket. Crowds are written with
    ``iscrowd`` 1; difficult objects and crowds of a class that `class_names` lacks are not written.

    Args:
        path: The file to write.
        records: Records with boxes in pixels.
        class_names: Names of the class ids of the records.
        category_ids: Class name -> category id. Unless it contains all classes, categories are numbered from 1.

    Raises:
        DataError: a record has no `size_wh`, which COCO requires.
    """
    annotations: List[Dict[str, Any]] = []
    images = []
    known = category_ids or {}
    keep_ids = set(class_names) <= set(known)
    ids = [known[name] if keep_ids else number for number, name in enumerate(class_names, 1)]
    for image_id, record in enumerate(records, 1):
        if record.size_wh is None:
            raise DataError(f"{record.location}: found no image size, expected one: COCO needs it")
        width, height = record.size_wh
        images.append({"id": image_id, "file_name": "/".join(key_parts(record)), "width": width, "height": height})
        rows = zip(_exact_xywh(record.boxes), record.class_ids.tolist(), areas(record.boxes).tolist())
        for bbox, class_id, area in rows:
            numbers = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[class_id]}
            annotations.append({**numbers, "bbox": bbox, "area": area, "iscrowd": 0})
        crowds = record.ignored.take(record.ignored.crowds & (record.ignored.class_ids >= 0))
        for bbox, class_id in zip(_exact_xywh(crowds.boxes), crowds.class_ids.tolist()):
            numbers = {"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[class_id]}
            annotations.append({**numbers, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 1})
    categories = [{"id": category_id, "name": name} for category_id, name in zip(ids, class_names)]
    with open_atomic(Path(path)) as file:
        file.write(dump_json({"images": images, "annotations": annotations, "categories": categories}))


def _list(value: Any, key: str) -> List[Any]:
    if not isinstance(value, dict):
        hint = " (results? evaluate --predictions reads them)" if isinstance(value, list) else ""
        raise DataError(f"found {short_repr(value)}{hint}, expected an object with images, annotations and categories")
    if not isinstance(value.get(key), list):
        raise DataError(f"{key}: found {short_repr(value.get(key))}, expected a list")
    return value[key]


def _unused_groups(categories: Sequence[Any], annotations: Sequence[Any]) -> List[int]:
    """Return the indices of categories that only group others.

    Such a category has no annotation, is the supercategory of another one, and its own is "none". The first category in
    Roboflow's exports is one: {id: 0, name: cells, supercategory: none}.
    """
    objects = [category if isinstance(category, dict) else {} for category in categories]
    used = {str(shortest(annotation.get("category_id"))) for annotation in annotations if isinstance(annotation, dict)}
    groups = {str(category.get("supercategory")) for category in objects} - {"none"}
    return [
        index
        for index, category in enumerate(objects)
        if category.get("supercategory") == "none"
        and category.get("name") in groups
        and str(shortest(category.get("id"))) not in used
    ]


def _class_table(
    categories: Sequence[Any], path: PathLike, leave_out: Sequence[int] = ()
) -> Tuple[ClassNames, Dict[Key, int], Dict[str, int]]:
    """Return class names, a table category id -> class id, and name -> category id.

    Integer ids determine the order of the classes. If any id is a string, the order of the file does. The third result
    is empty unless all ids are integers of 0 or more, because only such ids are written again.
    """
    origins: Dict[Tuple[Key, str], str] = {}
    for index, category in enumerate(categories):
        if index in leave_out:
            continue
        where = f"{path}:categories[{index}]"
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: found {short_repr(category)}, expected an object with id and name")
        with locate_errors(where):
            origins.setdefault((id_key(category.get("id"), "id"), name), where)
    keys = list(dict.fromkeys(key for key, _ in origins))
    order = {key: number for number, key in enumerate(keys)}
    if all(isinstance(key, int) for key in keys):
        order = {key: int(key) for key in keys}
    names, table, ids = ordered_classes({(order[key], name): where for (key, name), where in origins.items()})
    numbers = ids if all(isinstance(key, int) and key >= 0 for key in keys) else {}
    return names, {key: table[number] for key, number in order.items()}, numbers


def id_key(value: Any, field: str) -> Key:
    """Parse an id: an integer, also written 3.0 or "3", or a string that is not blank."""
    if type(value) is int:  # the usual case
        return value
    value = shortest(value)
    if type(value) is int:
        return value
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if _NUMBER.fullmatch(text) else text
    raise DataError(f"{field}: found {short_repr(value)}, expected an integer or a text")


def _id(image: Any) -> Key:
    if not isinstance(image, dict):
        raise DataError(f"found {short_repr(image)}, expected an object")
    return id_key(image.get("id"), "id")


def _boxes_by_image(
    annotations: Sequence[Any], images: Sequence[Any], path: str, builder: LabelsBuilder
) -> Dict[Key, List[Tuple[int, Any]]]:
    """Return image id -> (index, annotation) of its annotations.

    An annotation without a known image is recorded as bad.
    """
    known = set()
    for image in images:
        try:
            known.add(_id(image))
        except DataError:
            continue  # read_coco reports it with the image
    by_image: Dict[Key, List[Tuple[int, Any]]] = {}
    for index, annotation in enumerate(annotations):
        with builder.collect_errors(f"{path}:annotations[{index}]"):
            if not isinstance(annotation, dict):
                raise DataError(f"found {short_repr(annotation)}, expected an object")
            image_id = id_key(annotation.get("image_id"), "image_id")
            if image_id not in known:
                raise DataError(f"image_id: found {image_id}, expected the id of an image")
            by_image.setdefault(image_id, []).append((index, annotation))
    return by_image


def _label(
    image: Mapping[str, Any], annotations: Sequence[Tuple[int, Any]], table: Mapping[Key, int], normalized: bool
) -> Tuple[BoxLabel, List[Tuple[str, str]]]:
    """Return the label of one image, and (reason, detail) of dropped crowds."""
    size_wh = _size(image)
    label, kinds = BoxLabel([], [], size_wh), []
    left_out = []
    for index, annotation in annotations:
        with locate_errors(f"annotations[{index}]"):
            crowd = _flag(annotation.get("iscrowd") or 0, "iscrowd")
            if crowd and annotation.get("bbox") is None:
                left_out.append((NO_BOX, f"annotations[{index}]"))
                continue
            category = _category(annotation)
            if category not in table:
                raise DataError(f"category_id: found {category}, expected the id of a category", "unknown-class")
            label.boxes.append(box_corners(*_scaled(_bbox(annotation), size_wh, normalized)))
            label.class_ids.append(table[category])
            kinds.append(CROWD if crowd else OBJECT)
    return (label._replace(kinds=kinds) if any(kinds) else label), left_out


def _category(annotation: Mapping[str, Any]) -> Key:
    try:
        return id_key(annotation.get("category_id"), "category_id")
    except DataError as fault:
        raise DataError(str(fault), "unknown-class") from None


def _size(image: Mapping[str, Any]) -> Optional[SizeWH]:
    width, height = (_decimal(shortest(image.get(key))) for key in ("width", "height"))
    if width is None or height is None or width == height == 0:
        return None
    return side(width, "width"), side(height, "height")


def _decimal(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 8 else value


def _flag(value: Any, field: str) -> bool:
    return bool(value) if value in (0, 1) and not isinstance(value, str) else bool(whole_number(shortest(value), field))


def _bbox(annotation: Mapping[str, Any]) -> List[float]:
    value = annotation.get("bbox")
    if value is None or value == [] or value == [0, 0, 0, 0]:
        corners = _of_polygons(annotation.get("segmentation"))
        if corners:
            return corners
    if not isinstance(value, list) or len(value) != 4:
        masked = "; a mask alone is not read" if isinstance(annotation.get("segmentation"), dict) else ""
        raise DataError(
            f"bbox: found {short_repr(value)}, expected [left, top, width, height]{masked}", "bad-coordinates"
        )
    return [number(part, f"bbox {key}") for part, key in zip(value, _SIDES)]


def _of_polygons(polygons: Any) -> Optional[List[float]]:
    """Return [left, top, width, height] of [[x1, y1, x2, y2, ...], ...].

    Returns None for anything else, such as a run-length encoded mask.
    """
    if isinstance(polygons, list) and polygons and not any(isinstance(part, (list, dict)) for part in polygons):
        polygons = [polygons]  # a single polygon without the outer list
    if not isinstance(polygons, list) or not polygons or not all(isinstance(part, list) for part in polygons):
        return None
    xs = [number(value, "segmentation x") for part in polygons for value in part[::2]]
    ys = [number(value, "segmentation y") for part in polygons for value in part[1::2]]
    if not xs or len(xs) != len(ys):
        return None
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _all_normalized(annotations: Sequence[Any]) -> bool:
    """Return True if all boxes of the file look normalized to the image size.

    That is so if all boxes are within 0..1 and at least one value is fractional.
    """
    fraction = False
    for annotation in annotations:
        box = annotation.get("bbox") if isinstance(annotation, dict) else None
        if not isinstance(box, list) or not box:
            continue
        if not _looks_shared(box):
            return False
        fraction = fraction or any(value % 1 for value in box)
    return fraction


def _looks_shared(box: Sequence[Any]) -> bool:
    numbers = len(box) == 4 and all(type(value) in (int, float) and 0 <= value <= 1 for value in box)
    return numbers and box[0] + box[2] <= 1 + _ROUNDING and box[1] + box[3] <= 1 + _ROUNDING


def _scaled(box: List[float], size_wh: Optional[SizeWH], normalized: bool) -> List[float]:
    """Convert a box to pixels if the boxes of the file are normalized."""
    if normalized:
        if size_wh is None:
            raise DataError(
                f"bbox: found {box}, normalized to 0..1 (shares of the image), expected width and height of the image "
                "beside it",
                "bad-coordinates",
            )
        return [value * extent for value, extent in zip(box, (*size_wh, *size_wh))]
    if box[2] > 1 or box[3] > 1:
        return box
    if _looks_shared(box) and any(value % 1 for value in box):
        raise DataError(
            f"bbox: found {box}, which looks normalized to 0..1 (shares of the image), expected pixels as in the other "
            "boxes of the file",
            "bad-coordinates",
        )
    return box


def _exact_xywh(boxes: np.ndarray) -> List[List[float]]:
    """Convert corners to [left, top, width, height] in double precision.

    In double precision, left + width and top + height give the same corners again.
    """
    return [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]
