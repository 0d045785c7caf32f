"""Start a job with SageMaker SDK 2, the last version with an MXNet estimator.

`python -m ssd_train launch` uses boto3 and needs no SDK. SDK 2 needs other versions of NumPy and other packages than
training does: requirements/launch-sdk2.txt lists an environment for it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from ssd_train.errors import ConfigError, DependencyError
from ssd_train.launch.code_archive import PACKAGE, entry_point_folder, write_source
from ssd_train.launch.job import PROGRAM, SOURCE_ARCHIVE, Channel, Job
from ssd_train.launch.requests import PYTHON, VERSION, training_request, typed_settings
from ssd_train.sagemaker_metrics import METRIC_DEFINITIONS


def estimator_arguments(job: Job, settings: Mapping[str, Any], entry_point: Optional[Path] = None) -> Dict[str, Any]:
    """Return the arguments of SDK 2's `sagemaker.mxnet.MXNet` for `job`."""
    arguments: Dict[str, Any] = {
        "entry_point": PROGRAM,
        "source_dir": str(entry_point_folder(entry_point)),
        "dependencies": [str(PACKAGE)],
        "framework_version": VERSION,
        "py_version": PYTHON,
        "image_uri": job.image or None,
        "role": job.role,
        "instance_type": job.instance_type,
        "instance_count": job.instance_count,
        "volume_size": job.volume_gb,
        "max_run": job.max_run,
        "output_path": job.output.rstrip("/"),
        "code_location": job.output.rstrip("/"),
        "hyperparameters": typed_settings(job, settings),
        "metric_definitions": METRIC_DEFINITIONS,
        "tags": dict(job.tags) or None,
        "enable_network_isolation": job.network_isolation,
        "encrypt_inter_container_traffic": job.encrypt_traffic,
        "volume_kms_key": job.volume_kms_key or None,
        "output_kms_key": job.output_kms_key or None,
        "subnets": list(job.subnets) or None,
        "security_group_ids": list(job.security_groups) or None,
        "checkpoint_s3_uri": job.checkpoint_folder or None,
        # both hook into the network and slow training down
        "debugger_hook_config": False,
        "disable_profiler": True,
    }
    if job.spot:
        arguments.update(use_spot_instances=True, max_wait=job.longest_wait)
    if job.distribution == "parameter_server":
        arguments["distribution"] = {"parameter_server": {"enabled": True}}
    if job.distribution == "mpi":
        arguments["distribution"] = {"mpi": {"enabled": True, "processes_per_host": job.processes_per_host}}
    return arguments


def fit_by_sdk_2(job: Job, settings: Mapping[str, Any], session: Any, entry_point: Optional[Path] = None) -> Any:
    """Start `job` with SDK 2's MXNet estimator and return the estimator, whose `deploy` serves the model.

    Args:
        job: the training job.
        settings: TrainConfig values by name.
        session: a `sagemaker.Session`.
        entry_point: folder with train.py; None for the checkout's entry_point/.

    Raises:
        DependencyError: SDK 2 is not installed.
    """
    try:
        from sagemaker.inputs import ShuffleConfig, TrainingInput
        from sagemaker.mxnet import MXNet
    except ImportError as error:
        raise DependencyError(f"found no SageMaker SDK 2 ({error}): pip install 'sagemaker<3'") from error

    def as_input(channel: Channel) -> Any:
        return TrainingInput(
            channel.uri,
            input_mode=channel.mode or None,
            content_type=channel.content_type or None,
            s3_data_type="AugmentedManifestFile" if channel.attributes else "S3Prefix",
            attribute_names=list(channel.attributes) or None,
            record_wrapping="RecordIO" if channel.attributes else None,
            shuffle_config=None if channel.shuffle_seed is None else ShuffleConfig(channel.shuffle_seed),
        )

    estimator = MXNet(sagemaker_session=session, **estimator_arguments(job, settings, entry_point))
    inputs = {name: as_input(channel) for name, channel in job.channels.items()}
    estimator.fit(inputs, job_name=job.name, wait=False)
    return estimator


def train_by_sdk_3(
    job: Job, settings: Mapping[str, Any], session: Any, folder: Path, entry_point: Optional[Path] = None
) -> Any:
    """Start `job` with SDK 3's ModelTrainer and return the trainer.

    The SDK appends the time to the job's name.

    Args:
        job: the training job, without distribution.
        settings: TrainConfig values by name.
        session: SDK 3's `Session`.
        folder: local folder for the code archive, which the SDK uploads.
        entry_point: folder with train.py; None for the checkout's entry_point/.

    Raises:
        ConfigError: the job is distributed, or settings are invalid.
        DependencyError: SDK 3 is not installed.
    """
    if job.distribution:
        raise ConfigError(f"distribution: found {job.distribution!r}, expected none: SDK 3 supports none for MXNet")
    try:
        from sagemaker.core import shapes
        from sagemaker.train import ModelTrainer
        from sagemaker.train.configs import Compute, Networking, SourceCode
    except ImportError as error:
        raise DependencyError(f"found no SageMaker SDK 3 ({error}): pip install 'sagemaker>=3'") from error
    write_source(folder / SOURCE_ARCHIVE, entry_point)
    request = _snake_case(training_request(job, settings))
    checkpoints = request.get("checkpoint_config")
    trainer = ModelTrainer(
        sagemaker_session=session,
        base_job_name=job.name,
        role=job.role,
        training_image=request["algorithm_specification"]["training_image"],
        source_code=SourceCode(source_dir=str(folder / SOURCE_ARCHIVE), entry_script=PROGRAM),
        hyperparameters=typed_settings(job, settings),
        compute=Compute(**request["resource_config"], enable_managed_spot_training=job.spot),
        networking=Networking(
            **request.get("vpc_config", {}),
            enable_network_isolation=job.network_isolation,
            enable_inter_container_traffic_encryption=job.encrypt_traffic,
        ),
        stopping_condition=shapes.StoppingCondition(**request["stopping_condition"]),
        output_data_config=shapes.OutputDataConfig(**request["output_data_config"]),
        checkpoint_config=shapes.CheckpointConfig(**checkpoints) if checkpoints else None,
        tags=[shapes.Tag(key=key, value=value) for key, value in job.tags.items()],
    )
    trainer.with_metric_definitions([shapes.MetricDefinition(**_snake_case(item)) for item in METRIC_DEFINITIONS])
    channels = [item for item in request["input_data_config"] if item["channel_name"] in job.channels]
    trainer.train([shapes.Channel(**item) for item in channels], wait=False, logs=False)
    return trainer


def _snake_case(value: Any) -> Any:
    """Return a request with SDK 3's key names, e.g. s3_data_source for S3DataSource."""
    if isinstance(value, dict):
        return {re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(): _snake_case(part) for name, part in value.items()}
    return [_snake_case(part) for part in value] if isinstance(value, list) else value
