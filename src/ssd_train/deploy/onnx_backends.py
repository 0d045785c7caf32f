"""Check an ONNX file, and run it with ONNX Runtime or OpenVINO; MXNet is not needed.

A tensor may refer to external data, and runtimes read any file that it names. Our models are single files, so external
data is refused. The Protocol Buffers wire format is parsed here; neither protobuf nor the onnx package is needed.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple, Union

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import RAW_KIND, ExportEngine, ExportMetadata, as_input
from ssd_train.errors import ConfigError, WeightsError, message_lines, require_extra
from ssd_train.resources import computes_bfloat16

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


class OnnxEngine(ExportEngine):
    """Run an ONNX file; see detector.Engine."""

    name = "onnxruntime"

    def __init__(self, path: Path) -> None:
        runtime = _runtime()
        content = read_onnx_file(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = mxnet_compat.cpu_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: it warns of every constant that it folds
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # one class for each status, without a common base class
            raise WeightsError(f"{path}: cannot be read as an ONNX model ({message_lines(error)[0]})") from None
        super().__init__(_read_metadata(self._session.get_modelmeta().custom_metadata_map, path))

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the rows (B, N, 6) of each image, best first."""
        return self._session.run(None, {self.description.input: as_input(images, self.description.input)})[0]


def _read_metadata(texts: Dict[str, str], path: Path) -> ExportMetadata:
    description = ExportMetadata.from_texts(texts, path)
    if description.kind == RAW_KIND:
        raise WeightsError(
            f"{path}: found an export without non-maximum suppression (--nms 0), which other programs run, expected "
            "one with it: python -m ssd_train export --format onnx"
        )
    return description


def run_raw(path: Path, images: np.ndarray) -> List[np.ndarray]:
    """Run an ONNX file on uint8 (B, S, S, 3); return all its outputs in the order of the file."""
    session = _runtime().InferenceSession(read_onnx_file(path), providers=["CPUExecutionProvider"])
    description = ExportMetadata.from_texts(session.get_modelmeta().custom_metadata_map, path)
    return session.run(None, {description.input: as_input(images, description.input)})


def _runtime() -> Any:
    with require_extra("onnx"):
        return importlib.import_module("onnxruntime")


class OpenVinoEngine(ExportEngine):
    """Run an ONNX file; see detector.Engine."""

    name = "openvino"
    # also on CPUs that compute in 16-bit floats, so that detections equal those of the other engines
    _precision = "f32"

    def __init__(self, path: Path) -> None:
        core = _openvino().Core()
        content = read_onnx_file(path)
        try:
            model = core.read_model(content)
        except RuntimeError as error:
            raise WeightsError(f"{path}: cannot be read as an ONNX model ({message_lines(error)[-1]})") from None
        super().__init__(_read_metadata(_metadata(model), path))
        settings = {"INFERENCE_NUM_THREADS": mxnet_compat.cpu_threads(), "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": self._precision})

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the rows (B, N, 6) of each image, best first."""
        return self._compiled(as_input(images, self.description.input))[0]


class OpenVinoBfloat16Engine(OpenVinoEngine):
    """Run an ONNX file in bfloat16 on a CPU that has instructions for it.

    Raises:
        ConfigError: the CPU has none.
    """

    name = "openvino_bf16"
    _precision = "bf16"

    def __init__(self, path: Path) -> None:
        if not computes_bfloat16():
            raise ConfigError(f"engine: found {self.name} on a CPU without avx512_bf16 and amx_bf16, expected openvino")
        super().__init__(path)


def _openvino() -> Any:
    with require_extra("openvino"):
        return importlib.import_module("openvino")


def _metadata(model: Any) -> Dict[str, str]:
    """Return an ONNX file's metadata, which OpenVINO stores under "framework"."""
    if not model.has_rt_info("framework"):
        return {}
    return {name: value.value for name, value in model.get_rt_info("framework").astype(dict).items()}
