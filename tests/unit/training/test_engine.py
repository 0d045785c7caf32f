"""Tests of one epoch of training and of one evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import small_config
from helpers.models import NETWORK, SIDE, batch_of, train_step, weights

from ssd_train import mxnet_compat
from ssd_train.data.loaders import EvalBatch
from ssd_train.data.synthetic import SHAPE_CLASSES
from ssd_train.errors import TrainingDiverged
from ssd_train.model.net import build_net
from ssd_train.training.engine import EpochMeter, Evaluator, evaluate, train_one_epoch

mx = mxnet_compat.mxnet()


def test_train_one_epoch_returns_means_per_positive_anchor(samples):
    learned = train_step()
    batches = [batch_of(samples, [0, 1]), batch_of(samples, [2, 6]), batch_of(samples, [6, 7])]
    expected = [train_step().step(batch, 1e-9) for batch in batches]
    found = train_one_epoch(learned, iter(batches), [1e-9] * 3)
    positives = batches[0].positives + batches[1].positives + 1
    np.testing.assert_allclose(found["CrossEntropy"], sum(e[0] for e in expected) / positives, rtol=2e-2)
    np.testing.assert_allclose(found["SmoothL1"], sum(e[1] for e in expected) / positives, rtol=2e-2)
    assert (found["images"], found["steps"], found["clipped"]) == (6, 3, 0)
    assert 0 <= found["data_seconds"] <= found["seconds"]


@pytest.mark.parametrize("made, rates", [pytest.param(0, 0, id="new"), pytest.param(3, 3, id="resumed")])
def test_train_one_epoch_more_batches_than_rates_raises(samples, made, rates):
    with pytest.raises(ValueError, match="found 1 "):
        train_one_epoch(train_step(), [batch_of(samples, [0, 1])], [1e-9] * rates, EpochMeter(steps=made))


def test_train_one_epoch_counts_clipped_steps(samples):
    """Also after a resume within an epoch."""
    learned = train_step(clip_gradient=1e-3)
    found = train_one_epoch(learned, [batch_of(samples, [0, 1])], [1e-9] * 3, EpochMeter(steps=2, clipped=1))
    assert (found["steps"], found["clipped"]) == (3, 2)


@pytest.mark.parametrize(
    "made, batches, expected",
    [
        pytest.param(0, 1, 1, id="new"),
        pytest.param(3, 1, 4, id="resumed"),
        pytest.param(3, 0, 3, id="resumed-after-the-last"),
    ],
)
def test_train_one_epoch_fewer_batches_than_rates_ends_early(samples, made, batches, expected):
    """A stream that is shorter than its first pass."""
    learned = train_step()
    result = train_one_epoch(learned, [batch_of(samples, [0, 1])] * batches, [1e-9] * 5, EpochMeter(steps=made))
    assert (result["steps"], result["images"]) == (expected, 2 * batches)


def evaluator(net, **settings):
    return Evaluator(net, small_config(**settings), mx.cpu(), 100)


def eval_batches(samples, indices, size=3, size_wh=(SIDE, SIDE)):
    chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
    return [batch_of(samples, chunk, EvalBatch, sizes=(size_wh,) * len(chunk)) for chunk in chunks]


def test_evaluate_scores_all_records(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    scores, smooth_l1, answers, cross_entropy = evaluate(evaluator(net), eval_batches(samples, range(8)), SHAPE_CLASSES)
    assert scores.images == len(answers) == 8 and scores.background_images == 2
    assert [record.where for record, _ in answers] == [f"train.manifest:{i + 1}" for i in range(8)]
    assert smooth_l1 > 0 and cross_entropy > 0 and 0 <= scores.voc07 <= 1
    again = evaluate(evaluator(net), eval_batches(samples, range(8), size=8), SHAPE_CLASSES)
    assert again[0].to_json() == scores.to_json()
    np.testing.assert_allclose([again.smooth_l1, again.cross_entropy], [smooth_l1, cross_entropy], rtol=1e-4)


def test_evaluator_detections_are_in_image_pixels(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    (batch,) = eval_batches(samples, [0], size_wh=(640, 320))
    (large,), _ = evaluator(net).predict(batch)
    (small,), _ = evaluator(net).predict(eval_batches(samples, [0])[0])
    np.testing.assert_allclose(large.boxes, small.boxes * np.array([5, 2.5, 5, 2.5]), rtol=1e-4, atol=1e-2)
    assert large.size_wh == (640, 320)


def test_evaluator_infinite_loss_raises(samples):
    infinite = evaluator(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1))
    infinite.graph = lambda *arrays: [-mx.nd.ones((1, 100, 6)), mx.nd.array([1.0]), mx.nd.array([np.inf])]
    with pytest.raises(TrainingDiverged):
        infinite.predict(eval_batches(samples, [0])[0])


def test_evaluate_does_not_change_the_weights(samples):
    learned = train_step()
    before = weights(learned)
    evaluate(evaluator(learned.net), eval_batches(samples, range(8)), SHAPE_CLASSES)
    assert all(np.array_equal(before[name], array) for name, array in weights(learned).items())


def test_evaluate_without_objects_has_no_loss(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    evaluation = evaluate(evaluator(net), eval_batches(samples, [6, 7]), SHAPE_CLASSES)
    assert evaluation.smooth_l1 is evaluation.cross_entropy is evaluation.scores.voc07 is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("class_predictors.0.predictor.bias", np.nan),
        ("class_predictors.3.predictor.weight", -np.inf),
        ("box_predictors.0.predictor.bias", np.nan),
        ("features.mobilenet0_conv3_weight", np.nan),
        ("features.mobilenet0_batchnorm2_running_var", np.nan),
        ("features.mobilenet0_batchnorm20_running_mean", np.inf),
    ],
)
def test_evaluate_nonfinite_weights_raises(samples, name, value):
    """GluonCV's metric gives a net of NaN a mAP of 1.0 on images with one object; NMS silently drops its scores."""
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    parameter = net._collect_params_with_prefix()[name]
    parameter.set_data(mx.nd.full(parameter.shape, value))
    with pytest.raises(TrainingDiverged, match=name):
        evaluate(evaluator(net), eval_batches(samples, range(8)), SHAPE_CLASSES)


@pytest.mark.parametrize("name", ["class_predictors.0.predictor.weight", "box_predictors.0.predictor.weight"])
def test_evaluate_nonfinite_output_raises(samples, name):
    """The weights are finite, but so large that the output is not."""
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    parameter = net._collect_params_with_prefix()[name]
    parameter.set_data(mx.nd.full(parameter.shape, 3e38))
    with pytest.raises(TrainingDiverged):
        evaluate(evaluator(net), eval_batches(samples, range(8)), SHAPE_CLASSES)
