"""Folders that hold the work of another run are refused, unless --overwrite; the same run may be resumed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import jobs
from helpers.data import shapes_set

from ssd_train.cli.main import main
from ssd_train.storage.lock import LOCK

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return shapes_set(folder / "train", 12, seed=1), shapes_set(folder / "validation", 4, seed=2)


@pytest.fixture(scope="module")
def other_data(data, tmp_path_factory):
    return shapes_set(tmp_path_factory.mktemp("other") / "train", 12, seed=3), data[1]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *flags(data, folder)]) == 0
    return folder


def flags(data, folder, **settings):
    return jobs.flags(data, folder, **{"epochs": 1, "checkpoint_dir": None, **settings})


def content(folder):
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "changes, named",
    [
        pytest.param({}, "the training labels", id="other-data"),
        pytest.param({"learning_rate": 0.01}, "setting learning_rate", id="other-settings"),
    ],
)
def test_train_into_the_model_of_another_run_is_refused(trained, data, other_data, tmp_path, capsys, changes, named):
    before = content(trained)
    arguments = flags(data if changes else other_data, trained, output_dir=tmp_path / "output", **changes)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {trained / 'model'}: ") and error.count("\n") == 1
    assert "disc, square, triangle" in error and named in error and "--overwrite" in error
    assert content(trained) == before and not (tmp_path / "output").exists()


@pytest.mark.parametrize("changes", [{}, {"epochs": 2}], ids=["repeated", "more-epochs"])
def test_train_again_without_its_checkpoints_is_refused_and_keeps_the_model(trained, data, capsys, changes):
    before = content(trained)
    assert main(["train", *flags(data, trained, **changes)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {trained / 'model'}: ") and error.count("\n") == 1
    assert "--checkpoint_dir" in error and "--overwrite" in error
    assert content(trained) == before and LOCK not in before


def test_train_overwrite_replaces_the_model_and_the_report(data, other_data, tmp_path, capsys):
    assert main(["train", *flags(data, tmp_path)]) == 0
    report = (tmp_path / "output" / "report.html").read_bytes()
    config = json.loads(content(tmp_path)["config.json"])
    assert main(["train", *flags(other_data, tmp_path), "--overwrite"]) == 0
    after = json.loads(content(tmp_path)["config.json"])
    assert after["labels_sha256"]["training"] != config["labels_sha256"]["training"]
    assert after["labels_sha256"]["validation"] == config["labels_sha256"]["validation"]
    assert (tmp_path / "output" / "report.html").read_bytes() != report
    used = (tmp_path / "output" / "config.yaml").read_text().splitlines()
    assert used and not [line for line in used if line.startswith("overwrite:")]
    assert [name for name in content(tmp_path) if name.startswith("weights-")] == [after["weights"]["file"]]


def test_train_into_the_report_of_another_run_is_refused(trained, other_data, tmp_path, capsys):
    report = trained / "output" / "report.html"
    before = report.read_bytes()
    assert main(["train", *flags(other_data, trained, model_dir=tmp_path / "model")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {report}: ")
    assert report.read_bytes() == before and not (tmp_path / "model").exists()


def test_train_resumes_into_its_model_folder(data, tmp_path):
    checkpoints = {"checkpoint_dir": tmp_path / "checkpoints"}
    assert main(["train", *flags(data, tmp_path, **checkpoints)]) == 0
    assert main(["train", *flags(data, tmp_path, **checkpoints, epochs=2)]) == 0
    before = content(tmp_path)
    assert len(before["history.jsonl"].splitlines()) == 2
    assert main(["train", *flags(data, tmp_path, checkpoint_dir=tmp_path / "new", epochs=2)]) == 2
    assert content(tmp_path) == before


def test_train_killed_before_its_first_checkpoint_begins_again(data, tmp_path):
    assert main(["train", *flags(data, tmp_path)]) == 0  # the model of one epoch, and no checkpoint
    assert main(["train", *flags(data, tmp_path, checkpoint_dir=tmp_path / "checkpoints", epochs=2)]) == 0


def test_train_into_the_folder_of_a_running_run_is_refused(data, other_data, tmp_path, capsys):
    first = jobs.start(["train", *flags(data, tmp_path, epochs=200)])
    jobs.told(first, "^epoch 1/")
    for arguments in (flags(data, tmp_path), [*flags(other_data, tmp_path), "--overwrite"]):
        assert main(["train", *arguments]) == 2
        assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'model'}: ")
    first.terminate()
    jobs.ended(first)
    assert LOCK not in content(tmp_path)


def test_train_into_an_export_is_refused(trained, data, tmp_path, capsys):
    export = ["export", "--model", str(trained / "model"), "--format", "symbol", "--output", str(tmp_path / "model")]
    assert main(export) == 0
    assert main(["train", *flags(data, tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'model'}: ")


def test_export_into_the_export_of_another_model_is_refused(trained, other_data, tmp_path, capsys):
    assert main(["train", *flags(other_data, tmp_path / "other")]) == 0
    models = [trained / "model", tmp_path / "other" / "model"]
    exports = [
        ["export", "--model", str(model), "--format", "symbol", "--output", str(tmp_path / "out")] for model in models
    ]
    assert [main(exports[0]), main(exports[0])] == [0, 0]
    before = (tmp_path / "out" / "model-0000.params").read_bytes()
    capsys.readouterr()
    assert main(exports[1]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert (tmp_path / "out" / "model-0000.params").read_bytes() == before
    assert main([*exports[1], "--overwrite"]) == 0
    assert (tmp_path / "out" / "model-0000.params").read_bytes() != before
    assert main([*exports[1][:-1], str(models[0]), "--overwrite"]) == 2  # a trained model's folder stays its own
    assert LOCK not in [path.name for path in (tmp_path / "out").iterdir()]


def test_export_into_a_locked_folder_is_refused(trained, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, time; f = open({str(tmp_path / 'out' / LOCK)!r}, 'w'); "
         "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(120)"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout.readline() == b"held\n"
    output = str(tmp_path / "out")
    assert main(["export", "--model", str(trained / "model"), "--format", "symbol", "--output", output]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'out'}: ")
    holder.kill()
    holder.communicate()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
