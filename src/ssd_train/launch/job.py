"""A training job on SageMaker: where it runs, with what rights, on which data. What is trained is TrainConfig's."""

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
# channels that may be read as a stream; all others are small, or must be there as a whole
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
    """Raise a ConfigError unless SageMaker allows `name`, given by `flag`, for what has names of up to `length`."""
    if fault_of_name(name, length):
        raise ConfigError(f"{flag}: {fault_of_name(name, length)}")


def fault_of_name(name: str, length: int = NAME_LENGTH) -> str:
    """Return what is wrong with a name, "" if nothing."""
    if len(name) > length:
        return f"found {name!r}, {len(name)} characters, expected at most {length}"
    return "" if _NAME.fullmatch(name) else f"found {name!r}, expected letters, digits and hyphens between them"


@dataclass(frozen=True)
class Channel:
    """An input of the job: folder, file or prefix on S3, and how it comes to the container.

    mode          "File" (copied before training starts), "Pipe" (streamed anew for every epoch), "" (the job's: File)
    content_type  "" where the format is found by looking
    attributes    of an augmented manifest: the keys of each line that are sent, the image's first; Pipe mode only
    shuffle_seed  an augmented manifest's lines are shuffled anew for every epoch; None: never
    """

    uri: str
    mode: str = ""
    content_type: str = ""
    attributes: Tuple[str, ...] = ()
    shuffle_seed: Optional[int] = None

    def fault(self) -> str:
        """What is wrong with it, "" if nothing."""
        if not _S3.fullmatch(self.uri):
            return f"found {self.uri!r}, expected s3://bucket/key"
        if self.attributes and (len(self.attributes) < 2 or not self.attributes[0].endswith("-ref")):
            return f"found attributes {','.join(self.attributes)}, expected the image's first: source-ref,LABEL"
        return ""


def make_channels(inputs: Mapping[str, str], pipe: bool = False, attributes: Sequence[str] = ()) -> Dict[str, Channel]:
    """Channels by name from their S3 addresses; empty addresses are left out.

    With `pipe` training and validation images are streamed: a RecordIO file as it is, a manifest as images and the
    label that `attributes` name (source-ref,LABEL).

    Raises:
        ConfigError: a manifest is to be streamed without `attributes`, or there are attributes but no manifest.
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
    """Construction checks every value and reports all violations in one ConfigError.

    name                 unlike any other job's of the account and region
    role                 ARN of the role that the job runs with
    region               e.g. eu-west-1
    output               s3://bucket/prefix; source, model and checkpoints go below it, in a folder of the job's name
    channels             inputs by name
    image                the container's address; "": AWS's MXNet 1.9.0 for the region and the kind of instance
    volume_gb            disk of each machine, GB
    max_run, max_wait    seconds of training; and, of a spot job, of training and waiting for machines together
                         (0: twice as long as max_run)
    checkpoints          s3 folder of the checkpoints; "": of a spot job below `output`, else none
    distribution         how several machines meet: "parameter_server" or "mpi"
    processes_per_host   of mpi: processes on each machine, one for each GPU
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
        faults = [*self._faults_of_names(), *self._faults_of_machines()]
        faults += [f"{name}: {channel.fault()}" for name, channel in self.channels.items() if channel.fault()]
        if faults:
            raise ConfigError("; ".join(faults))

    def _faults_of_names(self) -> List[str]:
        faults = []
        if fault_of_name(self.name):
            faults.append(f"job_name: {fault_of_name(self.name)}")
        if not _ARN.fullmatch(self.role):
            faults.append(f"role: found {self.role!r}, expected arn:aws:iam::ACCOUNT:role/NAME")
        for name, uri in (("output", self.output), ("checkpoints", self.checkpoints)):
            if (uri or name == "output") and not _S3.fullmatch(uri):
                faults.append(f"{name}: found {uri!r}, expected s3://bucket/prefix")
        for names in CHANNELS.values():
            given = [name for name in names if name in self.channels]
            if len(given) > 1:
                faults.append(f"channels: found {' and '.join(given)}, expected one of them")
        if not self.channels.keys() & set(CHANNELS["train"]):
            faults.append("train: found no address, expected s3://bucket/key of the training images")
        if bool(self.subnets) != bool(self.security_groups):
            faults.append("subnets, security_groups: found one of them, expected both")
        return faults

    def _faults_of_machines(self) -> List[str]:
        faults = []
        if not _INSTANCE.fullmatch(self.instance_type):
            faults.append(f"instance_type: found {self.instance_type!r}, expected one such as ml.p3.2xlarge")
        for name in ("instance_count", "volume_gb", "max_run", "processes_per_host"):
            if getattr(self, name) < 1:
                faults.append(f"{name}: found {getattr(self, name)}, expected at least 1")
        if self.max_wait and (not self.spot or self.max_wait < self.max_run):
            faults.append(f"max_wait: found {self.max_wait}, expected --spot, and at least max_run, {self.max_run}")
        if self.distribution not in DISTRIBUTIONS:
            names = ", ".join(filter(None, DISTRIBUTIONS))
            faults.append(f"distribution: found {self.distribution!r}, expected one of {names}")
        if self.instance_count > 1 and not self.distribution:
            faults.append(f"instance_count: found {self.instance_count}, expected --distribution with several")
        return faults

    @property
    def folder(self) -> str:
        """Where on S3 what belongs to this job goes."""
        return f"{self.output.rstrip('/')}/{self.name}"

    @property
    def source(self) -> str:
        """Where the program's archive is put, as the SageMaker SDK does."""
        return f"{self.folder}/source/{SOURCE_ARCHIVE}"

    @property
    def checkpoint_folder(self) -> str:
        """Where checkpoints go; "" for nowhere."""
        return self.checkpoints or (f"{self.folder}/checkpoints" if self.spot else "")

    @property
    def longest_wait(self) -> int:
        """Seconds that a spot job may take with all its waiting."""
        return self.max_wait or 2 * self.max_run
