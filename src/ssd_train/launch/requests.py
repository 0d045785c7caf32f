"""Requests to SageMaker, built from settings without asking anybody: what is shown is what is sent.

The training request is the one that the MXNet estimator of the SageMaker SDK 2 sends for the same job (but for the
debugger, which reads what the network computes and is switched off), so that the toolkit in AWS's container sets up the
same surroundings.
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

# flags of train that say where it works and make sense in a container too
PLACES = ("devices", "fetch_images")
_LOG_LEVEL = 20  # of the toolkit: INFO


def training_request(job: Job, settings: Mapping[str, Any]) -> Request:
    """The CreateTrainingJob request of `job` with `settings` (names and values of TrainConfig, those that differ from
    its defaults are enough); a ConfigError lists what is wrong with them."""
    request = {
        "TrainingJobName": job.name,
        "HyperParameters": {**hyperparameters(job, settings), **toolkit_parameters(job)},
        "AlgorithmSpecification": {**algorithm(job), "EnableSageMakerMetricsTimeSeries": True},
        "ResourceConfig": resources(job),
        **common(job),
        "Tags": tag_list(job.tags),
        "CheckpointConfig": checkpoints(job.checkpoint_folder),
        "ProfilerConfig": {"DisableProfiler": True},
    }
    return filled(request)


def hyperparameters(job: Job, settings: Mapping[str, Any]) -> Dict[str, str]:
    """`settings` as the SDK writes hyperparameters: values as JSON text."""
    return {name: json.dumps(value) for name, value in typed_settings(job, settings).items()}


def typed_settings(job: Job, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """`settings` checked, by names with underscores, their values in the types of TrainConfig; and what the job's
    distribution needs of them. A ConfigError lists all that is wrong."""
    given = current_names(settings)
    places = {name: str(given.pop(name)) for name in PLACES if name in given}
    read_devices(places.get("devices", "auto"))
    if places.get("fetch_images", "0") not in ("0", "1"):
        raise ConfigError(f"fetch_images: found {places['fetch_images']!r}, expected 0 or 1")
    if job.distribution == "parameter_server":
        given.setdefault("kv_store", "dist_sync")
    config = TrainConfig.from_mapping(given)
    if job.distribution == "parameter_server" and not config.kv_store.startswith("dist_"):
        raise ConfigError(
            f"kv_store: found {config.kv_store!r}, expected dist_sync, dist_async or dist_device_sync with "
            "--distribution parameter_server"
        )
    require_weights(config, job.channels, job.network_isolation, job.image)
    return {**{name: getattr(config, name, value) for name, value in given.items()}, **places}


def require_weights(config: TrainConfig, channels: Collection[str], network_isolation: bool, image: str) -> None:
    """Raise a ConfigError for a job without a network that starts from trained weights and has none in its `channels`.

    An `image` of the user's own may hold them; AWS's has none.
    """
    has_weights = bool(image) or any(name in channels for name in CHANNELS["pretrained"])
    if network_isolation and config.use_pretrained_model and not has_weights:
        raise ConfigError(
            "network_isolation: found no weights to start from, which are not fetched without a network, expected "
            "--pretrained s3://... or --model s3://... (the channels of these names), or --use_pretrained_model 0"
        )


def toolkit_parameters(job: Job) -> Dict[str, str]:
    """What the training toolkit in the container reads: the program, where its archive is, and how hosts meet."""
    parameters: Dict[str, Any] = {}
    if job.distribution == "parameter_server":
        parameters["sagemaker_parameter_server_enabled"] = True
    if job.distribution == "mpi":
        parameters["sagemaker_mpi_enabled"] = True
        parameters["sagemaker_mpi_num_of_processes_per_host"] = job.processes_per_host
        parameters["sagemaker_mpi_custom_mpi_options"] = ""
    # without a network the archive comes as a channel, as the data does
    inside = f"/opt/ml/input/data/code/{SOURCE_ARCHIVE}"
    parameters["sagemaker_submit_directory"] = inside if job.network_isolation else job.source
    parameters["sagemaker_program"] = PROGRAM
    parameters["sagemaker_container_log_level"] = _LOG_LEVEL
    parameters["sagemaker_job_name"] = job.name
    parameters["sagemaker_region"] = job.region
    return {name: json.dumps(value) for name, value in parameters.items()}


def all_channels(job: Job) -> Dict[str, Channel]:
    """The job's channels, and the program's where there is no network to fetch it by."""
    code = {"code": Channel(job.source)} if job.network_isolation else {}
    return {**job.channels, **code}


def algorithm(job: Job) -> Request:
    """The container and the expressions that it is watched by."""
    return {
        "TrainingImage": job.image or training_image(job.region, job.instance_type),
        "TrainingInputMode": "File",
        "MetricDefinitions": METRIC_DEFINITIONS,
    }


def resources(job: Job) -> Request:
    """The machines."""
    machines = {
        "InstanceType": job.instance_type,
        "InstanceCount": job.instance_count,
        "VolumeSizeInGB": job.volume_gb,
        "VolumeKmsKeyId": job.volume_kms_key,
    }
    return filled(machines)


def common(job: Job) -> Request:
    """What a training job and the definition of a tuning job have in common."""
    limits = {"MaxRuntimeInSeconds": job.max_run}
    if job.spot:
        limits["MaxWaitTimeInSeconds"] = job.longest_wait
    return {
        "RoleArn": job.role,
        "InputDataConfig": [_input(name, channel) for name, channel in all_channels(job).items()],
        "OutputDataConfig": filled({"S3OutputPath": job.output.rstrip("/"), "KmsKeyId": job.output_kms_key}),
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": job.spot,
        "EnableNetworkIsolation": job.network_isolation,
        "EnableInterContainerTrafficEncryption": job.encrypt_traffic,
        "VpcConfig": filled({"Subnets": list(job.subnets), "SecurityGroupIds": list(job.security_groups)}),
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
        "DataSource": {"S3DataSource": filled(source)},
        "ContentType": channel.content_type,
        "RecordWrapperType": "RecordIO" if channel.attributes else "",
        "InputMode": channel.mode,
        "ShuffleConfig": {} if channel.shuffle_seed is None else {"Seed": channel.shuffle_seed},
    }
    return filled(request)


def checkpoints(folder: str) -> Optional[Request]:
    """Where checkpoints are copied to while the job runs."""
    return {"S3Uri": folder} if folder else None


def filled(request: Request) -> Request:
    """Without the entries that are empty or False: the API's defaults."""
    return {name: value for name, value in request.items() if value}


def tag_list(tags: Mapping[str, str]) -> List[Request]:
    """Tags as requests carry them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]
