"""Read and write detection data sets in RecordIO: `.rec`, `.idx` and `.lst` files.

The framing is that of dmlc-core (recordio.h). A record consists of one or more parts. Each part is: MAGIC (4 bytes);
uint32 little-endian ``flag << 29 | length``; `length` bytes of data; zero padding to a multiple of 4 bytes. Flag 0 is a
whole record; flags 1, 2 and 3 are its first, middle and last part. The writer splits a record at every MAGIC at a
multiple of 4 in its data and omits that MAGIC, so that a reader can search for the next record. The reader inserts it
again. SageMaker's pipes with RecordWrapperType RecordIO use it, too.

The `.rec` file is the built-in algorithm's format. A record is one image: ``IfQQ`` little-endian (flag, label, id,
id2), `flag` float32 values of label (see `pack_label`, coordinates 0..1), the encoded image. Lines of the `.idx` file
are ``id<TAB>byte offset``, those of the `.lst` file ``id<TAB>label...<TAB>path``. GluonCV's RecordFileDetection and
MXNet's ImageDetRecordIter read the files written here.

The format has no class names. They are passed to the reader, or read from a `.names` file next to the `.rec` file
(see `read_class_list`), or are class_0, class_1 and so on.

Coordinates refer to the upright image (EXIF orientation applied), as in ImageDetRecordIter. GluonCV ignores the
orientation, so the writer converts images that are not stored upright to PNG.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data.formats.builder import DIFFICULT, OBJECT, BoxLabel, LabelsBuilder, image_name
from ssd_train.data.formats.json_lines import PathLike, read_text
from ssd_train.data.image_io import EncodedImage, encode_png, orientation_for, read_header
from ssd_train.data.structures import MAX_CLASSES, ClassNames, ImageSource, LabeledImage, Labels
from ssd_train.errors import DataError, locate_errors, reading
from ssd_train.storage.atomic import open_atomic, write_bytes_atomic

MAGIC = b"\x0a\x23\xd7\xce"  # 0xced7230a, little-endian
MAX_LENGTH = (1 << 29) - 1  # bytes of a part: the length has 29 bits

_WHOLE, _START, _MIDDLE, _END = range(4)
_PART_HEAD = struct.Struct("<4sI")
_CHUNK = 1 << 20  # bytes per read: a corrupt length must not allocate half a gigabyte


def read_records(file: BinaryIO, where: str, max_length: int = MAX_LENGTH) -> Iterator[Tuple[int, bytes]]:
    """Yield (byte offset, record) of all records in a binary stream.

    The stream need not be seekable, so it may be a pipe.

    Args:
        file: The stream.
        where: Name of the stream in error messages.
        max_length: Maximum number of bytes of one record, all parts together.

    Raises:
        DataError: the stream is not RecordIO, a record is too long, or the stream ends inside a record; starts with
            ``where:number``, records counted from 1.
    """
    offset, count = 0, 0
    while True:
        count += 1
        record, size = _read_record(file, f"{where}:{count}", offset, max_length)
        if not size:
            return
        yield offset, record
        offset += size


def read_record(file: BinaryIO, where: str) -> bytes:
    """Read the record at the current position of a file.

    Raises:
        DataError: there is no valid record; starts with `where`.
    """
    record, size = _read_record(file, where, file.tell(), MAX_LENGTH)
    if not size:
        raise DataError(f"{where}: found the end of the file, expected a record")
    return record


def write_record(file: BinaryIO, record: bytes) -> int:
    """Append a record and return the number of bytes written.

    Raises:
        DataError: a part is longer than MAX_LENGTH.
    """
    parts = _split(record)
    last = len(parts) - 1
    written = 0
    for index, part in enumerate(parts):
        if len(part) > MAX_LENGTH:
            raise DataError(f"record: found {len(part)} bytes, expected at most {MAX_LENGTH}")
        flag = _WHOLE if last == 0 else _START if index == 0 else _END if index == last else _MIDDLE
        written += file.write(_PART_HEAD.pack(MAGIC, flag << 29 | len(part)) + part + bytes(-len(part) % 4))
    return written


def _split(record: bytes) -> List[bytes]:
    """Split a record at each MAGIC at a multiple of 4, and omit that MAGIC."""
    parts, start, position = [], 0, record.find(MAGIC)
    while position >= 0:
        if position % 4 == 0:
            parts.append(record[start:position])
            start = position + 4
        position = record.find(MAGIC, position + 1)
    return [*parts, record[start:]]


def _read_record(file: BinaryIO, where: str, offset: int, max_length: int) -> Tuple[bytes, int]:
    """Return the next record and its size in the stream; (b"", 0) at the end."""
    parts: List[bytes] = []
    taken = total = 0
    while True:
        position = f"{where}: at byte {offset + taken}"
        head = _read_bytes(file, _PART_HEAD.size)
        if not head and not parts:
            return b"", 0
        flag, length = _check_head(head, position, first=not parts)
        total += length + (4 if parts else 0)
        if total > max_length:
            raise DataError(f"{position} found a record of {total} bytes, expected at most {max_length}")
        padded = length + -length % 4
        data = _read_bytes(file, padded)
        if len(data) < padded:
            raise DataError(
                f"{position} found the end after {len(data)} of {padded} bytes, expected a whole record (cut off?)"
            )
        taken += _PART_HEAD.size + padded
        parts.append(data[:length])
        if flag in (_WHOLE, _END):
            return MAGIC.join(parts), taken


def _check_head(head: bytes, position: str, first: bool) -> Tuple[int, int]:
    """Validate the header of a part and return (flag, length)."""
    if len(head) < _PART_HEAD.size:
        raise DataError(
            f"{position} found the end after {len(head)} of {_PART_HEAD.size} bytes, expected a whole record (cut off?)"
        )
    magic, word = _PART_HEAD.unpack(head)
    if magic != MAGIC:
        raise DataError(
            f"{position} found bytes {magic.hex()}, expected {MAGIC.hex()}: RecordIO framing "
            "(a .rec file, or a channel with ContentType application/x-recordio and RecordWrapperType RecordIO)"
        )
    flag, length = word >> 29, word & MAX_LENGTH
    expected = (_WHOLE, _START) if first else (_MIDDLE, _END)
    if flag not in expected:
        raise DataError(f"{position} found part flag {flag}, expected {expected[0]} or {expected[1]}")
    return flag, length


def _read_bytes(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer at the end of the stream; a pipe returns short reads."""
    chunks: List[bytes] = []
    missing = size
    while missing:
        chunk = file.read(min(missing, _CHUNK))
        if not chunk:
            break
        chunks.append(chunk)
        missing -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


_HEADER = (2.0, 5.0)
_PADDING = -1.0
_PIXELS = 2.0  # a coordinate beyond this is in pixels instead of normalized, a common mistake


def pack_label(record: LabeledImage, size_wh: SizeWH, flagged: bool = False) -> np.ndarray:
    """Encode the boxes of a record as a float32 label array.

    An image without boxes gets one row of padding.

    Args:
        record: Boxes in pixels of an image of `size_wh`.
        size_wh: (width, height) of the image in pixels.
        flagged: Write six values per object, the last one the "difficult" flag, and include the difficult objects of
            `record.ignored`.

    Returns:
        Array of shape (2 + 5 N,), or (2 + 6 N,) if `flagged`.
    """
    header = (2.0, 6.0) if flagged else _HEADER
    boxes, class_ids = record.boxes, record.class_ids
    if flagged:
        difficult = record.ignored.take(~record.ignored.crowds)
        boxes, class_ids = np.concatenate([boxes, difficult.boxes]), np.concatenate([class_ids, difficult.class_ids])
    if not len(boxes):
        return np.array([*header, *[_PADDING] * int(header[1])], "<f4")
    width, height = size_wh
    fractions = boxes.astype(np.float64) / (width, height, width, height)
    columns = [class_ids[:, None], fractions]
    if flagged:
        columns.append((np.arange(len(boxes)) >= len(record.boxes))[:, None])
    return np.concatenate([header, np.concatenate(columns, axis=1).ravel()]).astype("<f4")


def unpack_label(label: np.ndarray, size_wh: SizeWH) -> BoxLabel:
    """Decode a float32 label array (n,) into boxes in pixels of an image of `size_wh`.

    Raises:
        DataError: the label is malformed; the message names no file.
    """
    rows = _rows(label)
    rows = rows[rows[:, 0] != _PADDING]
    if not np.isfinite(rows[:, :5]).all():
        raise DataError("label: found NaN or infinity, expected finite numbers", "bad-coordinates")
    ids, fractions = rows[:, 0], rows[:, 1:5].astype(np.float64)
    bad = ids[(ids < 0) | (ids % 1 != 0) | (ids >= MAX_CLASSES)]
    if len(bad):
        raise DataError(f"class id: found {bad[0]:g}, expected an integer of 0 to {MAX_CLASSES - 1}", "unknown-class")
    if (np.abs(fractions) > _PIXELS).any():
        raise DataError(
            f"coordinates: found {np.abs(fractions).max():g}, expected fractions of the image, 0..1 (not pixels)",
            "bad-coordinates",
        )
    # `fit_boxes` drops boxes of size 0
    inverted = (fractions[:, 2] < fractions[:, 0]) | (fractions[:, 3] < fractions[:, 1])
    if inverted.any():
        index = int(np.argmax(inverted))
        raise DataError(
            f"box {index}: found {fractions[index].tolist()}, expected xmin <= xmax and ymin <= ymax", "box-degenerate"
        )
    corners = _pixels(fractions, size_wh)
    read = BoxLabel([tuple(row) for row in corners.tolist()], ids.astype(int).tolist(), size_wh)
    flags = rows[:, 5] if rows.shape[1] > 5 else ids[:0]
    if not (flags == 1).any() or not np.isin(flags, (0, 1)).all():
        return read
    return read._replace(kinds=[DIFFICULT if flag else OBJECT for flag in flags.tolist()])


def _rows(label: np.ndarray) -> np.ndarray:
    """Return the rows of the objects, float32 (N, B)."""
    if len(label) < 2 or not np.isfinite(label[:2]).all() or (label[:2] % 1).any():
        raise DataError(f"label: found {label[:2].tolist()}, expected the integer lengths of header and objects first")
    header, width = int(label[0]), int(label[1])
    if not 2 <= header <= len(label) or width < 5:
        raise DataError(
            f"label: found lengths {header} of the header and {width} of an object in {len(label)} numbers, "
            "expected at least 2 and 5"
        )
    if (len(label) - header) % width:
        raise DataError(f"label: found {len(label) - header} numbers of objects, expected a multiple of {width}")
    return label[header:].reshape(-1, width)


def _pixels(fractions: np.ndarray, size_wh: SizeWH) -> np.ndarray:
    """Convert normalized corners (N, 4) to pixels.

    A value within float32 precision of a whole pixel is rounded to it.
    """
    scale = np.array([*size_wh, *size_wh], np.float64)
    pixels = fractions * scale
    whole = np.round(pixels)
    return np.where(np.abs(pixels - whole) <= scale * 2.0**-24, whole, pixels)


NAMES = ".names"  # file extension


def read_class_list(path: PathLike) -> ClassNames:
    """Read class names from a UTF-8 file.

    Raises:
        DataError: the file is unreadable or not UTF-8, or a name is blank or repeated; starts with the path.
    """
    with locate_errors(path):
        return ClassNames(tuple(line.rstrip("\r") for line in read_text(path).rstrip("\r\n").split("\n")))


def write_class_list(path: PathLike, class_names: ClassNames) -> None:
    """Write class names to a file, atomically.

    Raises:
        DataError: a name contains a line break.
    """
    for name in class_names:
        if "\n" in name or "\r" in name:
            raise DataError(f"class {name!r}: holds a line end, which a {NAMES} file cannot")
    write_bytes_atomic(Path(path), "".join(f"{name}\n" for name in class_names).encode("utf-8"))


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

    def read(self, record: LabeledImage) -> bytes:
        """Return the encoded image of a record.

        Raises:
            DataError: the image is not in this file, or the file has changed; names the record.
        """
        where = self.locate(record)
        with reading(where, "a RecordIO file"), open(self._path, "rb") as file:
            file.seek(self._offsets[record.name][1])
            payload = read_record(file, where)
        with locate_errors(where):
            return unpack_record(payload).image

    def locate(self, record: LabeledImage) -> str:
        """Return ``file:number`` of the record, counted from 1.

        Raises:
            DataError: the image is not in this file.
        """
        if record.name not in self._offsets:
            raise DataError(f"{record.location}: found no image {record.name!r} in {self._path}")
        return f"{self._path}:{self._offsets[record.name][0]}"


def read_recordio(
    path: PathLike, class_names: Optional[ClassNames] = None, on_bad: str = "error"
) -> Tuple[Labels, RecordImages]:
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
    base = Path(path)
    names = _lst_names(base.with_suffix(".lst"))
    if class_names is None and base.with_suffix(NAMES).is_file():
        class_names = read_class_list(base.with_suffix(NAMES))
    builder = LabelsBuilder(str(base), on_bad)
    offsets: Dict[str, Tuple[int, int]] = {}
    number = 0
    for number, (offset, payload) in enumerate(_payloads(base), 1):
        where = f"{base}:{number}"
        with builder.collect_errors(where):
            record = unpack_record(payload)
            name = names.get(record.id, f"{base.stem}/{number:08d}")
            builder.add(where, name, _label(record, class_names))
            offsets.setdefault(name, (number, offset))
    if not number:
        raise DataError(f"{path}: is empty, expected one record for each image")
    return builder.build(class_names or builder.numbered_classes()), RecordImages(base, offsets)


def write_recordio(path: PathLike, records: Iterable[LabeledImage], images: ImageSource, flagged: bool = False) -> None:
    """Write `.rec`, `.idx` and `.lst` files.

    Each file is written atomically. Images are read one at a time. An image without boxes gets one row of padding (-1),
    because GluonCV and MXNet reject an empty label.

    Args:
        path: Path of one of the files; the extension is replaced.
        records: Records with boxes in pixels.
        images: The source of their images.
        flagged: Write GluonCV's sixth value, "difficult", and the difficult objects.
    """
    base = Path(path)
    offset = 0
    with ExitStack() as files:
        rec, idx, lst = (files.enter_context(open_atomic(base.with_suffix(end))) for end in (".rec", ".idx", ".lst"))
        for index, record in enumerate(records):
            data, size_wh = _upright(images.read(record), record)
            label = pack_label(record, size_wh, flagged)
            idx.write(f"{index}\t{offset}\n".encode())
            lst.write(_lst_line(index, label, record))
            offset += write_record(rec, _HEAD.pack(label.size, 0.0, index, 0) + label.tobytes() + data)


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
    label = unpack_label(record.label, read_header(record.image, "image").display_wh)
    highest = max(label.class_ids, default=-1)
    if class_names is not None and highest >= len(class_names):
        raise DataError(
            f"found class id {highest}, expected less than {len(class_names)} ({', '.join(class_names)})",
            "unknown-class",
        )
    return label


def _upright(data: bytes, record: LabeledImage) -> "Tuple[bytes, Tuple[int, int]]":
    """Return an image that all readers decode to the same pixels, and (width, height).

    An image that is not stored upright, or that MXNet cannot decode, is converted to PNG.
    """
    encoded = EncodedImage(data, record.location)
    header = encoded.header
    if orientation_for(header, encoded.where, record.size_wh) == header.orientation == 1 and header.format in _READABLE:
        return data, header.display_wh
    image = encoded.decode(record.size_wh)
    return encode_png(image), (image.shape[1], image.shape[0])


def _lst_line(index: int, label: np.ndarray, record: LabeledImage) -> bytes:
    key = record.name.partition("://")[2].partition("/")[2] or record.name
    if any(sign in key for sign in "\t\r\n"):
        raise DataError(f"{record.location}: found a tab or line end in {key!r}, which a .lst cannot hold")
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
