"""A run that is stopped, or dies, between any two steps and goes on ends as if nothing had been."""

from __future__ import annotations

import itertools
import json

import pytest
from helpers.data import HeardProgress, shapes_set, small_config
from helpers.jobs import last_weights

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.artifacts.symbol_format import read_description
from ssd_train.cli.train import train
from ssd_train.deploy import deployment
from ssd_train.environment import Environment
from ssd_train.errors import TrainingDiverged, TrainingInterrupted
from ssd_train.training import trainer

pytestmark = pytest.mark.integration

STEPS, EPOCHS = 4, 2  # 16 images, 4 a step
LOOKED_AT = 16 + 6  # images, before the first step
SETTINGS = {"epochs": EPOCHS, "checkpoint_minutes": 0, "optimizer": "sgd"}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return [*shapes_set(folder / "train", 16, 1), *shapes_set(folder / "validation", 6, 2)]


@pytest.fixture(scope="module")
def unbroken(sides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    train(small_config(**SETTINGS), environment_of(sides, folder))
    return folder


def environment_of(sides, folder, machine="model"):
    return Environment(*sides, folder / machine, folder / "output", folder / "checkpoints")


def stop_at(calls):
    """Asks to stop when it is asked for the `calls`th time after the images were looked at."""
    counter = itertools.count(1 - LOOKED_AT)
    return lambda: next(counter) >= calls


def weights(folder, machine="model"):
    best = SavedModel.load(folder / machine)
    return last_weights(folder / "checkpoints").read_bytes(), best.sha256, best.epoch


def assert_deployable(model):
    """The deployment files are those of the model, and SageMaker's container finds its code."""
    assert read_description(model).weights == SavedModel.load(model).sha256
    assert (model / "code" / "inference.py").is_file()


def test_deployment_files_are_made_once_at_the_end(sides, tmp_path, monkeypatch):
    exported = []
    real = deployment.ensure_exported
    monkeypatch.setattr(
        deployment, "ensure_exported", lambda folder, images: (exported.append(folder), real(folder, images))
    )
    train(small_config(**SETTINGS), environment_of(sides, tmp_path))
    assert exported == [tmp_path / "model"]
    assert_deployable(tmp_path / "model")


def test_a_finished_run_that_is_repeated_makes_lost_deployment_files_again(sides, tmp_path):
    for _ in range(2):
        train(small_config(**SETTINGS), environment_of(sides, tmp_path))
        assert_deployable(tmp_path / "model")
        (tmp_path / "model" / "model-0000.params").unlink()
        (tmp_path / "model" / "code" / "inference.py").unlink()


def test_a_diverged_run_leaves_the_best_model_deployable(sides, tmp_path):
    class Swelling(HeardProgress):
        """Makes the weights huge after the first epoch."""

        def info(self, text):
            super().info(text)
            if text.startswith("epoch 1/"):
                parameter = self.net._collect_params_with_prefix()["box_predictors.0.predictor.weight"]
                parameter.set_data(mxnet_compat.mxnet().nd.full(parameter.shape, 1e38))

    progress, real = Swelling(), trainer.build_setup

    def build_setup(*arguments):
        setup = real(*arguments)
        progress.net = setup.net
        return setup

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "build_setup", build_setup)
        with pytest.raises(TrainingDiverged):
            train(small_config(**{**SETTINGS, "epochs": 4}), environment_of(sides, tmp_path), progress)
    assert_deployable(tmp_path / "model")


@pytest.mark.parametrize(
    "calls, told",
    [
        pytest.param(1, "epoch 0, step 1 of the next; its weights, not yet scored, are in", id="first-step"),
        pytest.param(STEPS + 1, "epoch 0, step 4 of the next", id="in-the-evaluation"),
        pytest.param(STEPS + 2 + 2, "epoch 1, step 2 of the next; the model of epoch 1 is in", id="second-epoch"),
    ],
)
def test_stop_and_resume_elsewhere_gives_the_same_weights(sides, unbroken, tmp_path, calls, told):
    with pytest.raises(TrainingInterrupted, match=told):
        train(small_config(**SETTINGS), environment_of(sides, tmp_path), should_stop=stop_at(calls))
    assert_deployable(tmp_path / "model")
    assert (tmp_path / "output" / "report.html").is_file()
    heard = HeardProgress()
    train(small_config(**SETTINGS), environment_of(sides, tmp_path, "elsewhere"), heard)
    assert any(line.startswith("resuming after epoch") for line in heard.lines)
    assert weights(tmp_path, "elsewhere") == weights(unbroken)


def test_stop_before_the_first_step_ends_at_once(sides, unbroken, tmp_path):
    told = "^stopped on request before the first step; run the same command again$"
    with pytest.raises(TrainingInterrupted, match=told):
        train(small_config(**SETTINGS), environment_of(sides, tmp_path), should_stop=stop_at(2 - LOOKED_AT))
    assert not (tmp_path / "model").exists()
    train(small_config(**SETTINGS), environment_of(sides, tmp_path))
    assert weights(tmp_path) == weights(unbroken)


def test_stop_after_the_last_epoch_loses_nothing(sides, unbroken, tmp_path):
    asked = 1 + EPOCHS * (STEPS + 2 + 1)
    told = "^stopped on request after epoch 2; the model of epoch . is in .*; run the same command again to resume$"
    with pytest.raises(TrainingInterrupted, match=told):
        train(small_config(**SETTINGS), environment_of(sides, tmp_path), should_stop=stop_at(asked - 1))
    train(small_config(**SETTINGS), environment_of(sides, tmp_path))
    assert weights(tmp_path) == weights(unbroken)


def test_stop_after_each_step_gives_the_same_weights(sides, unbroken, tmp_path):
    for _ in range(STEPS * EPOCHS):
        with pytest.raises(TrainingInterrupted):
            train(small_config(**SETTINGS), environment_of(sides, tmp_path), should_stop=stop_at(1))
    train(small_config(**SETTINGS), environment_of(sides, tmp_path))
    assert weights(tmp_path) == weights(unbroken)
    lines = (tmp_path / "model" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_checkpoint_minutes_sets_the_interval(sides, tmp_path, monkeypatch):
    """A clock that goes a minute a step: every other step is kept."""
    clock = itertools.count(0, 60)
    monkeypatch.setattr(trainer.time, "monotonic", lambda: next(clock))
    saved = []
    real = trainer.Checkpoints.save
    monkeypatch.setattr(
        trainer.Checkpoints, "save", lambda self, state, *rest: (saved.append(str(state)), real(self, state, *rest))
    )
    settings = {**SETTINGS, "epochs": 1, "checkpoint_minutes": 2}
    train(small_config(**settings), environment_of(sides, tmp_path))
    assert saved == ["epoch 0, step 2 of the next", "epoch 0, step 4 of the next", "epoch 1"]


def test_stop_without_checkpoint_dir_leaves_a_model(sides, tmp_path):
    places = Environment(*sides, tmp_path / "model", tmp_path / "output")
    with pytest.raises(TrainingInterrupted) as stop:
        train(small_config(**SETTINGS), places, should_stop=stop_at(2))
    assert "resume" not in str(stop.value) and "--checkpoint_dir" in str(stop.value)
    assert SavedModel.load(tmp_path / "model").epoch == 0
