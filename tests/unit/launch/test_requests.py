"""The training request in full; tests/integration/launch compares it with the request of the SageMaker SDK."""

from __future__ import annotations

import json

import pytest
from helpers.services import INPUTS, ROLE, faults_of, make_job

from ssd_train.errors import ConfigError
from ssd_train.launch.job import make_channels
from ssd_train.launch.requests import (
    hyperparameters,
    parse_ranges,
    toolkit_parameters,
    training_request,
    tuning_request,
)
from ssd_train.launch.sagemaker_sdk import estimator_arguments
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS

SETTINGS = {"epochs": "3", "learning-rate": "0.001", "lr_scheduler_step": "10,20", "grayscale": "True"}


def channel(name, uri, **more):
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **more}


def test_training_request_simplest_job():
    assert training_request(make_job(), SETTINGS) == {
        "TrainingJobName": "ssd-logo-1",
        "RoleArn": ROLE,
        "AlgorithmSpecification": {
            "TrainingImage": "763104351884.dkr.ecr.eu-west-1.amazonaws.com/mxnet-training:1.9.0-gpu-py38",
            "TrainingInputMode": "File",
            "MetricDefinitions": METRIC_DEFINITIONS,
            "EnableSageMakerMetricsTimeSeries": True,
        },
        "HyperParameters": {
            "epochs": "3",
            "learning_rate": "0.001",
            "lr_scheduler_step": '"10,20"',
            "grayscale": "true",
            "sagemaker_submit_directory": '"s3://my-bucket/ssd/ssd-logo-1/source/sourcedir.tar.gz"',
            "sagemaker_program": '"train.py"',
            "sagemaker_container_log_level": "20",
            "sagemaker_job_name": '"ssd-logo-1"',
            "sagemaker_region": '"eu-west-1"',
        },
        "InputDataConfig": [channel("train", INPUTS["train"]), channel("labels", INPUTS["labels"])],
        "OutputDataConfig": {"S3OutputPath": "s3://my-bucket/ssd"},
        "ResourceConfig": {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        "ProfilerConfig": {"DisableProfiler": True},
    }


def test_training_request_with_all_options():
    job = make_job(
        instance_count=2,
        instance_type="ml.g4dn.12xlarge",
        image="registry/own:1",
        volume_gb=100,
        max_run=3600,
        spot=True,
        max_wait=7200,
        distribution="mpi",
        processes_per_host=4,
        tags={"team": "logos"},
        network_isolation=True,
        encrypt_traffic=True,
        subnets=("subnet-1",),
        security_groups=("sg-1",),
        volume_kms_key="volume-key",
        output_kms_key="output-key",
    )
    request = training_request(job, {})
    assert request["AlgorithmSpecification"]["TrainingImage"] == "registry/own:1"
    assert request["ResourceConfig"] == {
        "InstanceType": "ml.g4dn.12xlarge",
        "InstanceCount": 2,
        "VolumeSizeInGB": 100,
        "VolumeKmsKeyId": "volume-key",
    }
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    assert request["EnableManagedSpotTraining"] is True
    assert request["CheckpointConfig"] == {"S3Uri": "s3://my-bucket/ssd/ssd-logo-1/checkpoints"}
    assert request["EnableNetworkIsolation"] is True
    assert request["EnableInterContainerTrafficEncryption"] is True
    assert request["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert request["OutputDataConfig"] == {"S3OutputPath": "s3://my-bucket/ssd", "KmsKeyId": "output-key"}
    assert request["Tags"] == [{"Key": "team", "Value": "logos"}]
    assert request["InputDataConfig"][-1] == channel("code", job.source)
    assert faults_of("CreateTrainingJob", request) == ""


@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param(training_request, id="training"),
        pytest.param(
            lambda job, values: tuning_request(job, values, parse_ranges(["learning_rate"]), (2, 1)), id="tuning"
        ),
        pytest.param(estimator_arguments, id="sdk-2"),
    ],
)
def test_request_network_isolation_without_weights_raises(request_of):
    """SDK 3's helper builds on training_request."""
    job = make_job(network_isolation=True)
    with pytest.raises(ConfigError, match="network_isolation: "):
        request_of(job, {})
    for channel_name in ("pretrained", "model", "weights_dir"):
        channels = make_channels({**INPUTS, channel_name: "s3://b/p"})
        assert request_of(make_job(network_isolation=True, channels=channels), {})
    assert request_of(job, {"use_pretrained_model": 0})


def test_toolkit_parameters_network_isolation_reads_code_from_channel():
    parameters = toolkit_parameters(make_job(network_isolation=True))
    assert json.loads(parameters["sagemaker_submit_directory"]) == "/opt/ml/input/data/code/sourcedir.tar.gz"


@pytest.mark.parametrize(
    "changes, settings, place",
    [
        ({"distribution": "mpi", "processes_per_host": 8}, {"mini_batch_size": 4}, "mini_batch_size"),
        ({"distribution": "mpi", "instance_count": 2}, {"kv_store": "dist_async"}, "kv_store"),
        ({"instance_type": "ml.c5.xlarge"}, {"devices": "gpu"}, "devices"),
    ],
)
def test_hyperparameters_that_the_job_would_refuse_raise(changes, settings, place):
    with pytest.raises(ConfigError, match=f"^{place}: found"):
        hyperparameters(make_job(**changes), settings)


def test_hyperparameters_parameter_server_sets_kv_store():
    job = make_job(distribution="parameter_server", instance_count=2)
    assert hyperparameters(job, {}) == {"kv_store": '"dist_sync"'}
    assert hyperparameters(job, {"kv_store": "dist_async"}) == {"kv_store": '"dist_async"'}
    assert toolkit_parameters(job)["sagemaker_parameter_server_enabled"] == "true"
    with pytest.raises(ConfigError, match="^kv_store: "):
        hyperparameters(job, {"kv_store": "local"})


def test_hyperparameters_leave_out_defaults():
    assert hyperparameters(make_job(), {"epochs": 30}) == {"epochs": "30"}
    assert hyperparameters(make_job(), {"preset_defaults": "builtin", "optimizer": "adam"}) == {
        "preset_defaults": '"builtin"',
        "optimizer": '"adam"',
    }


def test_hyperparameters_accept_devices_and_fetch_images():
    assert hyperparameters(make_job(), {"fetch-images": 1, "devices": "gpu:0,gpu:1"}) == {
        "fetch_images": '"1"',
        "devices": '"gpu:0,gpu:1"',
    }
    for name, value in (("fetch_images", "yes"), ("devices", "gpu:0,1"), ("devices", "cuda")):
        with pytest.raises(ConfigError, match=f"^{name}: "):
            hyperparameters(make_job(), {name: value})
