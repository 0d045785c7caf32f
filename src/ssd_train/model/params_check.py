"""Check files in MXNet's array format before MXNet reads them.

MXNet's reader trusts the sizes in a file, allocates any amount of memory, and ends the process on some kinds of damage.

The format (src/ndarray/ndarray.cc of MXNet 1.9.1, NDArray::Load): the number 0x112, a reserved number, the number of
arrays (uint64); each array; the number of names, and each name with its length (uint64). An array is a magic number
(uint32), its storage type (int32; not in version 1), the number of dimensions (int32), the dimensions (int64), the
device (two int32), the data type (int32) and the data. Before version 1 the number of dimensions (uint32) took the
place of the magic number, and dimensions were uint32.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, Optional, Tuple

from ssd_train.errors import WeightsError

LIST = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DENSE = 0
MAX_DIMENSIONS = 32
MAX_ARRAYS = 100_000
MAX_NAME = 4096  # bytes
# bytes per value by data type: float32, float64, float16, uint8, int32, int8, int64, bool, ..., bfloat16
SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8, 12: 2}


def check_params_file(path: Path) -> None:
    """Check the structure of the file `path` without reading its data.

    Raises:
        WeightsError: the file is truncated, damaged, or not in MXNet's format.
    """
    try:
        with open(path, "rb") as file:
            _check(file, os.fstat(file.fileno()).st_size)
    except (OSError, struct.error, ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: found no readable weights ({error}), expected a Gluon .params file") from None


def _check(file: BinaryIO, size: int) -> None:
    magic, _, arrays = _read(file, "<QQQ")
    if magic != LIST:
        raise ValueError("it does not begin as one")
    if arrays > MAX_ARRAYS:
        raise ValueError(f"it says that it holds {arrays} arrays")
    for number in range(arrays):
        _skip_array(file, size, number)
    (names,) = _read(file, "<Q")
    if names not in (0, arrays):
        raise ValueError(f"it says that it holds {names} names of {arrays} arrays")
    for _ in range(names):
        (length,) = _read(file, "<Q")
        if length > MAX_NAME:
            raise ValueError(f"it has a name of {length} bytes")
        _bytes(file, length).decode("utf-8")
    if file.read(1):
        raise ValueError("it does not end where it says")


def _skip_array(file: BinaryIO, size: int, number: int) -> None:
    shape = _read_shape(file, number)
    if shape is None:
        return  # an array that was never filled ends here
    _, _, kind = _read(file, "<iii")
    if kind not in SIZES:
        raise ValueError(f"array {number} has numbers of type {kind}")
    needed = SIZES[kind]
    for length in shape:
        needed *= length
    if needed > size - file.tell():
        raise ValueError(f"array {number} has shape {shape} and {size - file.tell()} bytes follow")
    file.seek(needed, os.SEEK_CUR)


def _read_shape(file: BinaryIO, number: int) -> "Optional[Tuple[int, ...]]":
    (magic,) = _read(file, "<I")
    if magic in (V2, V3):
        (storage,) = _read(file, "<i")
        if storage != DENSE:
            raise ValueError(f"array {number} is sparse")
    if magic in (V1, V2, V3):
        (dimensions,), length_type = _read(file, "<i"), "q"
    else:
        dimensions, length_type = magic, "I"
    if dimensions == (-1 if magic == V3 else 0):  # since version 3 an array without dimensions is one number
        return None
    if not 0 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"array {number} has {dimensions} dimensions")
    shape = _read(file, f"<{dimensions}{length_type}")
    if any(length <= 0 for length in shape):
        raise ValueError(f"array {number} has shape {shape}")
    return shape


def _read(file: BinaryIO, layout: str) -> "Tuple[int, ...]":
    return struct.unpack(layout, _bytes(file, struct.calcsize(layout)))


def _bytes(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it is cut off")
    return data
