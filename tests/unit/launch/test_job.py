from __future__ import annotations

import pytest
from launches import INPUTS, ROLE, make_job

from ssd_train.environment import CHANNELS, CODE_CHANNELS
from ssd_train.errors import ConfigError
from ssd_train.launch.job import Channel, make_channels
from ssd_train.launch.requests import all_channels

MANIFEST = "s3://my-bucket/labels/output.manifest"


@pytest.mark.parametrize(
    "changes, expected",
    [
        pytest.param({"name": "-a"}, "job_name: found '-a'", id="name"),
        pytest.param({"name": "a" * 64}, "job_name", id="name-too-long"),
        pytest.param({"name": "a-" * 40 + "b"}, "job_name", id="name-of-hyphens-too-long"),
        pytest.param({"role": "SageMakerRole"}, "role: found 'SageMakerRole', expected arn:aws:iam", id="role-name"),
        pytest.param({"output": ""}, "output: found '', expected s3://bucket/prefix", id="no-output"),
        pytest.param({"output": "/tmp/a"}, "output: found '/tmp/a'", id="output-here"),
        pytest.param({"checkpoints": "ckpt"}, "checkpoints: found 'ckpt'", id="checkpoints"),
        pytest.param({"channels": {}}, "train: found no address", id="no-train"),
        pytest.param({"channels": {"train": Channel("images")}}, "train: found 'images', expected s3://", id="channel"),
        pytest.param(
            {"channels": {"train": Channel(MANIFEST, attributes=("bb", "source-ref"))}},
            "train: found attributes bb,source-ref, expected the image's first",
            id="attributes-turned",
        ),
        pytest.param(
            {"channels": make_channels({**INPUTS, "pretrained": "s3://b/p", "model": "s3://b/m"})},
            "channels: found pretrained and model, expected one of them",
            id="two-of-one-meaning",
        ),
        pytest.param({"subnets": ("subnet-1",)}, "subnets, security_groups", id="half-a-network"),
        pytest.param({"instance_type": "p3.2xlarge"}, "instance_type: found 'p3.2xlarge'", id="instance"),
        pytest.param({"instance_count": 0}, "instance_count: found 0, expected at least 1", id="no-machine"),
        pytest.param({"instance_count": 2}, "expected --distribution with several", id="several-alone"),
        pytest.param({"distribution": "ddp"}, "distribution: found 'ddp'", id="distribution"),
        pytest.param({"max_wait": 9999}, "max_wait: found 9999, expected --spot", id="wait-without-spot"),
        pytest.param({"spot": True, "max_run": 10, "max_wait": 9}, "at least max_run, 10", id="wait-too-short"),
        pytest.param({"volume_gb": 0}, "volume_gb: found 0", id="disk"),
    ],
)
def test_violations(changes, expected):
    with pytest.raises(ConfigError) as raised:
        make_job(**changes)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_violations_are_told_at_once():
    with pytest.raises(ConfigError, match="job_name.*role.*instance_type"):
        make_job(name="", role="", instance_type="")


def test_places_on_s3():
    job = make_job(output="s3://my-bucket/ssd/", spot=True)
    assert job.source == "s3://my-bucket/ssd/ssd-logo-1/source/sourcedir.tar.gz"
    assert job.checkpoint_folder == "s3://my-bucket/ssd/ssd-logo-1/checkpoints"
    assert make_job().checkpoint_folder == ""
    assert make_job(checkpoints="s3://c/d").checkpoint_folder == "s3://c/d"
    assert make_job(spot=True, max_run=100).longest_wait == 200
    assert make_job(spot=True, max_run=100, max_wait=150).longest_wait == 150


def test_channels_in_file_mode_are_found_by_looking():
    channels = make_channels(
        {"train": "s3://b/t", "labels": MANIFEST, "validation": "", "model": "s3://b/model.tar.gz"}
    )
    assert channels == {
        "train": Channel("s3://b/t"),
        "labels": Channel(MANIFEST),
        "model": Channel("s3://b/model.tar.gz", "File", "application/x-sagemaker-model"),
    }


def test_channels_in_pipe_mode():
    inputs = {"train": MANIFEST, "validation": "s3://b/validation.rec", "pretrained": "s3://b/p"}
    assert make_channels(inputs, True, ("source-ref", "bb")) == {
        "train": Channel(MANIFEST, "Pipe", "application/x-recordio", ("source-ref", "bb"), shuffle_seed=1),
        "validation": Channel("s3://b/validation.rec", "Pipe", "application/x-recordio"),
        "pretrained": Channel("s3://b/p", "File"),
    }


@pytest.mark.parametrize(
    "inputs, pipe, attributes, expected",
    [
        pytest.param({"train": MANIFEST}, True, (), "expected --attribute_names source-ref,LABEL", id="no-attributes"),
        pytest.param({"train": MANIFEST}, False, ("source-ref", "bb"), "expected --pipe", id="no-pipe"),
        pytest.param({"train": "s3://b/a.rec"}, True, ("source-ref", "bb"), "and a manifest", id="no-manifest"),
    ],
)
def test_channels_that_contradict(inputs, pipe, attributes, expected):
    with pytest.raises(ConfigError, match=expected):
        make_channels(inputs, pipe, attributes)


def test_the_container_knows_every_channel():
    known = {name for names in CHANNELS.values() for name in names}
    inputs = dict.fromkeys(("train", "labels", "validation", "validation_labels", "model"), "s3://b/k")
    channels = all_channels(make_job(channels=make_channels(inputs), network_isolation=True))
    assert set(channels) <= known | set(CODE_CHANNELS)


def test_a_role_of_another_partition():
    make_job(role=ROLE.replace("arn:aws:", "arn:aws-cn:"))
