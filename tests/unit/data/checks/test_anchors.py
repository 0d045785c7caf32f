"""The best IoU of boxes with anchors: the same as by comparing each with each."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.boxes import as_boxes, cxcywh_to_xyxy, iou_matrix
from ssd_train.data.checks.labels import anchor_grids, best_iou
from ssd_train.model.anchors import anchor_layout, make_anchors


@pytest.mark.parametrize("side", [128, 300, 512, 999])
@pytest.mark.parametrize("network", ["mobilenet1.0", "vgg-16"])
def test_equal_to_comparing_each_with_each(network, side):
    random = np.random.RandomState(side)
    centres, sides = random.uniform(0, side, (300, 2)), np.exp(random.uniform(0, np.log(side), (300, 2)))
    boxes = as_boxes(np.concatenate([centres - sides / 2, centres + sides / 2], axis=1))
    anchors = make_anchors(anchor_layout(network, side))
    expected = iou_matrix(boxes, cxcywh_to_xyxy(anchors)).max(axis=1)
    np.testing.assert_allclose(best_iou(boxes, anchor_grids(anchors)), expected, atol=1e-5)


def test_best_iou_of_an_anchor_is_one_and_of_no_box_empty():
    anchors = make_anchors(anchor_layout("mobilenet1.0", 300))
    grids = anchor_grids(anchors)
    np.testing.assert_allclose(best_iou(cxcywh_to_xyxy(anchors), grids), 1, atol=1e-4)
    assert best_iou(np.zeros((0, 4)), grids).shape == (0,)
    assert best_iou([[1000, 1000, 1010, 1010]], grids).tolist() == [0]
