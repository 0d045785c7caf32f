"""Engines without a network, for tests of what is around one."""

from __future__ import annotations

from typing import List, Sequence

import numpy as np

from ssd_train.data.structures import ClassNames


class BlindEngine:
    """Returns no detections, and keeps the images."""

    name, class_names, grayscale, score_threshold = "mxnet", ClassNames(("cat",)), False, None

    def __init__(self, side: int) -> None:
        self.side = side
        self.seen: List[np.ndarray] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        self.seen.extend(images)
        return np.full((len(images), 1, 6), -1, np.float32)


class WhiteBox:
    """Returns the bounding box of white pixels as class 1, score 0.9, and beside it `other` as class 0, score 0.2."""

    name, class_names, nms_threshold = "white", ClassNames(("dark", "white")), 0.45

    def __init__(self, side: int, other: Sequence[float], grayscale: bool = False, score_threshold=None) -> None:
        self.side, self.other, self.grayscale, self.score_threshold = side, other, grayscale, score_threshold
        self.seen: List[np.ndarray] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8 and images.shape[1:] == (self.side, self.side, 3)
        self.seen.append(images)
        rows = np.full((len(images), 5, 6), -1, np.float32)
        for row, pixels in zip(rows, images):
            y, x = np.nonzero(pixels.min(axis=2) > 127)
            if len(x):
                row[0] = [1, 0.9, x.min(), y.min(), x.max() + 1, y.max() + 1]
                row[1] = [0, 0.2, *self.other]
        return rows
