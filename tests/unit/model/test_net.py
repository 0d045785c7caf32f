"""Tests of build_net: initial values, parameter names, class head replacement, freezing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers.models import values

from ssd_train import mxnet_compat
from ssd_train.config import BASE_NETWORKS
from ssd_train.errors import ConfigError
from ssd_train.model.net import build_net, builtin_names, class_heads, freeze, init_background_prior, reset_class

mx = mxnet_compat.mxnet()

SMALL_NETWORK = "mobilenet0.25"


@pytest.fixture(scope="module")
def nets():
    """Return a network of each kind at 128 px, built once."""
    built = {}

    def net(base_network):
        if base_network not in built:
            built[base_network] = build_net(base_network, 128, ["cat", "dog"], seed=7)
        return built[base_network]

    return net


@pytest.fixture
def thawed(nets):
    """Return networks as `nets` does; frozen parameters are thawed after the test."""
    before = {}

    def net(base_network):
        for parameter in nets(base_network)._collect_params_with_prefix().values():
            before[parameter] = parameter.grad_req
        return nets(base_network)

    yield net
    for parameter, grad_req in before.items():
        parameter.grad_req = grad_req


@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_build_net_initial_values(nets, base_network):
    """GluonCV's own initialisation draws the extra layers' BatchNorm at random, variances below 0 included."""
    for name, array in values(nets(base_network)).items():
        kind = name.rsplit("_", 1)[-1].rsplit(".", 1)[-1]
        assert np.isfinite(array).all(), name
        if name.endswith(("running_var", "moving_var", "gamma")):
            assert (array == 1).all(), name
        elif name.endswith(("running_mean", "moving_mean", "beta", "bias")):
            assert (array == 0).all(), name
        elif kind == "weight":
            # a deviation that is neither nothing nor too much, about zero
            assert 0.003 < array.std() < 1.5 and abs(array.mean()) < array.std(), name
        else:
            assert name.endswith(("anchors", "scale")), name


def test_build_net_vgg_keeps_its_scale_parameters(nets):
    found = values(nets("vgg-16"))
    assert (found["features.norm4.scale"] == 20).all()
    np.testing.assert_allclose(found["features.init_scale"].ravel(), np.array([0.229, 0.224, 0.225]) * 255, rtol=1e-6)


@pytest.mark.parametrize("base_network", BASE_NETWORKS)
def test_build_net_untrained_activations_stay_in_range(nets, base_network):
    """With He's initialization the activations neither vanish nor explode."""
    net = nets(base_network)
    random = np.random.RandomState(0)
    with mx.autograd.train_mode():  # BatchNorm on the batch's own statistics
        maps = net.features(mx.nd.array(random.normal(0, 1, (2, 3, 128, 128))))
        scores = net.class_predictors[0](maps[0]).asnumpy()
    assert all(1e-3 < float(m.asnumpy().std()) < 1e3 for m in maps[:-1])
    assert 0 < np.abs(scores).max() < 20, "training starts from nearly even class scores"


def test_initialize_depends_on_seed_and_name_only():
    first = values(build_net(SMALL_NETWORK, 128, ["cat", "dog"], seed=3))
    build_net("mobilenet0.5", 128, ["a"], seed=9)
    mx.random.seed(123)
    np.random.seed(321)
    again = values(build_net(SMALL_NETWORK, 128, ["cat", "dog"], seed=3))
    other = values(build_net(SMALL_NETWORK, 128, ["cat", "dog"], seed=4))
    assert list(first) == list(again) == list(other), "names do not count the nets built before"
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        changes = name.endswith("weight")
        assert np.array_equal(first[name], other[name]) != changes, name


def head_rows(net, old_classes):
    """For each head its rows by class, background first: (shapes, classes + 1, ...)."""
    return [
        p.data().asnumpy().reshape(-1, len(old_classes) + 1, *p.shape[1:])
        for name, p in net._collect_params_with_prefix().items()
        if name.startswith("class_predictors.")
    ]


def test_reset_class_keeps_given_rows_and_background():
    old, new, rows = ["cat", "dog", "cow"], ["emu", "cow", "cat", "yak"], [-1, 2, 0, -1]
    net = build_net(SMALL_NETWORK, 128, old)
    for name, parameter in net._collect_params_with_prefix().items():
        if name.startswith("class_predictors."):
            parameter.set_data(mx.nd.random.normal(shape=parameter.shape))
    initial = class_heads(build_net(SMALL_NETWORK, 128, new))
    before = head_rows(net, old)
    reset_class(net, new, rows, initial, kept=initial)
    assert list(net.classes) == new
    for was, now, first in zip(before, head_rows(net, new), initial.values()):
        for position, row in enumerate(rows, 1):
            expected = first[position :: len(new) + 1] if row < 0 else was[:, row + 1]
            np.testing.assert_array_equal(now[:, position], expected)
        np.testing.assert_array_equal(now[:, 0], was[:, 0])
    assert net.class_predictors[0].predictor.weight.shape[0] == 4 * (len(new) + 1)


@pytest.mark.parametrize("names", ["logo", [], ["a", "a"]], ids=["a-string", "none", "twice"])
def test_reset_class_invalid_names_raise(nets, names):
    with pytest.raises(ConfigError, match=f"^class names: .*{re.escape(repr(names))}"):
        reset_class(nets(SMALL_NETWORK), names, [-1] * len(names), {}, ())
    assert list(nets(SMALL_NETWORK).classes) == ["cat", "dog"]


@pytest.mark.parametrize(
    "base_network, pattern, some, others",
    [
        pytest.param(
            "vgg-16",
            "^(conv1_|conv2_).*",
            ["features.stages.0.0.weight", "features.stages.1.2.bias"],
            ["features.stages.2.0.weight"],
            id="the-documented-example",
        ),
        pytest.param(
            "vgg-16",
            "fc[67]",
            ["features.stages.5.0.weight", "features.stages.5.2.bias"],
            ["features.stages.4.0.weight"],
            id="fc",
        ),
        pytest.param(
            "resnet-50",
            "^(conv0|stage1_)",
            ["features.resnetv10_conv0_weight", "features.resnetv10_stage1_conv3_weight"],
            ["features.resnetv10_stage2_conv0_weight"],
            id="first-stage",
        ),
        pytest.param(
            "mobilenet0.25",
            "^features",
            ["features.mobilenet0_conv0_weight"],
            ["class_predictors.0.predictor.weight"],
            id="our-names",
        ),
        pytest.param(
            "mobilenet0.25",
            "conv[0-3]_",
            ["features.mobilenet0_conv3_weight"],
            ["features.mobilenet0_conv13_weight"],
            id="contains",
        ),
    ],
)
def test_freeze_pattern_freezes_matching_parameters(thawed, base_network, pattern, some, others):
    net = thawed(base_network)
    parameters = net._collect_params_with_prefix()
    frozen = freeze(net, base_network, pattern)
    assert set(some) <= set(frozen) and not set(others) & set(frozen)
    assert {parameters[name].grad_req for name in frozen} == {"null"}
    assert parameters[others[0]].grad_req == "write"


@pytest.mark.parametrize(
    "base_network, pattern", [("mobilenet0.25", "^conv1_"), ("resnet-50", "stage9"), ("vgg-16", "conv6_1")]
)
def test_freeze_pattern_without_match_raises_and_lists_names(nets, base_network, pattern):
    with pytest.raises(ConfigError) as error:
        freeze(nets(base_network), base_network, pattern)
    assert str(error.value).startswith(f"freeze_layer_pattern: found {pattern!r}")
    assert "features." in str(error.value) and "_predictors." in str(error.value)


def test_freeze_pattern_matching_everything_raises(thawed):
    with pytest.raises(ConfigError, match="^freeze_layer_pattern: found '.*'"):
        freeze(thawed(SMALL_NETWORK), SMALL_NETWORK, ".*")


def builtin(net, base_network):
    """Return our name and shape of every parameter of the built-in algorithm, by its name there."""
    parameters = net._collect_params_with_prefix()
    named = [(other, name) for name in parameters for other in builtin_names(base_network, name)]
    assert len({other for other, _ in named}) == len(named), "each name once"
    return {other: (name, parameters[name].shape) for other, name in named}


def test_builtin_names_of_vgg(nets):
    found = builtin(nets("vgg-16"), "vgg-16")
    layers = [f"conv{stage}_{layer}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for layer in range(1, count + 1)]
    assert set(found) == {f"{layer}_{kind}" for layer in [*layers, "fc6", "fc7"] for kind in ("weight", "bias")}
    assert found["conv1_1_weight"][1] == (64, 3, 3, 3)
    assert found["conv5_3_weight"][1] == (512, 512, 3, 3)
    assert found["fc6_weight"][1][:2] == (1024, 512) and found["fc7_weight"][1] == (1024, 1024, 1, 1)


def test_builtin_names_of_resnet(nets):
    found = builtin(nets("resnet-50"), "resnet-50")
    assert found["conv0_weight"][1] == (64, 3, 7, 7)
    for stage, units in enumerate((3, 4, 6, 3), 1):
        for unit in range(1, units + 1):
            shapes = [found[f"stage{stage}_unit{unit}_conv{part}_weight"][1] for part in (1, 2, 3)]
            assert [shape[2] for shape in shapes] == [1, 3, 1], "bottleneck"
            assert shapes[2][0] == 4 * shapes[0][0] == 256 * 2 ** (stage - 1)
            assert found[f"stage{stage}_unit{unit}_bn2_moving_var"][1] == (shapes[1][0],)
        shortcut = found[f"stage{stage}_unit1_sc_weight"][1]
        assert shortcut == (256 * 2 ** (stage - 1), 64 if stage == 1 else 128 * 2 ** (stage - 1), 1, 1)
        assert f"stage{stage}_unit{units + 1}_conv1_weight" not in found
        assert f"stage{stage}_unit2_sc_weight" not in found


@pytest.mark.parametrize("classes", [["a"], ["a", "b", "c"]], ids=len)
def test_background_prior_sets_initial_probabilities(classes):
    """Of zero features every anchor has 0.99 of background and the rest shared evenly by the classes."""
    net = build_net(SMALL_NETWORK, 128, classes)
    before = values(net)
    init_background_prior(net, 0.99)
    after = values(net)
    for name, array in after.items():
        if name.startswith("class_predictors.") and name.endswith("bias"):
            scores = np.exp(array.reshape(-1, len(classes) + 1))
            shares = scores / scores.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(shares[:, 0], 0.99, rtol=1e-5)
            np.testing.assert_allclose(shares[:, 1:], 0.01 / len(classes), rtol=1e-4)
        else:
            assert np.array_equal(array, before[name]), name
