"""The CreateTrainingJob request, built from a Job and settings without network access.

It equals the request of the MXNet estimator of SageMaker SDK 2, so that the toolkit in AWS's container sets up the same
environment; only the debugger and the profiler are disabled.
"""

from __future__ import annotations

import json
from typing import Any, Collection, Dict, List, Mapping, Optional

from ssd_train.config import TrainConfig, current_names
from ssd_train.environment import CHANNELS, read_devices
from ssd_train.errors import ConfigError
from ssd_train.launch.images import training_image
from ssd_train.launch.job import PROGRAM, SOURCE_ARCHIVE, Channel, Job
from ssd_train.metric_lines import METRIC_DEFINITIONS

Request = Dict[str, Any]

# flags of train about the machine, not in TrainConfig, that a training job accepts
PLACES = ("devices", "fetch_images")
_LOG_LEVEL = 20  # logging.INFO, for the toolkit


def training_request(job: Job, settings: Mapping[str, Any]) -> Request:
    """Return the CreateTrainingJob request.

    Args:
        job: where and on which data to train.
        settings: TrainConfig values by name; those left out keep their defaults.

    Raises:
        ConfigError: one or more settings are invalid; the message lists all of them.
    """
    request = {
        "TrainingJobName": job.name,
        "HyperParameters": {**hyperparameters(job, settings), **toolkit_parameters(job)},
        "AlgorithmSpecification": {**algorithm_specification(job), "EnableSageMakerMetricsTimeSeries": True},
        "ResourceConfig": resource_config(job),
        **common_fields(job),
        "Tags": tag_list(job.tags),
        "CheckpointConfig": checkpoint_config(job.checkpoint_folder),
        "ProfilerConfig": {"DisableProfiler": True},
    }
    return drop_empty(request)


def hyperparameters(job: Job, settings: Mapping[str, Any]) -> Dict[str, str]:
    """Return the checked settings as hyperparameters: JSON texts, as the SageMaker SDK writes them."""
    return {name: json.dumps(value) for name, value in typed_settings(job, settings).items()}


def typed_settings(job: Job, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the checked settings by name with underscores, with values in TrainConfig's types.

    With a parameter server, kv_store defaults to dist_sync.

    Raises:
        ConfigError: one or more settings are invalid; the message lists all of them.
    """
    values = current_names(settings)
    places = {name: str(values.pop(name)) for name in PLACES if name in values}
    read_devices(places.get("devices", "auto"))
    if places.get("fetch_images", "0") not in ("0", "1"):
        raise ConfigError(f"fetch_images: found {places['fetch_images']!r}, expected 0 or 1")
    if job.distribution == "parameter_server":
        values.setdefault("kv_store", "dist_sync")
    config = TrainConfig.from_mapping(values)
    if job.distribution == "parameter_server" and not config.kv_store.startswith("dist_"):
        raise ConfigError(
            f"kv_store: found {config.kv_store!r}, expected dist_sync, dist_async or dist_device_sync with "
            "--distribution parameter_server"
        )
    require_weights(config, job.channels, job.network_isolation, job.image)
    return {**{name: getattr(config, name, value) for name, value in values.items()}, **places}


def require_weights(config: TrainConfig, channels: Collection[str], network_isolation: bool, image: str) -> None:
    """Raise a ConfigError if pretrained weights are needed but neither a channel nor the network provides them.

    A custom `image` may contain weights; AWS's containers contain none.
    """
    has_weights = bool(image) or any(name in channels for name in CHANNELS["pretrained"])
    if network_isolation and config.use_pretrained_model and not has_weights:
        raise ConfigError(
            "network_isolation: found no pretrained weights, and an isolated job cannot download them, expected "
            "--pretrained s3://... or --model s3://... (the channels of these names), or --use_pretrained_model 0"
        )


def toolkit_parameters(job: Job) -> Dict[str, str]:
    """Return the hyperparameters that SageMaker's training toolkit in the container reads."""
    parameters: Dict[str, Any] = {}
    if job.distribution == "parameter_server":
        parameters["sagemaker_parameter_server_enabled"] = True
    if job.distribution == "mpi":
        parameters["sagemaker_mpi_enabled"] = True
        parameters["sagemaker_mpi_num_of_processes_per_host"] = job.processes_per_host
        parameters["sagemaker_mpi_custom_mpi_options"] = ""
    # an isolated job gets its code as a channel
    inside = f"/opt/ml/input/data/code/{SOURCE_ARCHIVE}"
    parameters["sagemaker_submit_directory"] = inside if job.network_isolation else job.source
    parameters["sagemaker_program"] = PROGRAM
    parameters["sagemaker_container_log_level"] = _LOG_LEVEL
    parameters["sagemaker_job_name"] = job.name
    parameters["sagemaker_region"] = job.region
    return {name: json.dumps(value) for name, value in parameters.items()}


def all_channels(job: Job) -> Dict[str, Channel]:
    """Return the job's channels and, with network isolation, the code channel."""
    code = {"code": Channel(job.source)} if job.network_isolation else {}
    return {**job.channels, **code}


def algorithm_specification(job: Job) -> Request:
    """Return the container and the metric definitions."""
    return {
        "TrainingImage": job.image or training_image(job.region, job.instance_type),
        "TrainingInputMode": "File",
        "MetricDefinitions": METRIC_DEFINITIONS,
    }


def resource_config(job: Job) -> Request:
    """Return type, number and disk of the instances."""
    instances = {
        "InstanceType": job.instance_type,
        "InstanceCount": job.instance_count,
        "VolumeSizeInGB": job.volume_gb,
        "VolumeKmsKeyId": job.volume_kms_key,
    }
    return drop_empty(instances)


def common_fields(job: Job) -> Request:
    """Return the fields shared by a training job and a tuning job's definition."""
    limits = {"MaxRuntimeInSeconds": job.max_run}
    if job.spot:
        limits["MaxWaitTimeInSeconds"] = job.longest_wait
    return {
        "RoleArn": job.role,
        "InputDataConfig": [_input(name, channel) for name, channel in all_channels(job).items()],
        "OutputDataConfig": drop_empty({"S3OutputPath": job.output.rstrip("/"), "KmsKeyId": job.output_kms_key}),
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": job.spot,
        "EnableNetworkIsolation": job.network_isolation,
        "EnableInterContainerTrafficEncryption": job.encrypt_traffic,
        "VpcConfig": drop_empty({"Subnets": list(job.subnets), "SecurityGroupIds": list(job.security_groups)}),
    }


def _input(name: str, channel: Channel) -> Request:
    source = {
        "S3DataType": "AugmentedManifestFile" if channel.attributes else "S3Prefix",
        "S3Uri": channel.uri,
        "S3DataDistributionType": "FullyReplicated",
        "AttributeNames": list(channel.attributes),
    }
    request = {
        "ChannelName": name,
        "DataSource": {"S3DataSource": drop_empty(source)},
        "ContentType": channel.content_type,
        "RecordWrapperType": "RecordIO" if channel.attributes else "",
        "InputMode": channel.mode,
        "ShuffleConfig": {} if channel.shuffle_seed is None else {"Seed": channel.shuffle_seed},
    }
    return drop_empty(request)


def checkpoint_config(folder: str) -> Optional[Request]:
    """Return the CheckpointConfig of an S3 prefix, None for ""."""
    return {"S3Uri": folder} if folder else None


def drop_empty(request: Request) -> Request:
    """Return the request without empty and False values, which are the API's defaults."""
    return {name: value for name, value in request.items() if value}


def tag_list(tags: Mapping[str, str]) -> List[Request]:
    """Return tags in the form of the API's requests."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
