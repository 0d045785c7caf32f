"""Read and write detection data sets in RecordIO: `.rec`, `.idx` and `.lst` files.

The `.rec` file is the built-in algorithm's format. A record is one image: ``IfQQ`` little-endian (flag, label, id,
id2), `flag` float32 values of label (`detection_label`, coordinates 0..1), the encoded image. Lines of the `.idx` file
are ``id<TAB>byte offset``, those of the `.lst` file ``id<TAB>label...<TAB>path``. GluonCV's RecordFileDetection and
MXNet's ImageDetRecordIter read the files written here.

The format has no class names. They are passed to the reader, or read from a `.names` file next to the `.rec` file
(`class_list`), or are class_0, class_1 and so on.

Coordinates refer to the upright image (EXIF orientation applied), as in ImageDetRecordIter. GluonCV ignores the
orientation, so the writer converts images that are not stored upright to PNG.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from ssd_train.data.formats.class_list import NAMES, read_class_list
from ssd_train.data.formats.detection_label import pack_label, unpack_label
from ssd_train.data.formats.fields import BoxLabel, image_name
from ssd_train.data.formats.framing import read_record, read_records, write_record
from ssd_train.data.formats.gather import Gather, numbered_classes
from ssd_train.data.formats.jsonl import PathLike
from ssd_train.data.images import decode, encode_png, read_header, turn_for
from ssd_train.data.records import ClassNames, ImageSource, LabelSet, Record
from ssd_train.errors import DataError
from ssd_train.storage import open_atomic

_HEAD = struct.Struct("<IfQQ")
_READABLE = ("JPEG", "PNG", "BMP")  # formats that MXNet 1.9.1 decodes


class ImageRecord(NamedTuple):
    """The parts of one record: id, label (float32 (n,)), encoded image."""

    id: int
    label: np.ndarray
    image: bytes


class RecordImages:
    """Random access by name to the images of a `.rec` file; keeps no file open."""

    def __init__(self, path: Path, offsets: Dict[str, Tuple[int, int]]) -> None:
        self._path = path
        self._offsets = offsets  # name -> (number of the record, counted from 1, byte offset)

    def read(self, record: Record) -> bytes:
        """Return the encoded image of a record.

        Raises:
            DataError: the image is not in this file, or the file has changed; names the record.
        """
        where = self.locate(record)
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offsets[record.name][1])
                payload = read_record(file, where)
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror}), expected a RecordIO file") from None
        try:
            return unpack_record(payload).image
        except DataError as fault:
            raise fault.at(where) from None

    def locate(self, record: Record) -> str:
        """Return ``file:number`` of the record, counted from 1.

        Raises:
            DataError: the image is not in this file.
        """
        if record.name not in self._offsets:
            raise DataError(f"{record.where or record.name}: found no image {record.name!r} in {self._path}")
        return f"{self._path}:{self._offsets[record.name][0]}"


def read_recordio(
    path: PathLike, class_names: Optional[ClassNames] = None, on_bad: str = "error"
) -> Tuple[LabelSet, RecordImages]:
    """Read the labels of a `.rec` file, and return them with the source of its images.

    The file is read once, sequentially; the `.idx` file is not used. Names of images are read from the `.lst` file next
    to it. Without an entry there, a name is ``<stem>/<number of the record>``.

    Args:
        path: The `.rec` file.
        class_names: Names of the class ids; None reads the `.names` file, if there is one.
        on_bad: "error" raises one DataError for all bad labels, "skip" skips them.

    Raises:
        DataError: the file is damaged, or `on_bad` is "error" and some labels are bad; names ``file:number``.
    """
    place = Path(path)
    names = _lst_names(place.with_suffix(".lst"))
    if class_names is None and place.with_suffix(NAMES).is_file():
        class_names = read_class_list(place.with_suffix(NAMES))
    gather = Gather(str(place), on_bad)
    offsets: Dict[str, Tuple[int, int]] = {}
    number = 0
    for number, (offset, payload) in enumerate(_payloads(place), 1):
        where = f"{place}:{number}"
        try:
            record = unpack_record(payload)
            name = names.get(record.id, f"{place.stem}/{number:08d}")
            gather.add(where, name, _label(record, class_names))
            offsets.setdefault(name, (number, offset))
        except DataError as fault:
            gather.fault(where, fault)
    if not number:
        raise DataError(f"{path}: is empty, expected one record for each image")
    highest = max((int(record.class_ids.max()) for record in gather.records if len(record.class_ids)), default=-1)
    numbered, _ = numbered_classes(highest + 1)
    return gather.label_set(class_names or numbered), RecordImages(place, offsets)


def write_recordio(path: PathLike, records: Iterable[Record], images: ImageSource, flagged: bool = False) -> int:
    """Write `.rec`, `.idx` and `.lst` files; return the number of images.

    Each file is written atomically. Images are read one at a time. An image without boxes gets one row of padding (-1),
    because GluonCV and MXNet reject an empty label.

    Args:
        path: Path of one of the files; the extension is replaced.
        records: Records with boxes in pixels.
        images: The source of their images.
        flagged: Write GluonCV's sixth value, "difficult", and the difficult objects.
    """
    place = Path(path)
    count = offset = 0
    with ExitStack() as files:
        rec, idx, lst = (files.enter_context(open_atomic(place.with_suffix(end))) for end in (".rec", ".idx", ".lst"))
        for record in records:
            data, size_wh = _upright(images.read(record), record)
            label = pack_label(record, size_wh, flagged)
            idx.write(f"{count}\t{offset}\n".encode())
            lst.write(_lst_line(count, label, record))
            offset += write_record(rec, _HEAD.pack(label.size, 0.0, count, 0) + label.tobytes() + data)
            count += 1
    return count


def unpack_record(payload: bytes) -> ImageRecord:
    """Split a record into id, label and encoded image.

    Raises:
        DataError: the record is too short, or its label is a single number; the message names no file.
    """
    if len(payload) < _HEAD.size:
        raise DataError(f"found a record of {len(payload)} bytes, expected at least {_HEAD.size}")
    flag, _, number, _ = _HEAD.unpack_from(payload)
    end = _HEAD.size + 4 * flag
    if not flag:
        raise DataError("found a label of one number, expected boxes (im2rec needs --pack-label)")
    if len(payload) < end:
        raise DataError(f"found a record of {len(payload)} bytes, expected {flag} numbers of label and an image")
    return ImageRecord(number, np.frombuffer(payload, "<f4", flag, _HEAD.size), payload[end:])


def _payloads(path: Path) -> Iterator[Tuple[int, bytes]]:
    try:
        with open(path, "rb") as file:
            yield from read_records(file, str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}), expected a RecordIO file") from None


def _label(record: ImageRecord, class_names: Optional[ClassNames]) -> BoxLabel:
    label = unpack_label(record.label, read_header(record.image, "image").shown_wh)
    highest = max(label.class_ids, default=-1)
    if class_names is not None and highest >= len(class_names):
        raise DataError(
            f"found class id {highest}, expected less than {len(class_names)} ({', '.join(class_names)})",
            "unknown-class",
        )
    return label


def _upright(data: bytes, record: Record) -> "Tuple[bytes, Tuple[int, int]]":
    """Return an image that all readers decode to the same pixels, and (width, height).

    An image that is not stored upright, or that MXNet cannot decode, is converted to PNG.
    """
    where = record.where or record.name
    header = read_header(data, where)
    if turn_for(header, where, record.size_wh) == header.orientation == 1 and header.format in _READABLE:
        return data, header.shown_wh
    image = decode(data, where, record.size_wh)
    return encode_png(image), (image.shape[1], image.shape[0])


def _lst_line(index: int, label: np.ndarray, record: Record) -> bytes:
    key = record.name.partition("://")[2].partition("/")[2] or record.name
    if any(sign in key for sign in "\t\r\n"):
        raise DataError(f"{record.where or record.name}: found a tab or line end in {key!r}, which a .lst cannot hold")
    numbers = "\t".join(f"{value:.9g}" for value in label.tolist())
    return f"{index}\t{numbers}\t{key}\n".encode()


def _lst_names(path: Path) -> Dict[int, str]:
    """Return id -> image name of a `.lst` file, {} if there is no file."""
    if not path.is_file():
        return {}
    names: Dict[int, str] = {}
    for line_number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        fields = line.rstrip(b"\r").split(b"\t")
        try:
            name = image_name(fields[-1].decode("utf-8"), "path")
        except (UnicodeDecodeError, DataError):
            name = ""
        if len(fields) < 3 or not fields[0].isdigit() or not name:
            raise DataError(
                f"{path}:{line_number}: found {line[:40]!r}, expected an id, a label and a path in UTF-8, with tabs"
            )
        names[int(fields[0])] = name
    return names
