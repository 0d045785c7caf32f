"""Tests of fused layers: values, gradients and statistics equal those of the plain layers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssd_train import mxnet_compat
from ssd_train.model import fused
from ssd_train.model.fused import FUSED_OPERATOR, FusedPredictor, fused_features
from ssd_train.model.net import VGG, build_net, freeze

mx = mxnet_compat.mxnet()

SIDE, IMAGES = 96, 2
SHAPE = (IMAGES, 3, SIDE, SIDE)
needs_operator = pytest.mark.skipif(
    not mxnet_compat.has_fused_batchnorm(), reason="MXNet's fused BatchNorm is not to be had on this processor"
)


@pytest.fixture(autouse=True)
def like_a_processor_that_can(monkeypatch):
    """Test the graph even on a CPU without AVX2."""
    monkeypatch.setattr(mxnet_compat, "has_fused_batchnorm", lambda: True)


def operators(block):
    return [node["op"] for node in json.loads(block._cached_graph[1].tojson())["nodes"]]


def learned(features, net):
    """Return maps, gradients and statistics of a step of `features`, which share the parameters of `net`."""
    pixels = mx.nd.array(np.random.RandomState(1).normal(0, 1, SHAPE))
    features.hybridize(static_alloc=True, static_shape=True)
    parameters = net.features.collect_params().values()
    with mx.autograd.record():
        maps = features(pixels)
        loss = mx.nd.add_n(*[(m * m).sum() for m in maps])
    loss.backward()
    gradients = [p.grad().asnumpy() for p in parameters if p.grad_req != "null"]
    return [m.asnumpy() for m in maps], gradients, [p.data().asnumpy() for p in parameters if p.grad_req == "null"]


def lived_in(network):
    """Return a network with random BatchNorm parameters; the initial ones have hardly any gradient."""
    net = build_net(network, SIDE, ["a"], seed=3)
    random = np.random.RandomState(2)
    for name, parameter in net.features.collect_params().items():
        if name.endswith(("gamma", "running_var")):
            parameter.set_data(mx.nd.array(random.uniform(0.5, 1.5, parameter.shape)))
        elif name.endswith(("beta", "running_mean")):
            parameter.set_data(mx.nd.array(random.normal(0, 0.3, parameter.shape)))
    return net


def assert_alike(found, expected):
    for ours, plain in zip(found, expected):
        assert sum(np.abs(array).max() > 0 for array in plain) > 0.6 * len(plain)  # gammas that are fixed have none
        for one, other in zip(ours, plain):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@needs_operator
@pytest.mark.parametrize(
    "network, joined",  # those of the backbone and of the two extra maps, two each
    [("mobilenet0.25", 27 + 4), ("mobilenet1.0", 27 + 4), ("resnet-50", 33 + 4)],
)
def test_fused_features_step_equals_plain_layers(network, joined):
    plain, other = lived_in(network), lived_in(network)
    features = fused_features(other, SHAPE)
    assert operators(features).count(FUSED_OPERATOR) == joined
    assert operators(features).count("Activation") + joined == operators(plain.features).count("Activation")
    assert_alike(learned(features, other), learned(plain.features, plain))


@needs_operator
@pytest.mark.parametrize("pattern", [r"^features\.mobilenet", r"batchnorm\d+_"], ids=["backbone", "batchnorm-alone"])
def test_fused_features_frozen_layers_keep_statistics(pattern):
    plain, other = lived_in("mobilenet0.25"), lived_in("mobilenet0.25")
    for net in (plain, other):
        freeze(net, "mobilenet0.25", pattern)
    means = other.features.collect_params(".*batchnorm0_running_mean").values()
    before = [mean.data().asnumpy() for mean in means]
    assert_alike(learned(fused_features(other, SHAPE), other), learned(plain.features, plain))
    assert before and all(np.array_equal(was, mean.data().asnumpy()) for was, mean in zip(before, means))


@needs_operator
def test_fused_features_leave_the_network_exportable():
    net = build_net("mobilenet0.25", SIDE, ["a"])
    before = net.features._cached_graph[1].tojson()
    assert fused_features(net, SHAPE) is not None
    assert net.features._cached_graph[1].tojson() == before and FUSED_OPERATOR not in before


def test_fused_features_without_batchnorm_is_none():
    assert fused_features(build_net(VGG, 128, ["a"]), SHAPE) is None


def test_fused_features_without_the_operator_is_none(monkeypatch):
    monkeypatch.setattr(mxnet_compat, "has_fused_batchnorm", lambda: False)
    assert fused_features(build_net("mobilenet0.25", SIDE, ["a"]), SHAPE) is None


def test_fused_features_without_backward_pass_is_none(monkeypatch):
    class NoWayBack(mx.autograd.Function):
        def forward(self, pixels):
            return pixels * 2

        def backward(self, gradient):
            raise mx.MXNetError("could not create a primitive descriptor iterator")

    class Impossible(mx.gluon.Block):
        def forward(self, pixels):
            pixels.attach_grad()
            with mx.autograd.record():
                return [NoWayBack()(pixels)]

    monkeypatch.setattr(fused, "_block", lambda *_: Impossible())
    assert fused_features(build_net("mobilenet0.25", SIDE, ["a"]), SHAPE) is None


@pytest.mark.parametrize("has_avx2, enabled, expected", [(True, "1", True), (False, "1", False), (True, "0", False)])
def test_has_fused_batchnorm_requires_onednn_and_avx2(monkeypatch, has_avx2, enabled, expected):
    monkeypatch.undo()  # of the fixture
    monkeypatch.setenv("MXNET_MKLDNN_ENABLED", enabled)
    monkeypatch.setitem(np.core._multiarray_umath.__cpu_features__, "AVX2", has_avx2)
    assert mxnet_compat.has_fused_batchnorm() == (expected and mx.runtime.Features().is_enabled("MKLDNN"))


@pytest.mark.parametrize("classes, anchors", [(1, 4), (3, 6), (80, 4)], ids=["padded", "more-padded", "many-classes"])
def test_fused_predictor_equals_separate_predictors(classes, anchors):
    random = np.random.RandomState(1)
    layers = [mx.gluon.nn.Conv2D(anchors * width, 3, padding=1, in_channels=24) for width in (classes + 1, 4)]
    for layer in layers:
        layer.initialize(mx.init.Normal(0.1))
        layer.bias.set_data(mx.nd.array(random.normal(0, 1, layer.bias.shape)))
    joined = FusedPredictor(*layers)
    joined.hybridize(static_alloc=True, static_shape=True)
    maps = mx.nd.array(random.normal(0, 1, (2, 24, 5, 7)))
    found, expected = [], []
    for results, run in ((expected, lambda: [layer(maps) for layer in layers]), (found, lambda: joined(maps))):
        with mx.autograd.record():
            outputs = run()
        mx.autograd.backward(list(outputs))
        results += [output.asnumpy() for output in outputs]
        results += [p.grad().asnumpy() for layer in layers for p in (layer.weight, layer.bias)]
    assert found[0].shape == (2, anchors * (classes + 1), 5, 7) and found[1].shape == (2, anchors * 4, 5, 7)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
