"""The devices of this process, and arrays put on them."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Sequence

import numpy as np

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.environment import machine_gpus, read_devices
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
    """Return the MXNet contexts of `devices`, see `read_devices`. Of `local_size` processes on this machine, the one
    numbered `local_rank` gets its share of the GPUs.

    Raises:
        ConfigError: `devices` is malformed, or names GPUs that MXNet cannot use; auto, where SageMaker counts GPUs and
            MXNet none: the job would train on the CPU of a machine that is paid for its GPUs.
    """
    kind, indices = read_devices(devices)
    gpus = 0 if kind == "cpu" else mx.context.num_gpus()
    if kind == "auto" and not gpus and machine_gpus():
        raise ConfigError(
            f"devices: found {machine_gpus()} GPUs (SM_NUM_GPUS) and an MXNet that can use none, expected a build for "
            "CUDA and a GPU that it supports, or --devices cpu"
        )
    if kind == "cpu" or (kind == "auto" and not gpus):
        return [mx.cpu(index) for index in indices or (0,)]
    least = max(max(indices, default=0) + 1, local_size)
    if gpus < least or (indices and len(indices) < local_size):
        processes = f" and {local_size} processes" if local_size > 1 else ""
        raise ConfigError(f"devices: found {gpus} GPUs that MXNet can use, expected {least} for {devices!r}{processes}")
    return [mx.gpu(index) for index in indices or range(gpus)][local_rank::local_size]


def one_context(devices: str = "auto") -> Any:
    """Return the MXNet context of `devices` for work that uses one device: of all GPUs the first.

    Raises:
        ConfigError: as `contexts`, or several devices are named.
    """
    if len(read_devices(devices)[1]) > 1:
        raise ConfigError(f"devices: found {devices!r}, expected one device")
    return contexts(devices)[0]


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
