"""A step, an epoch, an evaluation: gradients of devices add up, nothing that is not finite is learned or scored."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from builders import small_config

from ssd_train import framework
from ssd_train.data.batches import EvalBatch, TrainBatch
from ssd_train.data.drawn import SHAPE_CLASSES, draw_shapes_set
from ssd_train.data.records import Record
from ssd_train.data.transforms import EvalTransform
from ssd_train.errors import TrainingDiverged
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net, freeze
from ssd_train.model.targets import TargetEncoder
from ssd_train.training.averaging import WeightAverage
from ssd_train.training.devices import contexts
from ssd_train.training.engine import Evaluator, evaluate, train_one_epoch
from ssd_train.training.exchange import OneHost
from ssd_train.training.learner import Learner, optimizer_settings
from ssd_train.training.loss_scale import GROWTH_STEPS, LossScale
from ssd_train.training.tally import Tally

mx = framework.mxnet()

SIDE = 128
NETWORK = "mobilenet0.25"
CONFIG = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip_gradient": 0.0}


@pytest.fixture(scope="module")
def samples():
    """Eight drawn pictures with their targets; the last two show nothing."""
    encode = TargetEncoder(make_anchors(anchor_layout(NETWORK, SIDE)))
    drawn = draw_shapes_set(6, 1, (SIDE, SIDE), empty_fraction=0.0) + draw_shapes_set(2, 2, (SIDE, SIDE), 0, 1.0)
    transform = EvalTransform(SIDE, encode)
    found = []
    for index, sample in enumerate(drawn):
        record = Record(sample.name, sample.boxes, sample.class_ids, (SIDE, SIDE), f"train.manifest:{index + 1}")
        found.append((record, transform(sample.image, sample.boxes, sample.class_ids)))
    return found


def batch_of(samples, indices, kind=TrainBatch, **more):
    chosen = [samples[index] for index in indices]
    arrays = [np.stack(column) for column in zip(*(targets for _, targets in chosen))]
    return kind(*arrays, tuple(record for record, _ in chosen), **more)


def learner(devices="cpu", **settings):
    config = small_config(**{**CONFIG, **settings})
    return Learner(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1), config, contexts(devices))


def weights(learned, device=0):
    mx.nd.waitall()
    return {name: p.list_data()[device].asnumpy() for name, p in learned.net._collect_params_with_prefix().items()}


def pulled(learned, batch, scale):
    """Forward and backward, and nothing learned from it: the summed losses, and the norm of the gradient of their sum
    times `scale`."""
    return learned._read(*learned._forward_backward(batch, scale))


def gradients(learned):
    return {p.name.split("_", 1)[1]: p.list_grad()[0].asnumpy() for p in learned.parameters}


def assert_close(found, expected, share):
    """Each array within `share` of the other's largest value, in a sum of many float32."""
    assert found.keys() == expected.keys()
    for name, array in found.items():
        scale = max(np.abs(expected[name]).max(), 1e-5)
        np.testing.assert_allclose(array, expected[name], atol=share * scale, err_msg=name)


def test_a_few_steps_lower_the_loss(samples):
    learned = learner(optimizer="adam")
    batch = batch_of(samples, [0, 1, 2, 6])
    losses = [learned.step(batch, 0.002).sum() for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("devices", ["cpu:2", "cpu:3"])
@pytest.mark.parametrize(
    "indices",
    [
        pytest.param([0, 1, 2, 3, 4, 5], id="objects-everywhere"),
        pytest.param([0, 1, 2, 6, 7, 3], id="some-empty"),
        pytest.param([0, 1, 6, 7], id="a-device-without-objects"),
        pytest.param([0, 1, 2, 3, 4], id="parts-of-other-sizes"),
    ],
)
def test_gradients_of_devices_add_up(samples, indices, devices):
    """Each part of the batch alone, on one device, with the whole batch's scale: their sum is the gradient of all. (A
    part has BatchNorm statistics of its own, so one device with the whole batch would have another gradient.)"""
    several, alone = learner(devices, min_hard_negatives=3), learner(min_hard_negatives=3)
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


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_devices_that_see_the_same_learn_what_one_does_bit_for_bit(samples, optimizer, count):
    """Each of two devices gets the same half of a batch, whose mean is that of the half alone, BatchNorm's too."""
    settings = {"optimizer": optimizer, "momentum": 0.9, "weight_decay": 0.0005, "clip_gradient": 5.0}
    one, several = learner(**settings), learner(f"cpu:{count}", **settings)
    start = weights(one)
    for indices in ([0, 1, 6], [2, 7], [3, 4, 5]):
        losses = one.step(batch_of(samples, indices), 1e-3)
        np.testing.assert_allclose(several.step(batch_of(samples, indices * count), 1e-3), losses * count, rtol=1e-6)
    found, expected = weights(several), weights(one)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert sum(not np.array_equal(start[name], array) for name, array in expected.items()) > 100


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adadelta"])
def test_devices_stay_equal(samples, optimizer):
    """All but BatchNorm's statistics, each device's own; those of the first are evaluated and saved."""
    learned = learner("cpu:2", optimizer=optimizer, momentum=0.9)
    for indices in ([0, 1, 2, 3], [3, 4, 6, 7], [5, 1, 6]):
        learned.step(batch_of(samples, indices), 1e-3)
    first, second = weights(learned), weights(learned, device=1)
    for name, array in first.items():
        assert np.array_equal(array, second[name]) or "running" in name or "moving" in name, name


def test_an_update_is_rate_times_gradient(samples):
    learned = learner()
    start = weights(learned)
    batch = batch_of(samples, [0, 1, 2, 3])
    pulled(learned, batch, 1.0 / batch.positives)
    name = "class_predictors.0.predictor.weight"
    gradient = learned.net._collect_params_with_prefix()[name].grad().asnumpy()
    learned = learner()
    learned.step(batch, 0.25)
    np.testing.assert_allclose(weights(learned)[name], start[name] - 0.25 * gradient, atol=1e-5)


def test_a_gradient_is_clipped_by_its_norm(samples):
    batch = batch_of(samples, [0, 1, 2, 3])
    free, clipped = learner(), learner(clip_gradient=0.5)
    start = weights(free)
    _, norm = pulled(learner(), batch, 1.0 / batch.positives)
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


def test_frozen_weights_stay(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    frozen = freeze(net, NETWORK, "mobilenet0_conv[0-9]_")
    assert frozen
    learned = Learner(net, small_config(**{**CONFIG, "weight_decay": 0.1}), contexts("cpu"))
    before = weights(learned)
    for _ in range(2):
        learned.step(batch_of(samples, [0, 1, 2, 3]), 0.05)
    after = weights(learned)
    assert all(np.array_equal(before[name], after[name]) for name in frozen)
    assert not np.array_equal(before["features.mobilenet0_conv20_weight"], after["features.mobilenet0_conv20_weight"])


@pytest.mark.parametrize("least, teaches", [(3, True), (0, False)])
def test_a_batch_of_empty_images_is_finite(samples, least, teaches):
    learned = learner(min_hard_negatives=least)
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
def test_a_step_that_is_not_finite_is_not_made(samples, name, value):
    learned = learner(optimizer="adam", clip_gradient=10.0)
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
    learnt = [n for n in before if not np.array_equal(before[n], after[n], equal_nan=True)]
    assert all("running" in n or "moving" in n for n in learnt), "only BatchNorm's statistics, which are then not saved"
    assert not learned.trainer._optimizer._index_update_count, "nor has the optimizer counted it"


def test_an_overflow_in_16_bits_is_left_out_and_the_scale_halved(samples):
    """By a scale at which gradients overflow 32 bits as those of 16 bits do earlier: that is no divergence."""
    learned = learner()
    learned.loss_scale = LossScale(2.0**150)
    before = weights(learned)
    learned.step(batch_of(samples, [0, 3]), 0.1)
    assert learned.loss_scale.value == 2.0**149
    for name, array in weights(learned).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_scale_grows_again_and_is_kept():
    scale = LossScale(8.0)
    assert not any(scale.overflows(np.ones(2), 1.0) for _ in range(GROWTH_STEPS))
    assert scale.value == 16.0
    other = LossScale(1024.0)
    other.restore(json.loads(json.dumps(scale.state())))
    assert other.state() == scale.state()
    assert not LossScale(1.0).overflows(np.ones(2), float("inf")), "in 32 bits it is a divergence"


def test_a_rate_much_too_high_is_told_a_few_steps_later(samples):
    learned = learner(momentum=0.9)
    with pytest.raises(TrainingDiverged, match="found loss .* with gradient norm nan, expected finite numbers"):
        for _ in range(20):
            learned.step(batch_of(samples, [0, 1, 2, 3]), 1e6)


@pytest.mark.parametrize(
    "optimizer, expected",
    [
        ("sgd", {"learning_rate": 0.001, "momentum": 0.7, "wd": 0.01}),
        ("rmsprop", {"learning_rate": 0.001, "wd": 0.01}),
        ("adam", {"learning_rate": 0.001}),
        ("adadelta", {"learning_rate": 0.001}),
    ],
)
def test_settings_of_optimizers(optimizer, expected):
    assert optimizer_settings(small_config(optimizer=optimizer, momentum=0.7, weight_decay=0.01)) == expected


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adadelta"])
def test_every_optimizer_learns(samples, optimizer):
    learned = learner(optimizer=optimizer)
    batch = batch_of(samples, [0, 1, 2, 3])
    rate = 0.01 if optimizer == "sgd" else 0.001
    steps = 11 if optimizer == "adadelta" else 6  # which has no rate and begins with large steps
    losses = [learned.step(batch, rate).sum() for _ in range(steps)]
    assert losses[-1] < losses[0]


def test_an_epoch_reports_means_per_positive_anchor(samples):
    learned = learner()
    batches = [batch_of(samples, [0, 1]), batch_of(samples, [2, 6]), batch_of(samples, [6, 7])]
    expected = [learner().step(batch, 1e-9) for batch in batches]
    found = train_one_epoch(learned, iter(batches), [1e-9] * 3)
    positives = batches[0].positives + batches[1].positives + 1
    np.testing.assert_allclose(found["CrossEntropy"], sum(e[0] for e in expected) / positives, rtol=2e-2)
    np.testing.assert_allclose(found["SmoothL1"], sum(e[1] for e in expected) / positives, rtol=2e-2)
    assert (found["images"], found["steps"]) == (6, 3)
    assert 0 <= found["data_seconds"] <= found["seconds"]


@pytest.mark.parametrize(
    "steps, rates, expected",
    [
        pytest.param(0, 2, "found 1 batches for 2 rates", id="fewer"),
        pytest.param(3, 5, "found 4 batches for 5 rates", id="fewer, resumed"),
        pytest.param(0, 0, "found more batches than the 0 rates", id="more"),
        pytest.param(3, 3, "found more batches than the 3 rates", id="more, resumed"),
    ],
)
def test_an_epoch_with_other_steps_than_planned_is_no_epoch(samples, steps, rates, expected):
    with pytest.raises(ValueError, match=expected):
        train_one_epoch(learner(), [batch_of(samples, [0, 1])], [1e-9] * rates, Tally(steps=steps))


def evaluator(net, **settings):
    return Evaluator(net, small_config(**settings), mx.cpu(), 100)


def eval_batches(samples, indices, size=3, size_wh=(SIDE, SIDE)):
    chunks = [indices[start : start + size] for start in range(0, len(indices), size)]
    return [batch_of(samples, chunk, EvalBatch, sizes=(size_wh,) * len(chunk)) for chunk in chunks]


def test_an_evaluation_scores_all_records(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    scores, smooth_l1, answers = evaluate(evaluator(net), eval_batches(samples, range(8)), SHAPE_CLASSES)
    assert scores.images == len(answers) == 8 and scores.background_images == 2
    assert [record.where for record, _ in answers] == [f"train.manifest:{i + 1}" for i in range(8)]
    assert smooth_l1 > 0 and 0 <= scores.voc07 <= 1
    again = evaluate(evaluator(net), eval_batches(samples, range(8), size=8), SHAPE_CLASSES)
    assert again[0].to_json() == scores.to_json()
    np.testing.assert_allclose(again[1], smooth_l1, rtol=1e-4)


def test_detections_are_in_pixels_of_the_image(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    (batch,) = eval_batches(samples, [0], size_wh=(640, 320))
    (large,), _ = evaluator(net).detect(batch)
    (small,), _ = evaluator(net).detect(eval_batches(samples, [0])[0])
    np.testing.assert_allclose(large.boxes, small.boxes * np.array([5, 2.5, 5, 2.5]), rtol=1e-4, atol=1e-2)
    assert large.size_wh == (640, 320)


def test_evaluation_leaves_the_net_as_it_is(samples):
    learned = learner()
    before = weights(learned)
    evaluate(evaluator(learned.net), eval_batches(samples, range(8)), SHAPE_CLASSES)
    assert all(np.array_equal(before[name], array) for name, array in weights(learned).items())


def test_images_without_objects_alone_have_no_validation_loss(samples):
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    scores, smooth_l1, _ = evaluate(evaluator(net), eval_batches(samples, [6, 7]), SHAPE_CLASSES)
    assert smooth_l1 is None and scores.voc07 is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("class_predictors.0.predictor.bias", np.nan),
        ("class_predictors.0.predictor.bias", np.inf),
        ("class_predictors.3.predictor.weight", np.nan),
        ("class_predictors.3.predictor.weight", -np.inf),
        ("box_predictors.0.predictor.bias", np.nan),
        ("box_predictors.0.predictor.weight", np.inf),
        ("features.mobilenet0_conv3_weight", np.nan),
        ("features.mobilenet0_conv3_weight", -np.inf),
        ("features.mobilenet0_batchnorm2_running_var", np.nan),
        ("features.mobilenet0_batchnorm20_running_mean", np.inf),
    ],
)
def test_nothing_that_is_not_finite_is_scored(samples, name, value):
    """GluonCV's metric gives a net of NaN a mAP of 1.0 on images with one object; NMS drops its scores unseen."""
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    parameter = net._collect_params_with_prefix()[name]
    parameter.set_data(mx.nd.full(parameter.shape, value))
    with pytest.raises(TrainingDiverged, match=f"found NaN or infinity in {name}, expected finite weights"):
        evaluate(evaluator(net), eval_batches(samples, range(8)), SHAPE_CLASSES)


@pytest.mark.parametrize("name", ["class_predictors.0.predictor.weight", "box_predictors.0.predictor.weight"])
def test_an_answer_that_is_not_finite_is_not_scored(samples, name):
    """Finite weights so large that what they compute is not."""
    net = build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1)
    parameter = net._collect_params_with_prefix()[name]
    parameter.set_data(mx.nd.full(parameter.shape, 3e38))
    with pytest.raises(TrainingDiverged, match="found NaN or infinity in the network's answer"):
        evaluate(evaluator(net), eval_batches(samples, range(8)), SHAPE_CLASSES)


def deferred(devices="cpu", **settings):
    """A learner as on GPUs, on the processor."""
    config = small_config(**{**CONFIG, "optimizer": "adam", **settings})
    return Learner(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1), config, contexts(devices), deferred=True)


@pytest.mark.parametrize("devices", ["cpu", "cpu:2", "cpu:4"])
@pytest.mark.parametrize("clip", [0.0, 0.5], ids=["free", "clipped"])
def test_steps_whose_end_nobody_waits_for_learn_the_same(samples, devices, clip):
    waiting, learned = learner(devices, optimizer="adam", clip_gradient=clip), deferred(devices, clip_gradient=clip)
    batches = [batch_of(samples, indices) for indices in ([0, 1, 2, 3], [4, 5, 6, 7], [1, 3, 5, 7])]
    assert learned.deferred and not waiting.deferred
    for who in (waiting, learned):
        who.step(batches[0], 1e-3)
    assert_close(weights(learned), weights(waiting), 1e-3)  # later steps of Adam make much of a rounding
    results = [train_one_epoch(who, iter(batches), [1e-3] * 3) for who in (waiting, learned)]
    np.testing.assert_allclose(results[1]["CrossEntropy"], results[0]["CrossEntropy"], rtol=2e-2)
    counts = [who.trainer._optimizer._index_update_count for who in (waiting, learned)]
    assert counts[0] == counts[1] and set(counts[1].values()) == {4}
    first, second = weights(learned), weights(learned, device=len(learned.devices) - 1)
    assert all(np.array_equal(a, second[n]) or "running" in n or "moving" in n for n, a in first.items())


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_a_step_that_is_not_finite_is_left_out_by_the_devices_and_told_a_step_later(samples, devices):
    learned = deferred(devices)
    good, bad, later = (batch_of(samples, indices) for indices in ([0, 1, 2, 3], [4, 5, 6, 7], [1, 3, 5, 7]))
    bad.box_targets[0, np.flatnonzero(bad.class_targets[0])[0]] = np.nan
    learned.step(good, 1e-3)
    before = [weights(learned, device) for device in range(len(learned.devices))]
    states = [array.asnumpy() for pair in learned.trainer._updaters[0].states.values() for array in pair]
    step = learned.begin_step(bad, 1e-3)
    after = [weights(learned, device) for device in range(len(learned.devices))]  # nobody has asked how it went
    for name, array in before[0].items():
        assert np.array_equal(array, after[0][name]) or "running" in name or "moving" in name, name
    for array, old in zip((a for pair in learned.trainer._updaters[0].states.values() for a in pair), states):
        np.testing.assert_array_equal(array.asnumpy(), old)
    with pytest.raises(TrainingDiverged, match="found loss nan .* train.manifest:5, train.manifest:6"):
        learned.end_step(step)
    for device, old in enumerate(before):
        found = weights(learned, device)
        assert all(np.array_equal(found[name], array) for name, array in old.items()), "BatchNorm's statistics too"
    assert set(learned.trainer._optimizer._index_update_count.values()) == {1}, "nor has the optimizer counted it"
    told = []
    with pytest.raises(TrainingDiverged, match="train.manifest:5"):
        train_one_epoch(deferred(devices), iter([bad, later, good]), [1e-3] * 3, after_step=lambda: told.append(1))
    assert len(told) == 1, "told when the next step is on its way"


@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_overflows_in_a_row_leave_batchnorms_statistics_as_they_were(samples, devices, count):
    """Each is known of only when the next has already been through the layers, with what the one before left there."""
    learned = deferred(devices)
    learned.loss_scale = LossScale(2.0**10)
    good, bad = batch_of(samples, [0, 1, 2, 3]), batch_of(samples, [4, 5, 6, 7])
    bad = dataclasses.replace(bad, pictures=np.where(bad.pictures > 200, np.float32(np.inf), bad.pictures))
    learned.step(good, 1e-4)
    before = [weights(learned, device) for device in range(len(learned.devices))]
    train_one_epoch(learned, iter([bad] * count), [1e-4] * count)
    assert learned.loss_scale.value == 2.0 ** (10 - count), "all were left out"
    for device, old in enumerate(before):
        found = weights(learned, device)
        for name, array in old.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    train_one_epoch(learned, iter([bad, bad, good, good]), [1e-4] * 4)
    for device in range(len(learned.devices)):
        assert all(np.isfinite(array).all() for array in weights(learned, device).values())


class Neighbour(OneHost):
    """Adds up with the gradients of another learner, which has made its own before."""

    def __init__(self, other):
        self.other, self.own = other, None

    def add_up(self, trainer):
        super().add_up(trainer)
        mine = [parameter.list_grad() for parameter in trainer._params]
        self.own = [arrays[0].copy() for arrays in mine]
        for arrays, others in zip(mine, self.other.own if self.other else ()):
            for array in arrays:
                array += others


@pytest.mark.parametrize("part", [1, 2], ids=["CrossEntropy", "SmoothL1"])
def test_a_loss_that_is_not_finite_on_one_host_is_left_out_on_all(samples, part):
    """Though its gradients are finite: the others hear of the loss when they have made the step."""
    first, second = deferred(), deferred()
    first.exchange = Neighbour(None)
    second.exchange = Neighbour(first.exchange)
    graph = first.graph

    def poisoned(*arrays):
        outputs = list(graph(*arrays))
        outputs[part] = outputs[part] * np.inf
        return outputs

    first.graph = poisoned
    batch = batch_of(samples, [0, 1, 2, 3])
    for who in (first, second):
        before = weights(who)
        who.begin_step(batch, 1e-3)
        for name, array in weights(who).items():
            assert np.array_equal(array, before[name]) or "running" in name or "moving" in name, name


def test_a_step_on_its_way_is_waited_for_before_its_tally_is_kept(samples):
    learned, tally = deferred(), Tally()
    batch = batch_of(samples, [0, 1, 2, 3])
    seen = []

    def keep():
        open_sum = tally.cross_entropy
        tally.settle()
        seen.append((open_sum, tally.cross_entropy, tally.steps))

    train_one_epoch(learned, [batch] * 2, [1e-9] * 2, tally, keep)
    (before, first, one), (same, second, two) = seen
    assert before == 0 < first == same < second and (one, two) == (1, 2)


@pytest.mark.parametrize(
    "settings, expected",
    [({"optimizer": "adam"}, True), ({"optimizer": "sgd"}, False), ({"optimizer": "adam", "ema_decay": 0.9}, False)],
    ids=["adam", "sgd", "with-an-average"],
)
def test_only_adam_without_an_average_can_be_masked(settings, expected):
    assert deferred(**settings).deferred is expected


@pytest.mark.parametrize("make", [learner, deferred], ids=["waited-for", "deferral-asked"])
def test_a_step_that_is_left_out_leaves_the_average_as_it_was(samples, make):
    """Now and, by what BatchNorm has seen of infinite activations, for good."""
    learned = make(ema_decay=0.9)
    average = learned.average = WeightAverage(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 2), learned.net, 0.9)
    learned.loss_scale = LossScale(2.0)
    good, bad = batch_of(samples, [0, 1, 2, 3]), batch_of(samples, [4, 5, 6, 7])
    bad = dataclasses.replace(bad, pictures=np.where(bad.pictures > 200, np.float32(np.inf), bad.pictures))
    learned.step(good, 1e-4)
    before = {name: p.data().asnumpy() for name, p in average.net._collect_params_with_prefix().items()}
    learned.step(bad, 1e-4)  # ReLU turns NaN into 0, so that the loss is finite and only the gradient is not
    assert learned.loss_scale.value == 1.0, "left out"
    assert average.updates == 1
    for name, parameter in average.net._collect_params_with_prefix().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[name], err_msg=name)
    learned.step(good, 1e-4)
    assert average.updates == 2
    for name, parameter in average.net._collect_params_with_prefix().items():
        assert np.isfinite(parameter.data().asnumpy()).all(), name


def frozen_learner(pattern, network=NETWORK):
    net = build_net(network, SIDE, list(SHAPE_CLASSES), 1)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.endswith(("running_mean", "running_var")):  # as of a trained backbone, other than a batch's
            draw = np.random.RandomState(len(name)).uniform(0.5, 1.5, parameter.shape)
            parameter.set_data(mx.nd.array(draw - ("mean" in name)))
    freeze(net, network, pattern)
    return Learner(net, small_config(**CONFIG), contexts("cpu"))


@pytest.mark.parametrize("network", ["mobilenet0.25", "mobilenetv2_1.0", "resnet-50"])
def test_a_frozen_backbone_is_seen_in_training_as_it_is_afterwards(samples, network):
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


def test_freezing_does_not_change_what_the_rest_learns(samples):
    """The same statistics with and without gradients of the layers below: those above have the same gradients."""
    frozen, free = frozen_learner(r"^features\.mobilenet"), frozen_learner(r"^features\.mobilenet0_batchnorm")
    batch = batch_of(samples, [0, 1, 2, 3])
    results = [pulled(learned, batch, 1.0 / batch.positives)[0] for learned in (frozen, free)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    found, all_of_them = gradients(frozen), gradients(free)
    assert 0 < len(found) < len(all_of_them)
    assert_close(found, {name: all_of_them[name] for name in found}, 1e-4)
