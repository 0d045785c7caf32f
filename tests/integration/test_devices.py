"""Runs on devices that do not include cpu(0), as a GPU's do not: what nobody has moved there fails. `verify` trains,
resumes, scores and exports on cpu:1 and cpu:2, and what it has trained is trained further here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from helpers.data import flags_of

from ssd_train import mxnet_compat
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.cli import verify
from ssd_train.cli.main import main
from ssd_train.cli.verify import Checks, Figure
from ssd_train.config import TrainConfig
from ssd_train.deploy.onnx_backends import OnnxEngine
from ssd_train.deploy.symbol_backend import SymbolEngine
from ssd_train.environment import Environment
from ssd_train.progress import Progress
from ssd_train.training import checkpoint, step
from ssd_train.training.engine import Evaluator, evaluate
from ssd_train.training.setup import build_setup

pytestmark = pytest.mark.integration

mx = mxnet_compat.mxnet()
DEVICES, PICTURES = ["cpu:1", "cpu:2"], 16


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """What `verify` leaves: its exit code, its JSON file, and the folder that it worked in."""
    folder = tmp_path_factory.mktemp("verify")
    flags = {"devices": ",".join(DEVICES), "pictures": PICTURES, "folder": folder / "work", "output": folder / "v.json"}
    code = main(["verify", *flags_of(flags)])
    return code, json.loads((folder / "v.json").read_text()), folder / "work"


def test_verify_on_two_devices_passes_every_check(verified):
    code, document, _ = verified
    found = {check["name"]: check for check in document["checks"]}
    assert code == 0 and list(found) == [name for name, _ in verify.CHECKS]
    assert {name: check["result"] for name, check in found.items()} == dict.fromkeys(found, "ok")
    assert all(check["seconds"] > 0 and check["figures"] for check in found.values())
    assert all(figure["met"] for check in found.values() for figure in check["figures"])
    assert document["versions"]["mxnet"] == mx.__version__
    assert [device["device"] for device in document["devices"]] == ["cpu(1)", "cpu(2)"]


def first_part_only(array, devices):
    part = array[: -(-len(array) // len(devices))]
    return [mx.nd.array(part, ctx=device, dtype=part.dtype) for device in devices]


def built_otherwise(build):
    def otherwise(model, device=None):
        net = build(model, device)
        if device not in (None, mx.cpu(0)):
            weight = net.class_predictors[0].predictor.weight
            weight.set_data(weight.data(device) * 1.5)
        return net

    return otherwise


def weights_otherwise(of_kind):
    def otherwise(engine, kind, device):
        return {
            name: array * 1.5 if device != mx.cpu(0) else array for name, array in of_kind(engine, kind, device).items()
        }

    return otherwise


def run_otherwise(run):
    return lambda engine, pictures: run(engine, pictures) + [0, 0, 1, 1, 1, 1]


FAULTS = {
    "restoring": (checkpoint, "load_strict", lambda load: lambda net, path: None),
    "resuming": (checkpoint, "load_optimizer", lambda load: lambda arrays, trainer, counts: None),
    "mixed_precision": (mxnet_compat, "add_casts", lambda add: lambda symbol, inputs, dtype: symbol),
    "two_devices": (step, "split_and_load", lambda split: first_part_only),
    "scoring": (SavedModel, "build", built_otherwise),
    "exported_symbol": (SymbolEngine, "_arrays_of", weights_otherwise),
    "exported_onnx": (OnnxEngine, "run", run_otherwise),
}


@pytest.mark.slow
@pytest.mark.parametrize("check", FAULTS)
def test_verify_with_a_planted_fault_fails_the_check(verified, monkeypatch, check):
    _, _, folder = verified
    for made in ("restoring", "resuming", "amp", "one", "two"):
        shutil.rmtree(folder / made, ignore_errors=True)
    place, name, fault = FAULTS[check]
    monkeypatch.setattr(place, name, fault(getattr(place, name)))
    monkeypatch.setattr(verify, "CHECKS", [(check, check)])
    (found,) = verify.run_checks(Checks(folder, DEVICES, PICTURES), Progress())
    assert found["result"] == "FAILED"
    assert found["error"] if check == "exported_onnx" else not all(figure["met"] for figure in found["figures"])


@pytest.mark.parametrize(
    "value, is_met", [(0.0, True), (0.5, True), (0.51, False), (-0.1, False), (float("nan"), False)]
)
def test_figure_within_its_limits_is_met(value, is_met):
    figure = Figure("it", value, most=0.5, least=0.0)
    assert figure.is_met == is_met
    written = json.loads(json.dumps(figure.to_json(), allow_nan=False))
    assert written["met"] == is_met and written["value"] == (value if value == value else None)


def places(folder, target):
    """The data that `verify` has drawn, and where a run on it leaves its results."""
    sets = {name: folder / name for name in ("train", "validation")}
    return {
        "train": sets["train"] / "images",
        "labels": sets["train"] / "output.manifest",
        "validation": sets["validation"] / "images",
        "validation_labels": sets["validation"] / "output.manifest",
        "model_dir": target / "model",
        "output_dir": target / "output",
    }


def settings_of(**changes):
    return {**verify.SETTINGS, "checkpoint_minutes": 0, "validation_interval": 1, "epochs": 1, **changes}


def last_row(folder):
    return json.loads((folder / "model" / "history.jsonl").read_text().splitlines()[-1])


def test_train_further_on_another_device_resumes_and_evaluates_there(verified, tmp_path, capsys):
    """Incremental training, an average of the weights, a resumed run, and `evaluate` by both of MXNet's engines."""
    _, _, folder = verified
    own = {**places(folder, tmp_path), "checkpoint_dir": tmp_path / "checkpoints", "devices": "cpu:1"}
    for epochs in (1, 2):
        given = {**own, **settings_of(epochs=epochs, ema_decay=0.9), "pretrained": folder / "training" / "model"}
        assert main(["train", *flags_of(given)]) == 0
    printed = capsys.readouterr().out
    assert "171 of 171 tensors loaded" in printed and "resuming after epoch 1" in printed
    assert "training on cpu(1) with" in printed and (tmp_path / "output" / "report.html").exists()
    for engine in ("mxnet", "symbol"):
        flags = {"model": tmp_path / "model", "labels": own["validation_labels"], "engine": engine, "devices": "cpu:2"}
        assert main(["evaluate", *flags_of({**flags, "json": tmp_path / "scores.json"})]) == 0
        scores = json.loads((tmp_path / "scores.json").read_text())
        best = json.loads((tmp_path / "model" / "config.json").read_text())["scores"]
        assert scores["mAP"] == pytest.approx(best["mAP"], abs=1e-3)


@pytest.mark.slow
def test_train_mixed_precision_with_frozen_layers_scores_the_saved_net(verified, tmp_path):
    """In float32, to the last bit: it is what everybody computes who has the files."""
    _, _, folder = verified
    own = {**places(folder, tmp_path), "devices": "cpu:1,cpu:2", "pretrained": folder / "training" / "model"}
    settings = settings_of(amp=1, freeze_layer_pattern="^features.mobilenet")
    command = [sys.executable, "-m", "ssd_train", "train", *flags_of({**own, **settings})]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "mixed precision: bfloat16" in done.stdout and "no deployment files" not in done.stdout
    model = SavedModel.load(tmp_path / "model")
    plain = TrainConfig.from_mapping({**settings, "amp": 0})
    job = build_setup(plain, Environment(**places(folder, tmp_path / "plain"), devices="cpu:1"), Progress())
    evaluator = Evaluator(model.build(mx.cpu(1)), model.config, mx.cpu(1), model.post_nms)
    evaluation = evaluate(evaluator, job.validation_loader, job.class_names)
    assert model.config.amp and evaluation.smooth_l1 == last_row(tmp_path)["val_SmoothL1"]
    assert evaluation.cross_entropy == last_row(tmp_path)["val_CrossEntropy"]
