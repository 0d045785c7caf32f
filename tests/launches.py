"""Builders shared by the tests of launch: a job, an entry point, and requests checked against AWS's own description."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict

import pytest

from ssd_train.launch.job import Job, make_channels

ROLE = "arn:aws:iam::123456789012:role/SageMakerRole"
REGION = "eu-west-1"
INPUTS = {"train": "s3://my-bucket/train", "labels": "s3://my-bucket/labels/output.manifest"}


def make_job(**changes: Any) -> Job:
    """A job on one GPU with training images and labels, changed by `changes`."""
    given = {"name": "ssd-logo-1", "role": ROLE, "region": REGION, "output": "s3://my-bucket/ssd"}
    return Job(**{**given, "channels": make_channels(INPUTS), **changes})


def entry_point(folder: Path) -> Path:
    """A folder with the files that an entry point has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text("print('trained')\n")
    (folder / "requirements.txt").write_text("")
    return folder


def faults_of(operation: str, request: Dict[str, Any], service: str = "sagemaker") -> str:
    """What AWS's description of `operation` (CreateTrainingJob, ...) says against `request`; "" for nothing."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    return ParamValidator().validate(request, model.input_shape).generate_report()


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Credentials that are valid nowhere, and no configuration of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
    }.items():
        monkeypatch.setenv(name, value)
