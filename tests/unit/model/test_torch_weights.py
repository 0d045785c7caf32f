"""State dicts in .safetensors files, with names and shapes of timm's and torchvision's networks (torch_shapes.json).

tests/integration/test_torch_weights.py compares the names with the libraries, and the features.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.models import values
from safetensors.numpy import save_file

from ssd_train import mxnet_compat
from ssd_train.errors import DependencyError, WeightsError
from ssd_train.model.net import build_net
from ssd_train.model.pretrained import load_pretrained
from ssd_train.model.torch_weights import CAFFE_MEAN, DEVIATION, MEAN

mx = mxnet_compat.mxnet()

SHAPES = json.loads((Path(__file__).parent / "torch_shapes.json").read_text("utf-8"))


def state_of(name):
    """Random arrays with the names and shapes of a network; counters are integers, as in PyTorch."""
    random = np.random.RandomState(0)
    return {
        key: random.uniform(0.01, 1, shape).astype(np.int64 if key.endswith("num_batches_tracked") else np.float32)
        for key, shape in SHAPES[name].items()
    }


def saved(path, state):
    save_file(state, str(path / "a.safetensors"))
    return path / "a.safetensors"


@pytest.mark.parametrize(
    "name, base_network, loaded, fates",
    [
        ("mobilenetv1_100", "mobilenet1.0", (135, 135), (0, 0, 29)),
        ("mobilenet_v2", "mobilenetv2_1.0", (260, 260), (0, 0, 54)),
        ("vgg16", "vgg-16", (26, 30), (4, 0, 0)),
    ],
)
def test_load_pretrained_torch_state_dict_fills_the_backbone_once(tmp_path, name, base_network, loaded, fates):
    """Each tensor but the first ones, which are adapted to the input, is in the network as it is in the file."""
    state, net = state_of(name), build_net(base_network, 128, ["cat"])
    before = values(net)
    report = load_pretrained(net, base_network, saved(tmp_path, state))
    assert (report.loaded, report.total) == loaded
    assert tuple(count for _, count in report.fates) == fates
    after = values(net)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert len(changed) == report.loaded and all(key.startswith("features.") for key in changed)
    given = {array.tobytes() for key, array in state.items()}
    adapted = [key for key in changed if after[key].tobytes() not in given]
    assert len(adapted) == {"mobilenet1.0": 2, "mobilenetv2_1.0": 0, "vgg-16": 1}[base_network]


def test_load_pretrained_timm_first_layer_computes_the_same_of_the_same_pixels(tmp_path):
    """timm's input is (pixel - 0.5) / 0.5, ours (pixel - MEAN) / DEVIATION; the padded border is left out."""
    state, net = state_of("mobilenetv1_100"), build_net("mobilenet1.0", 128, ["cat"])
    load_pretrained(net, "mobilenet1.0", saved(tmp_path, state))
    weight, mean = (values(net)[f"features.mobilenet0_{key}"] for key in ("conv0_weight", "batchnorm0_running_mean"))
    pixels = np.random.RandomState(1).uniform(0, 1, (1, 3, 8, 8))
    convolved = [
        mx.nd.Convolution(mx.nd.array(x), mx.nd.array(w), kernel=(3, 3), num_filter=32, no_bias=True).asnumpy()
        for x, w in (((pixels - 0.5) / 0.5, state["conv_stem.weight"]), ((pixels - MEAN) / DEVIATION, weight))
    ]
    theirs = convolved[0] - state["bn1.running_mean"].reshape(1, -1, 1, 1)
    np.testing.assert_allclose(convolved[1] - mean.reshape(1, -1, 1, 1), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features_only", [False, True])
def test_load_pretrained_vgg_first_layer_computes_the_same_of_the_same_pixels(tmp_path, features_only):
    state, net = state_of("vgg16"), build_net("vgg-16", 128, ["cat"])
    state["classifier.0.weight"] = np.full((4, 4), np.nan if features_only else 1.0, np.float32)
    report = load_pretrained(net, "vgg-16", saved(tmp_path, state))
    assert dict(report.fates)["not needed"] == 1
    weight, bias = (values(net)[f"features.stages.0.0.{key}"] for key in ("weight", "bias"))
    pixels = np.random.RandomState(1).uniform(0, 1, (1, 3, 8, 8))
    theirs = (pixels - CAFFE_MEAN) * 255 if features_only else (pixels - MEAN) / DEVIATION
    ours = (pixels - MEAN) * 255  # after init_scale
    convolved = [
        mx.nd.Convolution(mx.nd.array(x), mx.nd.array(w), mx.nd.array(b), kernel=(3, 3), num_filter=64).asnumpy()
        for x, w, b in ((theirs, state["features.0.weight"], state["features.0.bias"]), (ours, weight, bias))
    ]
    np.testing.assert_allclose(convolved[1], convolved[0], rtol=1e-4, atol=1e-4 * abs(convolved[0]).max())


def test_load_pretrained_counts_missing_and_other_shapes(tmp_path):
    state = state_of("mobilenetv1_100")
    del state["blocks.0.0.conv_dw.weight"]
    state["bn1.bias"] = np.ones(7, np.float32)
    net = build_net("mobilenet1.0", 128, ["cat"])
    report = load_pretrained(net, "mobilenet1.0", saved(tmp_path, state))
    assert (report.loaded, dict(report.fates)) == (133, {"missing": 1, "of another shape": 1, "not needed": 29})
    assert "133 of 135" in str(report) and "1 missing" in str(report) and "29 not needed" in str(report)


def test_load_pretrained_half_precision_is_converted(tmp_path):
    state = {key: array.astype(np.float16) for key, array in state_of("mobilenetv1_100").items()}
    report = load_pretrained(build_net("mobilenet1.0", 128, ["cat"]), "mobilenet1.0", saved(tmp_path, state))
    assert report.loaded == 135


@pytest.mark.parametrize(
    "name, base_network, expected",
    [
        ("resnet50", "resnet-50", "3x3.*stride.*1x1"),
        ("resnet50", "mobilenet1.0", "320 tensors.*conv_stem.weight.*timm"),
        ("mobilenetv1_100", "mobilenetv2_1.0", "torchvision's MobileNet V2"),
        ("mobilenetv1_100", "mobilenet0.5", r"\d+ of the 135 tensors"),
        ("mobilenet_v2", "vgg-16", r"of the 30 tensors|torchvision's VGG-16"),
    ],
)
def test_load_pretrained_torch_weights_of_another_network_are_refused(tmp_path, name, base_network, expected):
    net = build_net(base_network, 128, ["cat"])
    before = values(net)
    path = saved(tmp_path, state_of(name))
    with pytest.raises(WeightsError, match=f"{path}: .*{expected}"):
        load_pretrained(net, base_network, path)
    after = values(net)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_load_pretrained_vgg_with_batchnorm_is_refused(tmp_path):
    state = {**state_of("vgg16"), "features.1.running_mean": np.zeros(64, np.float32)}
    with pytest.raises(WeightsError, match="batch normalization"):
        load_pretrained(build_net("vgg-16", 128, ["cat"]), "vgg-16", saved(tmp_path, state))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_load_pretrained_torch_weights_with_nan_or_infinity_raise(tmp_path, value):
    state = state_of("mobilenetv1_100")
    state["blocks.1.0.bn1.bias"][3] = value
    with pytest.raises(WeightsError, match="blocks.1.0.bn1.bias"):
        load_pretrained(build_net("mobilenet1.0", 128, ["cat"]), "mobilenet1.0", saved(tmp_path, state))


def bfloat16_file():
    header = json.dumps({"conv_stem.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0\0\0\0"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a text, no weights\n", id="text"),
        pytest.param(b"\xff" * 100, id="huge-header"),
        pytest.param(struct.pack("<Q", 2) + b"{}", id="no-tensors"),
        pytest.param(bfloat16_file(), id="bfloat16"),
        pytest.param(None, id="truncated"),
    ],
)
def test_load_pretrained_damaged_safetensors_raise(tmp_path, content):
    path = saved(tmp_path, state_of("mobilenetv1_100"))
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(WeightsError, match="a.safetensors: "):
        load_pretrained(build_net("mobilenet1.0", 128, ["cat"]), "mobilenet1.0", path)


def test_load_pretrained_without_safetensors_names_the_extra(tmp_path, monkeypatch):
    path = saved(tmp_path, state_of("mobilenetv1_100"))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(DependencyError, match=r"ssd-train\[safetensors\]"):
        load_pretrained(build_net("mobilenet1.0", 128, ["cat"]), "mobilenet1.0", path)
