"""Job and Channel: instances, permissions, inputs and outputs of a SageMaker training job, without hyperparameters."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ssd_train.environment import CHANNELS
from ssd_train.errors import ConfigError

MODEL_ARCHIVE = "model.tar.gz"
SOURCE_ARCHIVE = "sourcedir.tar.gz"
PROGRAM = "train.py"
DISTRIBUTIONS = ("", "parameter_server", "mpi")
RECORDIO = "application/x-recordio"
# channels that can be streamed; the others are small, or are needed as files
PIPE_CHANNELS = ("train", "validation")
CONTENT_TYPES = {"model": "application/x-sagemaker-model"}
MANIFEST_SUFFIXES = (".manifest", ".jsonl")
NAME_LENGTH = 63  # characters of a training or transform job, a model, an endpoint or its configuration
TUNING_NAME_LENGTH = 32

_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_S3 = re.compile(r"s3://[^/]+(/.*)?")
_INSTANCE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")


def check_name(flag: str, name: str, length: int = NAME_LENGTH) -> None:
    """Raise a ConfigError, which names `flag`, if SageMaker does not allow `name`; `length` is the limit."""
    if name_error(name, length):
        raise ConfigError(f"{flag}: {name_error(name, length)}")


def name_error(name: str, length: int = NAME_LENGTH) -> str:
    """Return a message about an invalid name, or ""."""
    if len(name) > length:
        return f"found {name!r}, {len(name)} characters, expected at most {length}"
    return "" if _NAME.fullmatch(name) else f"found {name!r}, expected letters, digits and inner hyphens"


@dataclass(frozen=True)
class Channel:
    """An input channel of a training job.

    Attributes:
        uri: S3 prefix or object.
        mode: "File" (copied before training starts), "Pipe" (streamed once per epoch) or "" (the job's default, File).
        content_type: MIME type; "" if the training code detects the format.
        attributes: keys of an augmented manifest to send, source-ref first; Pipe mode only.
        shuffle_seed: seed to shuffle an augmented manifest in every epoch; None does not shuffle.
    """

    uri: str
    mode: str = ""
    content_type: str = ""
    attributes: Tuple[str, ...] = ()
    shuffle_seed: Optional[int] = None

    def fault(self) -> str:
        """Return a message about the first invalid value, or ""."""
        if not _S3.fullmatch(self.uri):
            return f"found {self.uri!r}, expected s3://bucket/key"
        if self.attributes and (len(self.attributes) < 2 or not self.attributes[0].endswith("-ref")):
            return f"found attributes {','.join(self.attributes)}, expected source-ref,LABEL, the image's key first"
        return ""


def make_channels(inputs: Mapping[str, str], pipe: bool = False, attributes: Sequence[str] = ()) -> Dict[str, Channel]:
    """Return channels from S3 URIs by channel name; empty URIs are left out.

    Args:
        inputs: S3 URI of each channel.
        pipe: stream the train and validation channels, which are RecordIO files or augmented manifests.
        attributes: keys of an augmented manifest to stream: source-ref,LABEL.

    Raises:
        ConfigError: a manifest is streamed without `attributes`, or `attributes` are given without a manifest.
    """
    channels = {name: _channel(name, uri, pipe, tuple(attributes)) for name, uri in inputs.items() if uri}
    if attributes and not any(channel.attributes for channel in channels.values()):
        raise ConfigError(
            f"attribute_names: found {','.join(attributes)}, expected --pipe and a manifest "
            f"({', '.join(MANIFEST_SUFFIXES)}) as --train"
        )
    return channels


def _channel(name: str, uri: str, pipe: bool, attributes: Tuple[str, ...]) -> Channel:
    if not pipe or name not in PIPE_CHANNELS:
        return Channel(uri, "File" if pipe or name in CONTENT_TYPES else "", CONTENT_TYPES.get(name, ""))
    if not uri.lower().endswith(MANIFEST_SUFFIXES):
        return Channel(uri, "Pipe", RECORDIO)
    if not attributes:
        raise ConfigError(f"{name}: found {uri!r} to be streamed, expected --attribute_names source-ref,LABEL with it")
    return Channel(uri, "Pipe", RECORDIO, attributes, 1 if name == "train" else None)


@dataclass(frozen=True)
class Job:
    """A SageMaker training job without its hyperparameters.

    Attributes:
        name: unique in the account and region.
        role: ARN of the job's execution role.
        region: e.g. eu-west-1.
        output: s3://bucket/prefix; source, model and checkpoints are written to OUTPUT/NAME/.
        channels: inputs by channel name.
        image: container URI; "" for AWS's MXNet 1.9.0 container for the region and instance type.
        volume_gb: disk of each instance, GB.
        max_run: maximum training time, seconds.
        max_wait: maximum time of a spot job with waiting for instances, seconds; 0 for twice max_run.
        checkpoints: S3 prefix for checkpoints; "" for one below `output` if spot, else no checkpoints.
        distribution: "parameter_server" or "mpi" for several instances.
        processes_per_host: processes on each instance with mpi, one per GPU.

    Raises:
        ConfigError: one or more values are invalid; the message lists all of them.
    """

    name: str
    role: str
    region: str
    output: str
    channels: Mapping[str, Channel]
    instance_type: str = "ml.p3.2xlarge"
    instance_count: int = 1
    image: str = ""
    volume_gb: int = 30
    max_run: int = 24 * 3600
    spot: bool = False
    max_wait: int = 0
    checkpoints: str = ""
    distribution: str = ""
    processes_per_host: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    network_isolation: bool = False
    encrypt_traffic: bool = False
    subnets: Tuple[str, ...] = ()
    security_groups: Tuple[str, ...] = ()
    volume_kms_key: str = ""
    output_kms_key: str = ""

    def __post_init__(self) -> None:
        faults = [*self._check_paths(), *self._check_instances()]
        faults += [f"{name}: {channel.fault()}" for name, channel in self.channels.items() if channel.fault()]
        if faults:
            raise ConfigError("; ".join(faults))

    def _check_paths(self) -> List[str]:
        faults = []
        if name_error(self.name):
            faults.append(f"job_name: {name_error(self.name)}")
        if not _ARN.fullmatch(self.role):
            faults.append(f"role: found {self.role!r}, expected arn:aws:iam::ACCOUNT:role/NAME")
        for name, uri in (("output", self.output), ("checkpoints", self.checkpoints)):
            if (uri or name == "output") and not _S3.fullmatch(uri):
                faults.append(f"{name}: found {uri!r}, expected s3://bucket/prefix")
        for names in CHANNELS.values():
            present = [name for name in names if name in self.channels]
            if len(present) > 1:
                faults.append(f"channels: found {' and '.join(present)}, expected one of them")
        if not self.channels.keys() & set(CHANNELS["train"]):
            faults.append("train: found none, expected s3://bucket/key of the training images")
        if bool(self.subnets) != bool(self.security_groups):
            faults.append("subnets, security_groups: found only one, expected both")
        return faults

    def _check_instances(self) -> List[str]:
        faults = []
        if not _INSTANCE.fullmatch(self.instance_type):
            faults.append(f"instance_type: found {self.instance_type!r}, expected a type such as ml.p3.2xlarge")
        for name in ("instance_count", "volume_gb", "max_run", "processes_per_host"):
            if getattr(self, name) < 1:
                faults.append(f"{name}: found {getattr(self, name)}, expected at least 1")
        if self.max_wait and (not self.spot or self.max_wait < self.max_run):
            faults.append(f"max_wait: found {self.max_wait}, expected --spot and at least max_run ({self.max_run})")
        if self.distribution not in DISTRIBUTIONS:
            names = ", ".join(filter(None, DISTRIBUTIONS))
            faults.append(f"distribution: found {self.distribution!r}, expected one of {names}")
        if self.processes_per_host > 1 and self.distribution != "mpi":
            faults.append(f"processes_per_host: found {self.processes_per_host}, expected 1 without --distribution mpi")
        if self.instance_count > 1 and not self.distribution:
            faults.append(f"instance_count: found {self.instance_count}, expected 1 without --distribution")
        return faults

    @property
    def folder(self) -> str:
        """S3 prefix of the job's files."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def source(self) -> str:
        """S3 URI of the code archive, as the SageMaker SDK chooses it."""
        return f"{self.folder}/source/{SOURCE_ARCHIVE}"

    @property
    def checkpoint_folder(self) -> str:
        """S3 prefix of the checkpoints; "" for none."""
        return self.checkpoints or (f"{self.folder}/checkpoints" if self.spot else "")

    @property
    def longest_wait(self) -> int:
        """MaxWaitTimeInSeconds of a spot job."""
        return self.max_wait or 2 * self.max_run
