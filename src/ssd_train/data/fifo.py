"""FIFOs of SageMaker's Pipe mode: waited for until they appear, and read with a time limit.

``<channel>_0`` is there from the start, ``<channel>_1`` once the first was opened, and so on (AWS developer guide, "How
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

_LOOK = 0.1  # seconds between two looks at what is waited for
_AT_ONCE = 1 << 20  # bytes read at once


class Stopped(Exception):
    """Nobody wants the rest any more."""


def fifo_path(channel: Path, number: int) -> Path:
    """Where the FIFO of a channel is for its epoch `number`, counted from 0."""
    return channel.with_name(f"{channel.name}_{number}")


def open_fifo(path: Path, timeout: float, stop: Optional[Event] = None) -> BinaryIO:
    """Open a FIFO, or a file of the same bytes, for reading, once it is there.

    Reading raises a DataError where no byte comes for `timeout` seconds, and Stopped soon after `stop` is set.

    Raises:
        DataError: it does not appear within `timeout` seconds.
        Stopped: `stop` was set meanwhile.
    """
    deadline = time.monotonic() + timeout
    while not path.exists():
        if stop is not None and stop.is_set():
            raise Stopped
        if time.monotonic() > deadline:
            raise DataError(
                f"{path}: no FIFO after {timeout:g} s, expected Pipe mode to make it: is TrainingInputMode Pipe, and "
                f"is the channel called {path.name.rpartition('_')[0]!r}? (--pipe_timeout waits longer)"
            )
        time.sleep(_LOOK)
    return cast(BinaryIO, io.BufferedReader(_Fifo(path, timeout, stop), _AT_ONCE))


class _Fifo(io.RawIOBase):
    """The bytes of a FIFO. Opened without waiting for a writer, so that waiting has a limit."""

    def __init__(self, path: Path, timeout: float, stop: Optional[Event]) -> None:
        self._path, self._timeout, self._stop = path, timeout, stop
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror}), expected a FIFO") from None
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)  # the end (POLLHUP) is always told

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The number of bytes read into `buffer`, 0 at the end of the stream; a DataError when none come within the
        time limit, Stopped on request."""
        # Before a first writer has come, a read would say "end"; the poll says nothing, and so does not mix them up.
        deadline = time.monotonic() + self._timeout
        while not self._poll.poll(_LOOK * 1000):
            if self._stop is not None and self._stop.is_set():
                raise Stopped
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
        """Close the descriptor, once however often it is called."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
