"""Old names of renamed settings in flags, hyperparameters, config.json and checkpoints."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

import pytest
from helpers.data import small_config
from helpers.jobs import make_opt_ml
from helpers.services import make_job

from ssd_train.cli import train
from ssd_train.cli.main import main
from ssd_train.config import TrainConfig, current_names
from ssd_train.environment import sagemaker_hyperparameters
from ssd_train.errors import CheckpointError, ConfigError
from ssd_train.launch.requests import hyperparameters
from ssd_train.progress import Progress
from ssd_train.training.checkpoint import check_compatible, config_fingerprint

OLD = {"peer_timeout": "7.5", "peer_port": "9000", "fit_anchors": "0", "defaults": "builtin"}
NEW = {"heartbeat_timeout": 7.5, "rendezvous_port": 9000, "auto_anchors": False, "preset_defaults": "builtin"}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Model and checkpoint folders that ssd_train 0.1.0 has written, with the old names in them."""
    folder = tmp_path_factory.mktemp("release")
    with tarfile.open(Path(__file__).resolve().parents[1] / "releases" / "0.1.0.tar.xz") as archive:
        archive.extractall(folder)
    return folder


def values_of(config):
    return {name: getattr(config, name) for name in NEW}


@pytest.mark.parametrize("names", [OLD, {name.replace("_", "-"): value for name, value in OLD.items()}, NEW])
def test_from_mapping_old_and_current_names_are_equal(names):
    assert values_of(TrainConfig.from_mapping(names)) == NEW


def test_from_mapping_both_names_of_one_setting_are_refused():
    with pytest.raises(ConfigError, match="^auto_anchors: "):
        TrainConfig.from_mapping({"fit_anchors": "1", "auto_anchors": "1"})


def test_train_old_flag_reaches_the_setting(tmp_path, capsys):
    assert main(["train", "--train", str(tmp_path), "--peer-port", "80"]) == 2
    assert "rendezvous_port: found '80'" in capsys.readouterr().err


def test_train_old_hyperparameters_are_read_and_flags_win(tmp_path, monkeypatch):
    for name in ("SM_MODEL_DIR", "SM_HPS", "SM_CHANNEL_TRAIN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "s3").mkdir()
    base = make_opt_ml(tmp_path / "opt" / "ml", OLD, {"train": tmp_path / "s3"})
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
    parser = train.make_parser()
    hosted = sagemaker_hyperparameters()
    assert train._take_flags(hosted, parser, []) == []  # these are settings
    config, _ = train._read({}, hosted, {}, parser, Progress())
    assert values_of(config) == NEW
    config, _ = train._read({}, hosted, {"auto_anchors": "1"}, parser, Progress())
    assert values_of(config) == {**NEW, "auto_anchors": True}


def test_launch_old_names_are_sent_as_current_ones():
    assert hyperparameters(make_job(), OLD) == {name: json.dumps(value) for name, value in NEW.items()}


def test_model_config_of_an_old_release_is_read(release):
    settings = json.loads((release / "model" / "config.json").read_text())["settings"]
    assert set(OLD) & set(settings)
    config = TrainConfig.from_mapping(settings)
    assert values_of(config) == {
        **values_of(TrainConfig()),
        **{k: v for k, v in current_names(settings).items() if k in NEW},
    }


def test_checkpoint_of_an_old_release_is_compared_by_current_names(release):
    marks = json.loads(next(release.glob("checkpoints/state-*/state.json")).read_text())["fingerprint"]
    assert "setting fit_anchors" in marks
    settings = json.loads((release / "model" / "config.json").read_text())["settings"]
    same = TrainConfig.from_mapping(settings)
    data = {name: value for name, value in marks.items() if not name.startswith("setting ")}
    check_compatible(release, marks, {**config_fingerprint(same), **data})
    other = dataclasses.replace(same, auto_anchors=not same.auto_anchors)
    with pytest.raises(CheckpointError, match="setting auto_anchors: "):
        check_compatible(release, marks, {**config_fingerprint(other), **data})


@pytest.mark.parametrize("zoo", ["coco", "imagenet"])
def test_check_compatible_checkpoint_of_before_the_zoo_setting_goes_on_with_any(tmp_path, zoo):
    """Weights come from the checkpoint; the setting is about those of a new run only."""
    new = config_fingerprint(small_config(zoo=zoo))
    old = {name: value for name, value in new.items() if name != "setting zoo"}
    check_compatible(tmp_path, old, new)


def test_check_compatible_another_zoo_is_refused(tmp_path):
    old, new = (config_fingerprint(small_config(zoo=zoo)) for zoo in ("voc", "coco"))
    with pytest.raises(CheckpointError, match="zoo: found 'coco', the checkpoint has 'voc'"):
        check_compatible(tmp_path, old, new)
