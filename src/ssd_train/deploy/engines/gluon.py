"""A saved model run by Gluon: MXNet on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssd_train import framework
from ssd_train.deploy.agreement import Candidates
from ssd_train.model.graphs import CandidateGraph, DetectGraph, compile_answers
from ssd_train.training.devices import one_context
from ssd_train.training.saved_model import SavedModel

mx = framework.mxnet()


class GluonEngine:
    """Pictures uint8 (B, S, S, 3) -> rows (B, N, 6): class id, score, x1, y1, x2, y2 in input pixels, id -1 if
    unused."""

    name = "mxnet"
    description = None  # it is not an export

    def __init__(self, folder: Path, devices: str = "auto") -> None:
        self.model = SavedModel.load(folder)
        config = self.model.config
        self.class_names = self.model.class_names
        self.side = config.image_shape
        self.grayscale = config.grayscale
        self._device = one_context(devices)
        net = self._net = self.model.build(self._device)
        self._candidates: Any = None  # compiled when it is asked
        self._graph = compile_answers(DetectGraph(net, config.nms_threshold, config.candidates, self.model.post_nms))

    def run(self, pictures: np.ndarray) -> np.ndarray:
        """The rows of each picture, best first."""
        return self._graph(mx.nd.array(pictures, ctx=self._device, dtype="uint8")).asnumpy()

    def candidates(self, picture: np.ndarray) -> Candidates:
        """Return what enters suppression of a picture, uint8 (S, S, 3)."""
        pixels = mx.nd.array(picture[None], ctx=self._device, dtype="uint8")
        self._candidates = self._candidates or compile_answers(CandidateGraph(self._net))
        scores, boxes = (array.asnumpy()[0] for array in self._candidates(pixels))
        config = self.model.config
        return Candidates(scores, boxes, config.nms_threshold, config.candidates)
