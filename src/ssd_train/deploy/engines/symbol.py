"""An exported symbol run by MXNet's executor, on the CPU with oneDNN's fused operators; GluonCV is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.deploy.description import as_input
from ssd_train.deploy.exported import INPUT, SYMBOL, WEIGHTS, read_description
from ssd_train.deploy.symbol_reader import read_symbol
from ssd_train.environment import read_devices
from ssd_train.errors import ConfigError, WeightsError
from ssd_train.model.params_file import check_params_file
from ssd_train.training.devices import one_context

mx = framework.mxnet()


class SymbolEngine:
    """Pictures uint8 (B, S, S, 3) -> rows (B, N, 6): class id, score, x1, y1, x2, y2 in input pixels, id -1 if
    unused."""

    name = "symbol"

    def __init__(self, folder: Path, devices: str = "auto") -> None:
        self.description = read_description(folder)
        self.class_names = self.description.class_names
        self.side = self.description.side
        self.grayscale = self.description.grayscale
        self._device = one_context(_without_gpus(devices) if self.description.kind == "int8" else devices)
        check_params_file(folder / WEIGHTS)
        try:
            self._symbol = read_symbol(folder / SYMBOL)
            self._arrays = mx.nd.load(str(folder / WEIGHTS))
        except mx.MXNetError as error:
            raise WeightsError(f"{folder}: {_last_line(error)}, expected an exported model") from None
        self._executors: Dict[int, Any] = {}

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """The rows of each picture, best first."""
        executor = self._executors.get(len(pictures)) or self._bind(len(pictures))
        executor.arg_dict[INPUT][:] = mx.nd.array(as_input(pictures, INPUT), ctx=self._device)
        rows = executor.forward(is_train=False)[0].asnumpy()
        return rows if self.description.coordinates == "pixels" else in_pixels(rows, self.side)

    @property
    def parts(self) -> "Tuple[Any, Dict[str, Any], Dict[str, Any]]":
        """The network: its symbol, weights and auxiliary states by name, on the CPU, where exports are made."""
        return (self._symbol, self._of_kind("arg:", mx.cpu()), self._of_kind("aux:", mx.cpu()))

    def _of_kind(self, kind: str, device: Any) -> Dict[str, Any]:
        return {name[4:]: array.as_in_context(device) for name, array in self._arrays.items() if name.startswith(kind)}

    def _bind(self, count: int) -> Any:
        """The network made ready for as many pictures at once; all numbers of them share the weights."""
        weights, states = self._of_kind("arg:", self._device), self._of_kind("aux:", self._device)
        inputs = mx.nd.zeros((count, 3, self.side, self.side), ctx=self._device)
        executor = self._symbol.bind(self._device, {**weights, INPUT: inputs}, grad_req="null", aux_states=states)
        self._executors[count] = executor
        return executor


def _without_gpus(devices: str) -> str:
    """Return `devices` for operators that only the CPU has, oneDNN's in 8 bits; a ConfigError where GPUs are named."""
    kind = read_devices(devices)[0]
    if kind == "gpu":
        raise ConfigError(f"devices: found {devices!r} for a model in 8 bits, expected auto or cpu")
    return "cpu" if kind == "auto" else devices


def in_pixels(rows: np.ndarray, side: int) -> np.ndarray:
    """Rows (B, N, 6) with corners in 0..1 as rows with corners in pixels of the (side, side) input."""
    return rows * np.array([1, 1, side, side, side, side], np.float32)


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
