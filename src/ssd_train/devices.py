"""Select devices, and put arrays on them."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Sequence

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.config import TrainConfig
from ssd_train.environment import machine_gpus, read_devices
from ssd_train.errors import ConfigError, SsdTrainError

mx = mxnet_compat.mxnet()

# parts of out-of-memory messages: MXNet on the CPU, on a GPU, and for arrays above its size limit; OpenCV
OUT_OF_MEMORY = (
    *("Failed to allocate", "AlignedMallocPitch failed", "out of memory", "cudaMalloc", "larger than 2^31"),
    "Insufficient memory",
)
PENDING = 100  # pending operations that fail likewise and would report their errors when the program ends


def contexts(devices: str = "auto", local_rank: int = 0, local_size: int = 1) -> List[Any]:
    """Return the MXNet contexts of `devices` (see `read_devices`) for this process.

    Args:
        devices: "auto", "cpu", "gpu" or a list such as "gpu:0,gpu:1".
        local_rank: number of this process on this machine; the processes split the GPUs.
        local_size: number of processes on this machine.

    Raises:
        ConfigError: `devices` is malformed, or names GPUs that MXNet cannot use; or it is auto, and SageMaker counts
            GPUs but MXNet none, so the job would train on the CPU of a GPU machine.
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
    required = max(max(indices, default=0) + 1, local_size)
    if gpus < required or (indices and len(indices) < local_size):
        processes = f" and {local_size} processes" if local_size > 1 else ""
        raise ConfigError(
            f"devices: found {gpus} GPUs that MXNet can use, expected {required} for {devices!r}{processes}"
        )
    return [mx.gpu(index) for index in indices or range(gpus)][local_rank::local_size]


def one_context(devices: str = "auto") -> Any:
    """Return the MXNet context of `devices` for work on one device: the first of all GPUs.

    Raises:
        ConfigError: as for `contexts`, or several devices are named.
    """
    if len(read_devices(devices)[1]) > 1:
        raise ConfigError(f"devices: found {devices!r}, expected one device")
    return contexts(devices)[0]


@contextlib.contextmanager
def explain_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Turn an out-of-memory error, on the CPU or a GPU, into one line of advice."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(part in text for part in OUT_OF_MEMORY):
            raise
        for _ in range(PENDING):
            with contextlib.suppress(mx.MXNetError):
                mx.nd.waitall()
                break
        raise SsdTrainError(
            f"out of memory with mini_batch_size {config.mini_batch_size} at image_shape {config.image_shape}: "
            "lower one of them, or take a smaller --base_network"
        ) from error


def split_and_load(array: np.ndarray, devices: Sequence[Any]) -> List[Any]:
    """Split `array` along its first axis into nearly equal parts, one on each device."""
    return [
        mx.nd.array(part, ctx=ctx, dtype=part.dtype) for part, ctx in zip(np.array_split(array, len(devices)), devices)
    ]
