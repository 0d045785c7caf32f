"""Validate label fields, fit boxes to their image, and collect labels of any format in a `Labels`.

All readers use these functions, so that the same rules apply to every format. Invalid values raise a DataError whose
message names no file; the caller adds it.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from ssd_train.boxes import SizeWH, as_boxes
from ssd_train.data.file_names import files_below, folded, is_image_name, readings
from ssd_train.data.formats.json_lines import PathLike, bad_lines_error
from ssd_train.data.image_sources import FolderImages, shared_tail
from ssd_train.data.structures import (
    MAX_CLASSES,
    NOTHING_IGNORED,
    ClassNames,
    Ignored,
    LabeledImage,
    LabelIssue,
    Labels,
)
from ssd_train.errors import ConfigError, DataError
from ssd_train.storage.atomic import replacing

MAX_SIDE = 1_000_000  # px; below 2**23, so the corners of a box of 1 px differ in float32
MIN_SIDE = 1.0  # px of a clipped box, with a tolerance of ROUNDING; thinner boxes make the loss infinite
MIN_KEPT = 0.1  # fraction of a box's area that must be inside the image
ROUNDING = 1e-3  # px outside the image that are attributed to float arithmetic in a labelling tool
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_THIN = MIN_SIDE - ROUNDING

CLIPPED = "box clipped to the image"
TOO_SMALL = "box left out: smaller than 1 pixel"
OUTSIDE = "box left out: less than 10 % of it inside the image"

OBJECT, DIFFICULT, CROWD = range(3)  # kinds of boxes; detections of the last two are neither right nor wrong

Corners = Tuple[float, float, float, float]


class BoxLabel(NamedTuple):
    """One label as read from its file, not yet fitted to the image.

    Attributes:
        boxes: xyxy corners in pixels.
        class_ids: Class id of each box.
        size_wh: (width, height) of the image in pixels, or None if the label does not contain it.
        kinds: OBJECT, DIFFICULT or CROWD for each box; empty if all are OBJECT.
    """

    boxes: List[Corners]
    class_ids: List[int]
    size_wh: Optional[SizeWH]
    kinds: Sequence[int] = ()

    def map_ids(self, table: Mapping[int, int], field: str = "class_id") -> "BoxLabel":
        """Return the label with class ids mapped by `table`.

        Raises:
            DataError: a class id is not in the table; the message names the box and the field, but not the file.
        """
        for index, class_id in enumerate(self.class_ids):
            if class_id not in table:
                raise DataError(
                    f"box {index}: {field}: found {class_id}, expected one of the class-map: {sorted(table)[:20]}",
                    "unknown-class",
                )
        return self._replace(class_ids=[table[class_id] for class_id in self.class_ids])


def number(value: Any, field: str) -> float:
    """Return `value` if it is a JSON number of at most MAX_SIDE in magnitude.

    Strings, booleans, null, NaN and infinity are invalid.
    """
    if type(value) is not int and type(value) is not float:
        raise DataError(f"{field}: found {short_repr(value)}, expected a number", "bad-coordinates")
    if not -MAX_SIDE <= value <= MAX_SIDE:  # false for NaN too
        raise DataError(
            f"{field}: found {short_repr(value)}, expected a number of pixels up to {MAX_SIDE}", "bad-coordinates"
        )
    return value


def text_number(text: str, field: str) -> float:
    """Parse a decimal number and validate it as `number` does.

    A pattern is checked first, because float() also accepts nan, inf and 1_000.
    """
    if len(text) > 100 or not _DECIMAL.fullmatch(text):
        raise DataError(f"{field}: found {short_repr(text)}, expected a number", "bad-coordinates")
    return number(float(text), field)


def whole_number(value: Any, field: str) -> int:
    """Parse an integer from 0 to 10**9 - 1; a string of digits (``"0"``) is valid."""
    if type(value) is int and 0 <= value < 10**9:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    raise DataError(f"{field}: found {short_repr(value)}, expected an integer of 0 or more")


def class_number(value: Any, field: str) -> int:
    """Parse a class id as `whole_number` does."""
    try:
        return whole_number(value, field)
    except DataError as fault:
        raise DataError(str(fault), "unknown-class") from None


def image_size(value: Any, field: str) -> SizeWH:
    """Parse ``{"width": 640, "height": 480, ...}`` into (width, height) in pixels."""
    if not isinstance(value, dict):
        raise DataError(
            f"{field}: found {short_repr(value)}, expected an object with width and height", "bad-image-size"
        )
    return side(value.get("width"), f"{field} width"), side(value.get("height"), f"{field} height")


def side(value: Any, field: str) -> int:
    """Validate the width or height of an image: an integer from 1 to MAX_SIDE."""
    if type(value) is not int or not 1 <= value <= MAX_SIDE:
        raise DataError(
            f"{field}: found {short_repr(value)}, expected an integer from 1 to {MAX_SIDE}", "bad-image-size"
        )
    return value


def image_name(value: Any, field: str) -> str:
    """Validate an image name: a non-empty string without NUL or lone surrogates.

    File systems reject NUL, and UTF-8 cannot encode lone surrogates.
    """
    if not isinstance(value, str) or not value:
        raise DataError(f"{field}: found {short_repr(value)}, expected the name of an image", "bad-image-name")
    if "\0" in value or (not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value)):
        raise DataError(
            f"{field}: found {short_repr(value)}, expected a name without NUL and lone surrogates", "bad-image-name"
        )
    return value


def box_corners(left: float, top: float, width: float, height: float) -> Corners:
    """Convert left, top, width, height to xyxy corners.

    A negative size is invalid. A size of 0 is valid here: `fit_box` drops such a box as too small.
    """
    if width < 0 or height < 0:
        raise DataError(
            f"found width {short_repr(width)} and height {short_repr(height)}, expected neither below 0",
            "box-degenerate",
        )
    return (left, top, left + width, top + height)


def fit_box(box: Corners, size_wh: Optional[SizeWH]) -> "Tuple[Optional[Corners], str]":
    """Clip a box (xyxy, pixels) to the image.

    Args:
        box: The corners of the box.
        size_wh: (width, height) of the image; if None, MAX_SIDE is assumed for both.

    Returns:
        The clipped box, or None if it is dropped, and the reason: CLIPPED, TOO_SMALL or OUTSIDE. The reason is "" if
        the box is unchanged or exceeds the image by at most ROUNDING.
    """
    x1, y1, x2, y2 = box
    width, height = size_wh or (MAX_SIDE, MAX_SIDE)
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return (box, "") if x2 - x1 >= _THIN and y2 - y1 >= _THIN else (None, TOO_SMALL)
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
    kept_width, kept_height = max(right - left, 0.0), max(bottom - top, 0.0)
    if kept_width * kept_height < MIN_KEPT * (x2 - x1) * (y2 - y1):
        return None, OUTSIDE
    if kept_width < _THIN or kept_height < _THIN:
        return None, TOO_SMALL
    excess = max(left - x1, top - y1, x2 - right, y2 - bottom)
    return (left, top, right, bottom), CLIPPED if excess > ROUNDING else ""


def shortest(value: Any) -> Any:
    """Convert a float without a fraction such as ``200.0`` to an int; return any other value unchanged."""
    return int(value) if type(value) is float and value.is_integer() else value


def short_repr(value: Any) -> str:
    """Format an invalid value for an error message: short, and in JSON's terms."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = {list: "an array", dict: "an object", type(None): "null"}.get(type(value)) or repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


DUPLICATE = "duplicate line"
BAD_LINE = "bad line"
NO_BOX_LEFT = "no box of the image is usable"

ON_BAD = ("error", "skip")


class NoUsableLine(DataError):
    """No label of a data set is usable.

    Attributes:
        skipped: The skipped labels with their reasons.
    """

    def __init__(self, message: str, skipped: Sequence[LabelIssue]) -> None:
        super().__init__(message)
        self.skipped = tuple(skipped)


class LabelsBuilder:
    """Collect the labels of any format in a `Labels`. All readers use it, so that they treat labels alike.

    - Boxes are clipped to their image, or dropped if too little is left (`fit_box`). `Labels.repaired` lists
      each change.
    - An image whose objects were all dropped is skipped: it shows something, so it is not a background image. The same
      holds for an image with nothing but ignored regions if all of them were dropped.
    - A repeated image with the same boxes is skipped. With different boxes it is bad, because either could be right.
    - Bad labels raise one DataError that names the first few. With `on_bad` "skip" they are skipped.
    """

    def __init__(self, source: str, on_bad: str = "error") -> None:
        if on_bad not in ON_BAD:
            raise ConfigError(f"on_bad_data: found {on_bad!r}, expected 'error' or 'skip'")
        self.source = source
        self.on_bad = on_bad
        self.records: List[LabeledImage] = []
        self._skipped: List[LabelIssue] = []
        self._repaired: List[LabelIssue] = []
        self._bad: List[Tuple[str, DataError]] = []
        self._seen: Dict[str, LabeledImage] = {}

    def add(self, where: str, name: str, label: BoxLabel, repairs: Sequence[Tuple[str, str]] = ()) -> None:
        """Add the label of one image.

        Args:
            where: ``file:line`` or file of the label.
            name: Name of the image.
            label: The label as read.
            repairs: (reason, detail) of each box that the reader itself dropped or changed.

        Raises:
            DataError: an earlier label of the same image has other boxes; the message names only the earlier location.
        """
        record, changes = fit_label(where, name, label, repairs)
        if record is None:
            self.add_repair(where, changes)
            self.skip(where, NO_BOX_LEFT, name)
            return
        first = self._seen.setdefault(name, record)
        if first is record:
            self.add_repair(where, changes)
            self.records.append(record)
        elif _same_labels(first, record):
            self.skip(where, DUPLICATE, f"as {first.where}")
        else:
            raise DataError(
                f"found image {name!r} with other boxes than at {first.where}, expected its boxes once",
                "conflicting-duplicate",
            )

    def skip(self, where: str, reason: str, detail: str = "") -> None:
        """Record a skipped label; `reason` is one of a few fixed texts."""
        self._skipped.append(LabelIssue(where, reason, detail))

    def add_error(self, where: str, fault: DataError) -> None:
        """Record a bad label."""
        self._bad.append((where, fault))

    @contextmanager
    def collect_errors(self, where: str) -> Iterator[None]:
        """Record a DataError of the block as a bad line at `where`."""
        try:
            yield
        except DataError as fault:
            self.add_error(where, fault)

    def numbered_classes(self) -> ClassNames:
        """Return class_0, class_1, ... up to the highest class id of the records."""
        ids = [int(record.class_ids.max()) for record in self.records if len(record.class_ids)]
        return ClassNames.of_ids({}, max(ids, default=-1) + 1)

    def build(self, class_names: ClassNames, details: Optional[Dict[str, str]] = None) -> Labels:
        """Return the collected labels.

        Raises:
            DataError: there are bad labels and `on_bad` is "error".
            NoUsableLine: there is no record.
        """
        if self._bad and self.on_bad == "error":
            raise bad_lines_error(self._bad)
        skipped = self._skipped + [LabelIssue(where, BAD_LINE, str(fault), fault.code) for where, fault in self._bad]
        if not self.records:
            message = f"{self.source}: no line can be used, expected labelled images; {_reasons(skipped)}"
            raise NoUsableLine(message, skipped)
        return Labels(
            tuple(self.records), class_names, tuple(skipped), tuple(self._repaired), self.source, details or {}
        )

    def add_repair(self, where: str, changes: Sequence[Tuple[str, str]]) -> None:
        """Record (reason, detail) of what was dropped, changed or assumed at `where`."""
        self._repaired += [LabelIssue(where, reason, detail) for reason, detail in changes]


def fit_label(
    where: str, name: str, label: BoxLabel, repairs: Sequence[Tuple[str, str]] = ()
) -> Tuple[Optional[LabeledImage], List[Tuple[str, str]]]:
    """Fit the boxes of one image to it.

    Returns:
        The record, None if the label has boxes and none of them is usable; and (reason, detail) of `repairs` and of
        each box that was clipped or dropped.
    """
    kinds = label.kinds or [OBJECT] * len(label.boxes)
    changes = list(repairs)
    objects: List[Tuple[Corners, int]] = []
    regions: List[Tuple[Corners, int, bool]] = []
    for index, (box, class_id, kind) in enumerate(zip(label.boxes, label.class_ids, kinds)):
        fitted, reason = fit_box(box, label.size_wh)
        if reason:
            changes.append((reason, f"box {index}: {[round(value, 2) for value in box]}"))
        if fitted is not None and kind == OBJECT:
            objects.append((fitted, class_id))
        elif fitted is not None:
            regions.append((fitted, class_id, kind == CROWD))
    if (label.boxes or repairs) and not objects and (OBJECT in kinds or not regions):
        return None, changes
    boxes, ids = [box for box, _ in objects], np.array([class_id for _, class_id in objects], np.int64)
    ignored = Ignored(*map(np.array, zip(*regions))) if regions else NOTHING_IGNORED
    return LabeledImage(name, as_boxes(boxes), ids, label.size_wh, where, ignored), changes


def class_table(origins: Mapping[Tuple[int, str], str]) -> Tuple[ClassNames, Dict[int, int]]:
    """Return class names and a table id -> class id, for ids that are class ids.

    The ids stay as they are. A missing id below the highest one is named class_N. A name with two ids is one class,
    with the lower id.

    Args:
        origins: (id, name) as in the labels -> location of its first occurrence.

    Raises:
        DataError: an id has two names, two names differ only in surrounding blanks, or an id is not below MAX_CLASSES.
    """
    by_name = _first_ids(origins)
    for (class_id, _), origin in sorted(origins.items()):
        if class_id >= MAX_CLASSES:
            raise DataError(f"{origin}: found class id {class_id}, expected less than {MAX_CLASSES}", "bad-class-map")
    names = ClassNames.of_ids({class_id: name for name, class_id in by_name.items()})
    return names, {class_id: by_name[name] for class_id, name in origins}


def ordered_classes(origins: Mapping[Tuple[int, str], str]) -> Tuple[ClassNames, Dict[int, int], Dict[str, int]]:
    """Return class names sorted by id without gaps, for formats with arbitrary ids.

    Args:
        origins: (id, name) as in the labels -> location of its first occurrence.

    Returns:
        The class names, a table id -> class id, and a table name -> id. A name with two ids is one class, with the
        lower id.

    Raises:
        DataError: an id has two names, or two names differ only in surrounding blanks.
    """
    by_name = _first_ids(origins)
    rank = {name: index for index, name in enumerate(by_name)}
    return ClassNames(tuple(by_name)), {class_id: rank[name] for class_id, name in origins}, by_name


def _first_ids(origins: Mapping[Tuple[int, str], str]) -> Dict[str, int]:
    """Return name -> its lowest id, in ascending order of the ids."""
    by_id: Dict[int, Tuple[str, str]] = {}
    by_words: Dict[str, Tuple[str, str]] = {}
    for (class_id, name), origin in sorted(origins.items()):
        other, other_origin = by_id.setdefault(class_id, (name, origin))
        if other != name:
            raise DataError(
                f"{origin}: calls class {class_id} {name!r}, but {other_origin} calls it {other!r}, "
                "expected one name for each id",
                "conflicting-class-map",
            )
        other, other_origin = by_words.setdefault(name.strip(), (name, origin))
        if other != name:
            raise DataError(
                f"{origin}: has class {name!r}, but {other_origin} has {other!r}, "
                "expected names that differ in more than blanks",
                "conflicting-class-map",
            )
    first: Dict[str, int] = {}
    for class_id, (name, _) in by_id.items():
        first.setdefault(name, class_id)
    return first


def _same_labels(a: LabeledImage, b: LabeledImage) -> bool:
    same_boxes = np.array_equal(a.boxes, b.boxes) and np.array_equal(a.class_ids, b.class_ids)
    return a.size_wh == b.size_wh and same_boxes and np.array_equal(a.ignored.boxes, b.ignored.boxes)


def _reasons(skipped: Sequence[LabelIssue]) -> str:
    if not skipped:
        return "found none"
    reasons = sorted({line.reason for line in skipped})
    counts = [f"{sum(line.reason == reason for line in skipped)} x {reason}" for reason in reasons]
    return f"skipped {', '.join(counts)}; the first at {skipped[0].where}: {skipped[0].detail}"


def match_paths(entries: Iterable[Tuple[str, ...]], paths: Iterable[Tuple[Tuple[str, ...], str]]) -> Set[str]:
    """Return the names of the paths that share the longest tail with an entry of a list.

    Args:
        entries: Parts of each entry, as `split_path` returns them.
        paths: (parts of a path, name).
    """
    by_last: Dict[str, List[Tuple[Tuple[str, ...], str]]] = {}
    for parts, name in paths:
        by_last.setdefault(parts[-1], []).append((parts, name))
    names: Set[str] = set()
    for entry in entries:
        for length in range(len(entry), 0, -1):
            tail = entry[-length:]
            hits = [name for parts, name in by_last.get(entry[-1], ()) if parts[-length:] == tail]
            if hits:
                names.update(hits)
                break
    return names


def split_path(line: str) -> Tuple[str, ...]:
    """Return the normalised parts of a path in a list of images."""
    parts = line.strip().strip("\"'").replace("\\", "/").split("/")
    return tuple(folded(part) for part in parts if part not in ("", ".", ".."))


def label_files(path: PathLike, ending: str) -> List[Path]:
    """Return all files with an extension below a folder, sorted.

    Args:
        path: The folder.
        ending: The extension in lower case, e.g. ``.xml``; files may have it in upper case, too.

    Raises:
        DataError: there is no such file.
    """
    folder = Path(path)
    files = sorted(file for file in files_below(folder) if file.suffix.lower() == ending and file.is_file())
    if not files:
        raise DataError(f"{path}: found no *{ending}, expected a folder with one such file for each image")
    return files


@contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends.

    The folder has a temporary name until then. If the block raises, the folder is removed.

    Raises:
        DataError: `path` exists and is not an empty folder.
        SsdTrainError: the disk is full, or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{path}: is there already, expected no folder or an empty one")
    with replacing(target) as new:
        new.mkdir()
        yield new


def new_label_file(folder: Path, name: str, ending: str, where: str) -> Path:
    """Return the path of an image's label file, and create its parent folder.

    It is the path of the image below `folder` with another extension.

    Args:
        folder: The folder of the label files.
        name: Relative path of the image, without ``..``.
        ending: The extension of label files.
        where: Location of the record, for the error message.

    Raises:
        DataError: the file exists, because another image differs only in its extension; starts with `where`.
    """
    target = (folder / name).with_suffix(ending)
    if target.exists():
        raise DataError(
            f"{where}: found {name!r} beside an image of the same name but for the ending, "
            "expected names that differ without it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


class ImagesOfLabels:
    """Finds images below a folder by the name of a label file, or by a name in it."""

    def __init__(self, images: "str | os.PathLike[str]") -> None:
        self._images = FolderImages(images)

    def of(self, file: Path, hint: str = "") -> Optional[str]:
        """Return the relative path of the image with the name of a label file, or None.

        If several images have the name, the first of these criteria that distinguishes them decides: the image is in
        the folder of the label file; it is in its sister folder, where one part of the path differs
        (Annotations/sub/a.xml, JPEGImages/sub/a.jpg), the deeper the better; the ends of their folders' paths agree in
        more parts; `hint` names the image.

        Args:
            file: The label file.
            hint: Name of the image in the label file, "" if there is none.

        Raises:
            DataError: several images fit equally well.
        """
        paths = self._images.index.pictures(file.stem)
        if len(paths) > 1:
            folders = file.parent.absolute().resolve().parts
            marks = [(_nearness(folders, Path(path).parent.parts), _same_name(path, hint)) for path in paths]
            paths = [path for path, mark in zip(paths, marks) if mark == max(marks)]
        if len(paths) > 1:
            raise DataError(
                f"may be of {paths[0]} or {paths[1]} ({len(paths)} pictures called {file.stem}), expected one",
                "ambiguous-image",
            )
        return self._below(paths[0]) if paths else None

    def named(self, name: str) -> Optional[str]:
        """Return the relative path of the only image that a name in labels can mean.

        Returns None if there is no such image, or more than one.

        Raises:
            DataError: the name has no file name, or leaves its folder; the message names no label file.
        """
        for parts in readings(name):
            paths = self._images.index.find(parts)
            if paths:
                return self._below(paths[0]) if len(paths) == 1 else None
        return None

    def _below(self, path: str) -> str:
        return path[len(self._images.root) :].replace(os.sep, "/").lstrip("/")  # relpath takes ten times as long


def names_agree(name: str, hint: str) -> bool:
    """Return True if a name in labels can be that of an image, or is "".

    Only file names are compared, ignoring case and Unicode form. The name in labels may lack the extension.
    """
    if not hint:
        return True
    last = folded(hint.replace("\\", "/").rsplit("/", 1)[-1])
    name = folded(name.rsplit("/", 1)[-1])
    return last in (name, name if is_image_name(last) else os.path.splitext(name)[0])


def _same_name(path: str, hint: str) -> bool:
    return bool(hint) and names_agree(path.replace(os.sep, "/"), hint)


def _nearness(a: Sequence[str], b: Sequence[str]) -> Tuple[int, int, int]:
    """Rate the proximity of two folders: same, sisters, number of common last parts."""
    differing: List[int] = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
    sisters = len(a) == len(b) and len(differing) == 1
    # the deeper the difference between sisters, the more of the path they share
    return int(a == b), differing[0] + 1 if sisters else 0, shared_tail(a, b)
