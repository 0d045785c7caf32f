"""Tests of DetectionLoss: equal to GluonCV's SSDMultiBoxLoss times the number of positives."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train import mxnet_compat
from ssd_train.model.loss import DetectionLoss

mx = mxnet_compat.mxnet()
gcv = mxnet_compat.gluoncv()

CLASSES, ANCHORS = 3, 200


def random_batch(seed: int, positives: "tuple[int, ...]"):
    """Return predictions and targets of one image per entry of `positives`, with that number of positive anchors."""
    random = np.random.RandomState(seed)
    class_preds = random.normal(0, 2, (len(positives), ANCHORS, CLASSES + 1))
    box_preds = random.normal(0, 2, (len(positives), ANCHORS, 4))
    class_targets = np.zeros((len(positives), ANCHORS))
    for row, count in zip(class_targets, positives):
        row[random.choice(ANCHORS, count, replace=False)] = random.randint(1, CLASSES + 1, count)
    box_targets = random.normal(0, 2, (len(positives), ANCHORS, 4)) * (class_targets > 0)[..., None]
    return [mx.nd.array(a) for a in (class_preds, box_preds, class_targets, box_targets)]


def ours(arrays, ratio, least, hybrid=False, **kind):
    loss = DetectionLoss(ratio, least, **kind)
    loss.initialize()
    if hybrid:
        loss.hybridize()
    for array in arrays[:2]:
        array.attach_grad()
    with mx.autograd.record():
        cross_entropy, smooth_l1 = loss(*arrays)
        total = cross_entropy + smooth_l1
    total.backward()
    return cross_entropy.asscalar(), smooth_l1.asscalar(), [array.grad.asnumpy() for array in arrays[:2]]


def gluoncvs(arrays, ratio, least):
    class_preds, box_preds, class_targets, box_targets = arrays
    for array in arrays[:2]:
        array.attach_grad()
    criterion = gcv.loss.SSDMultiBoxLoss(negative_mining_ratio=ratio, min_hard_negatives=least)
    with mx.autograd.record():
        # only one device: its parts are lists of one entry for it
        total, cross_entropy, smooth_l1 = criterion([class_preds], [box_preds], [class_targets], [box_targets])
    total[0].backward()
    grads = [array.grad.asnumpy() for array in arrays[:2]]
    return cross_entropy[0].sum().asscalar(), smooth_l1[0].sum().asscalar(), grads


@pytest.mark.parametrize("hybrid", [False, True], ids=["plain", "hybrid"])
@pytest.mark.parametrize("least", [0, 3, 17])
@pytest.mark.parametrize("ratio", [3.0, 1.5])
@pytest.mark.parametrize(
    "positives",
    [
        pytest.param((5,), id="one-image"),
        pytest.param((5, 1, 40), id="three-images"),
        pytest.param((0, 7, 0), id="images-without-objects-beside-one"),
        pytest.param((60,), id="more-negatives-wanted-than-there-are"),
        pytest.param((0,), id="no-object-at-all"),
    ],
)
def test_detection_loss_equals_gluoncv_times_positives(positives, ratio, least, hybrid):
    count = max(sum(positives), 1)
    cross_entropy, smooth_l1, grads = ours(random_batch(1, positives), ratio, least, hybrid)
    expected_ce, expected_l1, expected_grads = gluoncvs(random_batch(1, positives), ratio, least)
    np.testing.assert_allclose(cross_entropy, expected_ce * count, rtol=1e-4)
    np.testing.assert_allclose(smooth_l1, expected_l1 * count, rtol=1e-4)
    for grad, expected in zip(grads, expected_grads):
        np.testing.assert_allclose(grad, expected * count, rtol=1e-3, atol=1e-5)


def test_detection_loss_equals_hand_computed():
    """One positive of cross entropy 0.5, whose two hardest negatives (of 1, 3, 0.25 and 2) count."""
    entropies = np.array([0.5, 1.0, 3.0, 0.25, 2.0])
    wrong = np.log(np.expm1(entropies))  # softmax of (0, wrong) gives the first exactly this cross entropy
    class_preds = np.stack([np.zeros(5), wrong], axis=1)[None]
    class_preds[0, 0] = class_preds[0, 0, ::-1]  # the positive's true class is 1
    box_preds, box_targets = np.zeros((1, 5, 4)), np.zeros((1, 5, 4))
    box_targets[0, 0] = [0.5, 2, 0, -1]  # SmoothL1: 0.125 + 1.5 + 0 + 0.5
    box_targets[0, 3] = 9  # a negative's boxes do not count
    arrays = [mx.nd.array(a) for a in (class_preds, box_preds, [[1, 0, 0, 0, 0]], box_targets)]
    cross_entropy, smooth_l1, _ = ours(arrays, 2.0, 0)
    np.testing.assert_allclose([cross_entropy, smooth_l1], [0.5 + 3 + 2, 2.125], rtol=1e-5)


@pytest.mark.parametrize(
    "positives, least, counted",
    [((0,), 0, 0), ((0,), 3, 3), ((0, 0), 3, 6), ((1, 0), 3, 1 + 3 + 3), ((4, 0), 3, 4 + 12 + 3)],
    ids=["none-teaches-nothing", "alone", "two", "beside-one", "beside-many"],
)
def test_detection_loss_without_objects_counts_hardest_negatives(positives, least, counted):
    arrays = random_batch(5, positives)
    _, smooth_l1, (class_grad, box_grad) = ours(arrays, 3.0, least)
    assert (np.abs(class_grad).sum(axis=2) > 0).sum() == counted
    assert np.isfinite(class_grad).all() and np.isfinite(box_grad).all()
    assert (smooth_l1 == 0) == (sum(positives) == 0)


def softmax_entropies(arrays):
    """Return -log p of each class (B, A, classes + 1) and the target class (B, A), in double precision."""
    scores, wanted = arrays[0].asnumpy().astype(np.float64), arrays[2].asnumpy().astype(int)
    return np.log(np.exp(scores).sum(axis=-1, keepdims=True)) - scores, wanted


@pytest.mark.parametrize("hybrid", [False, True], ids=["plain", "hybrid"])
@pytest.mark.parametrize("positives", [(5,), (5, 1, 40), (0, 7), (0,)], ids=str)
def test_focal_loss_equals_numpy_formula(positives, hybrid):
    """RetinaNet, equation 5: gamma 2, alpha 0.25 for objects, of the wanted class's probability."""
    arrays = random_batch(2, positives)
    entropies, wanted = softmax_entropies(arrays)
    entropy = np.take_along_axis(entropies, wanted[..., None], axis=-1)[..., 0]
    expected = (np.where(wanted > 0, 0.25, 0.75) * (1 - np.exp(-entropy)) ** 2 * entropy).sum()
    cross_entropy, smooth_l1, grads = ours(arrays, 3.0, 3, hybrid, focal=True)
    np.testing.assert_allclose(cross_entropy, expected, rtol=1e-4)
    np.testing.assert_allclose(smooth_l1, ours(random_batch(2, positives), 3.0, 3)[1], rtol=1e-6)
    assert (np.abs(grads[0]).sum(axis=2) > 0).all(), "every anchor teaches"


def test_focal_loss_gradient_includes_the_weight():
    """By finite differences: the weight depends on the prediction and is differentiated too."""
    arrays = random_batch(3, (2,))
    _, _, (gradient, _) = ours(arrays, 3.0, 3, focal=True)
    anchor, step = int(arrays[2].asnumpy()[0].argmax()), 0.05

    def moved(amount):
        scores = arrays[0].asnumpy()
        scores[0, anchor, 1] += amount
        return ours([mx.nd.array(scores), *arrays[1:]], 3.0, 3, focal=True)[0]

    slope = (float(moved(step)) - float(moved(-step))) / (2 * step)
    np.testing.assert_allclose(gradient[0, anchor, 1], slope, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_label_smoothing_equals_hand_computed(share):
    """With more negatives wanted than there are, all anchors count: cross entropy with (1 - share) of the wanted class
    and share spread over all."""
    arrays = random_batch(4, (60,))
    entropies, wanted = softmax_entropies(arrays)
    plain = np.take_along_axis(entropies, wanted[..., None], axis=-1).sum()
    expected = (1 - share) * plain + share * entropies.mean(axis=-1).sum()
    np.testing.assert_allclose(ours(arrays, 3.0, 0, label_smoothing=share)[0], expected, rtol=1e-4)
    np.testing.assert_allclose(ours(arrays, 3.0, 0)[0], plain, rtol=1e-4)


@pytest.mark.parametrize("hybrid", [False, True], ids=["plain", "hybrid"])
@pytest.mark.parametrize("kind", [{}, {"focal": True}], ids=["mined", "focal"])
def test_class_weights_scale_the_gradient_of_positives_only(kind, hybrid):
    arrays = random_batch(4, (9, 0))
    arrays[2][0, np.flatnonzero(arrays[2][0].asnumpy() == 0)[:50]] = -1  # ignored
    _, smooth_l1, (plain, plain_boxes) = ours(arrays, 3.0, 3, hybrid, **kind)
    _, weighted_l1, (weighted, weighted_boxes) = ours(arrays, 3.0, 3, hybrid, class_weights=(2.0, 0.5, 1.0), **kind)
    factor = np.array([1.0, 2.0, 0.5, 1.0])[np.maximum(arrays[2].asnumpy(), 0).astype(int)]
    np.testing.assert_allclose(weighted, plain * factor[..., None], rtol=1e-4, atol=1e-6)
    assert {0.5, 1.0, 2.0} == set(factor[np.abs(plain).sum(axis=2) > 0])
    assert smooth_l1 == weighted_l1 and np.array_equal(plain_boxes, weighted_boxes)


def test_label_smoothing_keeps_the_mined_negatives():
    counted = [
        np.abs(ours(random_batch(6, (5, 1)), 3.0, 3, label_smoothing=share)[2][0]).sum(axis=2) > 0
        for share in (0.0, 0.2)
    ]
    assert np.array_equal(*counted)
