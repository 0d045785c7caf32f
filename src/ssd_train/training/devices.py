"""The devices of this process, and arrays put on them."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Iterator, List, Sequence

import numpy as np

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.errors import ConfigError, SsdTrainError

mx = framework.mxnet()

# what is said when memory runs out: by MXNet on the processor, on a GPU, and of an array larger than it can count; by
# OpenCV
OUT_OF_MEMORY = (
    *("Failed to allocate", "AlignedMallocPitch failed", "out of memory", "cudaMalloc", "larger than 2^31"),
    "Insufficient memory",
)
PENDING = 100  # errors of work begun before, which fails in the same way and would tell of it when the program ends


def contexts(devices: str = "auto", local_rank: int = 0, local_size: int = 1) -> List[Any]:
    """MXNet contexts for `devices`: auto (all visible GPUs, else the CPU), cpu, gpu, or a number of either such as
    gpu:2 or cpu:2 (several CPU contexts share the processor; they serve tests). Of `local_size` processes on this
    machine, the one numbered `local_rank` gets its share of the GPUs."""
    found = re.fullmatch(r"(auto|cpu|gpu)(?::([1-9]\d?))?", devices)
    if not found:
        raise ConfigError(f"devices: found {devices!r}, expected auto, cpu, gpu, cpu:N or gpu:N")
    kind, count = found.group(1), int(found.group(2) or 0)
    gpus = 0 if kind == "cpu" else mx.context.num_gpus()
    if kind == "cpu" or (kind == "auto" and not gpus):
        return [mx.cpu(i) for i in range(count or 1)]
    least = max(count, local_size)
    if gpus < least:
        raise ConfigError(f"devices: found {gpus} GPUs that MXNet can use, expected {least} for {devices!r}")
    return [mx.gpu(i) for i in range(count or gpus)][local_rank::local_size]


@contextlib.contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Turns an error of too little memory, on the processor or a GPU, into one line that says what to lower."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(sign in text for sign in OUT_OF_MEMORY):
            raise
        for _ in range(PENDING):
            with contextlib.suppress(mx.MXNetError):
                mx.nd.waitall()
                break
        raise SsdTrainError(
            f"out of memory with mini_batch_size {config.mini_batch_size} at image_shape {config.image_shape}: "
            "lower one of them, or take a smaller --base_network"
        ) from error


def split(array: np.ndarray, devices: Sequence[Any]) -> List[Any]:
    """`array` cut along its first axis into parts as equal as they go, one on each device."""
    return [
        mx.nd.array(part, ctx=ctx, dtype=part.dtype) for part, ctx in zip(np.array_split(array, len(devices)), devices)
    ]
