"""First pass over a channel in Pipe mode: its labels and, if they fit, its images.

The number of classes and images, the label width and the faults must be known before the first step, but Pipe mode
announces none of them. So the FIFO of epoch 0 is read to its end first. Encoded images are kept in a file of limited
size. If all of them fit, later epochs read that file in random order and open no other FIFO; otherwise each epoch reads
its own FIFO (`stream`).

Images have no names in Pipe mode. Each is named by the hash of its bytes, and records are sorted by these hashes, so
that a resumed job sees the same dataset in the same order, whatever the order of the lines.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Event
from typing import Any, BinaryIO, Deque, Dict, List, Mapping, Optional, Tuple, Union

from ssd_train.data.formats.builder import BoxLabel, LabelsBuilder, class_table
from ssd_train.data.formats.ground_truth import read_class_map
from ssd_train.data.image_io import EncodedImage, check_limits
from ssd_train.data.pipe.samples import ReadCancelled, Sample, fifo_path, open_fifo, read_samples
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.errors import DataError, locate_errors
from ssd_train.storage.atomic import translate_io_errors

_LOOK = 0.1  # polling interval of `stop` in seconds


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


Table = Mapping[int, int]


@dataclass(frozen=True)
class ReceivedImage:
    """An image as received.

    Attributes:
        where: ``stream:number``, for messages.
        digest: Hash of the image's bytes.
        ending: File extension of its format, without a dot.
        label: Label with the class ids of the stream.
        span: Offset and length in the spill file.
    """

    where: str
    digest: str
    ending: str
    label: BoxLabel
    span: Tuple[int, int]


@dataclass
class Channel:
    """Result of one pass over a channel.

    Attributes:
        path: Path of the channel; ``<path>_0`` is the FIFO.
        received: All usable images.
        faults: (place, error) of the other images.
        classes: (id, name) of the class-maps -> place of first occurrence; empty if the stream has no metadata.
        spill: File with the images, or None if they did not fit.
    """

    path: Path
    received: List[ReceivedImage] = field(default_factory=list)
    faults: List[Tuple[str, DataError]] = field(default_factory=list)
    classes: Dict[Tuple[int, str], str] = field(default_factory=dict)
    spill: Optional[SpillFile] = None

    def class_table(self, class_names: Optional[ClassNames]) -> Tuple[ClassNames, Table]:
        """Return the class names, and the table from stream class ids to indices.

        The names are those of the class-maps, in the order of `class_names` if given. Without class-maps, `class_names`
        name the ids 0, 1, ...; without either, the classes get placeholder names.

        Raises:
            DataError: Class-maps contradict each other, or contain a class that is not in `class_names`.
        """
        if self.classes:
            names, table = class_table(self.classes)
            if class_names is None:
                return names, table
            return class_names, {class_id: class_names.index(names[index]) for class_id, index in table.items()}
        highest = max((class_id for one in self.received for class_id in one.label.class_ids), default=-1)
        names = class_names or ClassNames.of_ids({}, highest + 1)
        return names, {class_id: class_id for class_id in range(len(names))}

    def label_set(self, class_names: ClassNames, table: Table, on_bad: str) -> Tuple[Labels, Optional[SpillImages]]:
        """Return the labels sorted by image hash, and the images if they fit.

        Args:
            class_names: Names of the classes.
            table: Class id of the stream -> index into `class_names`.
            on_bad: "error" or "skip" for unusable images and labels.
        """
        builder = LabelsBuilder(str(fifo_path(self.path, 0)), on_bad)
        images = None if self.spill is None else SpillImages(self.spill)
        for where, fault in self.faults:
            builder.add_error(where, fault)
        seen: Dict[str, int] = {}
        for one in sorted(self.received, key=lambda one: (one.digest, one.label.boxes, one.label.class_ids)):
            seen[one.digest] = copies = seen.get(one.digest, 0) + 1
            name = image_name(self.path, one.digest, one.ending, copies)
            with builder.collect_errors(one.where):
                builder.add(one.where, name, one.label.map_ids(table))
            if images:
                images.add(name, one.span)
        return builder.build(class_names, {"format": "pipe"}), images


def read_channel(path: Path, timeout: float, spill: SpillFile, stop: Optional[Event] = None) -> Channel:
    """Read ``<path>_0`` to its end and keep the images in `spill` if they fit.

    Args:
        path: Path of the channel.
        timeout: Seconds to wait for the FIFO and for its next bytes.
        spill: File for the encoded images.
        stop: Event that cancels reading.

    Raises:
        Stopped: `stop` was set.
        DataError: The FIFO does not appear, the stream is cut off, or AttributeNames are not as expected.
        SsdTrainError: The disk is full.
    """
    channel = Channel(path, spill=spill)
    fifo = fifo_path(path, 0)
    with open_fifo(fifo, timeout, stop) as file:
        _receive_all(file, fifo.name, channel)
    return channel


def _receive_all(file: BinaryIO, where: str, channel: Channel) -> None:
    for sample in read_samples(file, where):
        try:
            digest, ending, label = parse_sample(sample)
            for name, class_id in _class_map(sample).items():
                channel.classes.setdefault((class_id, name), sample.where)
        except DataError as fault:
            channel.faults.append((sample.where, fault))
            continue
        offset = None if channel.spill is None else channel.spill.append(sample.image)
        if offset is None and channel.spill is not None:
            channel.spill.clear()
            channel.spill = None
        channel.received.append(ReceivedImage(sample.where, digest, ending, label, (offset or 0, len(sample.image))))


def parse_sample(sample: Sample) -> Tuple[str, str, BoxLabel]:
    """Validate a sample and return image hash, file extension and label.

    The label has the class ids of the stream.

    Raises:
        DataError: The image or the label cannot be used; without a place.
    """
    image = EncodedImage(sample.image, "image")
    check_limits(image.header, "image")
    image.check_complete()
    label = sample.box_label(image.header.display_wh)
    return hashlib.sha256(image.data).hexdigest()[:24], image.header.format.lower(), label


def image_name(channel: Path, digest: str, ending: str, copies: int = 1) -> str:
    """Return the name of an image of a channel.

    Args:
        channel: Path of the channel.
        digest: Hash of the image.
        ending: File extension.
        copies: Number of images with the same bytes so far, this one included.
    """
    return f"{channel.name}/{digest}{'' if copies == 1 else f'-{copies}'}.{ending}"


def _class_map(sample: Sample) -> Dict[str, int]:
    with locate_errors("metadata"):
        return read_class_map(sample.class_map())
