"""Read FIFOs of SageMaker's Pipe mode with timeouts, and parse their samples: augmented manifest or `.rec` file.

``<channel>_0`` exists from the start, ``<channel>_1`` once the first was opened, and so on (AWS developer guide, "How
Amazon SageMaker Provides Training Information", "Pipe mode"). A FIFO ends when its writer closes it.

For each line of an augmented manifest, SageMaker sends the attributes listed in AttributeNames, in that order, as one
RecordIO record each: the bytes of the image, the label as JSON text (`box_label`), and the metadata with the class-map,
if ``<label>-metadata`` is listed third. Nothing else of the line is sent, not even the name of the image. (AWS
developer guide, "Augmented manifest".) The first records show which attributes were listed. An unexpected list is an
error that states the expected one.

A detection `.rec` file (`recordio`) is sent unchanged. The first record shows that, too. It has no class-map.
"""

from __future__ import annotations

import io
import os
import select
import time
from itertools import chain, islice
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Iterator, List, NamedTuple, Optional, Tuple, Union, cast

from ssd_train.boxes import SizeWH
from ssd_train.data.formats.builder import BoxLabel
from ssd_train.data.formats.ground_truth import read_box_label
from ssd_train.data.formats.json_lines import parse_json, parse_object
from ssd_train.data.formats.recordio import read_records, unpack_label, unpack_record
from ssd_train.data.image_io import FORMATS, sniff_format
from ssd_train.data.structures import MAX_CLASSES
from ssd_train.errors import DataError, reading

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
        with reading(self._path, "a FIFO"):
            return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        """Close the descriptor; further calls have no effect."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


EXPECTED = 'expected AttributeNames ["source-ref", "<label attribute>"], or with "<label attribute>-metadata" third'

_MOST = 3  # attributes per sample
_ANY_CLASS = {class_id: class_id for class_id in range(MAX_CLASSES)}
Numbered = Tuple[int, bytes]


class PipeSample(NamedTuple):
    """Attributes of one line of an augmented manifest.

    Attributes:
        where: ``stream:number`` of the first record, counted from 1.
        image: The encoded image.
        label: The label as JSON text.
        metadata: The metadata as JSON text, or None if it was not sent.
    """

    where: str
    image: bytes
    label: bytes
    metadata: Optional[bytes]

    def box_label(self, display_wh: SizeWH) -> BoxLabel:
        """Return the boxes in pixels, with the class ids of the stream; the label has a size of its own.

        Raises:
            DataError: the label is malformed; the message does not contain `where`.
        """
        return read_box_label(parse_object(self.label)).map_ids(_ANY_CLASS)

    def class_map(self) -> Any:
        """Return the class-map of the metadata, {} if there is none.

        Raises:
            DataError: the metadata is not a JSON object; the message does not contain `where`.
        """
        return {} if self.metadata is None else parse_object(self.metadata).get("class-map", {})


class DetectionSample(NamedTuple):
    """One record of a detection `.rec` file.

    Attributes:
        where: ``stream:number`` of the record, counted from 1.
        record: The bytes of the record.
    """

    where: str
    record: bytes

    @property
    def image(self) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: the record is malformed; the message does not contain `where`.
        """
        return unpack_record(self.record).image

    def box_label(self, display_wh: SizeWH) -> BoxLabel:
        """Return the boxes in pixels of the upright image, whose size is `display_wh`, with the stream's class ids.

        Raises:
            DataError: the record is malformed; the message does not contain `where`.
        """
        return unpack_label(unpack_record(self.record).label, display_wh)

    def class_map(self) -> Any:
        """Return {}, because a `.rec` file has no class names."""
        return {}


Sample = Union[PipeSample, DetectionSample]


def read_samples(file: BinaryIO, where: str) -> Iterator[Sample]:
    """Yield the samples of a stream.

    Args:
        file: The stream.
        where: Name of the stream in error messages.

    Raises:
        DataError: the stream is empty, is not RecordIO, ends inside a sample, or has other attributes than expected;
            starts with `where`.
    """
    records: Iterator[Numbered] = enumerate((record for _, record in read_records(file, where)), 1)
    first = _first_sample(records)
    if not first:
        raise DataError(
            f"{where}: found no record, expected samples: does the manifest have lines, is it what S3Uri names, and "
            f"are AttributeNames attributes of its lines? {EXPECTED}"
        )
    if _is_detection(first[0][1]):
        yield from (DetectionSample(f"{where}:{number}", record) for number, record in chain(first, records))
        return
    size = sum(not _is_image(record) for _, record in first) + 1
    if len(first) > size:  # `first` includes the image of the next sample
        first, rest = first[:size], first[size:]
    else:
        rest = []
    _check_attributes([record for _, record in first], where)
    stream = chain(first, rest, records)
    while True:
        sample = list(islice(stream, size))
        if not sample:
            return
        yield _sample(sample, size, where)


def _first_sample(records: Iterator[Numbered]) -> List[Numbered]:
    """Return the records up to the second image, at most _MOST + 1."""
    first: List[Numbered] = []
    for number, record in records:
        first.append((number, record))
        if len(first) > 1 and (_is_image(record) or len(first) > _MOST):
            break
    return first


def _sample(records: List[Numbered], size: int, where: str) -> PipeSample:
    numbers, data = zip(*records)
    location = f"{where}:{numbers[0]}"
    stray = [number for number, record in records[1:] if sniff_format(record) in FORMATS]
    if stray or _is_label(data[0]):
        raise DataError(f"{where}:{(stray or numbers)[0]}: found image and label out of step, expected {size} in turn")
    if len(data) < size:
        raise DataError(f"{location}: found the end after {len(data)} of {size} records of a sample (cut off?)")
    return PipeSample(location, data[0], data[1], data[2] if size == _MOST else None)


def _check_attributes(records: List[bytes], where: str) -> None:
    """Raise a DataError unless the records of one sample are those expected."""
    image, others = records[0], records[1:]
    if not _is_image(image):
        kind = "a label" if _is_label(image) else "metadata" if _is_metadata(image) else sniff_format(image)
        raise DataError(f"{where}:1: found {kind} first, expected the image: {EXPECTED}")
    if not others:
        raise DataError(f"{where}:1: found an image without a label after it: {EXPECTED}")
    if len(others) >= _MOST:
        raise DataError(f"{where}:1: found {len(records)} records or more of one sample: {EXPECTED}")
    if _is_metadata(others[0]):
        raise DataError(f"{where}:2: found metadata after the image, expected the label: {EXPECTED}")
    if not _is_label(others[0]):
        raise DataError(f"{where}:2: found {_described(others[0])}, expected a label with annotations: {EXPECTED}")
    if len(others) == 2 and not _is_metadata(others[1]):
        raise DataError(f"{where}:3: found {_described(others[1])}, expected the label's metadata: {EXPECTED}")


def _is_detection(record: bytes) -> bool:
    try:
        return sniff_format(unpack_record(record).image) in FORMATS
    except DataError:
        return False


def _is_image(record: bytes) -> bool:
    """Return True if a record is not JSON: unknown types of file are invalid images."""
    return record.lstrip()[:1] not in (b"{", b"[") and not _is_json(record)


def _is_json(record: bytes) -> bool:
    try:
        parse_json(record)
    except DataError:
        return False
    return True


def _keys(record: bytes) -> List[str]:
    """Return the keys of a JSON object, [] for anything else."""
    try:
        value = parse_json(record)
    except DataError:
        return []
    return list(value) if isinstance(value, dict) else []


def _is_label(record: bytes) -> bool:
    return "annotations" in _keys(record)


def _is_metadata(record: bytes) -> bool:
    keys = _keys(record)
    return "annotations" not in keys and any(key in keys for key in ("class-map", "job-name", "type"))


def _described(record: bytes) -> str:
    keys = _keys(record)
    return f"an object with {', '.join(keys[:5])}" if keys else sniff_format(record)
