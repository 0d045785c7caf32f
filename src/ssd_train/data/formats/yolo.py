"""YOLO text labels, read only: ``<class id> <centre x> <centre y> <width> <height>``, shares of the image in 0..1.

Images and labels stand side by side, in folders `images` and `labels` of the same shape inside, or in two folders that
are named. Class names come from data.yaml, classes.txt, obj.names, or are given (`yolo_names`).

An empty .txt means an image without objects. An image without a .txt is skipped: nobody said that it shows none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from ssd_train.data.boxes import SizeWH
from ssd_train.data.formats.fields import BoxLabel, Corners, box_corners, class_number, shown, text_number
from ssd_train.data.formats.gather import Gather, numbered_classes
from ssd_train.data.formats.jsonl import PathLike, read_bytes
from ssd_train.data.formats.yolo_names import read_yolo_names
from ssd_train.data.images import read_header
from ssd_train.data.records import MAX_CLASSES, ClassNames, LabelSet
from ssd_train.errors import DataError

NO_LABEL = "no label file"

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def read_yolo(
    path: PathLike,
    class_names: Optional[ClassNames] = None,
    on_bad: str = "error",
    labels: Optional[PathLike] = None,
) -> LabelSet:
    """Read the labels of all images of a folder and those below it; `Record.name` is the image's path below `path`.

    Image headers are read, because labels are shares of the size as it is seen (EXIF orientation applied). `labels` is
    a folder of the same shape with the labels; where it has none for an image, and without it, they are looked for
    beside the image.

    Raises:
        DataError: there is no image, or (`on_bad` "error") a line cannot be used; begins with ``file:line``.
    """
    root, others = Path(path), Path(path if labels is None else labels)
    images = [file for file in sorted(root.rglob("*")) if file.suffix.lower() in _ENDINGS and file.is_file()]
    if not images:
        raise DataError(f"{path}: found no images, expected a folder of images with YOLO labels (.txt)")
    given = class_names or read_yolo_names(root) or read_yolo_names(others)
    names = given or numbered_classes(MAX_CLASSES)[0]
    gather = Gather(str(path), on_bad)
    for image in images:
        file = _label_file(image, root, others)
        if file is None:
            gather.skip(str(image), NO_LABEL, f"expected {image.with_suffix('.txt').name}")
        else:
            _add(gather, file, image, image.relative_to(root).as_posix(), len(names))
    if not given:
        highest = max((int(record.class_ids.max()) for record in gather.records if len(record.class_ids)), default=-1)
        names, _ = numbered_classes(highest + 1)
    return gather.label_set(names)


def _label_file(image: Path, root: Path, labels: Path) -> Optional[Path]:
    """The .txt at the image's place in the folder `labels`, beside the image, or at the same place in a folder called
    labels for the last one called images."""
    for place in (labels / image.relative_to(root), image):
        if place.with_suffix(".txt").is_file():
            return place.with_suffix(".txt")
    parts = list(image.relative_to(root.parent).with_suffix(".txt").parts)
    folders = parts[:-1]
    if "images" not in folders:
        return None
    parts[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    other = root.parent.joinpath(*parts)
    return other if other.is_file() else None


def _add(gather: Gather, file: Path, image: Path, name: str, num_classes: int) -> None:
    """Take one image; its first bad line makes it bad."""
    where = str(image)
    try:
        size_wh = read_header(read_bytes(image), "image").shown_wh
        label = BoxLabel([], [], size_wh)
        where = str(file)
        for line_number, fields in _lines(file):
            where = f"{file}:{line_number}"
            class_id = class_number(fields[0], "class id")
            if class_id >= num_classes:
                raise DataError(f"class id: found {class_id}, expected less than {num_classes}", "unknown-class")
            label.boxes.append(_box(fields, size_wh))
            label.class_ids.append(class_id)
        gather.add(str(file), name, label)
    except DataError as fault:
        gather.fault(where, fault)


def _lines(file: Path) -> Iterator[Tuple[int, List[str]]]:
    for line_number, line in enumerate(read_bytes(file).split(b"\n"), 1):
        fields = line.decode("ascii", "backslashreplace").split()
        if fields:
            yield line_number, fields


def _box(fields: List[str], size_wh: SizeWH) -> Corners:
    if len(fields) != 5:
        hint = " (a polygon?)" if len(fields) > 6 else ""
        raise DataError(f"found {len(fields)} numbers{hint}, expected class id, centre x, centre y, width, height")
    x, y, width, height = (_share(text) for text in fields[1:])
    image_width, image_height = size_wh
    left, top = (x - width / 2) * image_width, (y - height / 2) * image_height
    return box_corners(left, top, width * image_width, height * image_height)


def _share(text: str) -> float:
    value = text_number(text, "share of the image")
    if not -1 <= value <= 2:  # a little outside 0..1 is clipped like every box outside its image
        raise DataError(f"found {shown(text)}, expected a share of the image, 0..1 (not pixels)", "bad-coordinates")
    return value
