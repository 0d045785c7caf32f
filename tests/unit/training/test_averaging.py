"""Tests of the moving average of weights."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train.data.synthetic import SHAPE_CLASSES
from ssd_train.model.net import build_net
from ssd_train.training.step import ModelEMA

SIDE = 128


def make_net(seed=1):
    return build_net("mobilenet0.25", SIDE, list(SHAPE_CLASSES), seed)


def values(net):
    return {n: p.list_data()[0].asnumpy() for n, p in net._collect_params_with_prefix().items() if "anchors" not in n}


def add(net, amount):
    for name, parameter in net._collect_params_with_prefix().items():
        if "anchors" not in name:
            parameter.set_data(parameter.list_data()[0] + amount)


@pytest.mark.parametrize("decay", [0.05, 0.25, 0.999])
def test_moving_average_equals_hand_computed(decay):
    """Steps of +1, +2, +3 on every number: of the average, the first three decays are at most 2/11, 3/12 and 4/13."""
    net, train_step = make_net(1), make_net(2)
    start = values(train_step)
    average = ModelEMA(net, train_step, decay)
    moved = expected = 0.0
    for step in (1, 2, 3):
        add(train_step, step)
        average.update()
        moved += step
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * moved
    assert average.updates == 3
    for name, found in values(net).items():
        np.testing.assert_allclose(found, start[name] + expected, rtol=1e-5, atol=1e-5, err_msg=name)
    assert all(np.allclose(found, start[name] + 6, atol=1e-5) for name, found in values(train_step).items())
