"""Environment: folders, hosts and devices of a run, and all access to environment variables."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, Optional, Tuple

from ssd_train import resources
from ssd_train.errors import ConfigError

# field of Environment -> names of its SageMaker channel: ours, then those of the built-in algorithm and the SDK
CHANNELS = {
    "train": ("train", "training"),
    "labels": ("labels", "train_annotation"),
    "validation": ("validation",),
    "validation_labels": ("validation_labels", "validation_annotation"),
    "pretrained": ("pretrained", "model"),
    "weights_dir": ("weights_dir",),
}
CODE_CHANNELS = ("code", "sm_code", "sm_drivers")  # channels with which launchers send the program
_SECRET_NAME = re.compile(
    r"(SECRET|TOKEN|PASSWORD|PASSWD|ACCESS_KEY|API_KEY)(?!.*_(FILE|URI|PATH|ARN)$)", re.IGNORECASE
)
SHORTEST_SECRET = 8  # characters; shorter values occur in ordinary words
DEVICES = "auto, cpu, gpu, or indices such as gpu:0 or gpu:0,gpu:1"  # syntax of read_devices
FAILURE_CHARACTERS = 1024  # SageMaker shows so many of the failure file


@dataclass(frozen=True)
class Environment:
    """Inputs, outputs, hosts and devices of a run.

    Attributes:
        train: Training images: a folder, or a RecordIO file with labels.
        labels: Labels of `train`, a file or folder; None: they are in `train`.
        validation: Validation images; None: those of `train`.
        validation_labels: Validation labels; without both, a fraction of the training images is held out.
        model_dir: Folder of the trained model.
        output_dir: Folder of the report.
        checkpoint_dir: Folder of the checkpoints; None: no checkpoints.
        pretrained: Weights to start from.
        weights_dir: Folder with files of GluonCV's model zoo, which is searched first.
        fetch_images: Whether to download images that labels name on S3 and that are missing in the folders.
        overwrite: Whether the model and the report of another run may be replaced.
        devices: Devices in the syntax of `read_devices`.
        host: Name of this host in metric lines.
        on_sagemaker: Whether this is a SageMaker job, which prints metric lines.
        hosts: Names of all hosts of the job.
        pipes: Which of "train" and "validation" are streams (Pipe mode): FIFOs path_0, path_1, ...
        unused_channels: Channels of the job with unknown names.
        log: Where metrics are logged besides metrics.csv: "tensorboard"; None: nowhere.
        command: Command line of the run, for its report.
    """

    train: Path
    labels: Optional[Path] = None
    validation: Optional[Path] = None
    validation_labels: Optional[Path] = None
    model_dir: Path = Path("model")
    output_dir: Path = Path("output")
    checkpoint_dir: Optional[Path] = None
    pretrained: Optional[Path] = None
    weights_dir: Optional[Path] = None
    fetch_images: bool = False
    overwrite: bool = False
    devices: str = "auto"
    host: str = "algo-1"
    on_sagemaker: bool = False
    hosts: Tuple[str, ...] = ("algo-1",)
    pipes: FrozenSet[str] = frozenset()
    unused_channels: Tuple[str, ...] = ()
    log: Optional[str] = None
    command: str = ""

    @classmethod
    def from_sagemaker(cls, flags: Mapping[str, Any]) -> "Environment":
        """Read the environment of a SageMaker job.

        Sources are the variables of the SageMaker toolkit and the files below /opt/ml or SAGEMAKER_BASE_DIR.

        Args:
            flags: Values by field name, which take precedence.

        Raises:
            ConfigError: the train channel is missing, two channels have the same meaning, or a file of the job is
                damaged.
        """
        base, channels = _base(), _channels()
        used = dict(_used_channels(channels))
        fields: Dict[str, Any] = {field: channels[name] for field, name in used.items()}
        if "train" not in {**fields, **flags}:
            raise ConfigError(f"channels: found {', '.join(channels) or 'none'}, expected one called train")
        resources = _read_job_file("resourceconfig")
        fields.update(
            model_dir=Path(os.environ.get("SM_MODEL_DIR", base / "model")),
            output_dir=Path(os.environ.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
            checkpoint_dir=base / "checkpoints" if (base / "checkpoints").is_dir() else None,
            host=resources.get("current_host", cls.host),
            hosts=tuple(resources.get("hosts", cls.hosts)),
            on_sagemaker=True,
            pipes=frozenset(field for field, name in used.items() if _is_pipe(name)),
            unused_channels=tuple(name for name in channels if name not in (*used.values(), *CODE_CHANNELS)),
        )
        return cls(**{**fields, **flags})


def read_devices(devices: str) -> Tuple[str, Tuple[int, ...]]:
    """Parse a device specification.

    auto: all GPUs, or the CPU if there are none; gpu: all GPUs; cpu: the CPU; gpu:1: the GPU with index 1, as in
    PyTorch; gpu:0,gpu:1: two GPUs. Several CPU devices such as cpu:0,cpu:1 share the processor and are for tests.

    Returns:
        "auto", "cpu" or "gpu", and the indices, which are empty without an index.

    Raises:
        ConfigError: invalid syntax, or a device is named twice.
    """
    match = re.fullmatch(r"(auto|cpu|gpu)|(?:cpu:\d{1,3}(?:,cpu:\d{1,3})*)|(?:gpu:\d{1,3}(?:,gpu:\d{1,3})*)", devices)
    indices = tuple(int(index) for index in re.findall(r"\d+", devices))
    if not match or len(set(indices)) < len(indices):
        raise ConfigError(f"devices: found {devices!r}, expected {DEVICES}")
    return devices.partition(":")[0], indices


def machine_gpus() -> int:
    """Return the number of GPUs according to the SageMaker toolkit; 0 outside a training job."""
    text = os.environ.get("SM_NUM_GPUS", "")
    return int(text) if text.isdigit() else 0


def is_hosted() -> bool:
    """Return whether this process is a SageMaker training job."""
    return "SM_MODEL_DIR" in os.environ or (_base() / "input" / "config").is_dir()


def detect_launcher() -> Tuple[str, int]:
    """Detect how the job's processes were launched.

    Returns:
        "parameter_server" (the estimator's distribution, or DMLC's launchers), "mpi" (mpirun or horovodrun) or "", and
        the number of processes.
    """
    if os.environ.get("DMLC_ROLE") == "worker":
        return "parameter_server", int(os.environ.get("DMLC_NUM_WORKER", 1))
    processes = int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("HOROVOD_SIZE") or 1)
    return ("mpi", processes) if processes > 1 else ("", 1)


def sagemaker_hyperparameters() -> Dict[str, str]:
    """Return the hyperparameters of a SageMaker job as texts; {} if the toolkit passes them as flags."""
    if "SM_HPS" in os.environ:
        return {}
    return {name: _plain(value) for name, value in _read_job_file("hyperparameters").items()}


def write_failure_file(message: str) -> None:
    """Write SageMaker's failure file, whose text it shows as the failure reason of the job."""
    folder = Path(os.environ.get("SM_OUTPUT_DIR", _base() / "output"))
    folder.mkdir(parents=True, exist_ok=True)
    cut = message if len(message) <= FAILURE_CHARACTERS else message[: FAILURE_CHARACTERS - 1] + "…"
    (folder / "failure").write_text(cut, "utf-8")


def _base() -> Path:
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _channels() -> Dict[str, Path]:
    """Return the folder of each channel."""
    data = _base() / "input" / "data"
    named = {name: data / name for name in sorted(_read_job_file("inputdataconfig"))}
    described = {f"SM_CHANNEL_{name.upper()}" for name in named}
    for variable in sorted(os.environ):
        if variable.startswith("SM_CHANNEL_") and variable not in described:
            named[variable[len("SM_CHANNEL_") :].lower()] = Path(os.environ[variable])
    return named


def _used_channels(channels: Mapping[str, Path]) -> Iterator[Tuple[str, str]]:
    """Yield each field of Environment that has a channel, and the channel's name."""
    for field, names in CHANNELS.items():
        present = [name for name in names if name in channels]
        if len(present) > 1:
            raise ConfigError(f"channels: found {' and '.join(present)}, expected one of them")
        yield from ((field, name) for name in present)


def _is_pipe(channel: str) -> bool:
    return dict(_read_job_file("inputdataconfig").get(channel, {})).get("TrainingInputMode") == "Pipe"


def _read_job_file(name: str) -> Dict[str, Any]:
    """Read a JSON file of input/config; {} if it does not exist."""
    path = _base() / "input" / "config" / f"{name}.json"
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(
            f"{path}: found no JSON ({error}), expected a configuration file of a SageMaker job"
        ) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: found {type(document).__name__}, expected a JSON object")
    return document


def _plain(value: Any) -> str:
    """Return a hyperparameter as text without the second pair of quotes that the SDK adds to strings."""
    text = str(value)
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text


def s3_endpoint() -> Optional[str]:
    """Return the endpoint URL of S3 set for the AWS SDKs; None for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def secrets() -> List[str]:
    """Return the values of variables whose names mean keys, tokens or passwords, the longest first."""
    values = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET
    }
    return sorted(values, key=len, reverse=True)


def payload_limit() -> int:
    """Return the maximum size of a request body in a serving container, in bytes.

    It is the limit of the batch transform job, or else that of endpoints (6 MB).

    Raises:
        ConfigError: SAGEMAKER_MAX_PAYLOAD_IN_MB is not an integer of at least 1.
    """
    text = os.environ.get("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6")
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"SAGEMAKER_MAX_PAYLOAD_IN_MB: found {text!r}, expected a whole number of at least 1")
    return int(text) << 20


def cache_folder() -> Path:
    """Return the cache folder for downloads: SSD_TRAIN_CACHE, or ssd_train in the user's cache folder."""
    chosen = os.environ.get("SSD_TRAIN_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(user_cache) / "ssd_train"


def gluoncv_cache() -> Path:
    """Return the folder in which GluonCV keeps files of its model zoo: MXNET_HOME/models, or ~/.mxnet/models."""
    home = os.environ.get("MXNET_HOME")
    return Path(home) / "models" if home else Path.home() / ".mxnet" / "models"


def gluoncv_zoo() -> Optional[str]:
    """Return the address of the model zoo, MXNET_GLUON_REPO; None for GluonCV's own."""
    return os.environ.get("MXNET_GLUON_REPO") or None


def zoo_mirror() -> Optional[str]:
    """Return the address of a mirror of the model zoo, SSD_TRAIN_MIRROR; None if there is none."""
    return os.environ.get("SSD_TRAIN_MIRROR") or None


def read_seconds() -> float:
    """Return the timeout for reading an image file in seconds: SSD_TRAIN_READ_SECONDS, or 30; 0: no limit.

    Raises:
        ConfigError: the variable is not a number of at least 0.
    """
    text = os.environ.get("SSD_TRAIN_READ_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"SSD_TRAIN_READ_SECONDS: found {text!r}, expected seconds, at least 0")
    return seconds


def available_memory(root: Path = Path("/")) -> int:
    """Return the memory available to this process in bytes, limited by its cgroups.

    Args:
        root: Root folder of /proc and /sys.
    """
    return min([_memory_of_system(root), *_memory_of_groups(root)])


def _memory_of_system(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_of_groups(root: Path) -> Iterator[int]:
    """Yield the free memory of each limited control group of this process, in bytes."""
    version_1 = ["memory.limit_in_bytes", "memory.usage_in_bytes"]
    for limit, used in resources.limits("memory", ["memory.max", "memory.current"], version_1, root):
        if limit != "max":
            yield max(int(limit) - int(used), 0)
