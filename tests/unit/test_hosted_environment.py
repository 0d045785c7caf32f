"""Where a SageMaker job is: its channels, folders and hosts, by the toolkit's variables and the files it stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.jobs import describe, failure_of, make_opt_ml

from ssd_train.cli.train import _take_flags, make_parser
from ssd_train.environment import (
    FAILURE_CHARACTERS,
    Environment,
    detect_launcher,
    is_hosted,
    sagemaker_hyperparameters,
    write_failure_file,
)
from ssd_train.errors import ConfigError


@pytest.fixture
def hosted(tmp_path, monkeypatch):
    """`hosted(channels, ...)` makes a false /opt/ml and moves this process there."""
    for name in ("SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR", "SM_OUTPUT_DIR", "SM_HPS", "SM_CHANNEL_TRAIN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "s3").mkdir()

    def make(*channels, hyperparameters=(), **more):
        places = dict.fromkeys(channels, tmp_path / "s3")
        base = make_opt_ml(tmp_path / "opt" / "ml", dict(hyperparameters), places, **more)
        monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(base))
        return base

    return make


def test_is_hosted_without_job_is_false(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("SM_MODEL_DIR", raising=False)
    assert not is_hosted()
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    assert is_hosted()


@pytest.mark.parametrize(
    "channels, expected",
    [
        pytest.param(["train", "labels"], {"train": "train", "labels": "labels"}, id="images-and-a-manifest"),
        pytest.param(["training"], {"train": "training"}, id="the-name-of-an-unnamed-input"),
        pytest.param(
            ["train", "validation", "train_annotation", "validation_annotation"],
            {
                "train": "train",
                "labels": "train_annotation",
                "validation": "validation",
                "validation_labels": "validation_annotation",
            },
            id="image-and-json",
        ),
        pytest.param(["train", "validation"], {"train": "train", "validation": "validation"}, id="recordio"),
        pytest.param(["train", "model"], {"train": "train", "pretrained": "model"}, id="incremental"),
        pytest.param(["train", "pretrained"], {"train": "train", "pretrained": "pretrained"}, id="weights"),
    ],
)
def test_from_sagemaker_channels_fill_fields(hosted, channels, expected):
    data = hosted(*channels) / "input" / "data"
    environment = Environment.from_sagemaker({})
    fields = ("train", "labels", "validation", "validation_labels", "pretrained")
    found = {field: getattr(environment, field) for field in fields if getattr(environment, field) is not None}
    assert found == {field: data / name for field, name in expected.items()}
    assert environment.unused_channels == () and environment.pipes == frozenset()


def test_from_sagemaker_reads_hosts_and_output_folders(hosted):
    base = hosted("train", hosts=("algo-2", "algo-1"))
    found = Environment.from_sagemaker({})
    assert (found.model_dir, found.output_dir) == (base / "model", base / "output" / "data")
    assert (found.host, found.hosts, found.on_sagemaker) == ("algo-2", ("algo-2", "algo-1"), True)
    assert found.checkpoint_dir == base / "checkpoints"
    (base / "checkpoints").rmdir()
    assert Environment.from_sagemaker({}).checkpoint_dir is None, "the job has no S3 folder for them"


def test_from_sagemaker_reads_toolkit_variables_alone(tmp_path, monkeypatch, hosted):
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path / "nowhere"))
    for name, value in {"CHANNEL_TRAIN": "/a", "CHANNEL_TRAIN_ANNOTATION": "/b", "MODEL_DIR": "/c"}.items():
        monkeypatch.setenv(f"SM_{name}", value)
    found = Environment.from_sagemaker({})
    assert (found.train, found.labels, found.model_dir) == (Path("/a"), Path("/b"), Path("/c"))


def test_from_sagemaker_pipe_mode_is_detected(hosted):
    base = hosted("train", "validation", "labels", pipes=("train",))
    found = Environment.from_sagemaker({})
    assert found.pipes == {"train"} and found.train == base / "input" / "data" / "train"


@pytest.mark.parametrize(
    "channels, message",
    [
        (["labels"], "^channels: found labels,"),
        ([], "^channels: found none,"),
        (["train", "labels", "train_annotation"], "^channels: found labels and train_annotation,"),
        (["train", "model", "pretrained"], "^channels: found pretrained and model,"),
    ],
    ids=["no-train", "none", "labels-twice", "weights-twice"],
)
def test_from_sagemaker_missing_or_double_channel_is_an_error(hosted, channels, message):
    hosted(*channels)
    with pytest.raises(ConfigError, match=message):
        Environment.from_sagemaker({})


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("inputdataconfig", "{", "inputdataconfig.json: "),
        ("resourceconfig", "[1]", "resourceconfig.json: found list"),
    ],
)
def test_from_sagemaker_damaged_job_file_is_an_error(hosted, name, text, message):
    (hosted("train") / "input" / "config" / f"{name}.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Environment.from_sagemaker({})


def test_hosted_flags_of_a_job_without_the_toolkit(hosted):
    """Every flag of train is a hyperparameter; those of the command win."""
    hosted("train", hyperparameters={"devices": "cpu", "epochs": 3, "labels": "/x", "dry_run": True, "fetch_images": 0})
    given = sagemaker_hyperparameters()
    found = _take_flags(given, make_parser(), ["--labels", "/y"])
    assert given == {"epochs": "3"}
    assert sorted(found) == ["--devices=cpu", "--dry_run=true", "--fetch_images=0"]
    known, settings = make_parser().parse_settings([*found, "--train", "/t"])
    assert (known.devices, known.dry_run) == ("cpu", True) and not settings


@pytest.mark.parametrize("value, expected", [(["True"], True), (["0"], False), ([], True)])
def test_hosted_flags_of_the_toolkit_have_values(value, expected):
    """sagemaker-training passes each hyperparameter as a flag with its value."""
    for flag in ("--dry_run", "--overwrite"):
        known, _ = make_parser().parse_settings([flag, *value, "--epochs", "2"])
        assert vars(known)[flag[2:]] is expected
    with pytest.raises(ConfigError, match="found maybe, expected true or false"):
        make_parser().parse_settings(["--overwrite", "maybe"])


def test_hosted_settings_are_texts_in_any_encoding(hosted, monkeypatch):
    base = hosted("train", hyperparameters={"epochs": 3, "optimizer": "sgd", "early_stopping": True})
    assert sagemaker_hyperparameters() == {"epochs": "3", "optimizer": "sgd", "early_stopping": "true"}
    describe(base, "hyperparameters", {"epochs": "30", "lr_scheduler_step": "10,20", "optimizer": "sgd", "a": '"b'})
    assert sagemaker_hyperparameters()["lr_scheduler_step"] == "10,20" and sagemaker_hyperparameters()["a"] == '"b'
    monkeypatch.setenv("SM_HPS", "{}")
    assert sagemaker_hyperparameters() == {}, "the toolkit has made flags of them"


@pytest.mark.parametrize("length", [10, FAILURE_CHARACTERS, FAILURE_CHARACTERS + 1, 5000])
def test_report_failure_writes_a_truncated_file(hosted, length):
    base = hosted("train")
    message = "".join("é" if index % 2 else "x" for index in range(length))
    write_failure_file(message)
    found = failure_of(base)
    assert len(found) <= 1024 and found[:1000] == message[:1000]
    assert (found == message) == (length <= 1024) and (found.endswith("…") == (length > 1024))


@pytest.mark.parametrize(
    "variables, expected",
    [
        pytest.param({}, ("", 1), id="nothing"),
        pytest.param({"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "3"}, ("parameter_server", 3), id="parameter-server"),
        pytest.param({"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "1"}, ("parameter_server", 1), id="with-one-host"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": "4"}, ("mpi", 4), id="mpirun"),
        pytest.param({"HOROVOD_SIZE": "2"}, ("mpi", 2), id="horovodrun"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": "1"}, ("", 1), id="mpirun-of-one"),
    ],
)
def test_joined_by_detects_the_launcher(monkeypatch, variables, expected):
    for name in ("DMLC_ROLE", "DMLC_NUM_WORKER", "OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert detect_launcher() == expected
