"""A false /opt/ml: the folders and files that SageMaker lays out for a training job, anywhere on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

CONTAINER = {"sagemaker_program": "train.py", "sagemaker_region": "eu-west-1", "sagemaker_job_name": "a-job"}


def make_opt_ml(
    base: Path,
    hyperparameters: Mapping[str, Any],
    channels: Mapping[str, Path],
    hosts: Sequence[str] = ("localhost",),
    pipes: Sequence[str] = (),
) -> Path:
    """`base` as SageMaker leaves /opt/ml: each of `channels` a link to its folder, `hyperparameters` as the SDK sends
    them, each value a JSON document in a text. The channels called in `pipes` are described, but nothing is there."""
    for folder in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, place in channels.items():
        if name not in pipes:
            (base / "input" / "data" / name).symlink_to(place.resolve())
    modes = {name: "Pipe" if name in pipes else "File" for name in [*channels, *pipes]}
    describe(base, "inputdataconfig", {name: _channel(mode) for name, mode in modes.items()})
    describe(base, "hyperparameters", {name: json.dumps(value) for name, value in hyperparameters.items()})
    hosted = {"current_host": hosts[0], "hosts": list(hosts), "network_interface_name": "lo"}
    describe(base, "resourceconfig", {**hosted, "current_instance_type": "ml.c5.xlarge"})
    return base


def describe(base: Path, name: str, document: Any) -> None:
    """Write one of the files that describe the job."""
    (base / "input" / "config" / f"{name}.json").write_text(json.dumps(document))


def job_environment(base: Path, **more: str) -> Dict[str, str]:
    """The variables of this process for a job in `base`, without those of another."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SM_", "SAGEMAKER", "DMLC_", "PYTHONPATH"))}
    return {**kept, "SAGEMAKER_BASE_DIR": str(base), **more}


def failure_of(base: Path) -> str:
    """What SageMaker would show as the reason of the failure."""
    return (base / "output" / "failure").read_text("utf-8")


def _channel(mode: str) -> Dict[str, str]:
    wrapper = "RecordIO" if mode == "Pipe" else "None"
    return {"TrainingInputMode": mode, "S3DistributionType": "FullyReplicated", "RecordWrapperType": wrapper}
