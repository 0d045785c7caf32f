"""Class names in a text file, one on each line, the first for id 0: the `.names` beside a `.rec`, as darknet has it."""

from __future__ import annotations

from pathlib import Path

from ssd_train.data.formats.jsonl import PathLike, read_bytes
from ssd_train.data.records import ClassNames
from ssd_train.errors import DataError
from ssd_train.storage import write_bytes_atomic

NAMES = ".names"  # ending of such a file


def read_class_list(path: PathLike) -> ClassNames:
    """The names; a DataError, beginning with the file, when it is not UTF-8, or a name is blank or comes twice."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        return ClassNames(tuple(line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: found byte 0x{error.object[error.start]:02x}, expected UTF-8") from None
    except DataError as error:
        raise error.at(path) from None


def write_class_list(path: PathLike, class_names: ClassNames) -> None:
    """Write the names, whole or not at all; a DataError for one that holds a line end."""
    for name in class_names:
        if "\n" in name or "\r" in name:
            raise DataError(f"class {name!r}: holds a line end, which a {NAMES} file cannot")
    write_bytes_atomic(Path(path), "".join(f"{name}\n" for name in class_names).encode("utf-8"))
