"""Run an ONNX file with ONNX Runtime or OpenVINO; MXNet is not needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import RAW_KIND, ExportEngine, ExportMetadata, as_input
from ssd_train.deploy.onnx_check import read_onnx_file
from ssd_train.errors import ConfigError, WeightsError, message_lines, require_extra
from ssd_train.resources import computes_bfloat16


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
