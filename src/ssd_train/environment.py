"""Environment: where we run. The folders, the host and the devices; never what is trained (that is TrainConfig's)."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, Optional, Tuple

from ssd_train import cgroups
from ssd_train.errors import ConfigError

# what of an Environment each channel of a SageMaker job fills: our names, then the built-in algorithm's and the SDK's
CHANNELS = {
    "train": ("train", "training"),
    "labels": ("labels", "train_annotation"),
    "validation": ("validation",),
    "validation_labels": ("validation_labels", "validation_annotation"),
    "pretrained": ("pretrained", "model"),
}
CODE_CHANNELS = ("code", "sm_code", "sm_drivers")  # of launchers that send the program this way
_SECRET_NAME = re.compile(
    r"(SECRET|TOKEN|PASSWORD|PASSWD|ACCESS_KEY|API_KEY)(?!.*_(FILE|URI|PATH|ARN)$)", re.IGNORECASE
)
SHORTEST_SECRET = 8  # characters; shorter ones are parts of common words
DEVICES = "auto, cpu, gpu, or indices such as gpu:0 or gpu:0,gpu:1"  # what read_devices takes
FAILURE_CHARACTERS = 1024  # of the failure file that SageMaker shows


@dataclass(frozen=True)
class Environment:
    """Where images and labels come from and where results go.

    train, labels                   images and their labels (a file or a folder); without labels, train has both
    validation, validation_labels   the same held out; without both a share of the training images is
    model_dir                       the trained model
    output_dir                      the report
    checkpoint_dir                  what a resumed run needs; None: no checkpoints
    pretrained                      weights to start from
    fetch_images                    images that the labels name on S3 and the folders lack are got from there
    devices                         see read_devices
    host, hosts                     name of this machine in metric lines, and the names of all in the job
    hosted                          true on SageMaker: metric lines are printed
    pipes                           which of train and validation come as streams (Pipe mode): path_0, path_1, ...
    unused_channels                 those of the job whose names mean nothing here
    """

    train: Path
    labels: Optional[Path] = None
    validation: Optional[Path] = None
    validation_labels: Optional[Path] = None
    model_dir: Path = Path("model")
    output_dir: Path = Path("output")
    checkpoint_dir: Optional[Path] = None
    pretrained: Optional[Path] = None
    fetch_images: bool = False
    devices: str = "auto"
    host: str = "algo-1"
    hosted: bool = False
    hosts: Tuple[str, ...] = ("algo-1",)
    pipes: FrozenSet[str] = frozenset()
    unused_channels: Tuple[str, ...] = ()

    @classmethod
    def from_sagemaker(cls, flags: Mapping[str, Any]) -> "Environment":
        """The places of a SageMaker job, by the variables that its toolkit sets and the files below /opt/ml, or
        SAGEMAKER_BASE_DIR. What `flags` say, by field, wins.

        Raises:
            ConfigError: train is missing, two channels mean the same, or the job's description is damaged.
        """
        base, channels = _base(), _channels()
        places = dict(_places(channels))
        found: Dict[str, Any] = {field: channels[name] for field, name in places.items()}
        if "train" not in {**found, **flags}:
            raise ConfigError(f"channels: found {', '.join(channels) or 'none'}, expected one called train")
        resources = _description("resourceconfig")
        found.update(
            model_dir=Path(os.environ.get("SM_MODEL_DIR", base / "model")),
            output_dir=Path(os.environ.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
            checkpoint_dir=base / "checkpoints" if (base / "checkpoints").is_dir() else None,
            host=resources.get("current_host", cls.host),
            hosts=tuple(resources.get("hosts", cls.hosts)),
            hosted=True,
            pipes=frozenset(field for field, name in places.items() if _is_pipe(name)),
            unused_channels=tuple(name for name in channels if name not in (*places.values(), *CODE_CHANNELS)),
        )
        return cls(**{**found, **flags})


def read_devices(devices: str) -> Tuple[str, Tuple[int, ...]]:
    """Return what `devices` names: auto, cpu or gpu, and the indices, none for a plain name.

    auto is all GPUs or else the CPU, gpu is all GPUs, cpu is the CPU; gpu:1 is the GPU of index 1, as in PyTorch, and
    gpu:0,gpu:1 are two. Several CPU devices such as cpu:0,cpu:1 share the processor; they serve tests.

    Raises:
        ConfigError: it is none of these, or names a device twice.
    """
    found = re.fullmatch(r"(auto|cpu|gpu)|(?:cpu:\d{1,3}(?:,cpu:\d{1,3})*)|(?:gpu:\d{1,3}(?:,gpu:\d{1,3})*)", devices)
    indices = tuple(int(index) for index in re.findall(r"\d+", devices))
    if not found or len(set(indices)) < len(indices):
        raise ConfigError(f"devices: found {devices!r}, expected {DEVICES}")
    return devices.partition(":")[0], indices


def machine_gpus() -> int:
    """Return how many GPUs SageMaker's toolkit has counted on this machine; 0 outside of a training job."""
    text = os.environ.get("SM_NUM_GPUS", "")
    return int(text) if text.isdigit() else 0


def is_hosted() -> bool:
    """Whether this process is a SageMaker training job."""
    return "SM_MODEL_DIR" in os.environ or (_base() / "input" / "config").is_dir()


def joined_by() -> Tuple[str, int]:
    """What the launcher has joined the processes of this job by, and how many: "parameter_server" (the estimator's
    distribution of that name, or DMLC's own launchers), "mpi" (mpirun or horovodrun), or "" for nothing."""
    if os.environ.get("DMLC_ROLE") == "worker":
        return "parameter_server", int(os.environ.get("DMLC_NUM_WORKER", 1))
    processes = int(os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("HOROVOD_SIZE") or 1)
    return ("mpi", processes) if processes > 1 else ("", 1)


def hosted_settings() -> Dict[str, str]:
    """The hyperparameters of a SageMaker job as texts, where no toolkit has made them into flags."""
    if "SM_HPS" in os.environ:
        return {}
    return {name: _plain(value) for name, value in _description("hyperparameters").items()}


def report_failure(message: str) -> None:
    """Leave `message` where SageMaker takes the reason of a failed job from. Its toolkit keeps what is there."""
    folder = Path(os.environ.get("SM_OUTPUT_DIR", _base() / "output"))
    folder.mkdir(parents=True, exist_ok=True)
    cut = message if len(message) <= FAILURE_CHARACTERS else message[: FAILURE_CHARACTERS - 1] + "…"
    (folder / "failure").write_text(cut, "utf-8")


def _base() -> Path:
    return Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def _channels() -> Dict[str, Path]:
    """The folder of each channel."""
    data = _base() / "input" / "data"
    named = {name: data / name for name in sorted(_description("inputdataconfig"))}
    described = {f"SM_CHANNEL_{name.upper()}" for name in named}
    for variable in sorted(os.environ):
        if variable.startswith("SM_CHANNEL_") and variable not in described:
            named[variable[len("SM_CHANNEL_") :].lower()] = Path(os.environ[variable])
    return named


def _places(channels: Mapping[str, Path]) -> Iterator[Tuple[str, str]]:
    """What each channel fills, and its name."""
    for field, names in CHANNELS.items():
        given = [name for name in names if name in channels]
        if len(given) > 1:
            raise ConfigError(f"channels: found {' and '.join(given)}, expected one of them")
        yield from ((field, name) for name in given)


def _is_pipe(channel: str) -> bool:
    return dict(_description("inputdataconfig").get(channel, {})).get("TrainingInputMode") == "Pipe"


def _description(name: str) -> Dict[str, Any]:
    """One of the JSON files that describe the job; empty where there is none."""
    path = _base() / "input" / "config" / f"{name}.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path}: found no JSON ({error}), expected the description of a job") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: found {type(found).__name__}, expected a JSON object")
    return found


def _plain(value: Any) -> str:
    """A hyperparameter's text: the SDK sends each as JSON of its own, so that texts are quoted twice."""
    text = str(value)
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text


def s3_endpoint() -> Optional[str]:
    """The address of the S3 API where it is not Amazon's, by the variables of AWS's own tools."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def secrets() -> List[str]:
    """Values of variables that are keys, tokens or passwords by their names, the longest first; where a file with one
    lies is no secret."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)


def payload_limit() -> int:
    """The largest body of a request that a serving container takes, in bytes: what a batch transform job sets, or what
    an endpoint allows.

    Raises:
        ConfigError: SAGEMAKER_MAX_PAYLOAD_IN_MB is no whole number of at least 1.
    """
    text = os.environ.get("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6")
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"SAGEMAKER_MAX_PAYLOAD_IN_MB is {text!r}: expected a whole number of at least 1")
    return int(text) << 20


def cache_folder() -> Path:
    """Where copies of what came over the network are kept: SSD_TRAIN_CACHE, or ssd_train in the user's cache."""
    named = os.environ.get("SSD_TRAIN_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(user_cache) / "ssd_train"


def read_seconds() -> float:
    """Seconds within which a file of an image has to be read: SSD_TRAIN_READ_SECONDS, or 30; 0: no limit.

    Raises:
        ConfigError: the variable holds no such number.
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
    """Bytes that this process may still use: what the system has free, or less where a control group above it is
    limited; /proc and /sys are read below `root`."""
    return min([_memory_of_system(root), *_memory_of_groups(root)])


def _memory_of_system(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_of_groups(root: Path) -> Iterator[int]:
    """What each control group above this process has left; none where there is no limit."""
    version_1 = ["memory.limit_in_bytes", "memory.usage_in_bytes"]
    for limit, used in cgroups.limits("memory", ["memory.max", "memory.current"], version_1, root):
        if limit != "max":
            yield max(int(limit) - int(used), 0)
