"""Run a model folder with Gluon: MXNet on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.deploy.parity import Candidates
from ssd_train.devices import one_context
from ssd_train.model.graphs import VOTING_IOU, CandidateGraph, DetectGraph, hybridize_static

mx = mxnet_compat.mxnet()


class GluonEngine:
    """Run the network of a model folder; see detector.Engine."""

    name = "mxnet"
    description = None  # not an export

    def __init__(self, folder: Path, devices: str = "auto") -> None:
        self.model = SavedModel.load(folder)
        config = self.model.config
        self.class_names = self.model.class_names
        self.side = config.image_shape
        self.grayscale = config.grayscale
        self.score_threshold = self.model.score_threshold
        self.nms_threshold = config.nms_threshold
        self._device = one_context(devices)
        net = self._net = self.model.build(self._device)
        self._candidates: Any = None  # compiled on first use
        self._graph = hybridize_static(
            DetectGraph(net, config.nms_threshold, config.candidates, self.model.post_nms, config.box_voting)
        )

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the rows (B, N, 6) of each image, best first."""
        return self._graph(mx.nd.array(images, ctx=self._device, dtype="uint8")).asnumpy()

    def candidates(self, image: np.ndarray) -> Candidates:
        """Return the candidates before NMS of an image, uint8 (S, S, 3)."""
        pixels = mx.nd.array(image[None], ctx=self._device, dtype="uint8")
        self._candidates = self._candidates or hybridize_static(CandidateGraph(self._net))
        scores, boxes = (array.asnumpy()[0] for array in self._candidates(pixels))
        config = self.model.config
        voting_iou = VOTING_IOU if config.box_voting else 0
        return Candidates(scores, boxes, config.nms_threshold, config.candidates, voting_iou)
