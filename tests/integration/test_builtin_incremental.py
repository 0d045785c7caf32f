"""Training goes on from archives of the built-in algorithm: VGG-16 by name, ResNet-50 not."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.builtin_nets import archive_of, write_artifact
from helpers.data import SMALL, HeardProgress, flags_of, shapes_set
from helpers.jobs import failure_of, job_environment, make_opt_ml
from helpers.models import drawn_inputs

from ssd_train import mxnet_compat
from ssd_train.artifacts.builtin_archive import anchor_scales, read_artifact
from ssd_train.cli.main import main
from ssd_train.config import TrainConfig
from ssd_train.data.structures import ClassNames
from ssd_train.environment import Environment
from ssd_train.model.net import build_net
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD
from ssd_train.model.pretrained import load_builtin, state_dict
from ssd_train.training.autoanchor import anchors_of_checkpoint
from ssd_train.training.setup import build_setup

pytestmark = pytest.mark.integration
mx = mxnet_compat.mxnet()
ROOT = Path(__file__).resolve().parents[2]
CLASSES = 3
TRAINING = {**SMALL, "base_network": "vgg-16", "image_shape": 128, "epochs": 2, "mini_batch_size": 4}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Folders of a training job's files by base network and side."""
    folder = tmp_path_factory.mktemp("archives")
    for base_network, side in (("vgg-16", 300), ("vgg-16", 512), ("resnet-50", 128)):
        write_artifact(folder / f"{base_network}-{side}", base_network, side, CLASSES)
    return folder


@pytest.fixture(autouse=True)
def freed():
    """Frees the networks of a test, which take a gigabyte with Adam's state, before the next."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return shapes_set(tmp_path_factory.mktemp("shapes"), 12, 1, empty_fraction=0.0)


def loaded(folder, side, class_names=("a", "b", "c"), rows=(0, 1, 2)):
    """A VGG-16 of `side` px with the archive's weights, and the report."""
    artifact = read_artifact(folder)
    scales = anchor_scales(artifact) if side == artifact.side else ()
    net = build_net("vgg-16", side, list(class_names), scales=scales)
    names = ClassNames.of_ids({}, artifact.num_classes)
    return net, load_builtin(net, artifact.arrays, str(folder), list(names), rows), artifact


def test_load_builtin_300_px_computes_what_the_training_symbol_does(archives, tmp_path):
    """Class scores, box offsets and priors of the archive's own symbol, from raw pixels, and of GluonCV's network."""
    folder = tmp_path / "centre"
    shutil.copytree(archives / "vgg-16-300", folder)
    weights = mx.nd.load(str(folder / "model_algo_1-0000.params"))
    kernel = weights["arg:conv1_1_weight"].asnumpy()
    centre = np.zeros_like(kernel)
    centre[:, :, 1, 1] = kernel[:, :, 1, 1] * 3  # so that the padding, which differs at the border, does not count
    weights["arg:conv1_1_weight"] = mx.nd.array(centre)
    mx.nd.save(str(folder / "model_algo_1-0000.params"), weights)
    net, _, artifact = loaded(folder, 300)
    pixels = drawn_inputs(2, 300).transpose(0, 3, 1, 2).astype(np.float32)
    inner = artifact.symbol.get_internals()
    heads = [inner[f"multibox_{name}_output"] for name in ("cls_pred", "loc_pred", "anchors")]
    block = mx.gluon.SymbolBlock(heads, mx.sym.var("data"))
    for name, parameter in block.collect_params().items():
        parameter.shape = artifact.arrays[name].shape
        parameter.initialize()
        parameter.set_data(artifact.arrays[name])
    scores, offsets, priors = (array.asnumpy() for array in block(mx.nd.array(pixels)))
    mean, deviation = (np.array(values, np.float32).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    with mx.autograd.train_mode():
        outputs = net(mx.nd.array((pixels / 255 - mean) / deviation))
    class_scores, box_offsets, anchors = (array.asnumpy() for array in outputs)
    np.testing.assert_allclose(class_scores, scores.transpose(0, 2, 1), atol=2e-3 * np.abs(scores).max())
    np.testing.assert_allclose(box_offsets.ravel(), offsets.ravel(), atol=2e-3 * np.abs(offsets).max())
    corners = np.concatenate([(priors[..., :2] + priors[..., 2:]) / 2, priors[..., 2:] - priors[..., :2]], axis=-1)
    np.testing.assert_allclose(anchors.reshape(-1, 4) / 300, corners[0], atol=1e-3)


def test_load_builtin_512_px_counts_every_tensor(archives):
    """The last extra convolution of GluonCV's 512 px network has a kernel of 4, that of mxnet-ssd of 3."""
    net, report, artifact = loaded(archives / "vgg-16-512", 512)
    parameters = [name for name in state_dict(net) if not name.endswith("init_scale")]
    assert (report.loaded, report.total) == (len(parameters) - 1, len(parameters)) == (78, 79)
    assert dict(report.fates) == {"missing": 0, "of another shape": 1, "not needed": 0}
    assert report.new_classes == () and len(report.kept_classes) == CLASSES
    assert len(artifact.arrays) == len(parameters)
    np.testing.assert_allclose(anchor_scales(artifact), [0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05], atol=1e-3)


def test_load_builtin_other_image_size_and_classes_counts_every_tensor(archives):
    net, report, artifact = loaded(archives / "vgg-16-300", 128, ("a", "b", "c", "new"), (0, 1, 2, -1))
    fates = dict(report.fates)
    assert report.loaded + report.partly + fates["missing"] + fates["of another shape"] == report.total
    assert (fates["missing"], fates["of another shape"]) == (0, 4)  # the heads of one map: 6 shapes of anchors, not 4
    assert fates["not needed"] == len(artifact.arrays) - report.total
    assert report.partly == 8 and report.new_classes == ("new",)
    kept = artifact.arrays["relu4_3_cls_pred_conv_bias"].asnumpy().reshape(-1, CLASSES + 1)
    bias = net.class_predictors[0].predictor.bias.data().asnumpy().reshape(-1, CLASSES + 2)
    np.testing.assert_array_equal(bias[:, : CLASSES + 1], kept)


def test_anchors_of_checkpoint_archive_gives_those_of_its_symbol(archives):
    config = read_config(image_shape=300)
    scales = [float(text) for text in anchors_of_checkpoint(archives / "vgg-16-300", config).split(",")]
    np.testing.assert_allclose(scales, [0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05], atol=1e-3)
    assert anchors_of_checkpoint(archives / "vgg-16-300", read_config(image_shape=128)) == ""


@pytest.mark.parametrize("sizes", ["(0.1,)", "(0.1)", "()", "(0, 0)", "x"])
def test_anchor_scales_other_priors_gives_none(sizes):
    node = {"op": "_contrib_MultiBoxPrior", "attrs": {"sizes": sizes}}
    symbol = SimpleNamespace(tojson=lambda: json.dumps({"nodes": [node]}))
    assert anchor_scales(SimpleNamespace(symbol=symbol)) == []


def test_load_builtin_first_layer_of_another_shape_is_left_out(archives):
    artifact = read_artifact(archives / "vgg-16-300")
    arrays = {**artifact.arrays, "conv1_1_weight": mx.nd.zeros((64, 4, 3, 3))}
    net = build_net("vgg-16", 300, ["a", "b", "c"])
    report = load_builtin(net, arrays, "archive", ["a", "b", "c"], [0, 1, 2])
    assert (report.total - report.loaded, dict(report.fates)["of another shape"]) == (1, 1)


def read_config(**settings):
    return TrainConfig.from_mapping({**TRAINING, **settings})


def train_flags(shapes, tmp_path, **settings):
    flags = ["--train", str(shapes.images), "--labels", str(shapes.manifest), "--model_dir", str(tmp_path / "model")]
    return ["train", *flags, "--output_dir", str(tmp_path / "output"), *flags_of({**TRAINING, **settings})]


@pytest.mark.parametrize("form", ["archive", "folder", "file"])
def test_build_setup_vgg_archive_in_any_form_is_loaded(archives, shapes, tmp_path, form):
    source = archives / "vgg-16-300"
    if form == "archive":
        source = archive_of(source, tmp_path / "model.tar.gz")
    elif form == "file":
        source = source / "model_algo_1-0000.params"
    places = {"model_dir": tmp_path / "model", "output_dir": tmp_path / "output", "pretrained": source}
    progress = HeardProgress()
    setup = build_setup(read_config(), Environment(shapes.images, shapes.manifest, **places), progress)
    (line,) = [line for line in progress.lines if "tensors loaded" in line]
    assert line.startswith(f"{source}: detector of the built-in algorithm, 59 of 63 tensors loaded")
    expected = mx.nd.load(str(archives / "vgg-16-300" / "model_algo_1-0000.params"))["arg:conv5_3_weight"].asnumpy()
    np.testing.assert_array_equal(state_dict(setup.net)["features.stages.4.4.weight"].data().asnumpy(), expected)


@pytest.mark.slow
def test_train_job_model_channel_with_vgg_archive_lowers_the_loss(archives, shapes, tmp_path):
    """entry_point/train.py with the variables of the toolkit."""
    channel = tmp_path / "channel"
    channel.mkdir()
    archive_of(archives / "vgg-16-300", channel / "model.tar.gz")
    base = make_opt_ml(tmp_path / "ml", TRAINING, {"train": shapes.manifest.parent, "model": channel})
    data = base / "input" / "data"
    variables = {"SM_CHANNEL_TRAIN": str(data / "train"), "SM_CHANNEL_MODEL": str(data / "model")}
    job = [sys.executable, str(ROOT / "entry_point" / "train.py"), *flags_of(TRAINING)]
    environment = job_environment(base, PYTHONPATH=str(ROOT / "src"), **variables)
    ended = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "detector of the built-in algorithm, 59 of 63 tensors loaded" in ended.stdout
    assert "0 missing, 4 of another shape" in ended.stdout and (base / "model" / "config.json").is_file()
    rows = [json.loads(text) for text in (base / "model" / "history.jsonl").read_text().splitlines()]
    first, second = (row["CrossEntropy"] + row["SmoothL1"] for row in rows)
    assert second < first


@pytest.mark.parametrize("base_network", ["resnet-50", "vgg-16"])
def test_train_pretrained_resnet_archive_is_refused(archives, shapes, tmp_path, capsys, base_network):
    flags = train_flags(shapes, tmp_path, base_network=base_network)
    assert main([*flags, "--pretrained", str(archives / "resnet-50-128")]) == 2
    said = capsys.readouterr().err
    assert "resnet-50" in said and all(word in said for word in ("convert", "predict", "serve", "export"))
    assert not (tmp_path / "model").exists()


def test_train_pretrained_vgg_archive_with_other_base_network_is_refused(archives, shapes, tmp_path, capsys):
    flags = train_flags(shapes, tmp_path, base_network="mobilenet0.25")
    assert main([*flags, "--pretrained", str(archives / "vgg-16-300")]) == 2
    assert "base_network" in capsys.readouterr().err


def test_train_pretrained_converted_model_is_refused(archives, shapes, tmp_path, capsys):
    converted = ["--model", str(archives / "vgg-16-300"), "--output", str(tmp_path / "converted")]
    assert main(["convert", *converted]) == 0
    assert main([*train_flags(shapes, tmp_path), "--pretrained", str(tmp_path / "converted")]) == 2
    assert "converted model" in capsys.readouterr().err


def test_train_job_refused_archive_writes_the_reason(archives, shapes, tmp_path, monkeypatch):
    for name in ("SM_OUTPUT_DIR", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR", "SM_HPS"):
        monkeypatch.delenv(name, raising=False)
    channels = {"train": shapes.manifest.parent, "model": archives / "resnet-50-128"}
    base = make_opt_ml(tmp_path / "ml", TRAINING, channels)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
    assert main([]) == 2
    assert "convert" in failure_of(base)
