"""Run deployment files (symbol and parameters) with MXNet; GluonCV and OpenCV are not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import ExportEngine, as_input
from ssd_train.artifacts.symbol_check import read_symbol
from ssd_train.artifacts.symbol_format import INPUT, SYMBOL, WEIGHTS, read_description
from ssd_train.devices import one_context
from ssd_train.environment import read_devices
from ssd_train.errors import ConfigError, WeightsError, message_lines
from ssd_train.model.params_check import check_params_file

mx = mxnet_compat.mxnet()


class SymbolEngine(ExportEngine):
    """Run deployment files; see detector.Engine."""

    name = "symbol"

    def __init__(self, folder: Path, devices: str = "auto") -> None:
        super().__init__(read_description(folder))
        self._device = one_context(_without_gpus(devices) if self.description.kind == "int8" else devices)
        check_params_file(folder / WEIGHTS)
        try:
            self._symbol = read_symbol(folder / SYMBOL)
            self._arrays = mx.nd.load(str(folder / WEIGHTS))
        except mx.MXNetError as error:
            raise WeightsError(f"{folder}: {message_lines(error)[-1]}, expected an exported model") from None
        self._executors: Dict[int, Any] = {}

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the rows (B, N, 6) of each image, best first."""
        executor = self._executors.get(len(images)) or self._bind(len(images))
        executor.arg_dict[INPUT][:] = mx.nd.array(as_input(images, INPUT), ctx=self._device)
        rows = executor.forward(is_train=False)[0].asnumpy()
        return rows if self.description.coordinates == "pixels" else in_pixels(rows, self.side)

    @property
    def parts(self) -> "Tuple[Any, Dict[str, Any], Dict[str, Any]]":
        """Return the symbol, weights and auxiliary states by name, on the CPU."""
        return (self._symbol, self._arrays_of("arg:", mx.cpu()), self._arrays_of("aux:", mx.cpu()))

    def _arrays_of(self, kind: str, device: Any) -> Dict[str, Any]:
        return {name[4:]: array.as_in_context(device) for name, array in self._arrays.items() if name.startswith(kind)}

    def _bind(self, count: int) -> Any:
        """Bind the network for batches of `count` images; they share the weights."""
        weights, states = self._arrays_of("arg:", self._device), self._arrays_of("aux:", self._device)
        inputs = mx.nd.zeros((count, 3, self.side, self.side), ctx=self._device)
        executor = self._symbol.bind(self._device, {**weights, INPUT: inputs}, grad_req="null", aux_states=states)
        self._executors[count] = executor
        return executor


def _without_gpus(devices: str) -> str:
    """Return `devices` for quantized operators, which only the CPU supports."""
    kind = read_devices(devices)[0]
    if kind == "gpu":
        raise ConfigError(f"devices: found {devices!r} for a model in 8 bits, expected auto or cpu")
    return "cpu" if kind == "auto" else devices


def in_pixels(rows: np.ndarray, side: int) -> np.ndarray:
    """Scale the corners of rows (B, N, 6) from 0..1 to input pixels."""
    return rows * np.array([1, 1, side, side, side, side], np.float32)
