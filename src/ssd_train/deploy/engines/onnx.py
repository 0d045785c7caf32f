"""Run an ONNX file with ONNX Runtime, without MXNet or the onnx package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ssd_train import framework
from ssd_train.deploy.description import Description, as_input
from ssd_train.deploy.onnx_check import read_onnx_file
from ssd_train.errors import DependencyError, WeightsError


class OnnxEngine:
    """Run an ONNX file; see detector.Engine."""

    name = "onnxruntime"

    def __init__(self, path: Path) -> None:
        runtime = _runtime()
        content = read_onnx_file(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = framework.cpu_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: it warns of every constant that it folds
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # one class for each status, without a common base class
            raise WeightsError(f"{path}: cannot be read as an ONNX model ({_first_line(error)})") from None
        self.description = Description.from_texts(self._session.get_modelmeta().custom_metadata_map, path)
        self.class_names = self.description.class_names
        self.side = self.description.side
        self.grayscale = self.description.grayscale

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the rows (B, N, 6) of each image, best first."""
        return self._session.run(None, {self.description.input: as_input(images, self.description.input)})[0]


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"onnxruntime cannot be imported ({str(error) or type(error).__name__}); "
            "install the extra: pip install 'ssd-train[onnx]'"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
