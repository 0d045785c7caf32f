"""Start a job with SageMaker SDK 3, whose ModelTrainer runs AWS's MXNet container on one instance.

SDK 3 has no MXNet estimator and no parameter server; it sends the code through channels of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Mapping, Optional

from ssd_train.errors import ConfigError, DependencyError
from ssd_train.launch.job import PROGRAM, SOURCE_ARCHIVE, Job
from ssd_train.launch.requests import training_request, typed_settings
from ssd_train.launch.source import write_source
from ssd_train.metric_lines import METRIC_DEFINITIONS


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
