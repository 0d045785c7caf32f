"""Drawn pictures that cost a decoder what photographs do."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set

NOISE = 9.0  # levels of sensor noise: a drawn JPEG of 640 x 480 then takes some 90 kB, as photographs do


def write_pictures(folder: Path, count: int, size_wh: SizeWH = (640, 480)) -> Tuple[Path, Path]:
    """`count` JPEG files with 1 to 3 objects each below `folder`, and their manifest: both paths."""
    random = np.random.RandomState(0)
    samples = []
    for sample in draw_shapes_set(count, 1, size_wh, empty_fraction=0.0):
        noisy = sample.image + random.normal(0, NOISE, sample.image.shape)
        samples.append(sample._replace(image=np.clip(noisy, 0, 255).astype(np.uint8)))
    return write_drawn_set(folder, samples, SHAPE_CLASSES, "shapes")
