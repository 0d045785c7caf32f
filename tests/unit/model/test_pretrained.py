"""Tests of loading weights files."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from helpers.models import values

from ssd_train import mxnet_compat
from ssd_train.errors import WeightsError
from ssd_train.model.net import build_net
from ssd_train.model.pretrained import load_pretrained, load_strict, read_arrays, state_dict

mx = mxnet_compat.mxnet()
gcv = mxnet_compat.gluoncv()

SMALL_NETWORK = "mobilenet0.25"


def filled(net):
    """Return `net` with random values, as if trained."""
    net.initialize(mx.init.Zero())
    net(mx.nd.zeros((1, 3, 64, 64)))
    random = np.random.RandomState(0)
    for parameter in net.collect_params().values():
        parameter.set_data(mx.nd.array(random.normal(0, 0.1, parameter.shape)))
    return net


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    """Return a model zoo backbone with random values: (path, parameters by name)."""
    net = filled(gcv.model_zoo.get_model("mobilenet0.25", pretrained=False))
    path = tmp_path_factory.mktemp("zoo") / "mobilenet0.25.params"
    net.save_parameters(str(path))
    return path, net


@pytest.fixture(scope="module")
def our_file(tmp_path_factory):
    """Return a detector of ours with random values: (path, network)."""
    net = build_net(SMALL_NETWORK, 128, ["cat", "dog", "cow"], seed=5)
    random = np.random.RandomState(1)
    for parameter in net._collect_params_with_prefix().values():
        parameter.set_data(mx.nd.array(random.normal(0, 0.1, parameter.shape)))
    path = tmp_path_factory.mktemp("ours") / "weights.params"
    save(path, {name: p.data() for name, p in state_dict(net).items()})
    return path, net


@pytest.fixture(scope="module")
def untouched():
    """Return a network of each kind, built once, for tests that do not change it."""
    return functools.lru_cache(maxsize=None)(lambda base_network: build_net(base_network, 128, ["cat"]))


def save(path, arrays):
    mx.nd.save(str(path), arrays)
    return path


def test_load_pretrained_zoo_backbone_fills_features(backbone_file):
    path, zoo = backbone_file
    net = build_net(SMALL_NETWORK, 128, ["cat"])
    before = values(net)
    report = load_pretrained(net, SMALL_NETWORK, path)
    assert (report.loaded, report.total) == (135, 135)
    assert str(report) == f"{path}: mobilenet0.25 backbone, 135 of 135 tensors loaded"
    after = values(net)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {n for n in before if n.startswith("features.mobilenet")}
    x = mx.nd.random.uniform(shape=(1, 3, 128, 128))
    first = mx.gluon.nn.HybridSequential()
    first.add(*[zoo.features[i] for i in range(69)])  # up to the layer of stride 16
    np.testing.assert_allclose(net.features(x)[0].asnumpy(), first(x).asnumpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "zoo_name, base_network", [("mobilenetv2_1.0", "mobilenetv2_1.0"), ("resnet50_v1", "resnet-50")]
)
def test_load_pretrained_other_zoo_backbones_fill_features(tmp_path, zoo_name, base_network):
    zoo = filled(gcv.model_zoo.get_model(zoo_name, pretrained=False))
    zoo.save_parameters(str(tmp_path / "a.params"))
    net = build_net(base_network, 128, ["cat"])
    report = load_pretrained(net, base_network, tmp_path / "a.params")
    given = [
        p.data().asnumpy() for name, p in zoo._collect_params_with_prefix().items() if name.startswith("features.")
    ]
    assert report.loaded == report.total == len(given)
    taken = {array.tobytes() for array in values(net).values()}
    assert all(array.tobytes() in taken for array in given)


def test_load_pretrained_plain_vgg_computes_the_same(tmp_path):
    """The atrous net multiplies its input, so the first convolution's weights are divided."""
    zoo = gcv.model_zoo.get_model("vgg16", pretrained=False).features[:29]  # without the dense layers
    zoo.initialize(mx.init.Xavier())
    x = mx.nd.random.normal(shape=(1, 3, 32, 32))
    zoo(x)
    expected = zoo[:4](x).asnumpy()
    arrays = {f"features.{name}": p.data() for name, p in zoo._collect_params_with_prefix().items()}
    net = build_net("vgg-16", 128, ["cat"])
    report = load_pretrained(net, "vgg-16", save(tmp_path / "vgg16.params", arrays))
    assert (report.loaded, report.total) == (26, 30)
    scaled = x * net.features.init_scale.data()
    np.testing.assert_allclose(net.features.stages[0](scaled).asnumpy(), expected, rtol=1e-3, atol=1e-4)


def test_load_pretrained_atrous_vgg_fills_features(tmp_path):
    trained = build_net("vgg-16", 128, ["cat"], seed=3).features
    trained.save_parameters(str(tmp_path / "vgg16_atrous.params"))
    report = load_pretrained(build_net("vgg-16", 128, ["cat"], seed=4), "vgg-16", tmp_path / "vgg16_atrous.params")
    assert (report.loaded, report.total) == (30, 30)


def test_load_pretrained_gluoncv_detector_keeps_known_classes(tmp_path):
    """Its class names are those of its data set, recognized by the class count."""
    theirs = filled(gcv.model_zoo.ssd_512_mobilenet1_0_voc(pretrained=False, pretrained_base=False))
    theirs.save_parameters(str(tmp_path / "ssd.params"))
    names = ["logo", "person", "aeroplane"]
    net = build_net("mobilenet1.0", 300, names)
    before = values(net)
    report = load_pretrained(net, "mobilenet1.0", tmp_path / "ssd.params")
    assert (report.kind, report.kept_classes) == ("detector", (("person", "person"), ("aeroplane", "aeroplane")))
    assert report.new_classes == ("logo",)
    heads = sum(name.startswith("class_predictors.") for name in before)
    assert (report.loaded, report.partly) == (report.total - heads, heads)
    after, given = values(net), theirs._collect_params_with_prefix()
    old_names = list(theirs.classes)
    for name, array in after.items():
        if name.startswith("class_predictors."):
            rows, was = (a.reshape(-1, n, *a.shape[1:]) for a, n in ((array, 4), (given[name].data().asnumpy(), 21)))
            np.testing.assert_array_equal(rows[:, 0], was[:, 0])
            np.testing.assert_array_equal(rows[:, 2], was[:, old_names.index("person") + 1])
            np.testing.assert_array_equal(rows[:, 3], was[:, old_names.index("aeroplane") + 1])
            np.testing.assert_array_equal(rows[:, 1], before[name].reshape(rows.shape)[:, 1])
        elif name.endswith("anchors"):
            np.testing.assert_array_equal(array, before[name])
        else:
            np.testing.assert_array_equal(array, given[name].data().asnumpy())


@pytest.mark.parametrize(
    "names, kept",
    [
        pytest.param(["cat", "dog", "cow"], ("cat", "dog", "cow"), id="the-same"),
        pytest.param(["cow", "emu", "cat"], ("cow", "cat"), id="some-in-another-order"),
        pytest.param(["emu"], (), id="none"),
    ],
)
def test_load_pretrained_other_classes_keep_matching_rows(our_file, names, kept):
    path, old = our_file
    net = build_net(SMALL_NETWORK, 200, names, seed=6)  # another image size: more maps, other anchors
    before, given = values(net), values(old)
    report = load_pretrained(net, SMALL_NETWORK, path, ["cat", "dog", "cow"])
    assert report.kept_classes == tuple((name, name) for name in kept)
    assert report.new_classes == tuple(name for name in names if name not in kept)
    assert (report.partly > 0) == (report.new_classes != ())
    after = values(net)
    for level in range(4):
        name = f"class_predictors.{level}.predictor.weight"
        if given[name].shape[0] % 4 or after[name].shape[0] // (len(names) + 1) != given[name].shape[0] // 4:
            continue  # another number of anchors a cell at this size
        rows, was = (a.reshape(-1, n + 1, *a.shape[1:]) for a, n in ((after[name], len(names)), (given[name], 3)))
        np.testing.assert_array_equal(rows[:, 0], was[:, 0])
        for position, class_name in enumerate(names):
            expected = (
                was[:, ["cat", "dog", "cow"].index(class_name) + 1]
                if class_name in kept
                else before[name].reshape(rows.shape)[:, position + 1]
            )
            np.testing.assert_array_equal(rows[:, position + 1], expected)
    for name in ("anchor_generators.0.anchors", "anchor_generators.3.anchors"):
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    "rows, kept, new",
    [
        ([0, 1, 2], (("class_0", "cat"), ("class_1", "dog"), ("class_2", "cow")), ()),
        ([2, -1], (("class_0", "cow"),), ("class_1",)),
        ([-1], (), ("class_0",)),
    ],
    ids=["all", "one", "none"],
)
def test_load_pretrained_given_rows_are_taken_and_the_tensors_counted(our_file, rows, kept, new):
    path, old = our_file
    net = build_net(SMALL_NETWORK, 128, [f"class_{i}" for i in range(len(rows))], seed=6)
    before = values(net)
    report = load_pretrained(net, SMALL_NETWORK, path, ["cat", "dog", "cow"], rows)
    after, given = values(net), values(old)
    heads = [name for name in before if name.startswith("class_predictors.")]
    assert (report.kept_classes, report.new_classes) == (kept, new)
    assert (report.loaded, report.partly) == ((report.total, 0) if not new else (report.total - 8, 8))
    for name in heads:
        found, first, was = (
            array.reshape(-1, count + 1, *array.shape[1:])
            for array, count in ((after[name], len(rows)), (before[name], len(rows)), (given[name], 3))
        )
        for position, row in enumerate(rows, 1):
            np.testing.assert_array_equal(found[:, position], was[:, row + 1] if row >= 0 else first[:, position])


@pytest.mark.parametrize("old_stride, new_stride", [(16, 8), (8, 16)])
def test_load_pretrained_of_other_strides_gives_each_map_the_heads_of_its_stride(tmp_path, old_stride, new_stride):
    old, new = (build_net(SMALL_NETWORK, 128, ["a"], seed, (), s) for seed, s in ((5, old_stride), (6, new_stride)))
    for name, parameter in old._collect_params_with_prefix().items():
        if "predictors." in name:
            parameter.set_data(mx.nd.random.normal(0, 0.1, parameter.shape))
    path = save(tmp_path / "old.params", {name: p.data() for name, p in state_dict(old).items()})
    finer = 1 if new_stride < old_stride else -1
    before, given = values(new), values(old)
    load_pretrained(new, SMALL_NETWORK, path, ["a"], finer_maps=finer)
    loaded = 0
    for name, array in values(new).items():
        if name.startswith("features."):
            np.testing.assert_array_equal(array, given[name])
        elif "predictors." in name:
            kind, index, rest = name.split(".", 2)
            source = f"{kind}.{int(index) - finer}.{rest}"
            fits = source in given and given[source].shape == array.shape
            np.testing.assert_array_equal(array, given[source] if fits else before[name])
            loaded += fits
    assert loaded >= 12, "three maps of 32 and more, in which the number of anchors of a cell is the same"


def test_load_strict_into_an_equal_network_is_exact(our_file):
    path, old = our_file
    net = build_net(SMALL_NETWORK, 128, ["cat", "dog", "cow"])
    load_strict(net, path)
    given = values(old)
    for name, array in values(net).items():
        assert name.endswith("anchors") or np.array_equal(array, given[name]), name


@pytest.mark.parametrize(
    "names, change, expected",
    [
        pytest.param(["a", "b"], {}, r"class_predictors.0.predictor.bias .*\(16,\).*\(12,\)", id="other-classes"),
        pytest.param(["a", "b", "c"], {"more": (2,)}, r"more .*\(2,\)", id="too-much"),
        pytest.param(
            ["a", "b", "c"],
            {"box_predictors.0.predictor.bias": None},
            "box_predictors.0.predictor.bias .*None",
            id="too-little",
        ),
    ],
)
def test_load_strict_mismatch_raises_and_names_the_tensor(tmp_path, our_file, names, change, expected):
    arrays = mx.nd.load(str(our_file[0]))
    for name, shape in change.items():
        arrays.pop(name) if shape is None else arrays.update({name: mx.nd.zeros(shape)})
    net = build_net(SMALL_NETWORK, 128, names)
    before = values(net)
    with pytest.raises(WeightsError, match=expected):
        load_strict(net, save(tmp_path / "w.params", arrays))
    after = values(net)
    assert all(np.array_equal(before[name], after[name]) for name in before), "nothing is taken by half"


def poisoned(arrays, value):
    name = sorted(arrays)[3]
    array = arrays[name].asnumpy()
    array.flat[0] = value
    return {**arrays, name: mx.nd.array(array)}


@pytest.mark.parametrize("kind, value", [("backbone", np.nan), ("detector", -np.inf)])
def test_load_pretrained_file_with_nan_or_infinity_raises(tmp_path, backbone_file, our_file, kind, value):
    arrays = mx.nd.load(str({"backbone": backbone_file, "detector": our_file}[kind][0]))
    path = save(tmp_path / "w.params", poisoned(arrays, value))
    net = build_net(SMALL_NETWORK, 128, ["cat"])
    with pytest.raises(WeightsError, match=f"w.params: .*{re.escape(sorted(arrays)[3])}"):
        load_pretrained(net, SMALL_NETWORK, path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a text, no weights\n", id="text"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x12\x01" + b"\0" * 100, id="a-header"),
        pytest.param(None, id="truncated"),
    ],
)
def test_load_pretrained_file_without_weights_raises(tmp_path, backbone_file, content):
    path = tmp_path / "w.params"
    path.write_bytes(backbone_file[0].read_bytes()[:5000] if content is None else content)
    with pytest.raises(WeightsError, match="w.params: "):
        load_pretrained(build_net(SMALL_NETWORK, 128, ["cat"]), SMALL_NETWORK, path)


def test_read_arrays_symbol_file_strips_prefixes(tmp_path):
    arrays = {"arg:a_weight": mx.nd.ones(2), "aux:b_running_var": mx.nd.zeros(3), "c": mx.nd.ones(1)}
    assert sorted(read_arrays(save(tmp_path / "w.params", arrays))) == ["a_weight", "b_running_var", "c"]


@pytest.mark.parametrize(
    "base_network, file, expected",
    [
        pytest.param("mobilenet0.5", "backbone", "0 of the 135 .*mobilenet0.5", id="another-width"),
        pytest.param("vgg-16", "backbone", r"\d+ of the 30 .*vgg-16", id="mobilenet-for-vgg"),
        pytest.param("vgg-16", "detector", r"\d+ of the \d+ .*detector", id="mobilenet-detector-for-vgg"),
        pytest.param("vgg-16", "anything", "0 of the 30 ", id="arrays-of-something-else-for-vgg"),
    ],
)
def test_load_pretrained_too_few_fitting_tensors_raises(
    tmp_path, untouched, backbone_file, our_file, base_network, file, expected
):
    paths = {
        "backbone": backbone_file[0],
        "detector": our_file[0],
        "anything": save(tmp_path / "a.params", {"weight": mx.nd.ones((2, 2)), "x.y.z": mx.nd.ones(1)}),
        "symbol": save(tmp_path / "s.params", {"features.conv0.weight": mx.nd.ones((2, 2, 3, 3))}),
    }
    net = untouched(base_network)
    before = values(net)
    with pytest.raises(WeightsError, match=f"{expected}.*85%"):
        load_pretrained(net, base_network, paths[file])
    after = values(net)
    assert all(np.array_equal(before[name], after[name]) for name in before), "nothing is taken by half"


def test_load_pretrained_real_backbone(shared_data):
    path = shared_data / "weights" / "mobilenet1.0-imagenet-coral.params"
    report = load_pretrained(build_net("mobilenet1.0", 300, ["cat"]), "mobilenet1.0", path)
    assert (report.loaded, report.total) == (135, 135)
