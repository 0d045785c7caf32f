"""Tests of saved models: exact, atomic, refused if damaged or not finite."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.data import small_config
from helpers.models import NAMES, assert_equal, files, flip_a_bit, make_net, saved

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.errors import TrainingDiverged, WeightsError
from ssd_train.storage import atomic

mx = mxnet_compat.mxnet()


def test_saved_model_round_trip(tmp_path):
    net = make_net(seed=9)
    saved(grayscale=True).save(tmp_path / "model", net, [{"epoch": 0, "mAP": 0.1}])
    found = SavedModel.load(tmp_path / "model")
    assert (found.class_names, found.post_nms, found.epoch) == (NAMES, 120, 3)
    assert found.config == small_config(grayscale=True)
    assert (found.scores, found.versions) == ({"VOC07": 0.5}, {"mxnet": "1.9.1"})
    assert_equal(found.build(), net)
    assert json.loads((tmp_path / "model" / "history.jsonl").read_text()) == {"epoch": 0, "mAP": 0.1}


@pytest.mark.parametrize(
    "name, value, default", [("category_ids", {"cat": 17, "dog": 18}, {}), ("score_threshold", 0.4375, None)]
)
def test_saved_model_later_field_round_trip_and_its_default_without_it(tmp_path, name, value, default):
    dataclasses.replace(saved(), **{name: value}).save(tmp_path, make_net())
    assert getattr(SavedModel.load(tmp_path), name) == value
    document = json.loads((tmp_path / "config.json").read_text())
    assert document[name] == value
    older = {key: found for key, found in document.items() if key not in (name, "sha256")}
    atomic.write_json_atomic(tmp_path / "config.json", atomic.with_sum(older))
    assert getattr(SavedModel.load(tmp_path), name) == default


def test_save_replaces_the_old_weights(tmp_path):
    for seed in (1, 2, 3):
        saved(epoch=seed).save(tmp_path, make_net(seed))
    assert files(tmp_path) == ["config.json", "history.jsonl", SavedModel.load(tmp_path).weights.rsplit("/", 1)[-1]]
    assert_equal(SavedModel.load(tmp_path).build(), make_net(3))


def test_save_model_killed_at_any_moment_leaves_a_complete_model(tmp_path, killed_at):
    old, new = make_net(1), make_net(2)
    saved(epoch=1).save(tmp_path / "model", old)
    seen = {}
    for step in range(1, 100):
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "model", folder)
        died = killed_at(step, lambda folder=folder: saved(epoch=2).save(folder, new))
        found = SavedModel.load(folder)  # which checks the weights' SHA-256
        seen.setdefault(found.epoch, found)
        if not died:
            break
    assert sorted(seen) == [1, 2] and step > 5
    for epoch, net in ((1, old), (2, new)):
        assert_equal(seen[epoch].build(), net)
    saved(epoch=2).save(tmp_path / "killed-3", new)  # the next save clears what was left half done
    assert len(files(tmp_path / "killed-3")) == 3


@pytest.mark.parametrize(
    "damage, expected",
    [
        pytest.param(lambda f: (f / "config.json").unlink(), "config.json", id="no-config"),
        pytest.param(
            lambda f: (f / "config.json").write_text("{"),
            "config.json: ",
            id="half-a-config",
        ),
        pytest.param(lambda f: (f / "config.json").write_text("[]"), "config.json: ", id="a-list"),
        pytest.param(lambda f: change(f, class_names=None), "config.json: .*Error", id="no-classes"),
        pytest.param(lambda f: weights_of(f).unlink(), "weights-.*.params: not found", id="no-weights"),
        pytest.param(lambda f: flip_a_bit(weights_of(f)), "weights-.*.params: found SHA-256 ", id="a-bit"),
        pytest.param(
            lambda f: weights_of(f).write_bytes(weights_of(f).read_bytes()[:-1]),
            "weights-.*.params: found SHA-256 ",
            id="truncated",
        ),
    ],
)
def test_load_damaged_model_raises(tmp_path, damage, expected):
    saved().save(tmp_path, make_net())
    damage(tmp_path)
    with pytest.raises(WeightsError, match=expected):
        SavedModel.load(tmp_path)


def test_load_flipped_bit_in_config_raises(tmp_path):
    """Except for bits that change nothing, in the name of the checksum."""
    saved().save(tmp_path, make_net())
    path, good, missed = tmp_path / "config.json", SavedModel.load(tmp_path), 0
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 7]) + data[place + 1 :])
        try:
            assert SavedModel.load(tmp_path) == good
            missed += 1
        except WeightsError:
            pass
    assert len(data) > 1000 and missed < 10


def test_load_config_without_checksum_is_accepted(tmp_path):
    saved().save(tmp_path, make_net())
    change(tmp_path, class_names=["emu", "dog"])
    with pytest.raises(WeightsError, match="config.json: found SHA-256 "):
        SavedModel.load(tmp_path)
    change(tmp_path, class_names=["emu", "dog"], sha256=None)
    assert list(SavedModel.load(tmp_path).class_names) == ["emu", "dog"]


def weights_of(folder):
    return next(folder.glob("weights-*.params"))


def change(folder, **parts):
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, **parts}))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["features.mobilenet0_conv0_weight", "features.mobilenet0_batchnorm3_running_var"])
def test_save_nonfinite_weights_raises(tmp_path, name, value):
    good, dead = make_net(1), make_net(2)
    parameter = dead._collect_params_with_prefix()[name]
    parameter.set_data(mx.nd.full(parameter.shape, value))
    saved(epoch=1).save(tmp_path, good)
    with pytest.raises(TrainingDiverged, match=name):
        saved(epoch=2).save(tmp_path, dead)
    assert SavedModel.load(tmp_path).epoch == 1


def test_write_history_with_nan_raises(tmp_path):
    with pytest.raises(ValueError):
        saved().save(tmp_path, make_net(), [{"mAP": float("nan")}])


@pytest.mark.parametrize("value", [1.5, -0.1, "high", True, [0.5]])
def test_load_score_threshold_out_of_range_raises(tmp_path, value):
    saved().save(tmp_path, make_net())
    document = json.loads((tmp_path / "config.json").read_text())
    del document["sha256"]
    atomic.write_json_atomic(tmp_path / "config.json", {**document, "score_threshold": value})
    with pytest.raises(WeightsError, match=f"^{tmp_path}/config.json: "):
        SavedModel.load(tmp_path)
