"""Strict readers of JSON and JSON Lines with line numbers, and a JSON encoder.

Input must be UTF-8 (files may start with a byte order mark), without repeated keys in an object, NaN or Infinity.
Python's json module accepts the last three silently: the last of two keys wins, and a NaN makes the loss NaN hours
later.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NoReturn, Sequence, Tuple, Union

from ssd_train.errors import DataError, locate_errors

PathLike = Union[str, "os.PathLike[str]"]

_BOM = b"\xef\xbb\xbf"
_LISTED = 3  # maximum number of bad lines named in one message


def _reject_constant(text: str) -> NoReturn:
    raise DataError(f"found {text}, which is not JSON, expected a finite number", "bad-coordinates")


def _unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"found key {twice!r} twice in one object, expected each key once")
    return parsed


_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_reject_constant)


# NaN and Infinity become numbers that `builder.number` rejects, so they are errors only in fields that are read
_lenient_decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)


def parse_json(data: bytes, constants: bool = False) -> Any:
    """Parse one JSON text in UTF-8.

    Args:
        data: The text.
        constants: Accept NaN and Infinity; the caller must reject them where it reads them.

    Raises:
        DataError: the text is not strict JSON; the message names no file.
    """
    try:
        return (_lenient_decoder if constants else _decoder).decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"found byte 0x{data[error.start]:02x}, which is not UTF-8, expected JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"found bad JSON at column {error.colno} ({error.msg}), expected one whole JSON value"
        ) from None
    except RecursionError:
        raise DataError("found JSON nested too deep to be labels, expected a few levels") from None
    except ValueError as error:  # newer Pythons refuse integers of thousands of digits
        raise DataError(str(error)) from None


def parse_object(line: bytes) -> Dict[str, Any]:
    """Parse a line that must be a JSON object, as `parse_json` does."""
    value = parse_json(line)
    if not isinstance(value, dict):
        raise DataError(f"found a JSON {type(value).__name__}, expected one JSON object")
    return value


def read_json(path: PathLike, constants: bool = False) -> Any:
    """Parse a whole JSON file as `parse_json` does.

    Raises:
        DataError: the file is unreadable or not strict JSON; the message does not name it.
    """
    data = read_bytes(path)
    fault = _encoding_fault(data)
    if fault:
        raise DataError(fault)
    return parse_json(data[len(_BOM) :] if data.startswith(_BOM) else data, constants)


def read_bytes(path: PathLike) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: the file is unreadable; the message does not name it.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({_reason(error)}), expected a readable file") from None


def read_text(path: PathLike) -> str:
    """Return the content of a text file in UTF-8.

    Raises:
        DataError: the file is unreadable or not UTF-8; the message does not name it.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"found byte 0x{data[error.start]:02x}, which is not UTF-8, expected UTF-8") from None


def numbered_lines(path: PathLike) -> Iterator[Tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of the lines that are not blank.

    Only a line feed ends a line (U+2028 in a string does not). A byte order mark is removed.

    Raises:
        DataError: the file is unreadable or obviously not JSON Lines (UTF-16, a JSON array, pretty-printed JSON, gzip).
            One error for the file replaces one for each of its lines.
    """
    first = True
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and line.startswith(_BOM):
                    line = line[len(_BOM) :]
                line = line.strip()
                if line:
                    if first:
                        _refuse_other_kinds(path, number, line)
                    first = False
                    yield number, line
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)}), expected a JSON Lines file") from None


def read_json_lines(path: PathLike) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Yield (``file:line``, object) of each line that is not blank.

    Raises:
        DataError: a line is not a JSON object; starts with ``file:line``.
    """
    for number, line in numbered_lines(path):
        with locate_errors(f"{path}:{number}"):
            yield f"{path}:{number}", parse_object(line)


def bad_lines_error(bad: "Sequence[Tuple[str, object]]", noun: str = "bad lines") -> DataError:
    """Combine (where, fault) pairs into one DataError that names the first few."""
    faults = [f"{where}: {fault}" for where, fault in bad]
    if len(faults) == 1:
        return DataError(faults[0])
    more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return DataError(f"{len(faults)} {noun}: {'; '.join(faults[:_LISTED])}{more}")


def dump_json(value: Any) -> bytes:
    """Encode a value as compact JSON in UTF-8, on one line.

    Raises:
        DataError: a string contains lone surrogates, which UTF-8 cannot encode.
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"found {text[error.start : error.end]!r} in a name, expected text that UTF-8 can hold"
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _encoding_fault(data: bytes) -> str:
    """Return an error text if the start of `data` is not UTF-8 text, else ""."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:100]:
        return "is UTF-16 or no text at all, expected UTF-8"
    return "is compressed with gzip, expected the unpacked file" if data[:2] == b"\x1f\x8b" else ""


def _refuse_other_kinds(path: PathLike, number: int, line: bytes) -> None:
    fault = _encoding_fault(line)
    if fault:
        raise DataError(f"{path}: {fault}")
    where = f"{path}:{number}"
    if line.startswith(b"["):
        raise DataError(f"{where}: starts a JSON array, expected JSON Lines: one object on each line")
    if line == b"{" or (line.startswith(b"{") and line.endswith((b",", b"[", b":", b"{"))):
        raise DataError(
            f"{where}: starts JSON printed over several lines, expected JSON Lines: one object on each line"
        )
