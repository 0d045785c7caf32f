"""An exported symbol run by MXNet's executor, on the CPU with oneDNN's fused operators; GluonCV is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np

from ssd_train import framework
from ssd_train.deploy.description import as_input
from ssd_train.deploy.exported import INPUT, SYMBOL, WEIGHTS, read_description
from ssd_train.errors import WeightsError
from ssd_train.training.devices import contexts

mx = framework.mxnet()


class SymbolEngine:
    """Pictures uint8 (B, S, S, 3) -> rows (B, N, 6): class id, score, x1, y1, x2, y2 in input pixels, id -1 if
    unused."""

    def __init__(self, folder: Path, devices: str = "auto") -> None:
        self.description = read_description(folder)
        self.class_names = self.description.class_names
        self.side = self.description.side
        self.grayscale = self.description.grayscale
        self._device = contexts(devices)[0]
        try:
            self._symbol = mx.sym.load(str(folder / SYMBOL))
            self._arrays = mx.nd.load(str(folder / WEIGHTS))
        except mx.MXNetError as error:
            raise WeightsError(f"{folder}: {_last_line(error)}, expected an exported model") from None
        self._executors: Dict[int, Any] = {}

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """The rows of each picture, best first."""
        executor = self._executors.get(len(pictures)) or self._bind(len(pictures))
        executor.arg_dict[INPUT][:] = mx.nd.array(as_input(pictures, INPUT), ctx=self._device)
        return executor.forward(is_train=False)[0].asnumpy()

    def _bind(self, count: int) -> Any:
        """The network made ready for as many pictures at once; all numbers of them share the weights."""
        weights, states = (
            {
                name[4:]: array.as_in_context(self._device)
                for name, array in self._arrays.items()
                if name.startswith(kind)
            }
            for kind in ("arg:", "aux:")
        )
        inputs = mx.nd.zeros((count, 3, self.side, self.side), ctx=self._device)
        executor = self._symbol.bind(self._device, {**weights, INPUT: inputs}, grad_req="null", aux_states=states)
        self._executors[count] = executor
        return executor


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
