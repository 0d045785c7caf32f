"""What a server does for a request, beside the loop that speaks with its clients: pictures are read in threads, and one
thread runs the network, for which they wait in line.

Batches are not made of those that wait: on a CPU a network takes as long for eight pictures as for eight times one
(benchmarks/README.md), and the first of them would wait for the last.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.records import Detections
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.requests import RequestLimits, is_costly, read_request
from ssd_train.deploy.serve import find_one

READERS = 2  # threads
NICE = 10  # of the thread for large pictures


class Found(NamedTuple):
    """What is in a picture, and the seconds that the network took."""

    detections: Detections
    seconds: float


class Work:
    """The threads of a server. `find` is called from its event loop."""

    def __init__(self, detector: Detector, limits: RequestLimits) -> None:
        self._detector = detector
        self._limits = limits
        self._reading = ThreadPoolExecutor(READERS, thread_name_prefix="reading")
        # large pictures wait for one another here, where nobody else waits for them, nor for a processor
        self._costly = ThreadPoolExecutor(1, thread_name_prefix="reading-large", initializer=_step_back)
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")

    async def find(self, body: bytes, content_type: str) -> Found:
        """What is in the picture of a request; a RequestError where there is no answer."""
        loop = asyncio.get_running_loop()
        costly = await loop.run_in_executor(self._reading, is_costly, body, content_type)
        readers, read = (self._costly, self._read_costly) if costly else (self._reading, self._read)
        picture, size_wh = await loop.run_in_executor(readers, read, body, content_type)
        return await loop.run_in_executor(self._network, self._find, picture, size_wh)

    def close(self) -> None:
        """End the threads, after what they have begun."""
        for pool in (self._reading, self._costly, self._network):
            pool.shutdown(wait=True)

    def _read(self, body: bytes, content_type: str) -> Tuple[np.ndarray, SizeWH]:
        image, size_wh = read_request(body, content_type, self._detector.engine.side, self._limits)
        return self._detector.to_input(image), size_wh

    def _read_costly(self, body: bytes, content_type: str) -> Tuple[np.ndarray, SizeWH]:
        try:
            return self._read(body, content_type)
        finally:
            _give_back()

    def _find(self, picture: np.ndarray, size_wh: SizeWH) -> Found:
        started = time.perf_counter()
        detections = find_one(self._detector, picture, size_wh)
        return Found(detections, time.perf_counter() - started)


def _give_back() -> None:
    """Have memory that is free given back to the system: lists of numbers leave much of it in small pieces. With
    another C library than glibc nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _step_back() -> None:
    """Let other threads go first; on Linux a thread has a priority of its own."""
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
