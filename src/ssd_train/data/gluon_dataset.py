"""A DetectionDataset as a Gluon dataset, for code written for Gluon or GluonCV."""

from __future__ import annotations

from typing import Any, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.data.dataset import DetectionDataset

mx = mxnet_compat.mxnet()


class GluonDetectionDataset(mx.gluon.data.Dataset):
    """A `gluon.data.Dataset` with items like those of GluonCV's detection datasets.

    An item is (image, label): an NDArray uint8 RGB (H, W, 3) on the CPU, and float32 (N, 5) rows of x1, y1, x2, y2 in
    pixels of the image and class id. A background image has a label of shape (0, 5), which GluonCV's transforms do not
    accept: filter such images, or use the transforms of this package.
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
