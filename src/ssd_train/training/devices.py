"""The devices of this process, and arrays put on them."""

from __future__ import annotations

import re
from typing import Any, List, Sequence

import numpy as np

from ssd_train import framework
from ssd_train.errors import ConfigError

mx = framework.mxnet()


def contexts(devices: str = "auto") -> List[Any]:
    """MXNet contexts for `devices`: auto (all visible GPUs, else the CPU), cpu, gpu, or a number of either such as
    gpu:2 or cpu:2 (several CPU contexts share the processor; they serve tests)."""
    found = re.fullmatch(r"(auto|cpu|gpu)(?::([1-9]\d?))?", devices)
    if not found:
        raise ConfigError(f"devices: found {devices!r}, expected auto, cpu, gpu, cpu:N or gpu:N")
    kind, count = found.group(1), int(found.group(2) or 0)
    gpus = 0 if kind == "cpu" else mx.context.num_gpus()
    if kind == "cpu" or (kind == "auto" and not gpus):
        return [mx.cpu(i) for i in range(count or 1)]
    if gpus < max(count, 1):
        raise ConfigError(f"devices: found {gpus} GPUs that MXNet can use, expected {max(count, 1)} for {devices!r}")
    return [mx.gpu(i) for i in range(count or gpus)]


def split(array: np.ndarray, devices: Sequence[Any]) -> List[Any]:
    """`array` cut along its first axis into parts as equal as they go, one on each device."""
    return [
        mx.nd.array(part, ctx=ctx, dtype=part.dtype) for part, ctx in zip(np.array_split(array, len(devices)), devices)
    ]
