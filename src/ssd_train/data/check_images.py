"""What is wrong with images, one by one: read whole and decoded once, or only glanced at before a training run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.check_codes import Finding
from ssd_train.data.check_duplicates import thumbnail
from ssd_train.data.damage import check_undamaged
from ssd_train.data.encoded import looks_like
from ssd_train.data.file_names import is_hidden
from ssd_train.data.images import (
    FORMATS,
    ImageHeader,
    check_limits,
    check_whole,
    decode_stored,
    read_header,
    turn,
    turn_for,
)
from ssd_train.data.records import ImageSource, Record
from ssd_train.data.sources import FolderImages
from ssd_train.errors import DataError

_ENDS = 1 << 16  # bytes at either end of a file that a glance reads: a header, and the mark of its end
_ROUNDING = 1e-3  # px over the rim that is float arithmetic, not a box outside
_ENDING = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


@dataclass(frozen=True)
class Seen:
    """What one look at a record's image tells.

    findings    what is wrong with it
    size_wh     (width, height) that its boxes refer to; None where neither labels nor image tell
    digest      SHA-256 of the file's bytes, b"" where the image cannot be used
    thumbnail   uint8 (32, 32), gray, or None where the image cannot be used
    """

    findings: Tuple[Finding, ...]
    size_wh: Optional[SizeWH] = None
    digest: bytes = b""
    thumbnail: Optional[np.ndarray] = None


def look_at(record: Record, images: ImageSource) -> Seen:
    """Read and decode the image of `record`, once, and look for everything that one image can tell."""
    where = record.where or record.name
    try:
        data = images.read(record)
        stored, header = decode_stored(data, where)
        orientation, findings = _check_header(record, header)
        check_undamaged(data, header, stored, where)
    except DataError as fault:
        return Seen((_finding_of(fault, record),), record.size_wh)
    image = turn(stored, orientation)
    return Seen(findings, (image.shape[1], image.shape[0]), hashlib.sha256(data).digest(), thumbnail(image))


def glance_at(record: Record, images: ImageSource) -> Seen:
    """Read no more of a file than its ends, and decode nothing: finds what is missing, cut off, of a wrong kind or
    size."""
    try:
        header = _glanced_header(record, images)
        check_limits(header, record.where or record.name)
        _, findings = _check_header(record, header)
    except DataError as fault:
        return Seen((_finding_of(fault, record),), record.size_wh)
    return Seen(findings, record.size_wh or header.shown_wh)


def _finding_of(fault: DataError, record: Record) -> Finding:
    """What a reader of images complains of, as a finding."""
    place = record.where or record.name
    message = str(fault)
    if message.startswith(f"{place}: "):
        message = message[len(place) + 2 :]
    return Finding(fault.code or "unreadable-image", place, message, record.name)


def files_without_label(images: FolderImages, records: Sequence[Record]) -> List[Finding]:
    """The images below the folder that are the image of none of `records`; what is an image is told by its bytes."""
    named: Dict[str, List[Record]] = {}
    for record in records:
        named.setdefault(record.basename, []).append(record)
    found: List[str] = []
    files = _files(images.root)
    # names that are not those of the files: addresses, other case, no ending
    labelled = set(_located(images, [r for name, of_name in named.items() if name not in files for r in of_name]))
    for name, entries in files.items():
        if len(entries) > 1 or entries[0].is_symlink():  # which of them do the labels mean?
            labelled.update(_located(images, named.get(name, ())))
        elif name in named:
            continue
        found += [entry.path for entry in entries if not entry.is_symlink()]
    found = [path for path in sorted(found) if path not in labelled and _is_image(path)]
    return [Finding("image-without-label", path, "found an image that no usable line names") for path in found]


def _files(root: str) -> "Dict[str, List[os.DirEntry[str]]]":
    """What is below `root` and no folder, by its last part; a folder that may not be read has nothing."""
    found: "Dict[str, List[os.DirEntry[str]]]" = {}
    folders = [root]
    while folders:
        with contextlib.suppress(PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:  # tells links and folders without asking the disk for each
                if is_hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    found.setdefault(entry.name, []).append(entry)
    return found


def _located(images: FolderImages, records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        try:
            yield images.locate(record)
        except DataError:  # told where the image itself is checked
            continue


def _is_image(path: str) -> bool:
    try:
        if not os.path.isfile(path):  # opening a FIFO would wait for ever
            return False
        with open(path, "rb") as file:
            return looks_like(file.read(256)) in FORMATS
    except OSError:  # what may not be read is not ours to label
        return False


def _check_header(record: Record, header: ImageHeader) -> Tuple[int, Tuple[Finding, ...]]:
    """The orientation to apply, and what the header tells; a DataError where labels and image do not fit."""
    place = record.where or record.name
    orientation = turn_for(header, place, record.size_wh)
    _check_boxes_inside(record, header.shown_wh)
    if header.orientation == 1:
        return orientation, ()
    return orientation, (Finding(*_of_orientation(header, record.size_wh, place), record.name),)


def _check_boxes_inside(record: Record, size_wh: SizeWH) -> None:
    """A DataError when the labels do not tell the size of the image, and a box leaves it."""
    if record.size_wh is None and len(record.boxes):
        outside = (record.boxes[:, 2:] > np.array(size_wh) + _ROUNDING).any(axis=1)
        if outside.any():
            box = [round(value, 2) for value in record.boxes[int(np.argmax(outside))].tolist()]
            raise DataError(
                f"found box {box}, expected it inside the image of {size_wh[0]}x{size_wh[1]}", "box-outside-image"
            )


def _of_orientation(header: ImageHeader, expected_wh: Optional[SizeWH], place: str) -> Tuple[str, str, str]:
    """Code, place and detail for an image that has an orientation."""
    found = f"found EXIF orientation {header.orientation}"
    if expected_wh is None or header.orientation < 5 or header.width == header.height:
        return "orientation-applied", place, f"{found}, which is applied"
    way = "turned upright" if header.shown_wh == tuple(expected_wh) else "as stored, not turned"
    return "orientation-turned", place, f"{found}; labelled {way}, and used so"


def _glanced_header(record: Record, images: ImageSource) -> ImageHeader:
    """The header of an image that has its end; the whole file is read only where its ends do not tell."""
    where = record.where or record.name
    if isinstance(images, FolderImages):
        try:
            head, tail = images.ends(record, _ENDS)
            header = read_header(head, where)
            if _ENDING.get(header.format, b"") in tail:
                return header
        except (DataError, OSError):  # a header longer than the glance, or a fault that the whole file will tell
            pass
    data = images.read(record)
    header = read_header(data, where)
    check_whole(data, header, where)
    return header
