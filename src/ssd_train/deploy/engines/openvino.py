"""An ONNX file run by OpenVINO; neither MXNet nor the onnx package is needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Dict

import numpy as np

from ssd_train import framework
from ssd_train.deploy.description import Description, as_input
from ssd_train.deploy.onnx_check import read_onnx_file
from ssd_train.errors import DependencyError, WeightsError


class OpenVinoEngine:
    """Pictures uint8 (B, S, S, 3) -> rows (B, N, 6): class id, score, x1, y1, x2, y2 in input pixels, id -1 if
    unused."""

    name = "openvino"

    def __init__(self, path: Path) -> None:
        core = _openvino().Core()
        content = read_onnx_file(path)
        try:
            model = core.read_model(content)
        except RuntimeError as error:
            raise WeightsError(f"{path}: cannot be read as an ONNX model ({_last_line(error)})") from None
        self.description = Description.from_texts(_metadata(model), path)
        self.class_names = self.description.class_names
        self.side = self.description.side
        self.grayscale = self.description.grayscale
        settings = {"INFERENCE_NUM_THREADS": framework.cpu_threads(), "PERFORMANCE_HINT": "LATENCY"}
        # float32 also where the processor has 16 bits: answers are those of the other engines
        self._compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """The rows of each picture, best first."""
        return self._compiled(as_input(pictures, self.description.input))[0]


def _openvino() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise DependencyError(f"openvino cannot be imported ({error}); pip install 'ssd-train[openvino]'") from None


def _metadata(model: Any) -> Dict[str, str]:
    """An ONNX file's metadata, as OpenVINO keeps it."""
    if not model.has_rt_info("framework"):
        return {}
    return {name: value.value for name, value in model.get_rt_info("framework").astype(dict).items()}


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
