"""Environment: where we run. The folders, the host and the devices; never what is trained (that is TrainConfig's)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import FrozenSet, Optional


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
    devices                         auto, cpu, gpu, cpu:N, gpu:N
    host                            name of this machine in metric lines
    hosted                          true on SageMaker: metric lines are printed
    pipes                           which of train and validation come as streams (Pipe mode): path_0, path_1, ...
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
    pipes: FrozenSet[str] = frozenset()


def s3_endpoint() -> Optional[str]:
    """The address of the S3 API where it is not Amazon's, by the variables of AWS's own tools."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def cache_folder() -> Path:
    """Where copies of what came over the network are kept: SSD_TRAIN_CACHE, or ssd_train in the user's cache."""
    named = os.environ.get("SSD_TRAIN_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(user_cache) / "ssd_train"


def available_memory() -> int:
    """Bytes that this process may still use: what the system has free, or less where its control group is limited."""
    amounts = [_memory_of_system()]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        numbers = [_number_in(path) for path in (limit, used)]
        if numbers[0] is not None and numbers[1] is not None:
            amounts.append(max(numbers[0] - numbers[1], 0))
    return min(amounts)


def _memory_of_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number_in(path: str) -> Optional[int]:
    try:
        text = Path(path).read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
