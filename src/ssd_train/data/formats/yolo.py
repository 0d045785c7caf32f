"""YOLO text labels, read and written: ``<class id> <centre x> <centre y> <width> <height>``, shares of the image.

A line may also hold a polygon (class id, x1, y1, x2, y2, ...), which is its bounding box, as Ultralytics reads it;
where data.yaml has kpt_shape, keypoints after the box.

Images and labels stand side by side, in folders `images` and `labels` of the same shape inside, or in two folders that
are named. Class names and sets come from data.yaml and others (`yolo_names`), or names are given.

An empty .txt means an image without objects. An image without a .txt is skipped: nobody said that it shows none. A
label without an image is an error.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple
from urllib.parse import unquote

from ssd_train.data.boxes import SizeWH
from ssd_train.data.file_names import files_below, folded, images_below, is_hidden, paths_below
from ssd_train.data.formats.fields import BoxLabel, Corners, box_corners, class_number, shown, text_number
from ssd_train.data.formats.gather import Gather, numbered_classes
from ssd_train.data.formats.jsonl import PathLike, read_bytes
from ssd_train.data.formats.label_folder import new_folder, new_label_file
from ssd_train.data.formats.yolo_names import describe, members
from ssd_train.data.images import read_header
from ssd_train.data.records import MAX_CLASSES, ClassNames, LabelSet, Record
from ssd_train.data.sources import key_parts
from ssd_train.errors import DataError

NO_LABEL = "no label file"

_ENDING = ".txt"
_NO_LABELS = ("classes.txt", "predefined_classes.txt")  # texts that stand among labels
_WHOLE = re.compile(r"\d+\.0*|\d+(?:\.\d*)?[eE][+-]?\d{1,2}", re.ASCII)
_IMAGES = ("images", "JPEGImages")  # folders whose sister is called labels
_LEAST_POLYGON = 6  # numbers: three points


def read_yolo(
    path: PathLike,
    class_names: Optional[ClassNames] = None,
    on_bad: str = "error",
    labels: Optional[PathLike] = None,
) -> LabelSet:
    """Read the labels of all images of a folder and those below it; `Record.name` is the image's path below `path`.

    Image headers are read, because labels are shares of the size as it is seen (EXIF orientation applied). `labels` is
    a folder of the same shape with the labels; where it has none for an image, and without it, they are looked for
    beside the image and in a folder called labels in the place of one called images.

    Raises:
        DataError: there is no image, or (`on_bad` "error") a line cannot be used, or a label has no image; begins with
            ``file:line``.
    """
    root, others = Path(path), Path(path if labels is None else labels)
    images = images_below(root)
    if not images:
        raise DataError(f"{path}: found no images, expected a folder of images with YOLO labels (.txt)")
    told = describe([root, others])
    given = class_names or told.names
    names = given or numbered_classes(MAX_CLASSES)[0]
    gather = Gather(str(path), on_bad)
    files = _LabelFiles(root, others, Counter(image.stem for image in images))
    for image in images:
        file = files.of(image)
        if file is None:
            gather.skip(str(image), NO_LABEL, f"expected {image.with_suffix(_ENDING).name}")
        else:
            _add(gather, file, image, image.relative_to(root).as_posix(), len(names), told.points)
    for file in files.unused():
        gather.fault(str(file), DataError(f"found no image of this label below {root}, expected one", "missing-image"))
    if not given:
        highest = max((int(record.class_ids.max()) for record in gather.records if len(record.class_ids)), default=-1)
        names, _ = numbered_classes(highest + 1)
    read = gather.label_set(names, {"sets": told.source} if told.source else None)
    if told.sets:
        real = root.resolve()
        there = {record.name: real / record.name for record in read.records}
        sets = {name: frozenset(members(places, there)) for name, places in told.sets.items()}
        read = dataclasses.replace(read, sets={name: found for name, found in sets.items() if found})
    return read


def write_yolo(path: PathLike, records: Iterable[Record], class_names: ClassNames) -> int:
    """Write labels/<name>.txt for each record and data.yaml into a new folder, which appears whole or not at all;
    return their number. Ultralytics looks for the images in the folder `images` beside `labels`.

    Raises:
        DataError: a record has no size, or two names differ only in their ending.
    """
    count = 0
    with new_folder(path) as folder:
        (folder / "labels").mkdir()
        for record in records:
            where = record.where or record.name
            if record.size_wh is None:
                raise DataError(f"{where}: found no image size, expected one: YOLO needs it")
            target = new_label_file(folder / "labels", "/".join(key_parts(record)), _ENDING, where)
            target.write_text("".join(_lines_of(record, record.size_wh)), encoding="ascii")
            count += 1
        names = "".join(f"  {class_id}: {_quoted(name)}\n" for class_id, name in enumerate(class_names))
        text = f"path: .\ntrain: images\nval: images\nnc: {len(class_names)}\nnames:\n{names}"
        (folder / "data.yaml").write_text(text, encoding="utf-8")
    return count


def _lines_of(record: Record, size_wh: SizeWH) -> Iterator[str]:
    width, height = size_wh
    for (x1, y1, x2, y2), class_id in zip(record.boxes.tolist(), record.class_ids.tolist()):
        shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        yield f"{class_id} {' '.join(f'{share:.12g}' for share in shares)}\n"


def _quoted(name: str) -> str:
    """A text in double quotes, as YAML has it: what cannot be printed is escaped."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped) + '"'


class _LabelFiles:
    """The label files of a data set: which is an image's, and which are no image's."""

    def __init__(self, root: Path, labels: Path, stems: Mapping[str, int]) -> None:
        self._root, self._labels, self._stems = root, labels, stems
        self._folders: Dict[Path, Dict[str, Path]] = {}
        self._folded: Dict[Path, Dict[str, Path]] = {}
        self._used: Set[Path] = set()
        self._by_stem: Optional[Dict[str, List[Path]]] = None

    def of(self, image: Path) -> Optional[Path]:
        """The .txt at the image's place in the folder `labels`, beside the image, at the same place in a folder called
        labels for one called images, or the only one of its name in another folder of labels."""
        relative = image.relative_to(self._root)
        for place in self._places(image, relative):
            files = self._in(place.parent)
            found = files.get(place.stem)
            if found is None:  # one that differs in case or Unicode form, unless it is that of another image
                alike = self._alike(place.parent).get(folded(place.stem))
                found = alike if alike is not None and alike.stem not in self._stems else None
            if found is not None:
                self._used.add(found)
                return found
        found = self._elsewhere(image)
        if found is not None:
            self._used.add(found)
        return found

    def _places(self, image: Path, relative: Path) -> Iterator[Path]:
        yield self._labels / relative
        yield image
        yield self._labels / "labels" / relative
        parts = image.absolute().parts
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] in _IMAGES:
                yield Path(*parts[:index], "labels", *parts[index + 1 :])

    def _in(self, folder: Path) -> Dict[str, Path]:
        """The label files of a folder by their names without the ending."""
        found = self._folders.get(folder)
        if found is None:
            names = os.listdir(folder) if folder.is_dir() else []
            texts = sorted(name for name in names if name.lower().endswith(_ENDING) and not is_hidden(name))
            found = {name[: -len(_ENDING)]: folder / name for name in texts}
            self._folders[folder] = found
        return found

    def _alike(self, folder: Path) -> Dict[str, Path]:
        """The same by their names folded, and with signs in place of %C3%A9; without those that are the same then."""
        found = self._folded.get(folder)
        if found is None:
            groups: Dict[str, List[Path]] = {}
            for stem, file in self._in(folder).items():
                for key in {folded(stem), folded(unquote(stem))}:
                    groups.setdefault(key, []).append(file)
            found = {key: files[0] for key, files in groups.items() if len(files) == 1}
            self._folded[folder] = found
        return found

    def _elsewhere(self, image: Path) -> Optional[Path]:
        """The only label of an image's name in a folder of labels that is not that of the images; in one folder with
        the images, where it follows no custom of its own, the only label of the only image of a name."""
        if self._labels == self._root and (self._stems[image.stem] > 1 or set(_IMAGES) & set(image.parts)):
            return None
        if self._by_stem is None:
            self._by_stem = {}
            for file in files_below(self._labels):
                if file.suffix.lower() == _ENDING:
                    self._by_stem.setdefault(folded(file.stem), []).append(file)
        found = self._by_stem.get(folded(image.stem), [])
        if len(found) != 1 or found[0] in self._used or (self._labels == self._root and "labels" in found[0].parts):
            return None
        return found[0]

    def unused(self) -> List[Path]:
        """The label files without an image: of folders that hold labels of images, and of the folder of labels."""
        used = set(map(os.path.abspath, self._used))
        folders = {os.path.dirname(file) for file in used}
        texts: Dict[str, Path] = {}
        for folder, found in self._folders.items():
            place = os.path.abspath(folder)
            texts.update((os.path.join(place, file.name), file) for file in found.values())
        for root in {self._root, self._labels}:
            is_absolute = root.is_absolute()
            for path in paths_below(root):
                key = path if is_absolute else os.path.abspath(path)
                if path.lower().endswith(_ENDING) and key not in texts:
                    texts[key] = Path(path)
        return sorted(
            file
            for path, file in texts.items()
            if path not in used and file.name not in _NO_LABELS and _is_label(file, os.path.dirname(path) in folders)
        )


def _is_label(file: Path, among_labels: bool) -> bool:
    """Whether a text is a label: empty, or a line of numbers; beside labels of images anything with a number first."""
    try:
        first = next(_lines(file), None)
    except DataError:
        return among_labels
    if first is None:
        return among_labels
    try:
        _class_id(first[1][0])
        return len(first[1]) > 4 and all(_share(text) is not None for text in first[1][1:])
    except DataError:
        return False


def _add(gather: Gather, file: Path, image: Path, name: str, num_classes: int, points: bool) -> None:
    """Take one image; its first bad line makes it bad."""
    where = str(image)
    try:
        size_wh = read_header(read_bytes(image), "image").shown_wh
        label = BoxLabel([], [], size_wh)
        where = str(file)
        for line_number, fields in _lines(file):
            where = f"{file}:{line_number}"
            class_id = _class_id(fields[0])
            if class_id >= num_classes:
                raise DataError(f"class id: found {class_id}, expected less than {num_classes}", "unknown-class")
            label.boxes.append(_box(fields, size_wh, points))
            label.class_ids.append(class_id)
        gather.add(str(file), name, label)
    except DataError as fault:
        gather.fault(where, fault)


def _lines(file: Path) -> Iterator[Tuple[int, List[str]]]:
    data = read_bytes(file)
    for line_number, line in enumerate((data[3:] if data.startswith(b"\xef\xbb\xbf") else data).split(b"\n"), 1):
        fields = line.decode("ascii", "backslashreplace").split()
        if fields:
            yield line_number, fields


def _class_id(text: str) -> int:
    """A class id, also written 1.0 or 1.000e+00, as NumPy writes it."""
    if _WHOLE.fullmatch(text) and len(text) < 30 and float(text).is_integer() and float(text) < MAX_CLASSES:
        return int(float(text))
    return class_number(text, "class id")


def _box(fields: List[str], size_wh: SizeWH, points: bool) -> Corners:
    count = len(fields) - 1
    if not points and count >= _LEAST_POLYGON and count % 2 == 0:
        shares = [_share(text) for text in fields[1:]]
        xs, ys = ([share * side for share in part] for part, side in zip((shares[::2], shares[1::2]), size_wh))
        return box_corners(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    if count != 4 and not (points and count > 4):
        raise DataError(
            f"found {len(fields)} numbers, expected class id, centre x, centre y, width, height, or class id and the "
            "points of a polygon"
        )
    x, y, width, height = (_share(text) for text in fields[1:5])
    image_width, image_height = size_wh
    left, top = (x - width / 2) * image_width, (y - height / 2) * image_height
    return box_corners(left, top, width * image_width, height * image_height)


def _share(text: str) -> float:
    value = text_number(text, "share of the image")
    if not -1 <= value <= 2:  # a little outside 0..1 is clipped like every box outside its image
        raise DataError(f"found {shown(text)}, expected a share of the image, 0..1 (not pixels)", "bad-coordinates")
    return value
