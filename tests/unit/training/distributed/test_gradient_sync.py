"""Tests of one host's gradient synchronization and of the server's optimizer (the others: test_process_group)."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import small_config

from ssd_train import mxnet_compat
from ssd_train.training.distributed.communicator import LocalSync, server_optimizer
from ssd_train.training.schedule import learning_rate
from ssd_train.training.step import optimizer_settings

mx = mxnet_compat.mxnet()

EPOCHS, STEPS, HOSTS = 6, 10, 2


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"lr_schedule": "constant"}, id="constant"),
        pytest.param({"lr_scheduler_step": "2,4", "lr_scheduler_factor": 0.5, "warmup_epochs": 0}, id="steps"),
        pytest.param({"lr_schedule": "cosine", "warmup_epochs": 0}, id="cosine"),
        pytest.param({"lr_schedule": "cosine", "warmup_epochs": 2}, id="warm-up"),
    ],
)
@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_server_optimizer_follows_the_learning_rate_schedule(settings, first):
    """Every host's step is one update; the same after a resume."""
    config = small_config(epochs=EPOCHS, learning_rate=0.01, optimizer="sgd", momentum=0.0, **settings)
    updates = STEPS * HOSTS
    optimizer = server_optimizer(config, optimizer_settings(config), updates, first * updates)
    weight, rates = mx.nd.zeros(1), []
    updater = mx.optimizer.get_updater(optimizer)
    for _ in range(first * updates, EPOCHS * updates):
        before = weight.asscalar()
        optimizer.wd = 0.0
        updater(0, mx.nd.ones(1), weight)
        rates.append(before - weight.asscalar())
    expected = [learning_rate(config, e, s, STEPS) for e in range(first, EPOCHS) for s in range(STEPS) for _ in "ab"]
    # a step sooner or later where it changes
    slack = 0.01 / (config.warmup_epochs * updates) * 2.1 if config.warmup_epochs else 0.001
    jumps = [i for i in range(len(rates)) if abs(rates[i] - expected[i]) > slack]
    assert len(jumps) <= 2, [(i, rates[i], expected[i]) for i in jumps]


@pytest.mark.parametrize("made", [0, 1, 30, 10_000])
def test_server_optimizer_resumed_with_empty_moments_moves_by_the_rate(made):
    """Adam's first update is the rate, whatever the gradient; it was 3.2 times that after many updates."""
    config = small_config(epochs=1000, optimizer="adam", learning_rate=0.01, lr_schedule="constant", warmup_epochs=0)
    updater = mx.optimizer.get_updater(server_optimizer(config, optimizer_settings(config), STEPS * HOSTS, made))
    weight, moved = mx.nd.zeros(3), []
    for gradient in ([1, -20, 0.3], [1, -20, 0.3], [2, -10, 0.3]):
        before = weight.asnumpy()
        updater(0, mx.nd.array(gradient), weight)
        moved.append(np.abs(weight.asnumpy() - before))
    np.testing.assert_allclose(moved[:2], np.full((2, 3), 0.01), rtol=1e-3)
    assert np.max(moved) < 0.0101


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop", "adadelta"])
def test_server_optimizer_is_the_configured_one(optimizer):
    config = small_config(optimizer=optimizer, momentum=0.7, weight_decay=0.01)
    found = server_optimizer(config, optimizer_settings(config), 10, 0)
    assert type(found).__name__.lower() == optimizer and found.rescale_grad == 1
    assert getattr(found, "momentum", 0.7) == 0.7 and found.wd == (0.01 if optimizer in ("sgd", "rmsprop") else 0)


def test_server_optimizer_longest_warmup_leaves_a_schedule():
    config = small_config(epochs=1, warmup_epochs=5, lr_schedule="cosine")
    optimizer = server_optimizer(config, optimizer_settings(config), 4, 0)
    assert np.isfinite([optimizer.lr_scheduler(update) for update in range(10)]).all()


@pytest.mark.parametrize(
    "kv_store, devices, expected",
    [
        ("device", 1, None),
        ("device", 2, "device"),
        ("local", 2, "local"),
        ("dist_sync", 1, None),
        ("dist_sync", 2, "device"),
    ],
)
def test_local_kvstore_of_one_host(kv_store, devices, expected):
    assert LocalSync().local_kvstore(small_config(kv_store=kv_store), [mx.cpu(i) for i in range(devices)]) == expected
