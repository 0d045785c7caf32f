"""CreateTrainingJob and CreateHyperParameterTuningJob requests, built from a Job and settings without network access.

A training job's request equals that of the MXNet estimator of SageMaker SDK 2, so that the toolkit in AWS's container
sets up the same environment; only the debugger and the profiler are disabled. A tuning job maximizes validation:mAP.
"""

from __future__ import annotations

import json
from typing import Any, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ssd_train.config import OPTIMIZERS_WITH, TrainConfig, check_for_mpi, current_names
from ssd_train.data.formats.json_lines import parse_json
from ssd_train.environment import CHANNELS, read_devices
from ssd_train.errors import ConfigError, DataError
from ssd_train.launch.job import MODEL_ARCHIVE, PROGRAM, SOURCE_ARCHIVE, TUNING_NAME_LENGTH, Channel, Job, check_name
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS

VERSION, PYTHON = "1.9.0", "py38"  # AWS's last MXNet containers
_ACCOUNT = "763104351884"
# registry accounts that differ by region (from the SageMaker SDK 2.257)
_ACCOUNTS = {
    "af-south-1": "626614931356",
    "ap-east-1": "871362719292",
    "ap-northeast-3": "364406365360",
    "ap-south-2": "772153158452",
    "ap-southeast-3": "907027046896",
    "ap-southeast-4": "457447274322",
    "ca-west-1": "204538143572",
    "cn-north-1": "727897471807",
    "cn-northwest-1": "727897471807",
    "eu-central-2": "380420809688",
    "eu-south-1": "692866216735",
    "eu-south-2": "503227376785",
    "il-central-1": "780543022126",
    "me-central-1": "914824155844",
    "me-south-1": "217643126080",
    "us-gov-east-1": "446045086412",
    "us-gov-west-1": "442386744353",
    "us-iso-east-1": "886529160074",
    "us-isob-east-1": "094389454867",
}
_DOMAINS = {"cn-": "amazonaws.com.cn", "us-iso-": "c2s.ic.gov", "us-isob-": "sc2s.sgov.gov"}


def training_image(region: str, instance_type: str) -> str:
    """Return the URI of the training container for `instance_type` in `region`."""
    return _image(region, instance_type, "mxnet-training")


def inference_image(region: str, instance_type: str) -> str:
    """Return the URI of the inference container for `instance_type` in `region`."""
    return _image(region, instance_type, "mxnet-inference")


def _image(region: str, instance_type: str, repository: str) -> str:
    account = _ACCOUNTS.get(region, _ACCOUNT)
    domain = next((domain for start, domain in _DOMAINS.items() if region.startswith(start)), "amazonaws.com")
    return f"{account}.dkr.ecr.{region}.{domain}/{repository}:{VERSION}-{_processor(instance_type)}-{PYTHON}"


def _processor(instance_type: str) -> str:
    """Return "cpu" or "gpu" by the instance family, e.g. p3 of ml.p3.2xlarge."""
    family = instance_type.split(".")[1] if instance_type.count(".") == 2 else ""
    if family.startswith(("inf", "trn")) or family[-1:] == "g" or family[1:3] in ("6g", "7g", "8g"):
        raise ConfigError(
            f"instance_type: found {instance_type!r}, expected x86-64 processors or NVIDIA GPUs: AWS has no MXNet "
            "container for it"
        )
    return "gpu" if family.startswith(("g", "p")) else "cpu"


Request = Dict[str, Any]

# flags of train about the machine, not in TrainConfig, that a training job accepts
MACHINE_FLAGS = ("devices", "fetch_images")
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
    machine = {name: str(values.pop(name)) for name in MACHINE_FLAGS if name in values}
    read_devices(machine.get("devices", "auto"))
    if machine.get("fetch_images", "0") not in ("0", "1"):
        raise ConfigError(f"fetch_images: found {machine['fetch_images']!r}, expected 0 or 1")
    if job.distribution == "parameter_server":
        values.setdefault("kv_store", "dist_sync")
    config = TrainConfig.from_mapping(values)
    if job.distribution == "parameter_server" and not config.kv_store.startswith("dist_"):
        raise ConfigError(
            f"kv_store: found {config.kv_store!r}, expected dist_sync, dist_async or dist_device_sync with "
            "--distribution parameter_server"
        )
    if job.distribution == "mpi":
        check_for_mpi(config, job.processes_per_host)
    on_aws = job.instance_type.startswith("ml.")
    if machine.get("devices", "").startswith("gpu") and on_aws and _processor(job.instance_type) == "cpu":
        raise ConfigError(f"devices: found {machine['devices']!r} with {job.instance_type}, which has no GPU")
    require_weights(config, job.channels, job.network_isolation, job.image)
    return {**{name: getattr(config, name, value) for name, value in values.items()}, **machine}


def require_weights(config: TrainConfig, channels: Collection[str], network_isolation: bool, image: str) -> None:
    """Raise a ConfigError if pretrained weights are needed but neither a channel nor the network provides them.

    A custom `image` may contain weights; AWS's containers contain none.
    """
    has_weights = bool(image) or any(name in channels for name in (*CHANNELS["pretrained"], *CHANNELS["weights_dir"]))
    if network_isolation and config.use_pretrained_model and not has_weights:
        raise ConfigError(
            "network_isolation: found no pretrained weights, and an isolated job cannot download them, expected "
            "--pretrained s3://..., --model s3://... or --weights_dir s3://... (the channels of these names), or "
            "--use_pretrained_model 0"
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


VARIANT = "AllTraffic"
IMAGE_TYPE = "application/x-image"  # an image of any format, as for the built-in algorithm
MAX_IMAGE_MB = 6
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Service(NamedTuple):
    """A model to serve and the instances to serve it on.

    Attributes:
        name: name of the model, the endpoint configuration and the batch transform job.
        role: ARN of the execution role.
        region: e.g. eu-west-1.
        folder: s3://bucket/prefix; the model archive is FOLDER/NAME/model.tar.gz.
        image: container URI; "" for AWS's MXNet inference container.
    """

    name: str
    role: str
    region: str
    folder: str
    instance_type: str = "ml.c5.xlarge"
    instance_count: int = 1
    image: str = ""
    tags: Mapping[str, str] = {}

    @property
    def archive(self) -> str:
        """S3 URI of the archive with the model and its inference code."""
        return f"{self.folder.rstrip('/')}/{self.name}/{MODEL_ARCHIVE}"


def model_request(service: Service) -> Request:
    """Return the CreateModel request, equal to that of SDK 2's MXNetModel."""
    return {
        "ModelName": service.name,
        "ExecutionRoleArn": service.role,
        "PrimaryContainer": {
            "Image": service.image or inference_image(service.region, service.instance_type),
            "ModelDataUrl": service.archive,
            "Environment": {
                "SAGEMAKER_PROGRAM": PROGRAM,
                "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
                "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
                "SAGEMAKER_REGION": service.region,
            },
        },
        "Tags": tag_list(service.tags),
    }


def endpoint_config_request(service: Service) -> Request:
    """Return the CreateEndpointConfig request: one model on one instance type."""
    variant = {
        "VariantName": VARIANT,
        "ModelName": service.name,
        "InitialInstanceCount": service.instance_count,
        "InstanceType": service.instance_type,
        "InitialVariantWeight": 1,
    }
    return {"EndpointConfigName": service.name, "ProductionVariants": [variant], "Tags": tag_list(service.tags)}


def endpoint_request(endpoint: str, service: Service) -> Request:
    """Return the UpdateEndpoint request, which is also that of CreateEndpoint without Tags."""
    return {"EndpointName": endpoint, "EndpointConfigName": service.name}


def transform_request(service: Service, images: str, output: str) -> Request:
    """Return the CreateTransformJob request: a JSON file in the prefix `answers` for each image below `images`."""
    return {
        "TransformJobName": service.name,
        "ModelName": service.name,
        "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": MAX_IMAGE_MB,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": images}},
            "ContentType": IMAGE_TYPE,
            "SplitType": "None",
            "CompressionType": "None",
        },
        "TransformOutput": {"S3OutputPath": output, "Accept": "application/json", "AssembleWith": "None"},
        "TransformResources": {"InstanceType": service.instance_type, "InstanceCount": service.instance_count},
        "Tags": tag_list(service.tags),
    }


def invoke_request(endpoint: str, name: str, image: bytes) -> Request:
    """Return the InvokeEndpoint request of an encoded image.

    Raises:
        DataError: the image, called `name` in the message, exceeds an endpoint's limit of MAX_IMAGE_MB.
    """
    if len(image) > MAX_IMAGE_MB << 20:
        raise DataError(f"{name}: found {len(image) >> 20} MB, expected at most {MAX_IMAGE_MB} MB, an endpoint's limit")
    content_type = next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), IMAGE_TYPE)
    return {"EndpointName": endpoint, "ContentType": content_type, "Accept": "application/json", "Body": image}


def parse_response(endpoint: str, body: bytes) -> Any:
    """Return the value of "prediction" in an endpoint's JSON response; raise a DataError if there is none."""
    try:
        response = parse_json(body)
    except DataError:
        response = None
    if not isinstance(response, dict) or "prediction" not in response:
        raise DataError(f'endpoint {endpoint}: found {body[:80]!r}, expected {{"prediction": [...]}}')
    return response["prediction"]


def check_folder(name: str, uri: str) -> str:
    """Return `uri` if it is an S3 URI, else raise a ConfigError with the flag's `name`."""
    if not uri.startswith("s3://") or len(uri) == len("s3://"):
        raise ConfigError(f"{name}: found {uri!r}, expected s3://bucket/prefix")
    return uri


OBJECTIVE = "validation:mAP"


class Range(NamedTuple):
    """The search range of a hyperparameter: `low` to `high` (integers if `whole`), or one of `choices`."""

    low: float = 0
    high: float = 0
    logarithmic: bool = False
    whole: bool = False
    choices: Tuple[str, ...] = ()


# the ranges recommended for the built-in algorithm (SageMaker documentation, object-detection-tuning); a logarithmic
# range cannot begin at 0
RANGES = {
    "learning_rate": Range(1e-6, 0.5, logarithmic=True),
    "mini_batch_size": Range(8, 64, whole=True),
    "momentum": Range(0.0, 0.999),
    "optimizer": Range(choices=("sgd", "adam", "rmsprop", "adadelta")),
    "weight_decay": Range(0.0, 0.999),
}


def parse_ranges(texts: Sequence[str]) -> Dict[str, Range]:
    """Parse ranges: NAME for the recommended range, NAME=LOW:HIGH, or NAME=A:B:C for choices.

    Raises:
        ConfigError: a hyperparameter cannot be tuned, TrainConfig rejects a value, or LOW is not less than HIGH.
    """
    return dict(_parse_range(text) for text in texts)


def _parse_range(text: str) -> Tuple[str, Range]:
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in RANGES:
        raise ConfigError(f"tune: found {name!r}, expected one of {', '.join(RANGES)}")
    default, parts = RANGES[name], tuple(part.strip() for part in values.split(":"))
    if not equals:
        return name, default
    if default.choices:
        unknown = [part for part in parts if part not in default.choices]
        if unknown:
            raise ConfigError(f"tune: found {name} {unknown[0]!r}, expected some of {':'.join(default.choices)}")
        return name, default._replace(choices=parts)
    try:
        low, high = map(int if default.whole else float, parts)
        TrainConfig.from_mapping({name: low})
        TrainConfig.from_mapping({name: high})
    except ValueError:
        low, high = 0, 0
    if not low < high or (default.logarithmic and low <= 0):
        kind = "integers" if default.whole else "numbers"
        raise ConfigError(f"tune: found {text!r}, expected {name}=LOW:HIGH, two {kind} in rising order")
    return name, default._replace(low=low, high=high)


def tuning_request(
    job: Job, settings: Mapping[str, Any], ranges: Mapping[str, Range], jobs: Tuple[int, int]
) -> Request:
    """Return the CreateHyperParameterTuningJob request.

    Args:
        job: the tuning job's name, and the instances and data of its training jobs. Its checkpoints are written only
            if `job.checkpoints` is set, because all training jobs share that prefix.
        settings: TrainConfig values by name that are not tuned.
        ranges: search range of each tuned hyperparameter.
        jobs: maximum number of training jobs in total, and in parallel.
    """
    check_name("job_name", job.name, TUNING_NAME_LENGTH)
    given = current_names(settings)
    duplicates = sorted(set(ranges) & set(given))
    if duplicates:
        raise ConfigError(f"tune: found {', '.join(duplicates)} also as settings, expected them only once")
    chosen = ranges["optimizer"].choices if "optimizer" in ranges else (TrainConfig.from_mapping(given).optimizer,)
    for name, optimizers in OPTIMIZERS_WITH.items():
        if name in ranges and not set(optimizers) & set(chosen):
            raise ConfigError(
                f"tune: found {name} with the optimizer {', '.join(chosen)}, which has none, expected --optimizer "
                f"{' or '.join(optimizers)}"
            )
    if not 1 <= jobs[1] <= jobs[0]:
        raise ConfigError(f"parallel_jobs: found {jobs[1]}, expected 1 to max_jobs ({jobs[0]})")
    static = {**hyperparameters(job, settings), **toolkit_parameters(job)}
    definition = {
        "StaticHyperParameters": static,
        "AlgorithmSpecification": algorithm_specification(job),
        "HyperParameterTuningResourceConfig": resource_config(job),
        **common_fields(job),
        "CheckpointConfig": checkpoint_config(job.checkpoints),
    }
    return {
        "HyperParameterTuningJobName": job.name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "ResourceLimits": {"MaxNumberOfTrainingJobs": jobs[0], "MaxParallelTrainingJobs": jobs[1]},
            "TrainingJobEarlyStoppingType": "Off",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": OBJECTIVE},
            "ParameterRanges": parameter_ranges(ranges),
        },
        "TrainingJobDefinition": drop_empty(definition),
        "Tags": tag_list(job.tags),
    }


def parameter_ranges(ranges: Mapping[str, Range]) -> Dict[str, List[Dict[str, Any]]]:
    """Return `ranges` as the request's three lists of parameter ranges, without empty lists."""
    lists: Dict[str, List[Dict[str, Any]]] = {}
    for name, item in ranges.items():
        if item.choices:
            entry: Dict[str, Any] = {"Name": name, "Values": [json.dumps(choice) for choice in item.choices]}
            lists.setdefault("CategoricalParameterRanges", []).append(entry)
            continue
        kind = "IntegerParameterRanges" if item.whole else "ContinuousParameterRanges"
        scale = "Logarithmic" if item.logarithmic else "Auto"
        entry = {"Name": name, "MinValue": str(item.low), "MaxValue": str(item.high), "ScalingType": scale}
        lists.setdefault(kind, []).append(entry)
    return lists
