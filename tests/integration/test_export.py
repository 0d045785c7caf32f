"""Exported models say what the Gluon net says: every network, a hundred pictures, drawn and real; training leaves its
deployment files."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.data import SMALL, flags_of, shapes_set, small_config
from helpers.models import CLASSES, drawn_inputs, talking_model, talking_net
from helpers.voting import voted

from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import INPUT
from ssd_train.cli.main import main
from ssd_train.data.image_io import decode
from ssd_train.data.structures import ClassNames
from ssd_train.data.transforms import preprocess
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.parity import BOX_TOLERANCE, SCORE_TOLERANCE, compare
from ssd_train.deploy.symbol import is_up_to_date
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.pretrained import load_pretrained

pytestmark = pytest.mark.integration
BATCH = 10
ANCHORS = len(make_anchors(anchor_layout("mobilenet0.25", 128)))


def rows(engine, pictures):
    return np.concatenate([engine.run(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)])


def exported(model, folder):
    """Path of each export by the engine that runs it; those engines that are not installed are left out."""
    from ssd_train.deploy.export.onnx import write_onnx
    from ssd_train.deploy.symbol import publish_symbol

    publish_symbol(model, folder / "symbol", drawn_inputs(2, SavedModel.load(model).config.image_shape))
    found = {"symbol": folder / "symbol"}
    for engine in ("onnxruntime", "openvino"):
        try:
            __import__(engine)
        except ImportError:  # onnxruntime and the NumPy of the AWS container do not go together
            continue
        for input in ("pixels", "normalised"):
            found[f"{engine} {input}"] = folder / f"{input}.onnx"
            write_onnx(SavedModel.load(model), folder / f"{input}.onnx", input)
    return found


def assert_all_agree(model, folder, pictures, at_least):
    expected = rows(Detector.load(model, "cpu", "mxnet").engine, pictures)
    places = exported(model, folder)
    for name, path in places.items():
        found = rows(Detector.load(path, "cpu", name.split()[0]).engine, pictures)
        agreement = compare(expected, found)
        assert agreement.rows >= at_least and agreement.unmatched == 0, (name, str(agreement))
        assert agreement.score_difference <= SCORE_TOLERANCE and agreement.box_difference <= BOX_TOLERANCE
    if len(places) == 1:
        pytest.skip("the symbol agrees; no ONNX runtime is installed")


def test_export_of_a_hundred_drawn_images_agrees(tmp_path):
    talking_model(tmp_path / "model")
    assert_all_agree(tmp_path / "model", tmp_path, drawn_inputs(100), at_least=5000)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"base_network": "mobilenet1.0", "image_shape": 192}, id="mobilenet1.0", marks=pytest.mark.slow),
        pytest.param({"base_network": "mobilenetv2_1.0", "grayscale": True}, id="mobilenetv2"),
        pytest.param({"base_network": "resnet-50"}, id="resnet-50", marks=pytest.mark.slow),
        pytest.param({"base_network": "vgg-16", "image_shape": 300}, id="vgg-16", marks=pytest.mark.slow),
        pytest.param({"nms_threshold": 0.6, "nms_topk": 30, "post_nms": 20}, id="other-suppression"),
        pytest.param({"post_nms": ANCHORS, "classes": ("cat",)}, id="all-boxes"),
        pytest.param({"anchor_sizes": "0.2,0.35,0.5,0.7,1.05"}, id="anchors-of-other-sizes"),
        pytest.param({"feature_strides": "8,16,..."}, id="a-map-of-stride-8"),
        pytest.param(
            {"feature_strides": "8,16,...", "base_network": "mobilenet1.0", "image_shape": 300},
            id="a-map-of-stride-8-of-mobilenet1.0",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_export_of_each_network_agrees(tmp_path, settings):
    side = settings.get("image_shape", 128)
    model = talking_model(tmp_path / "model", **settings)
    assert_all_agree(tmp_path / "model", tmp_path, drawn_inputs(4, side), at_least=40)
    assert Detector.load(tmp_path / "symbol").engine.grayscale == model.config.grayscale


FORMATS = {"mxnet": "mxnet", "symbol": "symbol", "int8": "symbol", "onnx": "onnxruntime", "onnx-int8": "onnxruntime"}


def rows_of(config, net, kind, engine, folder, pictures):
    """Save a net with other settings, write it as `kind`, and return the rows of the pictures."""
    from ssd_train.deploy.export.onnx import write_onnx
    from ssd_train.deploy.export.quantize import quantize_layers, quantize_symbol
    from ssd_train.deploy.symbol import make_symbol, staged_files

    SavedModel(config, ClassNames(CLASSES), config.post_nms, epoch=0).save(folder / "model", net)
    model, place = SavedModel.load(folder / "model"), folder / f"{kind}.onnx"
    if kind.startswith("onnx"):
        change = partial(quantize_layers, images=pictures) if kind == "onnx-int8" else None
        write_onnx(model, place, kind=kind, change=change)
    elif kind == "mxnet":
        place = folder / "model"
    else:
        place, parts = folder / kind, make_symbol(model)
        with staged_files(
            model.describe(kind, INPUT), place, quantize_symbol(parts, pictures) if kind == "int8" else parts
        ):
            pass
    return Detector.load(place, "cpu", engine).engine.run(pictures)


def assert_voting_is_numpys(config, net, folder, pictures):
    """Check in each format: rows with voting are those without, moved as NumPy does by the candidates."""
    changes = {
        "plain": {"box_voting": False},
        "voting": {"box_voting": True},
        # suppression of no box: the candidates
        "candidates": {"box_voting": False, "nms_threshold": 1.0, "post_nms": config.candidates},
    }
    for kind, engine in [*FORMATS.items(), ("onnx", "openvino")]:
        if kind.startswith("onnx"):
            pytest.importorskip(engine)
        found = {
            name: rows_of(replace(config, **change), net, kind, engine, folder / kind / engine / name, pictures)
            for name, change in changes.items()
        }
        expected = np.stack([voted(*image) for image in zip(found["plain"], found["candidates"])])
        assert (np.abs(expected - found["plain"])[..., 2:] > 1).any(axis=(1, 2)).sum() > len(pictures) // 2, kind
        np.testing.assert_allclose(found["voting"], expected, atol=0.02, err_msg=kind)
        np.testing.assert_array_equal(found["voting"][..., 0], found["plain"][..., 0], kind)


def test_export_box_voting_equals_numpy_in_each_format(tmp_path):
    config = small_config(nms_topk=400, post_nms=100)
    assert_voting_is_numpys(config, talking_net(), tmp_path, drawn_inputs(3))


def real_images(shared_data, count):
    files = sorted((shared_data / "data" / "raccoon" / "images").iterdir())[:count]
    assert len(files) == count
    return np.stack([preprocess(decode(path.read_bytes(), path.name), 300) for path in files])


def net_on_imagenet(shared_data):
    net = talking_net("mobilenet1.0", 300)
    load_pretrained(net, "mobilenet1.0", shared_data / "weights" / "mobilenet1.0-imagenet-coral.params")
    for name, parameter in net._collect_params_with_prefix().items():
        if "predictors." in name and name.endswith("weight"):
            parameter.set_data(parameter.data() * 0.1)  # the features of trained backbones are large
    return net


@pytest.mark.slow
def test_export_of_a_hundred_real_images_agrees(shared_data, tmp_path):
    """A backbone trained on ImageNet, at the usual size, and pictures with labelled objects."""
    config = small_config(base_network="mobilenet1.0", image_shape=300)
    SavedModel(config, ClassNames(CLASSES), 100, epoch=0).save(tmp_path / "model", net_on_imagenet(shared_data))
    assert_all_agree(tmp_path / "model", tmp_path, real_images(shared_data, 100), at_least=1000)


@pytest.mark.slow
def test_export_box_voting_of_real_images_equals_numpy_in_each_format(shared_data, tmp_path):
    config = small_config(base_network="mobilenet1.0", image_shape=300, nms_topk=400, post_nms=100)
    assert_voting_is_numpys(config, net_on_imagenet(shared_data), tmp_path, real_images(shared_data, 8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run in two parts: the second goes on from the first's checkpoint on an empty machine."""
    folder = tmp_path_factory.mktemp("run")
    drawn = shapes_set(folder / "data", 24)
    run_settings = {
        "base_network": "mobilenet0.25",
        "image_shape": 128,
        "use_pretrained_model": 0,
        "mini_batch_size": 4,
    }
    for machine in ("first", "second"):
        places = {name: folder / machine / name for name in ("model_dir", "output_dir")}
        flags = flags_of({**run_settings, **places, "epochs": 1, "checkpoint_dir": folder / "checkpoints"})
        assert main(["train", "--train", str(drawn.images), "--labels", str(drawn.manifest), *flags]) == 0
    return folder, drawn


@pytest.mark.parametrize("machine", ["first", "second"])
def test_train_leaves_the_deployment_files_of_its_best_model(trained, machine):
    folder, drawn = trained
    assert is_up_to_date(folder / machine / "model_dir")
    scores = {}
    for engine in ("mxnet", "symbol"):
        path = folder / machine / f"{engine}.json"
        flags = flags_of(
            {"model": folder / machine / "model_dir", "engine": engine, "json": path, "labels": drawn.manifest}
        )
        assert main(["evaluate", *flags]) == 0
        scores[engine] = json.loads(path.read_text())
    assert scores["symbol"]["mAP"] == pytest.approx(scores["mxnet"]["mAP"], abs=1e-3)


def test_export_of_a_model_trained_in_mixed_precision_agrees_and_scores_the_same(tmp_path):
    """Weights and scores are float32: what the last epoch scored, the saved model and its exports score, too."""
    drawn = shapes_set(tmp_path / "shapes", 24)
    own = {
        "train": drawn.images,
        "labels": drawn.manifest,
        "model_dir": tmp_path / "model",
        "output_dir": tmp_path / "o",
    }
    assert main(["train", *flags_of({**SMALL, **own, "amp": 1, "epochs": 2, "learning_rate": 0.004})]) == 0
    document = json.loads((tmp_path / "model" / "config.json").read_text())
    assert document["settings"]["amp"] is True
    arrays = SavedModel.load(tmp_path / "model").build().collect_params().values()
    assert {np.dtype(array.dtype).name for array in arrays} == {"float32"}
    assert is_up_to_date(tmp_path / "model")
    assert_all_agree(tmp_path / "model", tmp_path, drawn_inputs(10), at_least=100)
    labelled = {"images": drawn.images, "labels": drawn.manifest, "max_map_drop": 1}
    flags = {"model": tmp_path / "model", "format": "int8", "output": tmp_path / "int8", **labelled}
    assert main(["export", *flags_of(flags)]) == 0
    assert len(Detector.load(tmp_path / "int8", "cpu").engine.run(drawn_inputs(2))) == 2
