"""Tests of anchors: equal to the network's own, covering the whole image; invalid layouts raise."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.boxes import cxcywh_to_xyxy, iou_matrix
from ssd_train.config import BASE_NETWORKS
from ssd_train.errors import ConfigError
from ssd_train.model.anchors import AnchorLayout, anchor_layout, make_anchors

SIZES = (128, 200, 300, 512, 600, 1024)


@pytest.fixture(scope="module")
def net_anchors():
    """Return the network's feature map shapes and the anchors of its own generators."""
    from ssd_train import mxnet_compat
    from ssd_train.model.net import _make_ssd

    mx = mxnet_compat.mxnet()

    def anchors(layout, base_network, size):
        net = _make_ssd(base_network, layout, ["a"])
        net.anchor_generators.initialize()
        maps = mx.sym.Group(net.features(mx.sym.var("data")))
        _, shapes, _ = maps.infer_shape(data=(1, 3, size, size))
        parts = [make(mx.nd.zeros((1, 1, *shape[2:]))) for make, shape in zip(net.anchor_generators, shapes)]
        return [shape[2:] for shape in shapes], np.concatenate([part.asnumpy().reshape(-1, 4) for part in parts])

    return anchors


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("base_network", [name for name in BASE_NETWORKS if name != "mobilenet0.5"])
def test_make_anchors_equals_the_networks_anchors(net_anchors, base_network, size):
    layout = anchor_layout(base_network, size)
    maps, expected = net_anchors(layout, base_network, size)
    assert maps == [(cells, cells) for cells in layout.cells]
    np.testing.assert_allclose(make_anchors(layout), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [128, 300, 333, 512])
@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_make_anchors_with_a_map_of_stride_8_equals_the_networks_anchors(net_anchors, base_network, size):
    layout, usual = anchor_layout(base_network, size, (), 8), anchor_layout(base_network, size)
    maps, expected = net_anchors(layout, base_network, size)
    assert maps == [(cells, cells) for cells in layout.cells]
    np.testing.assert_allclose(make_anchors(layout), expected, rtol=1e-5, atol=1e-3)
    if base_network == "vgg-16":
        assert layout == usual
    else:
        assert layout.cells == (-(-size // 8), *usual.cells)


def boxes_everywhere(size: int, side: float) -> np.ndarray:
    """Return squares of `side` pixels on a fine grid over the whole image."""
    centres = np.linspace(side / 2, size - side / 2, 24)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=-1).reshape(-1, 4).astype(np.float32)


# The least IoU anywhere follows from stride and sizes: an anchor of 0.2 at stride 16 is 8 px off at worst, much of
# a small image. From 256 px on nearly every square has a true match, below it the best anchor is all it may get.
@pytest.mark.parametrize("size, floor", [(128, 0.24), (200, 0.38), (256, 0.41), (300, 0.45), (512, 0.5)])
@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_make_anchors_any_square_has_an_overlapping_anchor(base_network, size, floor):
    anchors = cxcywh_to_xyxy(make_anchors(anchor_layout(base_network, size)))
    for share in (0.2, 0.35, 0.5, 0.7, 0.9):
        assert iou_matrix(boxes_everywhere(size, share * size), anchors).max(axis=1).min() >= floor, share


def test_gluoncv_preset_with_rounded_strides_misses_squares():
    """The fault of ssd_300_mobilenet0.25 that the test above guards against."""
    right = make_anchors(anchor_layout("mobilenet0.25", 300))
    # its strides are 8, 16, ... where the maps have 16, 32, ...: centres end in the middle of the image
    squeezed = right * np.array([0.5, 0.5, 1, 1], np.float32)
    assert iou_matrix(boxes_everywhere(300, 60), cxcywh_to_xyxy(squeezed)).max(axis=1).min() < 0.1


@pytest.mark.parametrize("size", [128, 131, 200, 299, 300, 333, 512, 640, 1024])
@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_anchor_layout_maps_halve_to_one_cell_and_sizes_increase(base_network, size):
    layout = anchor_layout(base_network, size)
    assert layout.cells[-1] == 1
    assert all(a > b for a, b in zip(layout.cells, layout.cells[1:])), "no map twice, such as 1, 1"
    assert all(a < b for a, b in zip(layout.sizes, layout.sizes[1:]))
    if (base_network, size) != ("vgg-16", 300):  # SSD's own, rounded
        assert layout.steps == tuple(size / cells for cells in layout.cells)
    per_cell = [len(ratios) + 1 for ratios in layout.ratios]
    assert len(make_anchors(layout)) == sum(c * c * n for c, n in zip(layout.cells, per_cell))


@pytest.mark.parametrize(
    "sizes, ratios",
    [
        pytest.param((10, 20), ((1,), (1,)), id="a-size-short"),
        pytest.param((10, 20, 30, 40), ((1,), (1,)), id="a-size-too-many"),
        pytest.param((10, 20, 30), ((1,),), id="a-ratio-short"),
        pytest.param((10, 20, 30), ((1,),) * 3, id="a-ratio-too-many"),
    ],
)
def test_anchor_layout_lists_of_wrong_length_raise(sizes, ratios):
    with pytest.raises(ConfigError, match=rf"^anchors: .*\b2\b.*\b{len(sizes)}\b.*\b{len(ratios)}\b"):
        AnchorLayout(100, (4, 2), sizes, ratios)
