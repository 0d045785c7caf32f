"""Thread pool of the server: some threads decode images, one runs the network.

Waiting images are not batched: on a CPU a batch of eight takes as long as eight single images (benchmarks/README.md),
and the first image would wait for the last.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Tuple

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data.structures import Detections
from ssd_train.deploy.codec import ImageRequest, RequestLimits, predict_one
from ssd_train.deploy.detector import Detector
from ssd_train.deploy.server.forms import file_in_form, is_form

READERS = 2  # threads
NICE = 10  # niceness of the thread for large images


class Result(NamedTuple):
    """Result of a request.

    Attributes:
        detections: boxes in pixels of the image.
        seconds: run time of the network.
    """

    detections: Detections
    seconds: float


class InferencePool:
    """Threads that decode images and run the network, for an event loop."""

    def __init__(self, detector: Detector, limits: RequestLimits) -> None:
        self._detector = detector
        self._limits = limits
        self._reading = ThreadPoolExecutor(READERS, thread_name_prefix="reading")
        # a separate thread of lower priority for large images, so that small ones wait neither for them nor for a CPU
        self._costly = ThreadPoolExecutor(1, thread_name_prefix="reading-large", initializer=_lower_priority)
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")

    async def detect(self, body: bytes, content_type: str) -> Result:
        """Return the detections for a request body.

        Raises:
            RequestError: the body has no usable image.
        """
        loop = asyncio.get_running_loop()
        if is_form(content_type):
            body, content_type = await loop.run_in_executor(self._reading, file_in_form, body, content_type)
        request = ImageRequest(body, content_type, self._limits)
        costly = await loop.run_in_executor(self._reading, request.is_expensive)
        readers, read = (self._costly, self._read_costly) if costly else (self._reading, self._read)
        image, size_wh = await loop.run_in_executor(readers, read, request)
        return await loop.run_in_executor(self._network, self._run, image, size_wh)

    def close(self) -> None:
        """Wait for running work and end the threads."""
        for pool in (self._reading, self._costly, self._network):
            pool.shutdown(wait=True)

    def _read(self, request: ImageRequest) -> Tuple[np.ndarray, SizeWH]:
        image, size_wh = request.decode(self._detector.engine.side)
        return self._detector.to_input(image), size_wh

    def _read_costly(self, request: ImageRequest) -> Tuple[np.ndarray, SizeWH]:
        try:
            return self._read(request)
        finally:
            _trim_heap()

    def _run(self, image: np.ndarray, size_wh: SizeWH) -> Result:
        started = time.perf_counter()
        detections = predict_one(self._detector, image, size_wh)
        return Result(detections, time.perf_counter() - started)


def _trim_heap() -> None:
    """Return free memory to the system (glibc only); lists of numbers fragment it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _lower_priority() -> None:
    """Lower the priority of the calling thread; Linux has one per thread.

    It is not raised where the server itself has a lower one, because that needs a privilege.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
