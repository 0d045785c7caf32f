"""Tests of checkpoints: exact resume, atomic writes, refusal of other runs and of damage."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil

import numpy as np
import pytest
from helpers.models import assert_equal, files, make_net, noise_batch, saved, saved_learner

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.devices import contexts
from ssd_train.errors import CheckpointError, TrainingDiverged, WeightsError
from ssd_train.storage import atomic
from ssd_train.storage.atomic import finished_dirs, verify_checksums
from ssd_train.training.checkpoint import Checkpoints, TrainState, broadcast_state
from ssd_train.training.engine import EpochMeter
from ssd_train.training.schedule import BestTracker
from ssd_train.training.step import FLOAT16_SCALE, LossScale, ModelEMA

mx = mxnet_compat.mxnet()
FINGERPRINT = {"setting learning_rate": 0.01, "classes": ["cat", "dog"], "training labels": "abc"}


def state(epoch=2, **more):
    return TrainState(
        epoch=epoch, best=BestTracker(0.4, 1, 1), history=[{"epoch": 0}, {"epoch": 1}], fingerprint=FINGERPRINT, **more
    )


@pytest.fixture
def best(tmp_path):
    """A model folder with a best model."""
    saved(epoch=1).save(tmp_path / "best", make_net(7), [{"epoch": 0}])
    return tmp_path / "best"


@pytest.mark.parametrize("optimizer, devices", [("sgd", "cpu"), ("adam", "cpu:1"), ("adam", "cpu:1,cpu:2")])
def test_restore_continues_bit_for_bit(tmp_path, best, optimizer, devices):
    unbroken, broken, resumed = (saved_learner(optimizer, contexts(devices), seed) for seed in (1, 1, 4))
    for step in range(4):
        unbroken.step(noise_batch(step), 0.01)
    for step in range(2):
        broken.step(noise_batch(step), 0.01)
    Checkpoints(tmp_path / "c").save(state(), broken, best)
    found, notes = Checkpoints(tmp_path / "c").restore(FINGERPRINT, resumed, tmp_path / "model")
    assert found == state() and len(notes) == 1 and "epoch 2" in notes[0]
    for step in range(2, 4):
        resumed.step(noise_batch(step), 0.01)
    assert_equal(resumed.net, unbroken.net)
    for parameter in resumed.parameters:
        first, *others = (array.asnumpy() for array in parameter.list_data())
        assert all(np.array_equal(first, other) for other in others), parameter.name
    assert_equal(SavedModel.load(tmp_path / "model").build(), make_net(7))


class Host:
    """One of two hosts: what the first broadcasts reaches the second."""

    size, sent = 2, []

    def __init__(self, rank):
        self.is_main_process = rank == 0

    def broadcast_bytes(self, data):
        if self.is_main_process:
            self.sent.append(data)
        return self.sent[-1]


@pytest.mark.parametrize("scored", [-1, 1], ids=["before-a-score", "after-a-score"])
def test_broadcast_state_sends_all_but_the_best_model(scored):
    """The second host has no model: the first alone keeps it."""
    first, second = saved_learner(seed=1), saved_learner(seed=4)
    first.step(noise_batch(0), 0.01)
    given = state()
    given.best.epoch = scored
    broadcast_state(Host(0), given, first, FINGERPRINT)
    assert broadcast_state(Host(1), TrainState(), second, FINGERPRINT) == given
    assert_equal(second.net, first.net)


@pytest.mark.parametrize("value, steps, expected", [(512.0, 7, [512.0, 7]), (1.0, 0, [65536.0, 0])])
def test_loss_scale_restore_of_float16_begins_with_its_own_after_a_run_without(value, steps, expected):
    scale = LossScale(FLOAT16_SCALE)
    scale.restore([value, steps])
    assert scale.state() == expected


def test_restore_continues_the_average_and_the_loss_scale(tmp_path, best):
    broken, resumed = saved_learner(), saved_learner(seed=4)
    for seed, train_step in ((1, broken), (4, resumed)):
        train_step.average = ModelEMA(make_net(seed), train_step.net, 0.9)
    for step in range(3):
        broken.step(noise_batch(step), 0.01)
    broken.loss_scale.restore([512.0, 7])  # as mixed precision leaves it
    Checkpoints(tmp_path / "c").save(state(), broken, best)
    Checkpoints(tmp_path / "c").restore(FINGERPRINT, resumed, tmp_path / "model")
    assert resumed.average.updates == 3
    assert resumed.loss_scale.state() == [512.0, 7]
    assert_equal(resumed.average.net, broken.average.net)


def test_train_state_end_epoch_counts_it_and_resets_the_tally():
    ended = TrainState(meter=EpochMeter(steps=3, images=6, positives=7))
    ended.end_epoch({"epoch": 0})
    assert (ended.epoch, ended.meter, ended.history) == (1, EpochMeter(), [{"epoch": 0}])


def newest(checkpoints):
    return finished_dirs(checkpoints.target)[0]


def test_restore_state_before_the_first_step(tmp_path):
    Checkpoints(tmp_path / "c").save(TrainState(fingerprint=FINGERPRINT), saved_learner(), tmp_path / "none")
    resumed = saved_learner(seed=4)
    found, _ = Checkpoints(tmp_path / "c").restore(FINGERPRINT, resumed, tmp_path / "m")
    assert (found.epoch, found.best.epoch) == (0, -1) and not (tmp_path / "m").exists()
    resumed.step(noise_batch(0), 0.01)
    fresh = saved_learner()
    fresh.step(noise_batch(0), 0.01)
    assert_equal(resumed.net, fresh.net)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"setting learning_rate": 0.02}, "setting learning_rate: found 0.02, the checkpoint has 0.01"),
        ({"setting feature_strides": "8,16,..."}, "setting feature_strides: found '8,16,...', the checkpoint has ''"),
        ({"classes": ["cat", "emu"]}, r"classes: found \['cat', 'emu'\], the checkpoint has \['cat', 'dog'\]"),
        (
            {"training labels": "xyz"},
            "training labels",
        ),
        ({"validation labels": "new"}, "validation labels: found 'new', the checkpoint has None"),
        (
            {"setting learning_rate": 1, "classes": []},
            r"classes: .*; setting learning_rate: ",
        ),
    ],
    ids=["setting", "setting-younger-than-the-checkpoint", "classes", "data", "more", "two"],
)
def test_restore_other_settings_classes_or_data_raise_by_name(tmp_path, best, changes, expected):
    Checkpoints(tmp_path / "c").save(state(), saved_learner(), best)
    resumed = saved_learner(seed=4)
    with pytest.raises(CheckpointError, match=expected):
        Checkpoints(tmp_path / "c").restore({**FINGERPRINT, **changes}, resumed, tmp_path / "m")
    assert_equal(resumed.net, make_net(4))
    assert not (tmp_path / "m").exists()


def test_restore_flipped_bit_uses_the_previous(tmp_path, best):
    checkpoints, learned, dice = Checkpoints(tmp_path / "c"), saved_learner(), random.Random(1)
    for epoch in (1, 2):
        checkpoints.save(state(epoch=epoch), learned, best)
    spoiled = [path for path in newest(checkpoints).rglob("*") if path.is_file()]
    assert {path.name for path in spoiled} > {"checksums.json", "state.json", "last.params", "optimizer.params"}
    for path in spoiled * 3:
        data = path.read_bytes()
        place = dice.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :])
        checkpoints.check_resumable(FINGERPRINT, 2, before_data=False)
        found, notes = checkpoints.restore(FINGERPRINT, learned, tmp_path / "m")
        assert found.epoch == 1 and len(notes) == 2, (path, place)
        path.write_bytes(data)
    assert checkpoints.restore(FINGERPRINT, learned, tmp_path / "m")[0].epoch == 2


def test_restore_unreadable_state_uses_the_previous(tmp_path, best, monkeypatch):
    checkpoints, learned = Checkpoints(tmp_path / "c"), saved_learner()
    for epoch in (1, 2):
        checkpoints.save(state(epoch), learned, best)
    dying, sha256_of = newest(checkpoints), atomic.sha256_of

    def sum_of(file):
        if file.parent == dying:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return sha256_of(file)

    monkeypatch.setattr(atomic, "sha256_of", sum_of)
    checkpoints.check_resumable(FINGERPRINT, 2, before_data=False)
    found, notes = checkpoints.restore(FINGERPRINT, learned, tmp_path / "m")
    assert found.epoch == 1
    assert str(dying) in notes[0] and os.strerror(errno.EIO) in notes[0]


@pytest.mark.parametrize(
    "history, fault",
    [
        pytest.param({}, "history", id="object"),
        pytest.param("", "history", id="text"),
        pytest.param(None, "history", id="nothing"),
        pytest.param(["row"], "history", id="row-that-is-none"),
        pytest.param([{"epoch": 1, "mAP": "0.5"}], "score of '0.5'", id="score-of-the-kept-epoch-as-text"),
    ],
)
def test_restore_invalid_history_raises(tmp_path, best, history, fault):
    """Even if the checksum is right: the file may come from anywhere."""
    checkpoints, learned = Checkpoints(tmp_path / "c"), saved_learner()
    checkpoints.save(state(), learned, best)
    file = newest(checkpoints) / "state.json"
    atomic.write_json_atomic(file, {**json.loads(file.read_text()), "history": history})
    sums = json.loads((file.parent / "checksums.json").read_text())
    sums["files"][file.name] = {"sha256": atomic.sha256_of(file), "bytes": file.stat().st_size}
    atomic.write_json_atomic(file.parent / "checksums.json", sums)
    with pytest.raises(CheckpointError, match=f"{fault}"):
        checkpoints.restore(FINGERPRINT, learned, tmp_path / "m")


def test_restore_all_states_damaged_raises(tmp_path, best):
    checkpoints, learned = Checkpoints(tmp_path / "c"), saved_learner()
    for epoch in (1, 2):
        checkpoints.save(state(epoch), learned, best)
    for folder in finished_dirs(checkpoints.target):
        (folder / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="state.json: .* 2 bytes"):
        checkpoints.restore(FINGERPRINT, learned, tmp_path / "m")


def test_save_killed_at_any_moment_leaves_a_complete_state(tmp_path, best, killed_at):
    checkpoints, learned = Checkpoints(tmp_path / "c"), saved_learner()
    checkpoints.save(state(epoch=1), learned, best)
    seen = set()
    for step in range(1, 100, 2):
        folder = tmp_path / f"killed-{step}"
        shutil.copytree(tmp_path / "c", folder)
        died = killed_at(step, lambda folder=folder: Checkpoints(folder).save(state(epoch=2), learned, best))
        whole = newest(Checkpoints(folder))
        verify_checksums(whole)
        seen.add(json.loads((whole / "state.json").read_text())["epoch"])
        if not died:
            break
    assert seen == {1, 2} and step > 8
    assert Checkpoints(folder).restore(FINGERPRINT, learned, tmp_path / "m")[0].epoch == 2


def test_restore_best_model_replaces_a_later_one(tmp_path, best):
    """The run was killed between saving the model and saving the state."""
    Checkpoints(tmp_path / "c").save(state(), saved_learner(), best)
    saved(epoch=2).save(tmp_path / "m", make_net(8))
    Checkpoints(tmp_path / "c").restore(FINGERPRINT, saved_learner(), tmp_path / "m")
    found = SavedModel.load(tmp_path / "m")
    assert found.epoch == 1
    assert_equal(found.build(), make_net(7))


def test_save_nonfinite_weights_raises_and_keeps_states(tmp_path, best):
    checkpoints, learned = Checkpoints(tmp_path / "c"), saved_learner()
    checkpoints.save(state(epoch=1), learned, best)
    parameter = learned.net._collect_params_with_prefix()["features.mobilenet0_batchnorm3_running_mean"]
    parameter.set_data(mx.nd.full(parameter.shape, np.nan))
    with pytest.raises(TrainingDiverged, match="running_mean"):
        checkpoints.save(state(epoch=2), learned, best)
    assert len(files(tmp_path / "c")) == 1
    assert checkpoints.restore(FINGERPRINT, saved_learner(), tmp_path / "m")[0].epoch == 1


class Bomb:
    """A pickle that runs code when it is read."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('a pickle was read')",)


@pytest.mark.parametrize("name", ["optimizer.params", "last.params", "state.json", "best/config.json"])
def test_restore_never_reads_a_pickle(tmp_path, best, name):
    """Even if the checksum is right."""
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state(), saved_learner(), best)
    folder = newest(checkpoints)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    document = json.loads((folder / "checksums.json").read_text())
    document["files"][name] = {"sha256": atomic.sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
    (folder / "checksums.json").write_text(json.dumps(document))
    try:
        checkpoints.restore(FINGERPRINT, saved_learner(), tmp_path / "m")
        SavedModel.load(tmp_path / "m")
    except (CheckpointError, WeightsError):
        return
    pytest.fail("a pickle in place of data was taken")
