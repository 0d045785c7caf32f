"""Runs that start from GluonCV's model zoo, whose files are saved by GluonCV's own networks and served on loopback."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.data import SMALL, HeardProgress, flags_of
from helpers.jobs import failure_of, make_opt_ml
from helpers.services import publish, save_zoo_network, zoo_server

from ssd_train.cli.main import main
from ssd_train.config import TrainConfig
from ssd_train.data.synthetic import draw_shapes_set, write_drawn_set
from ssd_train.environment import Environment
from ssd_train.errors import WeightsError
from ssd_train.model.model_zoo import store
from ssd_train.model.net import build_net
from ssd_train.model.pretrained import state_dict
from ssd_train.training.setup import build_setup

pytestmark = pytest.mark.integration

NAMES = ("ssd_512_mobilenet1.0_coco", "mobilenet1.0", "mobilenet0.25")
COCO_SIZES = "0.1,0.2,0.369922,0.539844,0.71,0.880078,0.960937"  # of GluonCV's preset: 51.2, 102.4, 189.4, ... of 512


@pytest.fixture(scope="module")
def zoo_files(tmp_path_factory):
    """Folder of a zoo, the SHA-1 of its files, and the networks in them, by name."""
    folder = tmp_path_factory.mktemp("zoo")
    networks, sums = {}, {}
    for name in NAMES:
        networks[name] = save_zoo_network(name, folder / "saved.params")
        sums[name] = publish(folder, name, folder / "saved.params")
    return folder, sums, networks


@pytest.fixture
def zoo(zoo_files, tmp_path, monkeypatch):
    """Server of these files, of which GluonCV's model store has the sums."""
    folder, sums, _ = zoo_files
    for name, sha1 in sums.items():
        monkeypatch.setitem(store._model_sha1, name, sha1)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSD_TRAIN_MIRROR", raising=False)
    with zoo_server(folder) as server:
        monkeypatch.setenv("MXNET_GLUON_REPO", server.address)
        yield server


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folder of drawn images and their manifest; one of the classes is one of COCO."""
    folder = tmp_path_factory.mktemp("drawn")
    return write_drawn_set(folder, draw_shapes_set(12, 1), ("person", "square", "triangle"), "shapes", "png")


def setup_of(images, tmp_path, **settings):
    """Return the set up run and what it said."""
    progress = HeardProgress()
    config = TrainConfig.from_mapping(
        {**SMALL, "base_network": "mobilenet1.0", "use_pretrained_model": 1, "image_shape": 300, **settings}
    )
    environment = Environment(images[0], images[1], model_dir=tmp_path / "model", output_dir=tmp_path / "output")
    return build_setup(config, environment, progress), progress


def fresh_net(setup):
    """Return the network of the run before any weights were loaded."""
    config = setup.config
    names = list(setup.class_names)
    return build_net(config.base_network, config.image_shape, names, config.seed, config.anchor_scales)


def equal(name, net, file):
    ours, theirs = (network._collect_params_with_prefix()[name].data().asnumpy() for network in (net, file))
    return np.array_equal(ours, theirs)


def test_build_setup_by_default_starts_from_features_of_the_coco_detector(zoo, zoo_files, images, tmp_path):
    """With anchors that fit the boxes and heads as in a network without trained weights."""
    setup, progress = setup_of(images, tmp_path)
    file = zoo_files[2]["ssd_512_mobilenet1.0_coco"]
    assert setup.config.zoo == "coco" and setup.config.anchor_sizes not in ("", COCO_SIZES)
    names = list(state_dict(setup.net))
    features = [name for name in names if name.startswith("features.")]
    assert len(features) == 175 and any("expand_" in name for name in features)
    assert all(equal(name, setup.net, file) for name in features)
    heads = [name for name in names if "predictors." in name and name.endswith("weight")]
    assert len(heads) == 12
    assert all(equal(name, setup.net, fresh_net(setup)) for name in heads)
    (line,) = [line for line in progress.lines if "tensors loaded" in line]
    assert "175 of 175" in line and "new: person, square, triangle" in line
    assert not any("random weights" in warning for warning in progress.warnings)


def test_build_setup_without_fitted_anchors_takes_the_whole_detector(zoo, zoo_files, images, tmp_path):
    setup, progress = setup_of(images, tmp_path, fit_anchors="0")
    file = zoo_files[2]["ssd_512_mobilenet1.0_coco"]
    assert setup.config.anchor_sizes == COCO_SIZES
    fresh = fresh_net(setup)
    for name in state_dict(setup.net):
        networks = (setup.net, file, fresh)
        ours, theirs, new = (net._collect_params_with_prefix()[name].data().asnumpy() for net in networks)
        if not name.startswith("class_predictors."):
            np.testing.assert_array_equal(ours, theirs)
        else:
            widths = ((ours, 4), (theirs, 81), (new, 4))
            rows, was, first = (array.reshape(-1, width, *array.shape[1:]) for array, width in widths)
            np.testing.assert_array_equal(rows[:, :2], was[:, :2])  # background and person, COCO's first class
            np.testing.assert_array_equal(rows[:, 2:], first[:, 2:])
    (line,) = [line for line in progress.lines if "tensors loaded" in line]
    assert "class rows kept: person; new: square, triangle" in line


@pytest.mark.parametrize(
    "settings, name, note",
    [
        ({"zoo": "imagenet"}, "mobilenet1.0", False),
        ({"base_network": "mobilenet0.25"}, "mobilenet0.25", True),
        ({"base_network": "mobilenet0.25", "zoo": "voc"}, "mobilenet0.25", True),
        ({"preset_defaults": "builtin", "base_network": "mobilenet1.0", "mini_batch_size": 4}, "mobilenet1.0", False),
    ],
    ids=["imagenet", "no-coco-detector", "no-voc-detector", "builtin"],
)
def test_build_setup_from_an_imagenet_backbone(zoo, zoo_files, images, tmp_path, settings, name, note):
    """A zoo that has no detector with the backbone says so."""
    setup, progress = setup_of(images, tmp_path, **settings)
    assert zoo.requests == [f"/gluon/models/{name}-{zoo_files[1][name][:8]}.zip"]
    (line,) = [line for line in progress.lines if "tensors loaded" in line]
    assert "backbone, 135 of 135" in line
    assert any(line.startswith("zoo ") for line in progress.lines) == note
    assert (setup.config.anchor_sizes == "") == ("preset_defaults" in settings)


def test_build_setup_from_random_weights_warns(images, tmp_path):
    _, progress = setup_of(images, tmp_path, use_pretrained_model=0, image_shape=128)
    assert len([warning for warning in progress.warnings if warning.startswith("random weights")]) == 1


def test_build_setup_without_the_detector_is_refused_although_the_backbone_is_there(zoo, images, tmp_path):
    """Nothing else is taken in silence."""
    next(zoo.folder.rglob("ssd_512*.zip")).rename(zoo.folder / "away")
    try:
        with pytest.raises(WeightsError, match="ssd_512_mobilenet1.0_coco"):
            setup_of(images, tmp_path)
    finally:
        stem = f"ssd_512_mobilenet1.0_coco-{store.short_hash('ssd_512_mobilenet1.0_coco')}"
        (zoo.folder / "away").rename(zoo.folder / "gluon" / "models" / f"{stem}.zip")


def test_train_from_weights_dir_saves_the_zoo_in_config_json(zoo, zoo_files, images, tmp_path, capsys):
    zoo.fault = "404"
    settings = {**SMALL, "base_network": "mobilenet1.0", "use_pretrained_model": 1, "epochs": 1}
    places = {"train": images[0], "labels": images[1], "model_dir": tmp_path / "m", "output_dir": tmp_path / "o"}
    flags = flags_of({**places, **settings, "weights_dir": zoo_files[0] / "gluon" / "models"})
    assert main(["train", *flags]) == 0
    assert json.loads((tmp_path / "m" / "config.json").read_text("utf-8"))["settings"]["zoo"] == "coco"
    assert zoo.requests == [] and "detector without its heads" in capsys.readouterr().out


def test_train_job_with_channel_weights_dir_makes_no_request(zoo, zoo_files, images, tmp_path, monkeypatch, capsys):
    zoo.fault = "404"
    settings = {**SMALL, "base_network": "mobilenet1.0", "use_pretrained_model": 1, "epochs": 1, "zoo": "coco"}
    channels = {"train": images[0], "labels": images[1].parent, "weights_dir": zoo_files[0] / "gluon" / "models"}
    base = make_opt_ml(tmp_path / "ml", settings, channels)
    for name in ("SM_OUTPUT_DIR", "SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR", "SM_HPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
    assert main([]) == 0, failure_of(base)
    assert zoo.requests == [] and "detector without its heads" in capsys.readouterr().out
