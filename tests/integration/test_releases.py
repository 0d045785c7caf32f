"""What each released version wrote is read by this one: its model answers the same, its checkpoint is gone on from.
What a later version wrote is refused, clearly. tests/releases/make.py makes the fixture of a version."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.data import DrawnSet, HeardProgress, small_config

from ssd_train import __version__
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.cli.train import train
from ssd_train.config import TrainConfig
from ssd_train.data.image_io import decode
from ssd_train.deploy.detector import Detector
from ssd_train.environment import Environment
from ssd_train.errors import CheckpointError, WeightsError
from ssd_train.storage.atomic import finished_dirs

pytestmark = pytest.mark.integration

RELEASES = sorted((Path(__file__).resolve().parents[1] / "releases").glob("*.tar.xz"))
SMALLEST = 100_000  # bytes that a fixture may have


@pytest.fixture(params=RELEASES, ids=lambda path: path.name[: -len(".tar.xz")])
def release(request, tmp_path):
    """The folder of a release: a data set, a model, checkpoints, and what the model answered."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path / "release")
    return tmp_path / "release"


def places_of(release):
    sides = [place for name in ("train", "validation") for place in drawn(release / name)]
    return Environment(*sides, release / "model", release / "output", release / "checkpoints")


def drawn(folder):
    return DrawnSet(folder / "images", folder / "output.manifest")


def settings_of(release):
    """The settings it was made with, and what was the default of clip_gradient with sgd up to 0.1.0."""
    return {**json.loads((release / "answer.json").read_text())["settings"], "clip_gradient": 10}


def test_release_fixture_of_this_version_exists():
    assert f"{__version__}.tar.xz" in [path.name for path in RELEASES], "python tests/releases/make.py makes it"
    assert all(path.stat().st_size < SMALLEST for path in RELEASES)


def test_release_model_detects_as_it_did(release):
    answer = json.loads((release / "answer.json").read_text())
    image = decode((release / "validation" / "images" / answer["image"]).read_bytes(), answer["image"])
    found = Detector.load(release / "model", engine="mxnet")(image)
    assert len(answer["scores"]) > 10
    np.testing.assert_allclose(found.scores, answer["scores"], atol=1e-4)
    assert found.class_ids.tolist() == answer["class_ids"]
    np.testing.assert_allclose(found.boxes, answer["boxes"], atol=0.05)


@pytest.mark.parametrize("release", [path for path in RELEASES if path.name == "0.1.0.tar.xz"], indirect=True)
def test_release_model_without_box_voting_has_none(release):
    """Models of the fixture 0.1.0 lack the setting, whose default is on."""
    config = release / "model" / "config.json"
    document = json.loads(config.read_text())
    assert "box_voting" not in document["settings"]
    assert SavedModel.load(release / "model").config.box_voting is False and TrainConfig().box_voting is True
    voting = {**document, "settings": {**document["settings"], "box_voting": True}}
    config.write_text(json.dumps({name: value for name, value in voting.items() if name != "sha256"}))
    with pytest.raises(AssertionError, match="Mismatch"):
        test_release_model_detects_as_it_did(release)


def test_release_checkpoint_is_resumed(release):
    progress = HeardProgress()
    trained = train(small_config(**settings_of(release)), places_of(release), progress)
    assert any(line.startswith("resuming after epoch 1 from ") for line in progress.lines)
    assert trained.epochs == 2
    history = [json.loads(line) for line in (release / "model" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [0, 1] and history[0]["CrossEntropy"] == 1.5


def changed(path, **parts):
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **parts}))


def test_release_without_a_later_setting_has_its_default(release):
    """A checkpoint of before the setting, and a model, too."""
    state = finished_dirs(release / "checkpoints" / "state")[0]
    document = json.loads((state / "state.json").read_text())
    del document["fingerprint"]["setting min_hard_negatives"]
    rewrite(state, document)
    model = json.loads((release / "model" / "config.json").read_text())
    del model["settings"]["min_hard_negatives"], model["sha256"]
    (release / "model" / "config.json").write_text(json.dumps(model))
    assert SavedModel.load(release / "model").config.min_hard_negatives == TrainConfig().min_hard_negatives
    with pytest.raises(CheckpointError, match="setting min_hard_negatives: found 7, the checkpoint has 3"):
        train(small_config(**settings_of(release), min_hard_negatives=7), places_of(release))
    train(small_config(**settings_of(release)), places_of(release))


def rewrite(state, document):
    """Another document in a state, with the checksum that it then has."""
    from ssd_train.storage.atomic import sha256_of

    (state / "state.json").write_text(json.dumps(document))
    sums = json.loads((state / "checksums.json").read_text())
    size = (state / "state.json").stat().st_size
    sums["files"]["state.json"] = {"sha256": sha256_of(state / "state.json"), "bytes": size}
    (state / "checksums.json").write_text(json.dumps(sums))


def test_model_of_a_later_version_is_an_error(release):
    config = release / "model" / "config.json"
    settings = json.loads(config.read_text())["settings"]
    changed(config, settings={**settings, "number_of_wings": 2}, package="9.0.0")
    with pytest.raises(WeightsError, match=r"written by ssd_train 9.0.0: number_of_wings: unknown setting.*; this is"):
        SavedModel.load(release / "model")
    changed(config, format=99, settings=settings)
    with pytest.raises(WeightsError, match=r"found format 99 of ssd_train 9.0.0, expected 1 or less: use a newer"):
        SavedModel.load(release / "model")


def test_checkpoint_of_a_later_version_is_an_error(release):
    state = finished_dirs(release / "checkpoints" / "state")[0]
    document = json.loads((state / "state.json").read_text())
    rewrite(state, {**document, "fingerprint": {**document["fingerprint"], "setting number_of_wings": 2}})
    with pytest.raises(
        CheckpointError, match="setting number_of_wings: the checkpoint has 2, this ssd_train does not know"
    ):
        train(small_config(**settings_of(release)), places_of(release))
    rewrite(state, {**document, "format": 99, "package": "9.0.0"})
    with pytest.raises(CheckpointError, match=r"found format 99 of ssd_train 9.0.0, expected 1 or less: use a newer"):
        train(small_config(**settings_of(release)), places_of(release))
