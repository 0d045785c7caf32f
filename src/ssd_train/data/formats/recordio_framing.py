"""Read and write RecordIO framing: byte records in a stream.

The format is that of dmlc-core (recordio.h). A record consists of one or more parts. Each part is: MAGIC (4 bytes);
uint32 little-endian ``flag << 29 | length``; `length` bytes of data; zero padding to a multiple of 4 bytes. Flag 0 is a
whole record; flags 1, 2 and 3 are its first, middle and last part. The writer splits a record at every MAGIC at a
multiple of 4 in its data and omits that MAGIC, so that a reader can search for the next record. The reader inserts it
again.

`.rec` files use this framing, and so do SageMaker's pipes with RecordWrapperType RecordIO.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Iterator, List, Tuple

from ssd_train.errors import DataError

MAGIC = b"\x0a\x23\xd7\xce"  # 0xced7230a, little-endian
MAX_LENGTH = (1 << 29) - 1  # bytes of a part: the length has 29 bits

_WHOLE, _START, _MIDDLE, _END = range(4)
_HEAD = struct.Struct("<4sI")
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
        written += file.write(_HEAD.pack(MAGIC, flag << 29 | len(part)) + part + bytes(-len(part) % 4))
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
        head = _read(file, _HEAD.size)
        if not head and not parts:
            return b"", 0
        flag, length = _check_head(head, position, first=not parts)
        total += length + (4 if parts else 0)
        if total > max_length:
            raise DataError(f"{position} found a record of {total} bytes, expected at most {max_length}")
        padded = length + -length % 4
        data = _read(file, padded)
        if len(data) < padded:
            raise DataError(
                f"{position} found the end after {len(data)} of {padded} bytes, expected a whole record (cut off?)"
            )
        taken += _HEAD.size + padded
        parts.append(data[:length])
        if flag in (_WHOLE, _END):
            return MAGIC.join(parts), taken


def _check_head(head: bytes, position: str, first: bool) -> Tuple[int, int]:
    """Validate the header of a part and return (flag, length)."""
    if len(head) < _HEAD.size:
        raise DataError(
            f"{position} found the end after {len(head)} of {_HEAD.size} bytes, expected a whole record (cut off?)"
        )
    magic, word = _HEAD.unpack(head)
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


def _read(file: BinaryIO, size: int) -> bytes:
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
