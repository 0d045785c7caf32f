"""Tests of TargetEncoder: equal to GluonCV's generator except for ties, and its edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train import mxnet_compat
from ssd_train.boxes import cxcywh_to_xyxy, iou_matrix
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.targets import TargetEncoder, decode, encode, match

SIDE = 128
ANCHORS = make_anchors(anchor_layout("mobilenet0.25", SIDE))


def random_boxes(random: np.random.RandomState, count: int) -> np.ndarray:
    corner = random.uniform(0, 0.8 * SIDE, (count, 2))
    sides = random.uniform(2, 0.9 * SIDE, (count, 2))
    return np.concatenate([corner, np.minimum(corner + sides, SIDE)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def gluoncv_targets():
    """GluonCV's SSDTargetGenerator: (A,), (A, 4) for boxes (N, 4) and ids (N,)."""
    mxnet_compat.gluoncv()
    generator = mxnet_compat.gluoncv("model_zoo.ssd.target").SSDTargetGenerator(negative_mining_ratio=-1)
    mx = mxnet_compat.mxnet()

    def targets(anchors, boxes, ids):
        arrays = [mx.nd.array(a)[None] for a in (anchors, boxes, ids[:, None])]
        classes, offsets, _ = generator(arrays[0], None, arrays[1], arrays[2])
        return classes.asnumpy()[0], offsets.asnumpy()[0]

    return targets


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("seed", range(5))
def test_target_encoder_equals_gluoncv(gluoncv_targets, count, seed):
    random = np.random.RandomState(seed)
    boxes, ids = random_boxes(random, count), random.randint(0, 3, count)
    # anchors of one shape that contain a box, or lie within it, overlap it all the same: of these GluonCV takes the
    # first, we the nearest (test_target_encoder_tied_anchors_nearest_wins); here sizes differ, so none tie
    anchors = ANCHORS * random.uniform(0.98, 1.02, ANCHORS.shape).astype(np.float32)
    classes, offsets = TargetEncoder(anchors)(boxes, ids)
    expected_classes, expected_offsets = gluoncv_targets(anchors, boxes, ids)
    np.testing.assert_array_equal(classes, expected_classes)
    np.testing.assert_allclose(offsets, expected_offsets, atol=2e-4)
    assert (classes > 0).sum() >= min(count, 5)


LARGE = make_anchors(anchor_layout("mobilenet1.0", 300))  # SSD's sizes: the smallest has 30 px, 16 px apart


@pytest.mark.parametrize("seed", range(3))
def test_target_encoder_tied_anchors_nearest_wins(gluoncv_targets, seed):
    """The difference from GluonCV, which takes the first of equal anchors, up to 30 px away."""
    random = np.random.RandomState(seed)
    sides = random.uniform(5, 10, (12, 2))
    corners = np.stack(np.meshgrid([20, 95, 170, 245], [30, 120, 210]), -1).reshape(-1, 2) + random.uniform(
        0, 30, (12, 2)
    )
    boxes, ids = np.concatenate([corners, corners + sides], axis=1).astype(np.float32), np.arange(12)
    iou = iou_matrix(boxes, cxcywh_to_xyxy(LARGE))
    distances = np.linalg.norm((boxes[:, None, :2] + boxes[:, None, 2:]) / 2 - LARGE[None, :, :2], axis=2)
    ours, theirs = (
        [int(np.flatnonzero(classes == truth + 1)[0]) for truth in ids]
        for classes in (TargetEncoder(LARGE)(boxes, ids)[0], gluoncv_targets(LARGE, boxes, ids)[0])
    )
    np.testing.assert_allclose(iou[ids, ours], iou[ids, theirs], rtol=1e-4)
    tied = iou >= iou.max(axis=1, keepdims=True) * (1 - 1e-4)
    assert (tied.sum(axis=1) > 1).all()
    np.testing.assert_allclose(distances[ids, ours], np.where(tied, distances, np.inf).min(axis=1), rtol=1e-5)
    assert distances[ids, ours].max() < 12 and distances[ids, theirs].mean() > distances[ids, ours].mean() + 3


def test_target_encoder_two_objects_in_the_same_anchors_get_the_nearest_each():
    anchors = np.array([[20, 20, 40, 40], [30, 20, 40, 40]], np.float32)
    right_then_left = np.array([[30, 18, 34, 22], [16, 18, 20, 22]], np.float32)
    assert TargetEncoder(anchors)(right_then_left, np.arange(2))[0].tolist() == [2, 1]
    # both are nearest to the second: the nearer of them has it, whatever their order
    both = np.array([[28, 18, 32, 22], [26, 18, 30, 22]], np.float32)
    assert TargetEncoder(anchors)(both, np.arange(2))[0].tolist() == [2, 1]
    assert TargetEncoder(anchors)(both[::-1], np.arange(2))[0].tolist() == [1, 2]


def test_target_encoder_without_boxes_is_all_background():
    classes, offsets = TargetEncoder(ANCHORS)(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert classes.shape == (len(ANCHORS),) and offsets.shape == (len(ANCHORS), 4)
    assert not classes.any() and not offsets.any()
    assert classes.dtype == offsets.dtype == np.float32


def test_target_encoder_competing_boxes_each_get_an_anchor():
    boxes = np.tile(np.array([[40, 40, 70, 70]], np.float32), (30, 1)) + np.arange(30)[:, None] * 0.01
    ids = np.arange(30)
    classes, offsets = TargetEncoder(ANCHORS)(boxes, ids)
    positive = np.flatnonzero(classes)
    assert set(ids) == set(classes[positive].astype(int) - 1)
    found = decode(offsets[positive], ANCHORS[positive])
    np.testing.assert_allclose(found, boxes[classes[positive].astype(int) - 1], atol=1e-3)


def test_target_encoder_box_without_overlap_has_no_positive():
    """GluonCV makes every anchor one."""
    anchors = np.array([[10, 10, 8, 8], [30, 30, 8, 8]], np.float32)
    classes, offsets = TargetEncoder(anchors)(np.array([[50, 50, 60, 60]], np.float32), np.array([1]))
    assert not classes.any() and not offsets.any()


@pytest.mark.parametrize(
    "iou, expected",
    [
        pytest.param([[0.6, 0.0], [0.0, 0.3]], [0, 1], id="below-half-but-the-best"),
        pytest.param([[0.6, 0.55], [0.1, 0.2]], [0, 1], id="second-truth-gets-its-next-best"),
        pytest.param([[0.9, 0.8], [0.7, 0.85]], [0, 1], id="both-want-their-own"),
        pytest.param([[0.8, 0.9], [0.6, 0.7]], [1, 0], id="the-higher-pair-first"),
        pytest.param([[0.9, 0.1], [0.5, 0.2], [0.49, 0.0]], [0, 1, -1], id="threshold-includes-half"),
        pytest.param([[0.9], [0.5], [0.49]], [0, 0, -1], id="half-is-enough-beside-the-best"),
        pytest.param([[0.0], [0.0]], [-1, -1], id="no-overlap"),
    ],
)
def test_matching_by_hand(iou, expected):
    iou = np.array(iou, np.float32).T
    assert match(iou, np.zeros((len(iou), 4)), np.zeros((iou.shape[1], 4))).tolist() == expected


coordinate = st.floats(0, 500, width=32)
side = st.floats(0.5, 600, width=32)


@settings(max_examples=200)
@given(coordinate, coordinate, side, side, st.integers(0, len(ANCHORS) - 1))
def test_decode_inverts_encode(x, y, width, height, index):
    boxes = np.array([[x, y, x + width, y + height]], np.float32)
    anchors = ANCHORS[index : index + 1]
    back = decode(encode(boxes, anchors), anchors)
    np.testing.assert_allclose(back, boxes, rtol=1e-4, atol=2e-3)
