"""convert: archives of the built-in algorithm become detectors with the detections of its own deployable network."""

from __future__ import annotations

import json
import shutil
import tarfile

import numpy as np
import pytest
from helpers.builtin_nets import archive_of, random_arrays, training_symbol, write_artifact
from helpers.data import SMALL, HeardProgress, flags_of, shapes_set
from helpers.models import drawn_inputs, talking_model

from ssd_train import mxnet_compat
from ssd_train.artifacts.builtin_archive import read_artifact
from ssd_train.artifacts.symbol_format import SYMBOL, read_description
from ssd_train.cli.main import main
from ssd_train.data.image_io import encode_png
from ssd_train.deploy.builtin import NmsRules, make_detector
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.export.export import VerificationOptions, export
from ssd_train.deploy.parity import compare
from ssd_train.errors import ConfigError

mx = mxnet_compat.mxnet()
SIDES = {"resnet-50": 128, "vgg-16": 300}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """The folder of each base network's training job."""
    folder = tmp_path_factory.mktemp("artifacts")
    for base_network, side in SIDES.items():
        write_artifact(folder / base_network, base_network, side)
    return folder


@pytest.fixture(scope="module")
def converted(artifacts, tmp_path_factory):
    """A converted model of each base network."""
    folder = tmp_path_factory.mktemp("converted")
    for base_network in SIDES:
        archive = archive_of(artifacts / base_network, folder / f"{base_network}.tar.gz")
        flags = ["--output", str(folder / base_network), "--class_names", "cat,dog,cow"]
        assert main(["convert", "--model", str(archive), *flags]) == 0
    return folder


def rows_of_training_symbol(artifact, images, **detection):
    """Decode the training symbol's class scores, offsets and priors with NumPy, and apply NMS.

    The algorithm is that of src/operator/contrib/multibox_detection.cc.
    """
    inner = artifact.symbol.get_internals()
    outputs = [inner[f"multibox_{name}_output"] for name in ("cls_pred", "loc_pred", "anchors")]
    block = mx.gluon.SymbolBlock(outputs, mx.sym.var("data", dtype="float32"))
    for name, parameter in block.collect_params().items():
        value = artifact.arrays[name]
        parameter.shape = value.shape
        parameter.initialize()
        parameter.set_data(value)
    data = mx.nd.array(images.transpose(0, 3, 1, 2).astype(np.float32))
    scores, offsets, priors = (array.asnumpy() for array in block(data))
    rows = np.full((len(images), len(priors[0]), 6), -1, np.float32)
    for row, image_scores, image_offsets in zip(rows, scores, offsets):
        kept = _detect(image_scores, image_offsets.reshape(-1, 4), priors[0], **detection)
        row[: len(kept)] = kept
    return rows


def _detect(scores, offsets, priors, topk=400, threshold=0.45, per_class=False):
    probabilities = np.exp(scores - scores.max(axis=0))
    probabilities = (probabilities / probabilities.sum(axis=0))[1:]
    classes, best = probabilities.argmax(axis=0), probabilities.max(axis=0)
    size = priors[:, 2:] - priors[:, :2]
    middle = (priors[:, :2] + priors[:, 2:]) / 2 + offsets[:, :2] * 0.1 * size
    half = np.exp(offsets[:, 2:] * 0.2) * size / 2
    boxes = np.clip(np.concatenate([middle - half, middle + half], axis=1), 0, 1)
    order = [i for i in np.argsort(-best, kind="stable") if best[i] >= 0.01][:topk]
    kept = []
    for i in order:
        rivals = [j for j in kept if not per_class or classes[j] == classes[i]]
        if all(_iou(boxes[i], boxes[j]) < threshold for j in rivals):
            kept.append(i)
    return np.array([[classes[i], best[i], *boxes[i]] for i in kept], np.float32).reshape(-1, 6)


def _iou(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = max(width, 0) * max(height, 0)
    whole = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
    return both / whole if whole > 0 else 0


def in_pixels(rows, side):
    return rows * np.array([1, 1, side, side, side, side], np.float32)


@pytest.mark.parametrize(
    "base_network, per_class", [("resnet-50", False), ("vgg-16", True)], ids=["class-agnostic", "per-class"]
)
def test_convert_job_detects_as_its_training_symbol_decoded_with_numpy(artifacts, tmp_path, base_network, per_class):
    side, way = SIDES[base_network], "per-class" if per_class else "class-agnostic"
    flags = ["--model", str(artifacts / base_network), "--output", str(tmp_path / "model"), "--nms", way]
    assert main(["convert", *flags]) == 0
    images = drawn_inputs(1, side)
    artifact = read_artifact(artifacts / base_network)
    expected = rows_of_training_symbol(artifact, images, per_class=per_class)
    agreement = compare(in_pixels(expected, side), Detector.load(tmp_path / "model").engine.run(images))
    assert agreement.rows > 50 and agreement.unmatched <= 0.01 * agreement.rows, str(agreement)
    other = rows_of_training_symbol(artifact, images, per_class=not per_class)
    assert compare(in_pixels(other, side), in_pixels(expected, side)).unmatched > 5, "the two ways differ here"


def test_make_detector_resnet_equals_the_genuine_deployable_network(shared_data, tmp_path):
    """Compare with the deployable ResNet-50 of an AWS walk-through."""
    genuine = mx.sym.load(str(shared_data / "data" / "builtin" / "deploy_model_algo_1-symbol.json"))
    write_artifact(tmp_path, "resnet-50", 512, num_classes=2)
    made, weights, states = make_detector(read_artifact(tmp_path), NmsRules(0.45, 400, per_class=False))
    assert set(made.list_arguments()) == set(genuine.list_arguments())
    assert set(made.list_auxiliary_states()) == set(genuine.list_auxiliary_states())
    ours, theirs = (symbol.infer_shape(data=(1, 3, 512, 512)) for symbol in (made, genuine))
    assert dict(zip(made.list_arguments(), ours[0])) == dict(zip(genuine.list_arguments(), theirs[0]))
    assert ours[1] == theirs[1] == [(1, 6132, 6)]
    assert _attributes(made, "MultiBoxPrior") == _attributes(genuine, "MultiBoxPrior")
    assert _attributes(made, "MultiBoxDetection") == _attributes(genuine, "MultiBoxDetection")
    data = mx.nd.array(drawn_inputs(1, 512).transpose(0, 3, 1, 2).astype(np.float32))
    rows = [
        s.bind(mx.cpu(), {**weights, "data": data}, aux_states=states, grad_req="null").forward()[0].asnumpy()
        for s in (made, genuine)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0][0, :, 0] >= 0).sum() > 20


def _attributes(symbol, operator):
    """Return the parsed attributes of each node of an operator by the node's name."""
    nodes = [node for node in json.loads(symbol.tojson())["nodes"] if node["op"].endswith(operator)]
    return {
        node["name"]: {k: json.loads(v.replace("(", "[").replace(")", "]").lower()) for k, v in node["attrs"].items()}
        for node in nodes
    }


def test_make_detector_other_priors_keeps_them(artifacts):
    """The job's priors differ from the default, as in mxnet-ssd's presets for other input sizes."""
    artifact = read_artifact(artifacts / "resnet-50")
    text = artifact.symbol.tojson().replace("(0.1, 0.14142136)", "(0.05, 0.3)")
    assert "(0.05, 0.3)" in text
    made, _, _ = make_detector(artifact._replace(symbol=mx.sym.load_json(text)), NmsRules(0.45, 400, per_class=False))
    assert (0.05, 0.3) in [tuple(a["sizes"]) for a in _attributes(made, "MultiBoxPrior").values()]


@pytest.mark.parametrize("base_network", SIDES)
def test_convert_job_writes_metadata(converted, base_network):
    description = read_description(converted / base_network)
    assert (description.class_names.names, description.side) == (("cat", "dog", "cow"), SIDES[base_network])
    assert (description.kind, description.input, description.coordinates) == ("builtin", "data", "shares")
    texts = json.loads((converted / base_network / "hyperparams.json").read_text())
    assert texts["base_network"] == base_network and texts["_kvstore"] == "device" and texts["nms_topk"] == "400"
    document = json.loads((converted / base_network / "model-export.json").read_text())
    assert document["output"].endswith("x1, y1, x2, y2 in 0..1 of the input's side; id -1: unused")


def test_convert_job_uses_its_nms_settings(artifacts, tmp_path):
    write_settings(artifacts / "resnet-50", tmp_path / "job", nms_threshold="0.3", nms_topk="17")
    assert main(["convert", "--model", str(tmp_path / "job"), "--output", str(tmp_path / "model")]) == 0
    (nms,) = _attributes(mx.sym.load(str(tmp_path / "model" / SYMBOL)), "MultiBoxDetection").values()
    assert (nms["nms_threshold"], nms["nms_topk"], nms["force_suppress"]) == (0.3, 17, True)
    assert len(Detector.load(tmp_path / "model")(np.full((40, 60, 3), 90, np.uint8))) <= 17
    assert read_description(tmp_path / "model").class_names.names == ("class_0", "class_1", "class_2")


@pytest.mark.parametrize("shape", ["3,128,128", " 3, 128, 128 ", "128"])
def test_read_artifact_image_shape_with_channels_returns_the_side(artifacts, tmp_path, shape):
    write_settings(artifacts / "resnet-50", tmp_path / "job", image_shape=shape)
    assert read_artifact(tmp_path / "job").side == 128


def write_settings(artifact, folder, **changes):
    """Copy `artifact` with other hyperparameters."""
    shutil.copytree(artifact, folder)
    path = folder / "hyperparams.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def without(name):
    return lambda folder: (folder / name).unlink()


def settings(**changes):
    def change(folder):
        path = folder / "hyperparams.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def arrays(change):
    def rewrite(folder):
        path = str(folder / "model_algo_1-0000.params")
        named = mx.nd.load(path)
        change(named)
        mx.nd.save(path, named)

    return rewrite


def _dead(named):
    named["arg:conv0_weight"][0, 0, 0, 0] = np.nan


def _other_shape(named):
    named["arg:conv0_weight"] = mx.nd.zeros((64, 3, 5, 5))


SYMBOL_FILE, WEIGHTS_FILE, SETTINGS_FILE = "model_algo_1-symbol.json", "model_algo_1-0000.params", "hyperparams.json"
DAMAGED = [
    pytest.param(without(SETTINGS_FILE), [SETTINGS_FILE], id="no settings"),
    pytest.param(without(SYMBOL_FILE), ["*-symbol.json"], id="no symbol"),
    pytest.param(without(WEIGHTS_FILE), ["*-[0-9][0-9][0-9][0-9].params"], id="no weights"),
    pytest.param(settings(num_classes="20"), [SETTINGS_FILE, "num_classes 20", "3 and background"], id="classes"),
    pytest.param(settings(num_classes="few"), [SETTINGS_FILE, "num_classes 'few'", "1 to 10000"], id="no number"),
    pytest.param(settings(nms_topk="0.5"), [SETTINGS_FILE, "nms_topk '0.5'", "1 to 1000000"], id="topk below 1"),
    pytest.param(settings(image_shape="3,128,96"), [SETTINGS_FILE, "image_shape '3,128,96'", "64"], id="not square"),
    pytest.param(settings(nms_threshold="45"), [SETTINGS_FILE, "nms_threshold '45'", "0 to 1"], id="threshold"),
    pytest.param(settings(base_network="alexnet"), [SETTINGS_FILE, "base_network 'alexnet'", "vgg-16"], id="network"),
    pytest.param(lambda f: (f / SYMBOL_FILE).write_text("{"), [SYMBOL_FILE], id="no JSON"),
    pytest.param(
        lambda f: (mx.sym.var("data") + 1).save(str(f / SYMBOL_FILE)),
        [SYMBOL_FILE, "multibox_cls_pred, multibox_loc_pred, multibox_anchors"],
        id="another network",
    ),
    pytest.param(
        arrays(lambda named: named.pop("arg:conv0_weight")),
        [WEIGHTS_FILE, "none", "conv0_weight", "(64,"],
        id="lacking",
    ),
    pytest.param(arrays(_other_shape), [WEIGHTS_FILE, "conv0_weight", "(64, 3, 5, 5)", "(64, 3, 7, 7)"], id="shape"),
    pytest.param(arrays(_dead), [WEIGHTS_FILE, "arg:conv0_weight", "NaN"], id="dead"),
]


@pytest.mark.parametrize("damage, values", DAMAGED)
def test_convert_damaged_job_exits_2_and_writes_nothing(artifacts, tmp_path, capsys, damage, values):
    shutil.copytree(artifacts / "resnet-50", tmp_path / "job")
    damage(tmp_path / "job")
    assert main(["convert", "--model", str(tmp_path / "job"), "--output", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'job'}") and error.count("\n") == 1
    assert [value for value in values if value not in error] == []
    assert not (tmp_path / "model" / "model-export.json").exists()


def test_convert_damaged_archive_names_the_file_in_the_archive(artifacts, tmp_path, capsys):
    shutil.copytree(artifacts / "resnet-50", tmp_path / "job")
    arrays(_other_shape)(tmp_path / "job")
    archive = archive_of(tmp_path / "job", tmp_path / "model.tar.gz")
    assert main(["convert", "--model", str(archive), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {archive}/{WEIGHTS_FILE}: ")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: None, id="nothing"),
        pytest.param(lambda folder: talking_model(folder, ("cat",)), id="model of ssd_train"),
    ],
)
def test_convert_no_job_exits_2(tmp_path, capsys, make):
    make(tmp_path / "model")
    assert main(["convert", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'model'}: ")


def test_convert_output_in_a_model_folder_exits_2(artifacts, tmp_path, capsys):
    talking_model(tmp_path / "model", ("cat",))
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert main(["convert", "--model", str(artifacts / "resnet-50"), "--output", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.startswith(f"error: output: found {tmp_path / 'model'}")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_export_over_another_converted_model_is_refused(artifacts, converted, tmp_path, capsys):
    """Neither its quantized form nor another converted model may replace it; the same model may."""
    model = shutil.copytree(converted / "resnet-50", tmp_path / "model")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(ConfigError, match=f"^output: found {model}"):
        export(model, "int8", model, "pixels", VerificationOptions(), HeardProgress())
    with pytest.raises(ConfigError, match=f"^output: found {model}"):
        export(converted / "vgg-16", "onnx", model / "m.onnx", "pixels", VerificationOptions(), HeardProgress())
    assert main(["convert", "--model", str(artifacts / "vgg-16"), "--output", str(model)]) == 2
    assert capsys.readouterr().err.startswith(f"error: output: found {model}")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    flags = ["--output", str(model), "--class_names", "ant,bee,fly"]
    assert main(["convert", "--model", str(artifacts / "resnet-50"), *flags]) == 0
    assert read_description(model).class_names.names == ("ant", "bee", "fly")


def test_convert_converted_model_exits_2(converted, tmp_path, capsys):
    assert main(["convert", "--model", str(converted / "resnet-50"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {converted / 'resnet-50'}: ")
    assert not (tmp_path / "out").exists()


def test_convert_too_few_class_names_exits_2(artifacts, tmp_path, capsys):
    flags = ["--output", str(tmp_path / "model"), "--class_names", "cat,dog"]
    assert main(["convert", "--model", str(artifacts / "resnet-50"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: class_names: found 2 (cat, dog)") and "3 classes" in error


def test_convert_archive_with_parent_paths_exits_2(artifacts, tmp_path, capsys):
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(artifacts / "resnet-50" / "hyperparams.json", "../escaped.json")
    assert main(["convert", "--model", str(tmp_path / "model.tar.gz"), "--output", str(tmp_path / "out")]) == 2
    assert "'../escaped.json'" in capsys.readouterr().err
    assert not (tmp_path / "escaped.json").exists()


def test_predict_job_that_was_not_converted_names_the_command(artifacts, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((40, 40, 3), np.uint8)))
    assert main(["predict", str(tmp_path / "a.png"), "--model", str(artifacts / "resnet-50")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {artifacts / 'resnet-50'}: ") and "python -m ssd_train convert" in error


@pytest.mark.parametrize("place", ["artifact", "converted"])
def test_train_from_a_job_or_converted_model_exits_2(artifacts, converted, tmp_path, capsys, place):
    drawn = shapes_set(tmp_path / "data", 6)
    model = artifacts / "resnet-50" if place == "artifact" else converted / "resnet-50"
    flags = {**SMALL, "train": drawn.images, "labels": drawn.manifest, "model_dir": tmp_path / "m", "pretrained": model}
    assert main(["train", *flags_of({**flags, "use_pretrained_model": 1, "output_dir": tmp_path / "o"})]) == 2
    error = capsys.readouterr().err
    assert ".params: " in error and "built-in algorithm" in error and error.count("\n") == 1


def test_training_symbol_of_the_builder_needs_labels(artifacts):
    """The symbol needs labels and returns losses."""
    symbol = training_symbol("vgg-16", 3)
    assert "label" in symbol.list_arguments() and len(symbol.list_outputs()) == 4
    assert not [name for name in random_arrays(symbol, 300) if "label" in name]
