"""Read and write text files of class names: one per line, class 0 first.

This is darknet's format. ssd_train stores such a file with the extension `.names` next to a `.rec` file.
"""

from __future__ import annotations

from pathlib import Path

from ssd_train.data.formats.jsonl import PathLike, read_bytes
from ssd_train.data.records import ClassNames
from ssd_train.errors import DataError
from ssd_train.storage import write_bytes_atomic

NAMES = ".names"  # file extension


def read_class_list(path: PathLike) -> ClassNames:
    """Read class names from a UTF-8 file.

    Raises:
        DataError: the file is unreadable or not UTF-8, or a name is blank or repeated; starts with the path.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        return ClassNames(tuple(line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found byte 0x{error.object[error.start]:02x}, expected UTF-8") from None
    except DataError as error:
        raise error.at(path) from None


def write_class_list(path: PathLike, class_names: ClassNames) -> None:
    """Write class names to a file, atomically.

    Raises:
        DataError: a name contains a line break.
    """
    for name in class_names:
        if "\n" in name or "\r" in name:
            raise DataError(f"class {name!r}: holds a line end, which a {NAMES} file cannot")
    write_bytes_atomic(Path(path), "".join(f"{name}\n" for name in class_names).encode("utf-8"))
