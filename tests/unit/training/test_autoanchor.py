"""Tests of choosing anchor scales from the boxes of a data set."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data import HeardProgress, label_set, small_config

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.config_fields import parse_increasing_floats
from ssd_train.data.structures import ClassNames
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.net import build_net
from ssd_train.training.autoanchor import (
    SECOND,
    SMALLEST,
    anchors_of_checkpoint,
    fit_anchor_scales,
    resolve_anchors,
    resolve_strides,
)

mx = mxnet_compat.mxnet()

SIZE = (400, 200)


def config(**settings):
    return small_config(**{"base_network": "mobilenet1.0", "image_shape": 300, "augmentation": "none", **settings})


def boxes_of(share, count, seed=0):
    """Boxes of `share` of both sides of an image of SIZE, somewhere in it."""
    place = np.random.RandomState(seed).uniform(0, 1 - share, (count, 2))
    return [[x * 400, y * 200, (x + share) * 400, (y + share) * 200] for x, y in place]


def labels_of(*groups):
    """Return labels with one image and one class for each group of boxes."""
    names = [f"class{i}" for i in range(len(groups))]
    return label_set(groups, [[i] * len(g) for i, g in enumerate(groups)], size_wh=SIZE, class_names=names)


def test_auto_anchors_scales_fit_the_network_at_every_image_size():
    for side in (128, 300, 512):
        choice = fit_anchor_scales(config(image_shape=side), labels_of(boxes_of(0.3, 20)))
        layout = anchor_layout("mobilenet1.0", side, choice.scales)
        np.testing.assert_allclose(layout.sizes, np.multiply(choice.scales, side))
        assert list(choice.scales) == sorted(set(choice.scales))


def test_auto_anchors_classes_count_equally():
    many, few = boxes_of(0.6, 300), boxes_of(0.06, 3, seed=1)
    alone, both = fit_anchor_scales(config(), labels_of(many)), fit_anchor_scales(config(), labels_of(many, few))
    assert both.scales[0] < alone.scales[0]


def test_auto_anchors_considers_zoom_augmentation():
    """In training, boxes of one size are also half and twice as large, so their IoU with any anchors varies more."""
    labels = labels_of(boxes_of(0.35, 40))
    plain, zooming = (fit_anchor_scales(config(augmentation=a), labels) for a in ("flip", "strong"))
    assert zooming.overlap < plain.overlap


def test_auto_anchors_is_never_worse_than_default_scales():
    for share in (0.02, 0.1, 0.3, 0.5, 0.9, 1.0):
        choice = fit_anchor_scales(config(), labels_of(boxes_of(share, 10)))
        assert choice.overlap >= choice.usual, share


def test_auto_anchors_returns_the_best_candidate():
    """Boxes exactly as large as the first map's anchors of one candidate."""
    share = 0.14
    assert share in SMALLEST and 2.0 in SECOND
    choice = fit_anchor_scales(config(), labels_of(boxes_of(share, 60)))
    assert share in choice.scales or choice.scales[0] * choice.scales[1] == pytest.approx(share**2, rel=0.2)


def test_auto_anchors_a_map_of_stride_8_fits_small_boxes_better():
    labels = labels_of(boxes_of(0.03, 40))
    usual, fine = (fit_anchor_scales(config(feature_strides=strides), labels) for strides in ("", "8,16,..."))
    assert fine.overlap > 1.4 * usual.overlap


@pytest.mark.parametrize(
    "share, strides, hints", [(0.04, "", 1), (0.04, "8", 0), (0.2, "", 0)], ids=["12 px", "has one", "60 px"]
)
def test_resolve_anchors_hints_at_the_map_of_stride_8_for_small_boxes(share, strides, hints):
    _, lines, _ = chosen(config(feature_strides=strides), labels=labels_of(boxes_of(share, 20)))
    assert sum("--feature_strides 8,16,..." in line for line in lines) == hints


@pytest.mark.parametrize(
    "share, settings, strides",
    [
        pytest.param(0.06, {}, "8,16,...", id="18 px"),
        pytest.param(0.2, {}, "", id="60 px"),
        pytest.param(0.06, {"auto_anchors": False}, "8,16,...", id="SSD's own anchors"),
        pytest.param(0.06, {"image_shape": 768}, "", id="46 px at 768"),
        pytest.param(0.06, {"base_network": "vgg-16"}, "", id="the network has that map"),
        pytest.param(0.06, {"anchor_sizes": "0.1,0.2,0.37,0.54,0.71,0.88,1.05"}, "", id="for given anchors"),
        pytest.param(0.06, {"feature_strides": "16"}, "16,32,...", id="given"),
    ],
)
def test_resolve_strides_auto_is_as_the_smallest_class_needs(share, settings, strides):
    """A rare class of small boxes beside a frequent one of large boxes."""
    labels = labels_of(boxes_of(0.4, 200), boxes_of(share, 20, seed=1))
    progress = HeardProgress()
    resolved = resolve_strides(config(**{"feature_strides": "auto", **settings}), None, labels, progress)
    assert resolved.feature_strides == strides
    assert sum("class1" in line for line in progress.lines) == (strides == "8,16,...")


def test_resolve_strides_auto_are_those_of_the_pretrained_model(tmp_path):
    labels = labels_of(boxes_of(0.06, 20))
    model = model_of(tmp_path / "model", feature_strides="16")
    auto = config(base_network="mobilenet0.25", image_shape=128, feature_strides="auto")
    assert resolve_strides(auto, model, labels, HeardProgress()).feature_strides == "16,32,..."


def test_resolve_strides_auto_without_boxes_of_known_size_are_the_networks_own():
    labels = label_set([boxes_of(0.06, 20)], size_wh=None)
    assert resolve_strides(config(feature_strides="auto"), None, labels, HeardProgress()).feature_strides == ""


def model_of(folder, **settings):
    """Save a model with these settings."""
    net = build_net("mobilenet0.25", 128, ["a"], scales=small_config(**settings).anchor_scales)
    SavedModel(small_config(**settings), ClassNames(("a",)), 100, 0).save(folder, net)
    return folder


def chosen(config, pretrained=None, labels=None):
    """Return the anchor_sizes, the log lines and the warnings."""
    progress = HeardProgress()
    labels = labels or labels_of(boxes_of(0.6, 20))
    return resolve_anchors(config, pretrained, labels, progress).anchor_sizes, progress.lines, progress.warnings


def test_resolve_anchors_keeps_given_sizes():
    assert chosen(config(anchor_sizes="0.1,0.2"))[0] == "0.1,0.2"


def test_resolve_anchors_without_fitting_sets_none():
    assert chosen(config(auto_anchors=False)) == ("", [], [])


def test_resolve_anchors_logs_fitted_sizes():
    sizes, lines, _ = chosen(config())
    assert sizes == ",".join(f"{share:g}" for share in fit_anchor_scales(config(), labels_of(boxes_of(0.6, 20))).scales)
    assert lines[0].startswith(f"anchor_sizes {sizes}: ")


def test_resolve_anchors_unknown_image_size_warns_and_uses_defaults():
    unknown = label_set([boxes_of(0.3, 2)], size_wh=None)
    sizes, _, warnings = chosen(config(), labels=unknown)
    assert sizes == "" and [warning.split(":")[0] for warning in warnings] == ["auto_anchors"]


OLD = "0.2,0.3,0.4,0.5,0.6"


@pytest.mark.parametrize(
    "old, new, expected",
    [
        pytest.param({"anchor_sizes": OLD}, {}, OLD, id="those-of-the-model"),
        pytest.param({"auto_anchors": False}, {}, "", id="a-model-with-the-usual-ones"),
        pytest.param({"anchor_sizes": OLD}, {"image_shape": 256}, None, id="another-image-size-is-fitted-anew"),
        pytest.param({"anchor_sizes": OLD}, {"feature_strides": "8"}, None, id="other-strides-are-fitted-anew"),
        pytest.param({"anchor_sizes": OLD}, {"feature_strides": "16,32"}, OLD, id="the-same-strides-by-name"),
        pytest.param({"anchor_sizes": OLD}, {"anchor_sizes": "0.1,0.2"}, "0.1,0.2", id="those-given"),
        pytest.param({"anchor_sizes": OLD}, {"auto_anchors": False}, OLD, id="those-of-the-model-without-fitting"),
    ],
)
def test_resolve_anchors_takes_those_of_the_pretrained_model(tmp_path, old, new, expected):
    settings = small_config(**new)
    fitted = chosen(settings)[0]
    assert chosen(settings, model_of(tmp_path / "model", **old))[0] == (fitted if expected is None else expected)


# of those networks that can be built here; of 512 px but for the names that say 300
PRESETS = [
    pytest.param(f"ssd_{side}_{name}_{data}", network, side, id=f"{name}_{side}_{data}")
    for name, network, side in [
        ("vgg16_atrous", "vgg-16", 300),
        ("vgg16_atrous", "vgg-16", 512),
        ("resnet50_v1", "resnet-50", 512),
        ("mobilenet1.0", "mobilenet1.0", 512),
        ("mobilenet0.25", "mobilenet0.25", 300),
    ]
    for data in ("voc", "coco")
]


@pytest.mark.parametrize("preset, base_network, side", PRESETS)
def test_resolve_anchors_of_gluoncv_preset_equal_its_network(tmp_path, preset, base_network, side):
    """The file is saved by GluonCV's own network."""
    net = mxnet_compat.gluoncv().model_zoo.get_model(preset, pretrained=False, pretrained_base=False)
    arrays = {n: p.value for n, p in net._collect_params_with_prefix().items() if n.endswith(".anchors")}
    mx.nd.save(str(tmp_path / "net.params"), {**arrays, "class_predictors.0.predictor.bias": mx.nd.ones((1,))})
    sizes = anchors_of_checkpoint(tmp_path / "net.params", config(base_network=base_network, image_shape=side))
    layout = anchor_layout(base_network, side, parse_increasing_floats(sizes))
    net.anchor_generators.initialize()
    maps = [make(mx.nd.zeros((1, 1, c, c))) for make, c in zip(net.anchor_generators, layout.cells)]
    expected, ours = np.concatenate([m.asnumpy().reshape(-1, 4) for m in maps]), make_anchors(layout)
    np.testing.assert_allclose(ours[:, 2:], expected[:, 2:], rtol=1e-4)
    if base_network != "mobilenet0.25":  # whose strides in GluonCV are those of VGG's maps: a quarter of the image
        np.testing.assert_allclose(ours[:, :2], expected[:, :2], rtol=1e-5)


@pytest.mark.parametrize(
    "array", [np.ones(3), np.ones((1, 1, 2, 2, 4)), np.zeros((1, 1, 1, 1, 16)), np.full((1, 1, 1, 1, 16), -1.0)]
)
def test_resolve_anchors_of_malformed_anchors_are_defaults(tmp_path, array):
    arrays = {f"anchor_generators.{index}.anchors": mx.nd.array(array) for index in range(6)}
    mx.nd.save(str(tmp_path / "net.params"), {**arrays, "class_predictors.0.predictor.bias": mx.nd.ones((1,))})
    assert anchors_of_checkpoint(tmp_path / "net.params", config()) == ""
