"""ONNX files looked through before a runtime reads them: a tensor may say that its numbers lie in another file, and the
runtimes read whatever file it names, from wherever they are allowed to. Ours lie in one file.

This is the wire format of Protocol Buffers, message by message; neither it nor the onnx package need be installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Tuple, Union

from ssd_train.errors import WeightsError

# message -> {number of a field: the message in it} by onnx.proto, of all in which a tensor can be
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor; location 0: in the tensor itself
_NUMBER, _WITH_LENGTH = 0, 2  # kinds of fields
_FIXED = {1: 8, 5: 4}  # kinds of fields -> bytes


def read_onnx_file(path: Path) -> bytes:
    """The content of the file `path`, once it is looked through.

    Raises:
        WeightsError: it is no ONNX file, or it says of some of its numbers that they lie in another one.
    """
    try:
        content = path.read_bytes()
        elsewhere = _is_elsewhere(memoryview(content))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as an ONNX model ({error})") from None
    if elsewhere:
        raise WeightsError(f"{path}: found weights that lie in another file, expected all of them in this one")
    return content


def _is_elsewhere(model: memoryview) -> bool:
    waiting = [("model", model)]
    while waiting:
        message, data = waiting.pop()
        for number, value in _fields(data):
            if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
                return True
            if number in _INSIDE[message] and isinstance(value, memoryview):
                waiting.append((_INSIDE[message][number], value))
    return False


def _fields(data: memoryview) -> "Iterator[Tuple[int, Union[int, memoryview]]]":
    """Number and value of each field of a message."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        field, kind = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:  # readers differ in what they make of it
            raise ValueError("found a field that no message has")
        if kind == _NUMBER:
            value, at = _number(data, at)
            yield field, value
            continue
        if kind != _WITH_LENGTH and kind not in _FIXED:  # such as groups, which nothing has used since 2008
            raise ValueError(f"it has a field of kind {kind}")
        length, at = _number(data, at) if kind == _WITH_LENGTH else (_FIXED[kind], at)
        if length > len(data) - at:
            raise ValueError("it is cut off")
        yield field, data[at : at + length]
        at += length


def _number(data: memoryview, at: int) -> Tuple[int, int]:
    """The number that begins at a byte, seven bits in each, and where the next field begins."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("it has a number without an end")
