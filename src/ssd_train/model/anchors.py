"""Anchor boxes of a network at an image size, in numpy; tested equal to those in the network.

The scheme is SSD's (Liu et al., "SSD: Single Shot MultiBox Detector", 2016, section 2.2): each feature map has anchors
of one size in several aspect ratios, and one more square between this size and the next. Strides follow the true
feature maps, image size / cells, except for SSD's own 300 px VGG-16. (GluonCV's ssd_300_mobilenet0.25 preset has the
strides of that VGG-16, so its anchors cover only a quarter of the image.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError

FEW_RATIOS = (1.0, 2.0, 0.5)
MANY_RATIOS = (1.0, 2.0, 0.5, 3.0, 1.0 / 3)

# stride of the first detection map; each following map has half the cells, rounded up
FIRST_STRIDE = {"vgg-16": 8}
DEFAULT_FIRST_STRIDE = 16
# GluonCV's vgg16_atrous_300 ends in unpadded convolutions, as in SSD's paper. Its trained weights expect Caffe SSD's
# strides; with strides of 300 / cells, anchors would be off by up to a third of their side
SPECIAL_CELLS = {("vgg-16", 300): (38, 19, 10, 5, 3, 1)}
SPECIAL_STEPS = {("vgg-16", 300): (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)}
SMALLEST_SIZE, LARGEST_SIZE = 0.1, 1.05


@dataclass(frozen=True)
class AnchorLayout:
    """Anchor parameters shared by the network builder and `make_anchors`, one entry per feature map.

    Attributes:
        image_size: side of the square input image in pixels.
        cells: number of cells along each side of the map.
        sizes: anchor sizes in pixels, one more than there are maps.
        ratios: aspect ratios, width / height.
        strides: pixels between the centres of neighbouring anchors; empty: image_size / cells.
    """

    image_size: int
    cells: Tuple[int, ...]
    sizes: Tuple[float, ...]
    ratios: Tuple[Tuple[float, ...], ...]
    strides: Tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # GluonCV zips these lists and silently drops extra entries
        if not len(self.cells) == len(self.ratios) == len(self.sizes) - 1:
            raise ConfigError(
                f"anchors: found {len(self.cells)} maps, {len(self.sizes)} sizes, {len(self.ratios)} ratios, "
                "expected as many ratios as maps and one size more"
            )

    @property
    def steps(self) -> Tuple[float, ...]:
        """Return the distance of neighbouring anchor centres in pixels, for each map."""
        return self.strides or tuple(self.image_size / cells for cells in self.cells)


def feature_cells(base_network: str, image_size: int, first_stride: int = 0) -> Tuple[int, ...]:
    """Return the number of cells per side of each feature map, down to the map of one cell."""
    if (base_network, image_size) in SPECIAL_CELLS:
        return SPECIAL_CELLS[base_network, image_size]
    stride = first_stride or FIRST_STRIDE.get(base_network, DEFAULT_FIRST_STRIDE)
    cells = [-(-image_size // stride)]
    while cells[-1] > 1:
        cells.append(-(-cells[-1] // 2))
    return tuple(cells)


def linear_scales(maps: int, smallest: float, second: float, largest: float) -> Tuple[float, ...]:
    """Return linearly growing anchor scales, as fractions of the image size.

    Args:
        maps: number of feature maps.
        smallest: first scale.
        second: second scale, from which the others grow.
        largest: last scale.
    """
    return (smallest, *(float(scale) for scale in np.linspace(second, largest, maps)))


def layout_of(config: TrainConfig) -> AnchorLayout:
    """Return the anchor layout of a model with these settings."""
    return anchor_layout(config.base_network, config.image_shape, config.anchor_scales, config.first_stride)


def anchor_layout(
    base_network: str, image_size: int, scales: Sequence[float] = (), first_stride: int = 0
) -> AnchorLayout:
    """Return the anchor layout of a network at an image size.

    Args:
        base_network: the backbone.
        image_size: side of the square input image in pixels.
        scales: anchor scales as fractions of the image size, one more than feature maps. Default (SSD's 300 and 512 px
            settings): 0.1, then linear growth from 0.2 (from 0.15 with seven maps or more) to 1.05.
        first_stride: stride of the first map; 0: that of DEFAULT_FIRST_STRIDE or FIRST_STRIDE.
    """
    cells = feature_cells(base_network, image_size, first_stride)
    scales = scales or linear_scales(len(cells), SMALLEST_SIZE, 0.2 if len(cells) < 7 else 0.15, LARGEST_SIZE)
    ratios = [FEW_RATIOS] + [MANY_RATIOS] * (len(cells) - 3) + [FEW_RATIOS] * 2
    sizes = tuple(float(scale * image_size) for scale in scales)
    strides = SPECIAL_STEPS.get((base_network, image_size), ())
    return AnchorLayout(image_size, cells, sizes, tuple(ratios[-len(cells) :]), strides)


def make_anchors(layout: AnchorLayout) -> np.ndarray:
    """Return the anchors float32 (A, 4), cxcywh in input pixels.

    They are in the order in which the network predicts: by map, then row by row, then by shape.
    """
    maps = []
    for cells, step, size, larger, ratios in zip(
        layout.cells, layout.steps, layout.sizes[:-1], layout.sizes[1:], layout.ratios
    ):
        shapes = [(size, size), (np.sqrt(size * larger),) * 2]
        shapes += [(size * np.sqrt(ratio), size / np.sqrt(ratio)) for ratio in ratios[1:]]
        centres = (np.arange(cells) + 0.5) * step
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grid = np.empty((cells, cells, len(shapes), 4))
        grid[..., 0], grid[..., 1] = x[..., None], y[..., None]
        grid[..., 2:] = np.array(shapes)
        maps.append(grid.reshape(-1, 4))
    return np.concatenate(maps).astype(np.float32)
