"""Random weights of timm's and torchvision's own networks give the same features here, in their own normalizations."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.environments import own_venv

from ssd_train import mxnet_compat
from ssd_train.errors import WeightsError
from ssd_train.model.graphs import PIXEL_MEAN, PIXEL_STD
from ssd_train.model.net import build_net
from ssd_train.model.pretrained import load_pretrained

pytestmark = pytest.mark.sagemaker

mx = mxnet_compat.mxnet()

HERE = Path(__file__).parent
SHAPES = HERE.parent / "unit" / "model" / "torch_shapes.json"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Folder with the state dicts and the features of torch_features.py."""
    folder = tmp_path_factory.mktemp("torch")
    python = own_venv(".venv-torch", "3.8") / "bin" / "python"
    subprocess.run([str(python), str(HERE / "torch_features.py"), str(folder)], check=True)
    return folder


def vgg_features(net, x):
    """Outputs of the last convolutions of stages 4 and 5, after their activation."""
    x, outputs = x * net.features.init_scale.data(), []
    for index, stage in enumerate(list(net.features.stages)[:5]):
        if index:
            x = mx.nd.Pooling(x, pool_type="max", kernel=(2, 2), stride=(2, 2), pooling_convention="full")
        x = stage(x)
        outputs.append(x)
    return outputs[3:]


@pytest.mark.parametrize(
    "name, base_network, loaded, unused, whole",
    [
        # timm pads with gray and we pad with ImageNet's mean, so cells that see the border differ a little
        pytest.param("mobilenetv1_100", "mobilenet1.0", (135, 135), 29, False, id="timm-mobilenet-v1"),
        pytest.param("mobilenet_v2", "mobilenetv2_1.0", (260, 260), 54, True, id="torchvision-mobilenet-v2"),
        pytest.param("vgg16", "vgg-16", (26, 30), 0, True, id="torchvision-vgg16"),
        pytest.param("vgg16_features", "vgg-16", (26, 30), 1, False, id="torchvision-vgg16-features"),
    ],
)
def test_load_pretrained_torch_weights_give_the_same_features(recorded, name, base_network, loaded, unused, whole):
    theirs = np.load(recorded / f"{name}.npz")
    net = build_net(base_network, theirs["picture"].shape[-1], ["cat"])
    report = load_pretrained(net, base_network, recorded / f"{name}.safetensors")
    assert (report.loaded, report.total) == loaded
    assert dict(report.fates)["not needed"] == unused
    mean, std = (np.array(values, np.float32).reshape((1, 3, 1, 1)) for values in (PIXEL_MEAN, PIXEL_STD))
    x = mx.nd.array((theirs["picture"] / 255 - mean) / std)
    outputs = vgg_features(net, x) if base_network == "vgg-16" else net.features(x)
    if base_network == "mobilenet1.0":
        assert theirs["highest"] < 6, "timm's activations clip at 6, which ours do not"
    for ours, expected in zip(outputs, (theirs["0"], theirs["1"])):
        ours = ours.asnumpy()
        assert ours.shape == expected.shape and expected.std() > 0.01 * abs(expected).max()
        if not whole:
            seen = slice(*(np.array([0.35, 0.65]) * ours.shape[-1]).round().astype(int))
            ours, expected = ours[..., seen, seen], expected[..., seen, seen]
        np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE * max(1, abs(expected).max()))


def test_load_pretrained_torchvision_resnet_is_refused_for_its_stride(recorded):
    with pytest.raises(WeightsError, match="stride"):
        load_pretrained(build_net("resnet-50", 128, ["cat"]), "resnet-50", recorded / "resnet50.safetensors")


def test_recorded_shapes_are_those_of_the_unit_tests(recorded):
    names = json.loads(SHAPES.read_text("utf-8"))
    assert sorted(names) == sorted(path.stem for path in recorded.glob("*.npz"))
    for name, shapes in names.items():
        assert shapes == json.loads(str(np.load(recorded / f"{name}.npz")["shapes"])), name
