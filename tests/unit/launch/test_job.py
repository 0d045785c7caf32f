from __future__ import annotations

import pytest
from helpers.services import INPUTS, make_job

from ssd_train.environment import CHANNELS, CODE_CHANNELS
from ssd_train.errors import ConfigError
from ssd_train.launch.job import Channel, make_channels
from ssd_train.launch.requests import all_channels

MANIFEST = "s3://my-bucket/labels/output.manifest"


@pytest.mark.parametrize(
    "changes, expected",
    [
        pytest.param({"name": "-a"}, ["job_name"], id="name"),
        pytest.param({"role": "SageMakerRole"}, ["role"], id="role-name"),
        pytest.param({"checkpoints": "ckpt"}, ["checkpoints"], id="checkpoints"),
        pytest.param({"channels": {}}, ["train"], id="no-train"),
        pytest.param({"channels": {"train": Channel("images")}}, ["train"], id="channel"),
        pytest.param(
            {"channels": {"train": Channel(MANIFEST, attributes=("bb", "source-ref"))}},
            ["train"],
            id="attributes-swapped",
        ),
        pytest.param(
            {"channels": make_channels({**INPUTS, "pretrained": "s3://b/p", "model": "s3://b/m"})},
            ["channels"],
            id="two-of-one-meaning",
        ),
        pytest.param({"subnets": ("subnet-1",)}, ["subnets, security_groups"], id="no-security-group"),
        pytest.param({"instance_type": "p3.2xlarge"}, ["instance_type"], id="instance"),
        pytest.param({"instance_count": 2}, ["instance_count"], id="several-without-distribution"),
        pytest.param({"distribution": "ddp"}, ["distribution"], id="distribution"),
        pytest.param({"processes_per_host": 8}, ["processes_per_host"], id="processes-without-mpi"),
        pytest.param({"max_wait": 9999}, ["max_wait"], id="wait-without-spot"),
        pytest.param({"volume_gb": 0}, ["volume_gb"], id="disk"),
        pytest.param(
            {"name": "", "role": "", "instance_type": ""}, ["job_name", "role", "instance_type"], id="all-at-once"
        ),
    ],
)
def test_job_invalid_values_raise_naming_each(changes, expected):
    with pytest.raises(ConfigError) as raised:
        make_job(**changes)
    assert [fault.split(":")[0] for fault in str(raised.value).split("; ")] == expected
    assert "\n" not in str(raised.value)


def test_job_s3_paths():
    job = make_job(output="s3://my-bucket/ssd/", spot=True)
    assert job.source == "s3://my-bucket/ssd/ssd-logo-1/source/sourcedir.tar.gz"
    assert job.checkpoint_folder == "s3://my-bucket/ssd/ssd-logo-1/checkpoints"
    assert make_job().checkpoint_folder == ""
    assert make_job(checkpoints="s3://c/d").checkpoint_folder == "s3://c/d"
    assert make_job(spot=True, max_run=100).longest_wait == 200
    assert make_job(spot=True, max_run=100, max_wait=150).longest_wait == 150


def test_make_channels_pipe_mode_streams_train_and_validation():
    inputs = {"train": MANIFEST, "validation": "s3://b/validation.rec", "pretrained": "s3://b/p"}
    assert make_channels(inputs, True, ("source-ref", "bb")) == {
        "train": Channel(MANIFEST, "Pipe", "application/x-recordio", ("source-ref", "bb"), shuffle_seed=1),
        "validation": Channel("s3://b/validation.rec", "Pipe", "application/x-recordio"),
        "pretrained": Channel("s3://b/p", "File"),
    }


@pytest.mark.parametrize(
    "inputs, pipe, attributes, place",
    [
        pytest.param({"train": MANIFEST}, True, (), "train", id="no-attributes"),
        pytest.param({"train": MANIFEST}, False, ("source-ref", "bb"), "attribute_names", id="no-pipe"),
        pytest.param({"train": "s3://b/a.rec"}, True, ("source-ref", "bb"), "attribute_names", id="no-manifest"),
    ],
)
def test_make_channels_contradiction_raises(inputs, pipe, attributes, place):
    with pytest.raises(ConfigError, match=f"^{place}: "):
        make_channels(inputs, pipe, attributes)


def test_all_channels_are_known_to_the_environment():
    known = {name for names in CHANNELS.values() for name in names}
    inputs = dict.fromkeys(("train", "labels", "validation", "validation_labels", "model"), "s3://b/k")
    channels = all_channels(make_job(channels=make_channels(inputs), network_isolation=True))
    assert set(channels) <= known | set(CODE_CHANNELS)
