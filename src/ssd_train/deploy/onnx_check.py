"""Check ONNX files before a runtime reads them.

A tensor may refer to external data, and runtimes read any file that it names. Our models are single files, so external
data is refused. The Protocol Buffers wire format is parsed here; neither protobuf nor the onnx package is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Tuple, Union

from ssd_train.errors import WeightsError

# message -> {field number: message type} from onnx.proto, of all messages that can contain a tensor
_SUBMESSAGES = {
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
_VARINT, _LENGTH_DELIMITED = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire type -> bytes


def read_onnx_file(path: Path) -> bytes:
    """Return the content of the file `path`.

    Raises:
        WeightsError: it is not an ONNX file, or a tensor refers to external data.
    """
    try:
        content = path.read_bytes()
        external = _has_external_data(memoryview(content))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as an ONNX model ({error})") from None
    if external:
        raise WeightsError(f"{path}: found weights in another file (external data), expected all of them in this file")
    return content


def _has_external_data(model: memoryview) -> bool:
    pending = [("model", model)]
    while pending:
        message, data = pending.pop()
        for number, value in _fields(data):
            if message == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
                return True
            if number in _SUBMESSAGES[message] and isinstance(value, memoryview):
                pending.append((_SUBMESSAGES[message][number], value))
    return False


def _fields(data: memoryview) -> "Iterator[Tuple[int, Union[int, memoryview]]]":
    """Yield the number and value of each field of a message."""
    offset = 0
    while offset < len(data):
        tag, offset = _varint(data, offset)
        field, wire_type = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:  # parsers treat such numbers differently
            raise ValueError(f"found field number {field}")
        if wire_type == _VARINT:
            value, offset = _varint(data, offset)
            yield field, value
            continue
        if wire_type != _LENGTH_DELIMITED and wire_type not in _FIXED:  # such as groups, deprecated since 2008
            raise ValueError(f"found a field of wire type {wire_type}")
        length, offset = _varint(data, offset) if wire_type == _LENGTH_DELIMITED else (_FIXED[wire_type], offset)
        if length > len(data) - offset:
            raise ValueError("the file is cut off")
        yield field, data[offset : offset + length]
        offset += length


def _varint(data: memoryview, offset: int) -> Tuple[int, int]:
    """Decode the varint at `offset`; return it and the offset after it."""
    value = 0
    for index, byte in enumerate(data[offset : offset + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, offset + index + 1
    raise ValueError("found an unterminated varint")
