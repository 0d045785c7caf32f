"""Steps whose end nobody waits for: the same weights, and what is not finite left out by the devices themselves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import small_config
from learners import CONFIG, NETWORK, SIDE, assert_close, batch_of, learner, weights

from ssd_train.data.drawn import SHAPE_CLASSES
from ssd_train.errors import TrainingDiverged
from ssd_train.model.net import build_net
from ssd_train.training.averaging import WeightAverage
from ssd_train.training.devices import contexts
from ssd_train.training.engine import train_one_epoch
from ssd_train.training.exchange import OneHost
from ssd_train.training.learner import Learner
from ssd_train.training.loss_scale import LossScale
from ssd_train.training.tally import Tally


def test_a_rate_much_too_high_is_told_a_few_steps_later(samples):
    learned = learner(momentum=0.9)
    with pytest.raises(TrainingDiverged, match="found loss .* with gradient norm nan, expected finite numbers"):
        for _ in range(20):
            learned.step(batch_of(samples, [0, 1, 2, 3]), 1e6)


def deferred(devices="cpu", **settings):
    """A learner as on GPUs, on the processor."""
    config = small_config(**{**CONFIG, "optimizer": "adam", **settings})
    return Learner(build_net(NETWORK, SIDE, list(SHAPE_CLASSES), 1), config, contexts(devices), deferred=True)


@pytest.mark.parametrize("devices", ["cpu", "cpu:1,cpu:2", "cpu:1,cpu:2,cpu:3,cpu:4"])
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
    assert [result["clipped"] for result in results] == [3 if clip else 0] * 2
    counts = [who.trainer._optimizer._index_update_count for who in (waiting, learned)]
    assert counts[0] == counts[1] and set(counts[1].values()) == {4}
    first, second = weights(learned), weights(learned, device=len(learned.devices) - 1)
    assert all(np.array_equal(a, second[n]) or "running" in n or "moving" in n for n, a in first.items())


@pytest.mark.parametrize("devices", ["cpu", "cpu:1,cpu:2"])
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


@pytest.mark.parametrize("devices", ["cpu", "cpu:1,cpu:2"])
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
