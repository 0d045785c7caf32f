"""Tests of the training step: gradients of devices, nonfinite steps, frozen layers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers.data import small_config
from helpers.models import CONFIG, NETWORK, SIDE, assert_close, batch_of, gradients, pulled, train_step, weights

from ssd_train import mxnet_compat
from ssd_train.data.synthetic import SHAPE_CLASSES
from ssd_train.devices import contexts
from ssd_train.errors import TrainingDiverged
from ssd_train.model.net import build_net, freeze
from ssd_train.training import step as learners
from ssd_train.training.engine import train_one_epoch
from ssd_train.training.step import GROWTH_STEPS, LossScale, ModelEMA, TrainStep, optimizer_settings

mx = mxnet_compat.mxnet()


@pytest.mark.parametrize("devices", ["cpu:1,cpu:2", "cpu:1,cpu:2,cpu:3"])
@pytest.mark.parametrize(
    "indices",
    [
        pytest.param([0, 1, 2, 3, 4, 5], id="objects-everywhere"),
        pytest.param([0, 1, 2, 6, 7, 3], id="some-empty"),
        pytest.param([0, 1, 6, 7], id="a-device-without-objects"),
        pytest.param([0, 1, 2, 3, 4], id="parts-of-other-sizes"),
    ],
)
def test_train_step_gradients_of_devices_add_up(samples, indices, devices):
    """Each part of the batch alone, on one device, with the whole batch's scale: their sum is the gradient of all. (A
    part has BatchNorm statistics of its own, so one device with the whole batch would have another gradient.)"""
    several, alone = train_step(devices, min_hard_negatives=3), train_step(min_hard_negatives=3)
    batch = batch_of(samples, indices)
    scale = 1.0 / batch.positives
    losses, norm = pulled(several, batch, scale)
    total, expected_losses = None, 0
    for part in np.array_split(indices, int(devices[-1])):
        part_losses, _ = pulled(alone, batch_of(samples, part), scale)
        expected_losses = expected_losses + part_losses
        found = gradients(alone)
        total = found if total is None else {name: total[name] + array for name, array in found.items()}
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    assert_close(gradients(several), total, 2e-3)
    np.testing.assert_allclose(norm, np.sqrt(sum((array**2).sum() for array in total.values())), rtol=1e-3)


@pytest.mark.parametrize(
    "devices, settings, expected",
    [
        ("cpu", {"mini_batch_size": 6}, (6, 3, SIDE, SIDE)),
        ("cpu:1,cpu:2", {"mini_batch_size": 6}, (3, 3, SIDE, SIDE)),
        ("cpu:1,cpu:2", {"mini_batch_size": 1}, (1, 3, SIDE, SIDE)),
        ("cpu", {"amp": 1}, None),
    ],
    ids=["all-of-a-batch", "its-part", "at-least-one", "not-in-16-bits"],
)
def test_train_step_fuses_layers_for_the_batch_of_a_device(monkeypatch, devices, settings, expected):
    asked = []
    monkeypatch.setattr(learners, "fused_features", lambda net, shape: asked.append(shape))
    assert train_step(devices, **settings).features is None
    assert asked == ([] if expected is None else [expected])


def test_train_step_trains_the_fused_layers(monkeypatch):
    """Without fused layers it trains the network's own."""
    made = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 2).features
    for features in (made, None):
        monkeypatch.setattr(learners, "fused_features", lambda net, shape, features=features: features)
        learned = train_step()
        assert learned.graph.heads.features is (features or learned.net.features)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("joined", [True, False], ids=["joined-layers", "plain-layers-as-on-gpus"])
def test_train_step_devices_with_equal_data_equal_one_bit_for_bit(samples, monkeypatch, joined, optimizer, count):
    """Each of two devices gets the same half of a batch, whose mean is that of the half alone, BatchNorm's too."""
    if not joined:
        monkeypatch.setattr(mxnet_compat, "has_fused_batchnorm", lambda: False)
    settings = {"optimizer": optimizer, "momentum": 0.9, "weight_decay": 0.0005, "clip_gradient": 5.0}
    one, several = (
        train_step(**settings),
        train_step(",".join(f"cpu:{index}" for index in range(1, count + 1)), **settings),
    )
    start = weights(one)
    for indices in ([0, 1, 6], [2, 7], [3, 4, 5]):
        losses = one.step(batch_of(samples, indices), 1e-3)
        np.testing.assert_allclose(several.step(batch_of(samples, indices * count), 1e-3), losses * count, rtol=1e-6)
    found, expected = weights(several), weights(one)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert sum(not np.array_equal(start[name], array) for name, array in expected.items()) > 100


def test_train_step_sgd_update_is_rate_times_gradient(samples):
    learned = train_step()
    start = weights(learned)
    batch = batch_of(samples, [0, 1, 2, 3])
    pulled(learned, batch, 1.0 / batch.positives)
    name = "class_predictors.0.predictor.weight"
    gradient = learned.net._collect_params_with_prefix()[name].grad().asnumpy()
    learned = train_step()
    learned.step(batch, 0.25)
    np.testing.assert_allclose(weights(learned)[name], start[name] - 0.25 * gradient, atol=1e-5)


def test_train_step_clips_the_gradient_by_its_norm(samples):
    batch = batch_of(samples, [0, 1, 2, 3])
    free, clipped = train_step(), train_step(clip_gradient=0.5)
    start = weights(free)
    _, norm = pulled(train_step(), batch, 1.0 / batch.positives)
    assert norm > 0.5
    for learned in (free, clipped):
        learned.step(batch, 0.1)
    moves = [
        {n: a - start[n] for n, a in weights(learned).items() if "running" not in n and "moving" not in n}
        for learned in (free, clipped)
    ]
    assert_close(moves[1], {name: move * 0.5 / norm for name, move in moves[0].items()}, 2e-2)
    total = np.sqrt(sum((move.astype(float) ** 2).sum() for move in moves[1].values()))
    np.testing.assert_allclose(total, 0.1 * 0.5, rtol=1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_train_step_clipped_gradient_sets_clipped(samples, optimizer):
    batch = batch_of(samples, [0, 1, 2, 3])
    _, norm = pulled(train_step(), batch, 1.0 / batch.positives)
    marks = []
    for limit in (0, 0.5 * norm, 2 * norm):
        learned = train_step(optimizer=optimizer, clip_gradient=limit)
        learned.step(batch, 0.001)
        marks.append(learned.clipped)
    assert marks == [False, True, False]


def test_train_step_frozen_weights_stay(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    frozen = freeze(net, NETWORK, "mobilenet0_conv[0-9]_")
    assert frozen
    learned = TrainStep(net, small_config(**{**CONFIG, "weight_decay": 0.1}), contexts("cpu"))
    before = weights(learned)
    for _ in range(2):
        learned.step(batch_of(samples, [0, 1, 2, 3]), 0.05)
    after = weights(learned)
    assert all(np.array_equal(before[name], after[name]) for name in frozen)
    assert not np.array_equal(before["features.mobilenet0_conv20_weight"], after["features.mobilenet0_conv20_weight"])


@pytest.mark.parametrize("least, teaches", [(3, True), (0, False)])
def test_train_step_batch_without_objects_is_finite(samples, least, teaches):
    learned = train_step(min_hard_negatives=least)
    before = weights(learned)
    cross_entropy, smooth_l1 = learned.step(batch_of(samples, [6, 7]), 0.05)
    assert np.isfinite(cross_entropy) and (cross_entropy > 0) == teaches and smooth_l1 == 0
    name = "class_predictors.0.predictor.bias"
    assert np.array_equal(before[name], weights(learned)[name]) != teaches


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    ["class_predictors.0.predictor.bias", "box_predictors.1.predictor.weight", "features.mobilenet0_conv3_weight"],
)
def test_train_step_nonfinite_raises_and_changes_nothing(samples, name, value):
    learned = train_step(optimizer="adam", clip_gradient=10.0)
    parameter = learned.net._collect_params_with_prefix()[name]
    array = parameter.data().asnumpy()
    array.flat[0] = value
    parameter.set_data(mx.nd.array(array))
    before = weights(learned)
    with pytest.raises(TrainingDiverged) as error:
        learned.step(batch_of(samples, [0, 3, 6]), 0.01)
    for text in (
        "expected finite numbers",
        "learning rate 0.01",
        "train.manifest:1, train.manifest:4, train.manifest:7",
    ):
        assert text in str(error.value)
    after = weights(learned)
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert not learned.trainer._optimizer._index_update_count, "nor has the optimizer counted it"


def test_train_step_float16_overflow_is_skipped_and_halves_the_scale(samples):
    """The scale makes gradients overflow float32, as smaller ones overflow float16; this is no divergence."""
    learned = train_step()
    learned.loss_scale = LossScale(2.0**150)
    before = weights(learned)
    learned.step(batch_of(samples, [0, 3]), 0.1)
    assert learned.loss_scale.value == 2.0**149
    for name, array in weights(learned).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def overflowing(samples, indices):
    """A batch with infinite pixels: ReLU turns NaN into 0, so the loss is finite and only the gradient is not."""
    batch = batch_of(samples, indices)
    return dataclasses.replace(batch, images=np.where(batch.images > 200, np.float32(np.inf), batch.images))


@pytest.mark.parametrize("devices", ["cpu", "cpu:1,cpu:2"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_train_one_epoch_overflows_in_a_row_change_neither_weights_nor_statistics(samples, devices, optimizer):
    learned = train_step(devices, optimizer=optimizer)
    learned.loss_scale = LossScale(2.0**10)
    good, bad = batch_of(samples, [0, 1, 2, 3]), overflowing(samples, [4, 5, 6, 7])
    learned.step(good, 1e-4)
    before = [weights(learned, device) for device in range(len(learned.devices))]
    train_one_epoch(learned, iter([bad] * 3), [1e-4] * 3)
    assert learned.loss_scale.value == 2.0**7
    for device, arrays in enumerate(before):
        for name, array in weights(learned, device).items():
            np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    train_one_epoch(learned, iter([bad, good]), [1e-4] * 2)
    assert all(np.isfinite(array).all() for array in weights(learned).values())


def test_train_step_overflow_leaves_the_average_unchanged(samples):
    learned = train_step(ema_decay=0.9)
    average = learned.average = ModelEMA(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 2), learned.net, 0.9)
    learned.loss_scale = LossScale(2.0)
    good, bad = batch_of(samples, [0, 1, 2, 3]), overflowing(samples, [4, 5, 6, 7])
    learned.step(good, 1e-4)
    before = {name: p.data().asnumpy() for name, p in average.net._collect_params_with_prefix().items()}
    learned.step(bad, 1e-4)
    assert (learned.loss_scale.value, average.updates) == (1.0, 1)
    for name, parameter in average.net._collect_params_with_prefix().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[name], err_msg=name)
    learned.step(good, 1e-4)
    assert average.updates == 2
    for name, parameter in average.net._collect_params_with_prefix().items():
        assert np.isfinite(parameter.data().asnumpy()).all(), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_train_one_epoch_step_that_is_not_finite_raises_before_the_next(samples, optimizer):
    learned, steps = train_step(optimizer=optimizer), []
    good, bad = batch_of(samples, [0, 1, 2, 3]), batch_of(samples, [4, 5, 6, 7])
    bad.box_targets[0, np.flatnonzero(bad.class_targets[0])[0]] = np.nan
    learned.step(good, 1e-3)
    before = weights(learned)
    with pytest.raises(TrainingDiverged, match="train.manifest:5"):
        train_one_epoch(learned, iter([bad, good]), [1e-3] * 2, after_step=lambda: steps.append(1))
    assert not steps and set(learned.trainer._optimizer._index_update_count.values()) == {1}
    for name, array in weights(learned).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_loss_scale_grows_and_is_restored():
    scale = LossScale(8.0)
    assert not any(scale.update(np.ones(2), 1.0) for _ in range(GROWTH_STEPS))
    assert scale.value == 16.0
    other = LossScale(1024.0)
    other.restore(json.loads(json.dumps(scale.state())))
    assert other.state() == scale.state()
    assert not LossScale(1.0).update(np.ones(2), float("inf")), "in 32 bits it is a divergence"


@pytest.mark.parametrize(
    "optimizer, expected",
    [
        ("sgd", {"learning_rate": 0.001, "momentum": 0.7, "wd": 0.01}),
        ("rmsprop", {"learning_rate": 0.001, "wd": 0.01}),
        ("adam", {"learning_rate": 0.001}),
        ("adadelta", {"learning_rate": 0.001}),
    ],
)
def test_optimizer_settings_of_each_optimizer(optimizer, expected):
    assert optimizer_settings(small_config(optimizer=optimizer, momentum=0.7, weight_decay=0.01)) == expected


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adadelta"])
def test_train_step_every_optimizer_lowers_the_loss(samples, optimizer):
    learned = train_step(optimizer=optimizer)
    batch = batch_of(samples, [0, 1, 2, 3])
    rate = 0.01 if optimizer == "sgd" else 0.001
    steps = 11 if optimizer == "adadelta" else 6  # which has no rate and begins with large steps
    losses = [learned.step(batch, rate).sum() for _ in range(steps)]
    assert losses[-1] < losses[0]


def frozen_learner(pattern, network=NETWORK):
    net = build_net(network, SIDE, list(SHAPE_CLASSES), 1)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "running_var")):  # as of a trained backbone, other than a batch's
            draw = np.random.RandomState(len(name)).uniform(0.5, 1.5, parameter.shape)
            parameter.set_data(mx.nd.array(draw - ("mean" in name)))
    freeze(net, network, pattern)
    return TrainStep(net, small_config(**CONFIG), contexts("cpu"))


@pytest.mark.parametrize("network", ["mobilenet0.25", "mobilenetv2_1.0", "resnet-50"])
def test_train_step_frozen_backbone_uses_running_statistics(samples, network):
    learned = frozen_learner(r"^features\.(mobilenet|resnet)", network)
    before = weights(learned)
    pixels = mx.nd.random.uniform(-1, 1, (2, 3, SIDE, SIDE))
    features = learned.net.features
    with mx.autograd.train_mode():
        training = [array.asnumpy() for array in features(pixels)][:2]
    with mx.autograd.predict_mode():
        afterwards = [array.asnumpy() for array in features(pixels)][:2]
    for a, b in zip(training, afterwards):
        np.testing.assert_allclose(a, b, atol=1e-4 * b.max())
    learned.step(batch_of(samples, [0, 1, 2, 3]), 0.05)
    after = weights(learned)
    changed = {name for name, array in before.items() if not np.array_equal(array, after[name])}
    assert changed and not [name for name in changed if name.startswith(("features.mobilenet", "features.resnet"))]
    assert any("expand" in name and "moving" in name for name in changed), "layers that learn keep their statistics"


def test_train_step_freezing_keeps_the_other_gradients(samples):
    """The same statistics with and without gradients of the layers below: those above have the same gradients."""
    frozen, free = frozen_learner(r"^features\.mobilenet"), frozen_learner(r"^features\.mobilenet0_batchnorm")
    batch = batch_of(samples, [0, 1, 2, 3])
    results = [pulled(learned, batch, 1.0 / batch.positives)[0] for learned in (frozen, free)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    found, all_of_them = gradients(frozen), gradients(free)
    assert 0 < len(found) < len(all_of_them)
    assert_close(found, {name: all_of_them[name] for name in found}, 1e-4)
