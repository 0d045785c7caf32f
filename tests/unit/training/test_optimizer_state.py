"""Tests of saving and loading the optimizer's state."""

from __future__ import annotations

import json

import pytest
from helpers.data import small_config
from helpers.models import assert_equal, make_net, noise_batch, saved_learner, values

from ssd_train import mxnet_compat
from ssd_train.devices import contexts
from ssd_train.model.pretrained import read_arrays
from ssd_train.training.checkpoint import load_optimizer, save_optimizer
from ssd_train.training.step import TrainStep

mx = mxnet_compat.mxnet()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adadelta"])
def test_load_optimizer_continues_bit_for_bit(tmp_path, optimizer):
    unbroken, broken, resumed = saved_learner(optimizer), saved_learner(optimizer), saved_learner(optimizer, seed=5)
    for step in range(6):
        unbroken.step(noise_batch(step), 0.001 * (step + 1))
    for step in range(3):
        broken.step(noise_batch(step), 0.001 * (step + 1))
    counts = save_optimizer(tmp_path / "o.params", broken.trainer)
    for parameter, value in values(broken.net).items():
        resumed.net._collect_params_with_prefix()[parameter].set_data(mx.nd.array(value))
    load_optimizer(read_arrays(tmp_path / "o.params"), resumed.trainer, json.loads(json.dumps(counts)))
    for step in range(3, 6):
        resumed.step(noise_batch(step), 0.001 * (step + 1))
    assert_equal(resumed.net, unbroken.net)
    assert resumed.trainer._optimizer.num_update == unbroken.trainer._optimizer.num_update == 6


def test_save_optimizer_without_state(tmp_path):
    config = small_config(optimizer="sgd", momentum=0)
    learned = TrainStep(make_net(), config, contexts("cpu"))
    learned.step(noise_batch(0), 0.01)
    counts = save_optimizer(tmp_path / "o.params", learned.trainer)
    load_optimizer(read_arrays(tmp_path / "o.params"), learned.trainer, counts)
    learned.step(noise_batch(1), 0.01)
    assert learned.trainer._optimizer.num_update == 2
