"""The SageMaker SDKs, each in its environment, where moto stands in for AWS."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict

from launches import REGION
from own_venvs import ROOT, own_venv


def sdk_python(version: int) -> str:
    """Return the interpreter of the SDK's environment."""
    return str(own_venv(f".venv-launch-sdk{version}", "3.11") / "bin" / "python")


def sdk_environment(home: Path) -> Dict[str, str]:
    """Return the variables of a process that uses an SDK: no configuration and no rights of whoever runs the tests."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT / "src"),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(ROOT / "tests" / "integration" / "launch" / "sdk_config.yaml"),
        # whatever is not sent to moto reaches nobody
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }
