"""A channel in Pipe mode that is too large to keep: each epoch is read from a FIFO of its own, in a shuffled order.

A thread reads the stream and a queue holds what is not yet wanted: in memory, then in a file of limited size; then the
thread waits, and so does SageMaker. The FIFO of the next epoch is read as soon as one is used up, so that an evaluation
between them does not stall it. Images leave by a shuffle buffer: each is drawn by chance from those that fill it.
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

_END = None  # passes through the queue after the last image of an epoch
_LISTED = 3  # places named in one line
FIRST_FIFO = 1  # the FIFO of epoch 0 was read to know the data


class StreamedImage(NamedTuple):
    """An image with its labels, still encoded."""

    record: Record
    data: bytes


@dataclass(frozen=True)
class StreamOptions:
    """How a channel is read again and again.

    epochs          how many FIFOs there will be, after that of epoch 0
    timeout         seconds to wait for a FIFO or its next bytes
    buffer_bytes    memory, a half to shuffle and a half to wait
    spill           the file that takes what does not fit into that
    on_bad          "error" or "skip": what an image or label that cannot be used does
    """

    epochs: int
    timeout: float
    buffer_bytes: int
    spill: SpillFile
    on_bad: str = "error"


class DetectionStream:
    """The images of ``<path>_1``, ``<path>_2`` and so on, an epoch each: an ImageSource that cannot be asked for one.

    `table` has our index of each class id of the stream.
    """

    def __init__(self, path: Path, table: Table, options: StreamOptions, progress: Optional[Progress] = None) -> None:
        self.path, self.options, self.progress = path, options, progress or Progress()
        self._table = table
        self._next = FIRST_FIFO
        self._stop = threading.Event()
        self._queue = SpillQueue(options.buffer_bytes // 2, options.spill, self._stop)
        self._reading = False
        weakref.finalize(self, self._stop.set)  # the thread does not hold the stream, and ends with it

    def epoch(self, seed: Tuple[int, ...]) -> Iterator[StreamedImage]:
        """The images of the next FIFO, shuffled by `seed`. To be taken to the end before the next call.

        Raises:
            DataError: the FIFO does not come, breaks off or holds nothing usable; (`on_bad` "error") the first image or
                label that cannot be used.
        """
        self._start()
        yield from shuffled(self._arrivals(), self.options.buffer_bytes // 2, seed)
        self._start()  # the next one, while there is something else to do

    def read(self, record: Record) -> bytes:
        """A DataError: images pass once an epoch."""
        raise DataError(f"{record.where}: the image has passed, expected a channel that can be kept (--pipe_spill_gb)")

    def locate(self, record: Record) -> str:
        """Where the image came from."""
        return record.where

    def close(self) -> None:
        """Read no more."""
        self._stop.set()

    def _start(self) -> None:
        """Let a thread read the next FIFO, unless one does, or there is none."""
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
    """Takes one FIFO apart, in a thread."""

    def __init__(self, channel: Path, fifo: Path, table: Table, options: StreamOptions, stop: threading.Event) -> None:
        self._channel, self._fifo, self._table, self._options, self._stop = channel, fifo, table, options, stop

    def run(self, queue: SpillQueue) -> None:
        """Put every image into `queue`, then a list of those left out, then _END; or the error that ended it."""
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
        except BaseException as error:  # whatever it is, it belongs to the thread that waits for images
            queue.fail(error)

    def _record(self, sample: Sample) -> Optional[Record]:
        """Return the record of a sample; None when its labels are right and no box is usable, as in the first pass."""
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
    """The images in an order that depends on theirs and on `seed` alone: each is drawn from those that fill a buffer of
    `buffer_bytes`, and the one that made it overflow."""
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
    """Take one out by chance; the last moves into its place."""
    index = random.randint(len(buffer))
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
