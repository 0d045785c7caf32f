"""Read FIFOs of SageMaker's Pipe mode with timeouts.

``<channel>_0`` exists from the start, ``<channel>_1`` once the first was opened, and so on (AWS developer guide, "How
Amazon SageMaker Provides Training Information", "Pipe mode"). A FIFO ends when its writer closes it.
"""

from __future__ import annotations

import io
import os
import select
import time
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Optional, cast

from ssd_train.errors import DataError

_LOOK = 0.1  # polling interval in seconds
_AT_ONCE = 1 << 20  # buffer size in bytes


class ReadCancelled(Exception):
    """Reading was cancelled."""


def fifo_path(channel: Path, number: int) -> Path:
    """Return the path of a channel's FIFO for epoch `number`, counted from 0."""
    return channel.with_name(f"{channel.name}_{number}")


def open_fifo(path: Path, timeout: float, stop: Optional[Event] = None) -> BinaryIO:
    """Wait for a FIFO (or a regular file with its content) and open it for reading.

    Reading raises a DataError if no byte arrives for `timeout` seconds, and Stopped soon after `stop` is set.

    Args:
        path: Path of the FIFO.
        timeout: Seconds to wait for the FIFO, and later for its next bytes.
        stop: Event that cancels waiting and reading.

    Raises:
        DataError: The FIFO does not appear within `timeout` seconds, or cannot be opened.
        Stopped: `stop` was set.
    """
    deadline = time.monotonic() + timeout
    while not path.exists():
        if stop is not None and stop.is_set():
            raise ReadCancelled
        if time.monotonic() > deadline:
            raise DataError(
                f"{path}: no FIFO after {timeout:g} s, expected Pipe mode to make it: is TrainingInputMode Pipe, and "
                f"is the channel called {path.name.rpartition('_')[0]!r}? (--pipe_timeout waits longer)"
            )
        time.sleep(_LOOK)
    return cast(BinaryIO, io.BufferedReader(_Fifo(path, timeout, stop), _AT_ONCE))


class _Fifo(io.RawIOBase):
    """Raw stream of a FIFO.

    It is opened without blocking, so that waiting for a writer can time out.
    """

    def __init__(self, path: Path, timeout: float, stop: Optional[Event]) -> None:
        self._path, self._timeout, self._stop = path, timeout, stop
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror}), expected a FIFO") from None
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)  # POLLHUP, the end, is always reported

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes into `buffer` and return their number, 0 at the end of the stream.

        Raises:
            DataError: No data arrives in time, or reading fails.
            Stopped: Reading was cancelled.
        """
        # before the first writer opens the FIFO, a read would report its end, but poll reports nothing
        deadline = time.monotonic() + self._timeout
        while not self._poll.poll(_LOOK * 1000):
            if self._stop is not None and self._stop.is_set():
                raise ReadCancelled
            if time.monotonic() > deadline:
                raise DataError(
                    f"{self._path}: no data for {self._timeout:g} s, expected the stream to go on or to end "
                    "(--pipe_timeout waits longer)"
                )
        try:
            return os.readv(self._descriptor, [buffer])
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror}), expected a FIFO") from None

    def close(self) -> None:
        """Close the descriptor; further calls have no effect."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
