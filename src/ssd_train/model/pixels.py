"""What the networks expect of pixels: the statistics of the ImageNet training set, RGB in 0..1, which GluonCV's weights
were trained with."""

from __future__ import annotations

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
