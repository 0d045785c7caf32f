"""The data set as Gluon and GluonCV know data sets, for code of theirs: transforms, loaders, metrics."""

from __future__ import annotations

from typing import Any, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.data.dataset import DetectionDataset

mx = framework.mxnet()


class GluonDetectionDataset(mx.gluon.data.Dataset):
    """A `gluon.data.Dataset` over a DetectionDataset, with items in the form of GluonCV's detection data sets.

    An item is (image, label): an NDArray uint8 RGB (H, W, 3) on the CPU, and float32 (N, 5) rows of x1, y1, x2, y2 in
    its pixels and class id. A background image has a label of (0, 5), which GluonCV's own transforms do not accept:
    filter those, or use ours.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        self._dataset = dataset
        self.classes = list(dataset.labels.class_names)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Tuple[Any, np.ndarray]:
        image, boxes, class_ids = self._dataset[index]
        boxes, class_ids = boxes[class_ids >= 0], class_ids[class_ids >= 0]
        label = np.concatenate([boxes, class_ids[:, None].astype(np.float32)], axis=1)
        return mx.nd.array(image, dtype="uint8"), label
