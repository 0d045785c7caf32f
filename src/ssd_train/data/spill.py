"""Bytes that do not fit into memory: a file without a name, gone with the process, and a queue that flows over into
it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from pathlib import Path
from threading import Condition, Event
from typing import Any, Deque, Dict, NamedTuple, Optional, Tuple, Union

from ssd_train.data.fifo import Stopped
from ssd_train.data.records import Record
from ssd_train.errors import DataError
from ssd_train.storage import errors_of

_LOOK = 0.1  # seconds between two looks at the wish to stop


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of `folder`."""
    return shutil.disk_usage(folder).free


class SpillFile:
    """Byte strings in a file of at most `limit` bytes. One thread appends, any number read."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._file = tempfile.TemporaryFile(dir=folder, prefix="ssd_train-")
        self._size = 0

    def append(self, data: bytes) -> Optional[int]:
        """Keep `data` and return where it is, or None when it does not fit; an SsdTrainError when the disk is full."""
        if self._size + len(data) > self._limit:
            return None
        offset = self._size
        with errors_of(self._folder / "the spill file", self._limit):
            view, done = memoryview(data), 0
            while done < len(data):
                done += os.pwrite(self._file.fileno(), view[done:], offset + done)
        self._size += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """What was appended at `offset`."""
        return os.pread(self._file.fileno(), length, offset)

    def clear(self) -> None:
        """Forget all and give the disk back."""
        self._size = 0
        self._file.truncate(0)


class SpillImages:
    """Images kept in a SpillFile, by name: an ImageSource."""

    def __init__(self, file: SpillFile) -> None:
        self.file = file
        self._places: Dict[str, Tuple[int, int]] = {}

    def add(self, name: str, place: Tuple[int, int]) -> None:
        """`place` is offset and length."""
        self._places[name] = place

    def read(self, record: Record) -> bytes:
        """The encoded image; a DataError when there is none of that name."""
        if record.name not in self._places:
            raise DataError(f"{record.where or record.name}: image {record.name!r} not found among those received")
        return self.file.read(*self._places[record.name])

    def locate(self, record: Record) -> str:
        """Where the image came from."""
        return record.where or record.name


class Item(NamedTuple):
    """What passes through a SpillQueue: bytes, and what they belong to."""

    what: Any
    data: bytes


class _Entry(NamedTuple):
    what: Any
    data: Union[bytes, Tuple[int, int]]  # in memory, or offset and length in the file


class SpillQueue:
    """Items in order from one thread to another: up to `memory` bytes of them in memory, then in `file`; when that is
    full, too, the sender waits."""

    def __init__(self, memory: int, file: SpillFile, stop: Event) -> None:
        self._memory, self._file, self._stop = memory, file, stop
        self._entries: Deque[_Entry] = deque()
        self._in_memory = self._in_file = 0  # bytes, entries
        self._error: Optional[BaseException] = None
        self._changed = Condition()

    def put(self, what: Any, data: bytes = b"") -> None:
        """Add an item; waits while there is no room. Stopped when `stop` is set meanwhile."""
        with self._changed:
            while True:
                if self._stop.is_set():
                    raise Stopped
                if self._in_memory + len(data) <= self._memory or not self._entries:
                    self._in_memory += len(data)
                    self._entries.append(_Entry(what, data))
                    break
                offset = self._file.append(data)
                if offset is not None:
                    self._in_file += 1
                    self._entries.append(_Entry(what, (offset, len(data))))
                    break
                self._changed.wait(_LOOK)
            self._changed.notify_all()

    def get(self) -> Item:
        """The next item; waits for it. Raises what `fail` was given once all items before it are taken."""
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
        return Item(what, data)

    def fail(self, error: BaseException) -> None:
        """Let `get` raise `error` after the items that are there."""
        with self._changed:
            self._error = error
            self._changed.notify_all()
