"""A channel in Pipe mode that is too large to store: one shuffled FIFO per epoch.

A thread reads the stream into a queue, in memory and then in a file of limited size. If both are full, the thread and
SageMaker wait. The FIFO of the next epoch is opened as soon as one is consumed, so that an evaluation in between does
not stall it. A shuffle buffer randomises the order: each image is drawn from those in the buffer.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ssd_train.data.boxes import as_boxes
from ssd_train.data.channel import Table, image_name, take_apart, with_table
from ssd_train.data.fifo import Stopped, fifo_path, open_fifo
from ssd_train.data.formats.fields import fit_boxes
from ssd_train.data.formats.gather import NO_BOX_LEFT, fit_ignored
from ssd_train.data.formats.pipe import Sample, read_samples
from ssd_train.data.records import Record, Skipped
from ssd_train.data.spill import SpillFile, SpillQueue
from ssd_train.errors import DataError
from ssd_train.progress import Progress

_END = None  # end of an epoch in the queue
_LISTED = 3  # maximum number of places in a message
FIRST_FIFO = 1  # the first pass has read the FIFO of epoch 0


class StreamedImage(NamedTuple):
    """An encoded image and its labels."""

    record: Record
    data: bytes


@dataclass(frozen=True)
class StreamOptions:
    """Options for reading a channel repeatedly.

    Attributes:
        epochs: Number of FIFOs after the one of epoch 0.
        timeout: Seconds to wait for a FIFO or its next bytes.
        buffer_bytes: Memory; one half is the shuffle buffer, the other half is the queue.
        spill: File into which the queue overflows.
        on_bad: "error" or "skip" for unusable images and labels.
    """

    epochs: int
    timeout: float
    buffer_bytes: int
    spill: SpillFile
    on_bad: str = "error"


class DetectionStream:
    """Images of ``<path>_1``, ``<path>_2`` and so on, one FIFO per epoch.

    It is an ImageSource whose `read` always fails, since images pass only once per epoch.

    Args:
        path: Path of the channel.
        table: Class id of the stream -> class id.
        options: Options for reading.
        progress: Output for warnings.
    """

    def __init__(self, path: Path, table: Table, options: StreamOptions, progress: Optional[Progress] = None) -> None:
        self.path, self.options, self.progress = path, options, progress or Progress()
        self._table = table
        self._next = FIRST_FIFO
        self._stop = threading.Event()
        self._queue = SpillQueue(options.buffer_bytes // 2, options.spill, self._stop)
        self._reading = False
        weakref.finalize(self, self._stop.set)  # the thread holds no reference to the stream and stops with it

    def epoch(self, seed: Tuple[int, ...]) -> Iterator[StreamedImage]:
        """Yield the images of the next FIFO, shuffled by `seed`.

        Must be consumed completely before the next call.

        Raises:
            DataError: The FIFO does not appear, is cut off or contains nothing usable, all epochs have been read, or an
                image or label is unusable with `on_bad` "error".
        """
        self._start()
        yield from shuffled(self._arrivals(), self.options.buffer_bytes // 2, seed)
        self._start()  # read the next FIFO while evaluation runs

    def read(self, record: Record) -> bytes:
        """Raise a DataError: an image cannot be read again."""
        raise DataError(f"{record.where}: the image has passed, expected a channel that can be kept (--pipe_spill_gb)")

    def locate(self, record: Record) -> str:
        """Return the place from which the image was received."""
        return record.where

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()

    def _start(self) -> None:
        """Start a thread for the next FIFO, unless one is running or none is left."""
        if self._reading or self._next >= FIRST_FIFO + self.options.epochs:
            return
        fifo = fifo_path(self.path, self._next)
        self._next += 1
        self._reading = True
        reader = _Reader(self.path, fifo, self._table, self.options, self._stop)
        threading.Thread(target=reader.run, args=(self._queue,), name=fifo.name, daemon=True).start()

    def _arrivals(self) -> Iterator[StreamedImage]:
        if not self._reading:
            raise DataError(f"{self.path}: was read for all of {self.options.epochs} epochs, expected no more")
        while True:
            item = self._queue.get()
            if isinstance(item.what, Record):
                yield StreamedImage(item.what, item.data)
            elif item.what is _END:
                self._reading = False
                return
            else:
                self._tell(item.what)

    def _tell(self, skipped: List[Skipped]) -> None:
        for detail, count in Counter(line.detail for line in skipped).most_common():
            places = [line.where for line in skipped if line.detail == detail]
            more = ", …" if count > _LISTED else ""
            self.progress.warn(f"skipped {count}: {detail} ({', '.join(places[:_LISTED])}{more})")


class _Reader:
    """Reads one FIFO in a thread."""

    def __init__(self, channel: Path, fifo: Path, table: Table, options: StreamOptions, stop: threading.Event) -> None:
        self._channel, self._fifo, self._table, self._options, self._stop = channel, fifo, table, options, stop

    def run(self, queue: SpillQueue) -> None:
        """Put every image into `queue`, then the skipped ones as a list, then _END.

        Exceptions other than Stopped are passed on through the queue.
        """
        skipped: List[Skipped] = []
        try:
            with open_fifo(self._fifo, self._options.timeout, self._stop) as file:
                for sample in read_samples(file, self._fifo.name):
                    try:
                        record = self._record(sample)
                    except DataError as fault:
                        if self._options.on_bad == "error":
                            raise fault.at(sample.where) from None
                        skipped.append(Skipped(sample.where, "bad line", str(fault), fault.code))
                        continue
                    if record is None:
                        skipped.append(Skipped(sample.where, NO_BOX_LEFT, NO_BOX_LEFT))
                        continue
                    queue.put(record, sample.image)
            queue.put(skipped)
            queue.put(_END)
        except Stopped:
            return
        except BaseException as error:  # the thread that waits for images raises it, whatever it is
            queue.fail(error)

    def _record(self, sample: Sample) -> Optional[Record]:
        """Return the record of a sample; None if it has boxes and none is usable."""
        digest, ending, label = take_apart(sample)
        label = with_table(label, self._table)
        label, regions = label.split()
        fitted = fit_boxes(label.boxes, label.class_ids, label.size_wh)
        if label.boxes and not fitted.rows:
            return None
        ignored, _ = fit_ignored(regions)
        name = image_name(self._channel, digest, ending)
        ids = np.asarray(fitted.class_ids)
        return Record(name, as_boxes(fitted.rows), ids, label.size_wh, sample.where, ignored)


def shuffled(images: Iterator[StreamedImage], buffer_bytes: int, seed: Tuple[int, ...]) -> Iterator[StreamedImage]:
    """Shuffle a stream with a buffer.

    The order depends only on the order of the images, their sizes and `seed`.

    Args:
        images: The images.
        buffer_bytes: Size of the buffer. When an image makes it overflow, images are drawn from it.
        seed: Seed of the random numbers.
    """
    random = np.random.RandomState(seed)
    buffer: List[StreamedImage] = []
    held = 0
    for image in images:
        buffer.append(image)
        held += len(image.data)
        while held > buffer_bytes and len(buffer) > 1:
            taken = _draw(buffer, random)
            held -= len(taken.data)
            yield taken
    while buffer:
        yield _draw(buffer, random)


def _draw(buffer: List[StreamedImage], random: np.random.RandomState) -> StreamedImage:
    """Remove and return a random image; the last one takes its place."""
    index = random.randint(len(buffer))
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
