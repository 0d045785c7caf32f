"""Statistics by hand, and the rule of the recommended image shape."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.data import label_set

from ssd_train.data.checks.labels import (
    advised_settings,
    anchor_grids,
    recommend_image_shape,
    scaled_boxes,
    small_classes,
    statistics,
)
from ssd_train.model.anchors import anchor_layout, make_anchors

GRIDS = {side: anchor_grids(make_anchors(anchor_layout("mobilenet1.0", side))) for side in (300, 512, 768)}


def test_statistics_by_hand():
    labels = label_set(
        [[[0, 0, 20, 20], [0, 0, 50, 50]], [[0, 0, 200, 200]], []], [[0, 1], [1], []], (400, 200), ("cat", "dog")
    )
    sizes = [(400, 200), (400, 200), None]
    found = json.loads(json.dumps(statistics(labels, scaled_boxes(labels, sizes), sizes), allow_nan=False))
    assert found == {
        "labels": "train.manifest",
        "images": 3,
        "background_images": 1,
        "ignored": {"difficult": 0, "crowds": 0},
        "boxes": 3,
        "remarks": [],
        "classes": {
            "cat": {
                "boxes": 1,
                "images": 1,
                "areas": {"small": 1, "medium": 0, "large": 0},
                # the square root of 400 / 80000 is 0.0707
                "shares": {"0-5 %": 0, "5-10 %": 1, "10-25 %": 0, "25-50 %": 0, "50-100 %": 0},
            },
            "dog": {
                "boxes": 2,
                "images": 2,
                "areas": {"small": 0, "medium": 1, "large": 1},
                # 0.177 and 0.707
                "shares": {"0-5 %": 0, "5-10 %": 0, "10-25 %": 1, "25-50 %": 0, "50-100 %": 1},
            },
        },
        "objects_per_image": {"least": 0.0, "median": 1.0, "95 of 100 below": 1.9, "most": 2.0},
        "image_sizes": {
            "unknown": 1,
            "different": 1,
            "smallest": "400x200",
            "largest": "400x200",
            "most_common": {"400x200": 2},
        },
        "label_width": 12,
    }


def test_statistics_of_labels_without_sizes_and_without_records():
    labels = label_set([[[0, 0, 20, 20]]], size_wh=None)
    found = statistics(labels, scaled_boxes(labels, [None]), [None])
    assert found["image_sizes"] == {"unknown": 1}
    assert found["classes"]["cat"]["boxes"] == 1 and sum(found["classes"]["cat"]["areas"].values()) == 0
    nothing = label_set([])
    assert statistics(nothing, scaled_boxes(nothing, []), [])["boxes"] == 0


@pytest.mark.parametrize(
    "sides, recommended",
    [
        pytest.param([100] * 20, 300, id="large"),
        pytest.param([22] * 20, 300, id="16 px at 300"),
        pytest.param([20] * 20, 512, id="15 px at 300"),
        pytest.param([20] + [100] * 19, 300, id="one in twenty"),
        pytest.param([20] * 2 + [100] * 18, 512, id="two in twenty"),
        pytest.param([9] * 20, 768, id="17 px at 768"),
        pytest.param([1] * 2 + [100] * 18, 300, id="stray clicks, for which no side is large enough"),
        pytest.param([1] * 20, 300, id="nothing is ever large enough"),
    ],
)
def test_smallest_shape_that_serves_the_boxes(sides, recommended):
    labels = label_set([[[100, 100, 100 + side, 100 + side]] for side in sides], size_wh=(400, 400))
    found = recommend_image_shape(scaled_boxes(labels, [(400, 400)] * len(sides)), GRIDS)
    assert found["recommended"] == recommended
    assert list(found["served"]) == ["300", "512", "768"]
    assert all(0 <= share <= 1 for share in found["served"].values())


FINE = {side: anchor_grids(make_anchors(anchor_layout("mobilenet1.0", side, (), 8))) for side in (300, 512, 768)}


@pytest.mark.parametrize(
    "sides, side",
    [
        pytest.param([100] * 20, None, id="large: 300 px is enough"),
        pytest.param([20] * 20, 300, id="15 px at 300, 512 without the map"),
        pytest.param([9] * 20, 512, id="11 px at 512, 768 without the map"),
        pytest.param([20] + [100] * 19, None, id="one in twenty"),
        pytest.param([1] * 20, None, id="nothing is ever large enough"),
    ],
)
def test_advised_settings_are_a_map_of_stride_8_where_it_saves_pixels(sides, side):
    labels = label_set([[[100, 100, 100 + side, 100 + side]] for side in sides], size_wh=(400, 400))
    boxes = scaled_boxes(labels, [(400, 400)] * len(sides))
    advised = advised_settings(boxes, FINE, recommend_image_shape(boxes, GRIDS)["recommended"])
    assert advised == ({"feature_strides": "8,16,...", "image_shape": side} if side else {})
    assert advised_settings(boxes, {}, 1024) == {}


@pytest.mark.parametrize(
    "side, centre, fractions",
    [
        pytest.param(22, 160, {1: (0.5, 0.0)}, id="between four anchors of stride 16"),
        pytest.param(22, 168, {}, id="on an anchor of stride 16"),
        pytest.param(60, 160, {}, id="large"),
        pytest.param(2, 160, {}, id="between those of stride 8, too"),
    ],
)
def test_small_classes_are_those_that_a_map_of_stride_8_matches_better(side, centre, fractions):
    """Half of the boxes of the second class have this centre, the others an anchor's; the first class is large."""
    boxes = [[[c - w / 2, c - w / 2, c + w / 2, c + w / 2]] for w, c in ((100, 160), (side, centre), (side, 168))]
    labels = label_set(boxes * 3, [[0], [1], [1]] * 3, (320, 320), ("cat", "dog"))
    scaled = scaled_boxes(labels, [(320, 320)] * 9)
    assert small_classes(scaled, 320) == fractions


def test_advised_settings_for_a_rare_small_class_are_a_map_of_stride_8():
    boxes = [*[[[100, 100, 200, 200]]] * 60, *[[[149, 149, 171, 171]]] * 3]
    labels = label_set(boxes, [[0]] * 60 + [[1]] * 3, (320, 320), ("cat", "dog"))
    scaled = scaled_boxes(labels, [(320, 320)] * 63)
    grids, fine = (
        {320: anchor_grids(make_anchors(anchor_layout("mobilenet1.0", 320, (), stride)))} for stride in (16, 8)
    )
    assert recommend_image_shape(scaled, grids)["recommended"] == 320
    assert advised_settings(scaled, fine, 320) == {"feature_strides": "8,16,...", "image_shape": 320}
    assert advised_settings(scaled, {}, 320) == {}


def test_no_box_no_recommendation():
    labels = label_set([[]])
    assert recommend_image_shape(scaled_boxes(labels, [(40, 30)]), GRIDS) == {"recommended": None, "served": {}}


def test_boxes_are_shares_of_the_size_that_is_given():
    labels = label_set([[[10, 10, 20, 30]], [], [[0, 0, 40, 30]]], [[1], [], [0]], None)
    boxes = scaled_boxes(labels, [(100, 50), (9, 9), None])
    np.testing.assert_allclose(boxes.boxes, [[0.1, 0.2, 0.2, 0.6]])
    assert boxes.records.tolist() == [0] and boxes.class_ids.tolist() == [1] and boxes.sizes_wh.tolist() == [[100, 50]]
