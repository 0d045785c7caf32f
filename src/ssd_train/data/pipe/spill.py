"""A temporary file, and a queue, for bytes that do not fit into memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from pathlib import Path
from threading import Condition, Event
from typing import Any, Deque, Dict, Optional, Tuple, Union

from ssd_train.data.pipe.samples import ReadCancelled
from ssd_train.data.structures import LabeledImage
from ssd_train.errors import DataError
from ssd_train.storage.atomic import translate_io_errors

_LOOK = 0.1  # polling interval of `stop` in seconds


def free_space(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`."""
    return shutil.disk_usage(folder).free


class SpillFile:
    """Byte strings in an anonymous temporary file of limited size.

    One thread may append, any number may read. The file is deleted when the process ends.

    Args:
        folder: Folder of the temporary file.
        limit: Maximum size in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._file = tempfile.TemporaryFile(dir=folder, prefix="ssd_train-")
        self._size = 0

    def append(self, data: bytes) -> Optional[int]:
        """Append `data` and return its offset, or None if it does not fit.

        Raises:
            SsdTrainError: The disk is full.
        """
        if self._size + len(data) > self._limit:
            return None
        offset = self._size
        with translate_io_errors(self._folder / "the spill file", self._limit):
            view, done = memoryview(data), 0
            while done < len(data):
                done += os.pwrite(self._file.fileno(), view[done:], offset + done)
        self._size += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`."""
        return os.pread(self._file.fileno(), length, offset)

    def clear(self) -> None:
        """Delete all data and free the disk space."""
        self._size = 0
        self._file.truncate(0)


class SpillImages:
    """ImageSource of the images in a SpillFile."""

    def __init__(self, file: SpillFile) -> None:
        self.file = file
        self._spans: Dict[str, Tuple[int, int]] = {}

    def add(self, name: str, span: Tuple[int, int]) -> None:
        """Register an image at `span`: offset and length in the file."""
        self._spans[name] = span

    def read(self, record: LabeledImage) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: There is no image of that name.
        """
        if record.name not in self._spans:
            raise DataError(f"{record.location}: image {record.name!r} not found among those received")
        return self.file.read(*self._spans[record.name])

    def locate(self, record: LabeledImage) -> str:
        """Return the place from which the image was received."""
        return record.location


class SpillQueue:
    """Queue between two threads that overflows into a file.

    Args:
        memory: Maximum bytes of queued items in memory; a single larger item is accepted.
        file: File for further items. If it is full, too, `put` waits.
        stop: Event that cancels `put`.
    """

    def __init__(self, memory: int, file: SpillFile, stop: Event) -> None:
        self._memory, self._file, self.stop = memory, file, stop
        # any object, and bytes that belong to it: in memory, or offset and length in the file
        self._entries: Deque[Tuple[Any, Union[bytes, Tuple[int, int]]]] = deque()
        self._in_memory = self._in_file = 0  # bytes, entries
        self._error: Optional[BaseException] = None
        self._changed = Condition()

    def put(self, what: Any, data: bytes = b"") -> None:
        """Append an item; waits while there is no space.

        Raises:
            Stopped: `stop` was set.
        """
        with self._changed:
            while True:
                if self.stop.is_set():
                    raise ReadCancelled
                if self._in_memory + len(data) <= self._memory or not self._entries:
                    self._in_memory += len(data)
                    self._entries.append((what, data))
                    break
                offset = self._file.append(data)
                if offset is not None:
                    self._in_file += 1
                    self._entries.append((what, (offset, len(data))))
                    break
                self._changed.wait(_LOOK)
            self._changed.notify_all()

    def get(self) -> Tuple[Any, bytes]:
        """Remove and return the next item and its bytes; waits for it.

        When the queue is empty, raises the error passed to `fail`.
        """
        with self._changed:
            while not self._entries:
                if self._error is not None:
                    raise self._error
                self._changed.wait(_LOOK)
            what, data = self._entries.popleft()
            if isinstance(data, bytes):
                self._in_memory -= len(data)
            else:
                data = self._file.read(*data)
                self._in_file -= 1
                if not self._in_file:
                    self._file.clear()
            self._changed.notify_all()
        return what, data

    def fail(self, error: BaseException) -> None:
        """Make `get` raise `error` after the items in the queue."""
        with self._changed:
            self._error = error
            self._changed.notify_all()
