"""Models, checkpoints and request bodies of anybody: read without running anything, and whatever is wrong with them is
one of our own errors. SSD_TRAIN_FUZZ sets how many mutations of each are tried."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pickle
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.data import mutated, shapes_set, small_config, tries
from helpers.jobs import SOURCE, flags
from helpers.models import talking_model

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.data.image_io import encode_jpeg
from ssd_train.data.structures import ClassNames
from ssd_train.deploy.codec import RequestError
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.handlers import handle_request
from ssd_train.devices import contexts
from ssd_train.errors import SsdTrainError
from ssd_train.model.net import build_net
from ssd_train.model.pretrained import read_arrays
from ssd_train.storage.atomic import sha256_of
from ssd_train.training.checkpoint import Checkpoints, TrainState, check_epochs, config_fingerprint, runtime_info
from ssd_train.training.engine import EpochMeter
from ssd_train.training.schedule import BestTracker
from ssd_train.training.step import TrainStep

mx = mxnet_compat.mxnet()

pytestmark = pytest.mark.integration

COUNT = tries(200)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    talking_model(folder)
    return folder


# ---------------------------------------------------------------- mutations


def test_load_mutated_config_returns_or_raises(model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    config, outcomes, rng = tmp_path / "m" / "config.json", set(), random.Random(1)
    data = config.read_bytes()
    for _ in range(COUNT):
        config.write_bytes(mutated(data, rng, most=1))  # more leave hardly a model whole
        try:
            SavedModel.load(tmp_path / "m")
            outcomes.add("model")
        except SsdTrainError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {"model", "error"}


def test_read_arrays_mutated_returns_or_raises(tmp_path):
    """The header of an array is 40 bytes or so: what is changed there asks for other shapes, types and counts."""
    path, outcomes, rng = tmp_path / "a.params", set(), random.Random(2)
    mx.nd.save(str(path), {"one": mx.nd.ones((2, 3)), "two": mx.nd.ones((4,))})
    data = path.read_bytes()
    for _ in range(COUNT):
        path.write_bytes(mutated(data, rng))
        try:
            read_arrays(path)
            outcomes.add("arrays")
        except (SsdTrainError, MemoryError):
            outcomes.add("error")
    assert outcomes == {"arrays", "error"}


@pytest.mark.parametrize("name", ["state.json", "checksums.json"])
def test_restore_mutated_state_returns_or_raises(tmp_path, name):
    """Of a checkpoint, also under checksums that fit."""
    config, rng, outcomes = small_config(), random.Random(3), set()
    learned = TrainStep(build_net("mobilenet0.25", 128, ["cat"], 1), config, contexts("cpu"))
    checkpoints = Checkpoints(tmp_path / "c", runtime_info(config, learned.devices))
    marks = config_fingerprint(config)
    rows = [{"epoch": number, "VOC07": 0.5} for number in range(2)]
    checkpoints.save(TrainState(2, EpochMeter(3, 6, 7), BestTracker(), rows, marks), learned, tmp_path)
    (folder,) = (tmp_path / "c").glob("state-*")
    data, sums = (folder / name).read_bytes(), json.loads((folder / "checksums.json").read_text())
    for _ in range(COUNT):
        (folder / name).write_bytes(mutated(data, rng, most=1))
        if name == "state.json":
            sums["files"][name] = {"sha256": sha256_of(folder / name), "bytes": (folder / name).stat().st_size}
            (folder / "checksums.json").write_text(json.dumps(sums))
        try:
            checkpoints.check_resumable(marks, 9, before_data=False)
            state, _ = checkpoints.restore(marks, learned, tmp_path / "model")
            check_epochs(tmp_path / "c", state, 9)
            sums_of_epoch = dataclasses.asdict(state.meter).values()
            assert all(math.isfinite(value) for value in [state.epoch, state.best.epoch, *sums_of_epoch])
            assert isinstance(state.history, list) and all(row.items() for row in state.history)
            outcomes.add("state")
        except SsdTrainError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {"state", "error"}


class Engine:
    """Finds nothing."""

    name, class_names, side, grayscale = "mxnet", ClassNames(("cat",)), 32, False

    def run(self, pictures):
        return np.full((len(pictures), 1, 6), -1, np.float32)


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/json", "application/x-npy", "text/plain"])
def test_handle_request_mutated_body_answers_or_refuses(content_type):
    pixels, file = np.random.RandomState(0).randint(0, 255, (20, 30, 3)).astype(np.uint8), io.BytesIO()
    np.save(file, pixels)
    bodies = {"image/jpeg": encode_jpeg(pixels), "application/x-npy": file.getvalue()}
    body = bodies.get(content_type, json.dumps(pixels[:12, :12].tolist()).encode())
    detector, rng, outcomes = Detector(Engine()), random.Random(5), set()
    for _ in range(COUNT):
        try:
            handle_request(detector, mutated(body, rng), content_type, "application/json")
            outcomes.add("answer")
        except RequestError as error:
            assert 400 <= error.status < 500, error
            outcomes.add("refused")
    assert "refused" in outcomes


# ---------------------------------------------------------------- nothing is run

# In a process whose ways to run what a file says all raise: a whole job, a resumed one, evaluation and serving.
GUARDED = """
import builtins, json, pickle, sys
import _pickle
from ssd_train import mxnet_compat
mxnet_compat.gluoncv()  # what the libraries themselves do while they are imported is not of our files
mx = mxnet_compat.mxnet()
import matplotlib, tqdm, yaml

def forbidden(name):
    def refuse(*arguments, **named):
        raise AssertionError(f"{name} was reached")
    return refuse

for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, forbidden(f"pickle.{name}"))
for name in ("load", "full_load", "unsafe_load", "load_all"):
    setattr(yaml, name, forbidden(f"yaml.{name}"))
mx.gluon.Trainer.load_states = forbidden("Trainer.load_states")
mx.optimizer.Updater.set_states = forbidden("Updater.set_states")
mx.kvstore.KVStoreBase.load_optimizer_states = forbidden("load_optimizer_states")
real_eval, real_exec = builtins.eval, builtins.exec
def of_ours(real, name):
    def guarded(*arguments, **named):
        if "ssd_train" in sys._getframe(1).f_globals.get("__name__", ""):
            raise AssertionError(f"{name} was reached")
        return real(*arguments, **named)
    return guarded
builtins.eval, builtins.exec = of_ours(real_eval, "eval"), of_ours(real_exec, "exec")

from ssd_train.cli.main import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    assert code == 0, (arguments, code)
print("nothing was run")
"""


def guarded(jobs):
    environ = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", GUARDED, json.dumps(jobs)],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=200,
    )


def test_commands_reach_no_pickle_eval_or_yaml(tmp_path):
    data = shapes_set(tmp_path / "train", 8, 1), shapes_set(tmp_path / "validation", 4, 2)
    train = ["train", *flags(data, tmp_path, epochs=1, optimizer="adam")]
    more = ["train", *flags(data, tmp_path, epochs=2, optimizer="adam")]
    model, images = str(tmp_path / "model"), str(data[1].images)
    jobs = [
        train,
        more,  # resumed
        ["evaluate", "--model", model, "--images", images, "--labels", str(data[1].manifest)],
        ["predict", images, "--model", model, "--output", str(tmp_path / "answers.jsonl")],
        ["check", "--images", images, "--labels", str(data[1].manifest)],
    ]
    done = guarded(jobs)
    assert done.returncode == 0 and b"nothing was run" in done.stdout, done.stdout.decode()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["weights", "config.json", "history.jsonl"])
def test_load_pickle_in_a_model_folder_is_not_read(model, tmp_path, name):
    shutil.copytree(model, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    victim = tmp_path / "m" / (config["weights"]["file"] if name == "weights" else name)
    victim.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    if name == "weights":
        config["weights"]["sha256"] = sha256_of(victim)
        del config["sha256"]
        (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    if name == "history.jsonl":
        Detector.load(tmp_path / "m", engine="mxnet")  # does not need it
    else:
        with pytest.raises(SsdTrainError):
            Detector.load(tmp_path / "m", engine="mxnet")
    assert not (tmp_path / "sprung").exists()
