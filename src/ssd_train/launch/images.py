"""URIs of AWS's MXNet containers, by region and instance type."""

from __future__ import annotations

from ssd_train.errors import ConfigError

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
