"""A channel in Pipe mode that is too large to store: one shuffled FIFO per epoch.

A thread reads the stream into a queue, in memory and then in a file of limited size. If both are full, the thread and
SageMaker wait. The FIFO of the next epoch is opened as soon as one is consumed, so that an evaluation in between does
not stall it. A shuffle buffer randomises the order: each image is drawn from those in the buffer.
"""

from __future__ import annotations

import threading
import weakref
import zlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.dataset import Arrays, DetectionDataset
from ssd_train.data.formats.builder import NO_BOX_LEFT, fit_label
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.loaders import BadSampleHandler, EpochSampler, TrainBatch, prepare_ahead, stack
from ssd_train.data.pipe.channel import SpillFile, SpillQueue, Table, image_name, parse_sample
from ssd_train.data.pipe.samples import ReadCancelled, fifo_path, open_fifo, read_samples
from ssd_train.data.structures import LabeledImage, LabelIssue, Labels
from ssd_train.data.transforms import TrainTransform
from ssd_train.errors import DataError
from ssd_train.progress import Progress

_END = None  # end of an epoch in the queue
_LISTED = 3  # maximum number of places in a message
FIRST_FIFO = 1  # the first pass has read the FIFO of epoch 0


class StreamedImage(NamedTuple):
    """An encoded image and its labels."""

    record: LabeledImage
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
        yield from shuffle_buffer(self._arrivals(), self.options.buffer_bytes // 2, seed)
        self._start()  # read the next FIFO while evaluation runs

    def read(self, record: LabeledImage) -> bytes:
        """Raise a DataError: an image cannot be read again."""
        raise DataError(f"{record.where}: the image has passed, expected a channel that can be kept (--pipe_spill_gb)")

    def locate(self, record: LabeledImage) -> str:
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
        arguments = (fifo, self.path, self._table, self.options, self._queue)
        threading.Thread(target=_read_fifo, args=arguments, name=fifo.name, daemon=True).start()

    def _arrivals(self) -> Iterator[StreamedImage]:
        if not self._reading:
            raise DataError(f"{self.path}: was read for all of {self.options.epochs} epochs, expected no more")
        while True:
            what, data = self._queue.get()
            if isinstance(what, LabeledImage):
                yield StreamedImage(what, data)
            elif what is _END:
                self._reading = False
                return
            else:
                self._warn_of(what)

    def _warn_of(self, skipped: List[LabelIssue]) -> None:
        for detail, count in Counter(line.detail for line in skipped).most_common():
            lines = [line.where for line in skipped if line.detail == detail]
            more = ", …" if count > _LISTED else ""
            self.progress.warning(f"skipped {count}: {detail} ({', '.join(lines[:_LISTED])}{more})")


def _read_fifo(fifo: Path, path: Path, table: Table, options: StreamOptions, queue: SpillQueue) -> None:
    """Put every image of a FIFO of the channel `path` into `queue`, then the skipped ones as a list, then _END.

    Exceptions other than ReadCancelled are passed on through the queue.
    """
    skipped: List[LabelIssue] = []
    try:
        with open_fifo(fifo, options.timeout, queue.stop) as file:
            for sample in read_samples(file, fifo.name):
                try:
                    digest, ending, label = parse_sample(sample)
                    name = image_name(path, digest, ending)
                    record, _ = fit_label(sample.where, name, label.map_ids(table))
                except DataError as fault:
                    if options.on_bad == "error":
                        raise fault.at(sample.where) from None
                    skipped.append(LabelIssue(sample.where, "bad line", str(fault), fault.code))
                    continue
                if record is None:
                    skipped.append(LabelIssue(sample.where, NO_BOX_LEFT, NO_BOX_LEFT))
                else:
                    queue.put(record, sample.image)
        queue.put(skipped)
        queue.put(_END)
    except ReadCancelled:
        return
    except BaseException as error:  # the thread that waits for images raises it, whatever it is
        queue.fail(error)


def shuffle_buffer(
    images: Iterator[StreamedImage], buffer_bytes: int, seed: Tuple[int, ...]
) -> Iterator[StreamedImage]:
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


Planned = Tuple[StreamedImage, int]  # image and number of its earlier occurrences in the epoch


class StreamLoader:
    """Training batches from a stream, prepared ahead by threads.

    The augmentation of a sample depends only on seed, epoch, image and number of repeats. The last batch is filled with
    the first images of the epoch. If the length of the stream differs from the first pass, a warning is logged once per
    length: additional images are left out, missing ones make the epoch shorter.

    Args:
        stream: The images.
        labels: Labels of the first pass.
        transform: Augmentation and target encoding.
        sampler: Number and size of the steps, and this process's part of them.
        side: Input side of the network in pixels.
        workers: Number of threads; 0 prepares batches in the calling thread.
    """

    def __init__(
        self,
        stream: DetectionStream,
        labels: Labels,
        transform: TrainTransform,
        sampler: EpochSampler,
        side: int,
        workers: int = 1,
    ) -> None:
        self.stream, self.labels, self.transform = stream, labels, transform
        self.sampler, self.side, self.workers = sampler, side, workers
        self.bad_samples = BadSampleHandler(len(labels), stream.options.on_bad, stream.progress)
        self._known_lengths = {sampler.length}  # numbers of images already warned about

    def __len__(self) -> int:
        return self.sampler.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of `epoch`, starting at step `first_step`.

        Must be consumed completely before the next call.
        """
        plans = map(self.sampler.own, islice(self._plans(epoch), first_step, None))
        return prepare_ahead(lambda plan: self._batch(plan, epoch), plans, self.workers)

    def _plans(self, epoch: int) -> Iterator[List[Planned]]:
        """Yield the images of each step for all processes.

        Each process reads the whole stream.
        """
        size = self.sampler.step_size
        first: List[StreamedImage] = []
        batch: List[Planned] = []
        count = 0
        for image in self.stream.epoch((self.sampler.seed, epoch)):
            count += 1
            if count > self.sampler.length:  # read to the end: the writer waits for that
                continue
            if len(first) < size:
                first.append(image)
            batch.append((image, 0))
            if len(batch) == size:
                yield batch
                batch = []
        if not count:
            raise DataError(f"{self.stream.path}: found no usable image in epoch {epoch + 1}, expected some")
        if count not in self._known_lengths:
            steps = min(-(-count // size), len(self))
            self.stream.progress.warning(
                f"epoch {epoch + 1}: found {count} images in the stream, expected the {self.sampler.length} of the "
                f"first pass: the epoch has {steps} of {len(self)} batches"
            )
        self._known_lengths.add(count)
        if batch:
            missing = size - len(batch)
            yield batch + [(first[index % len(first)], 1 + index // len(first)) for index in range(missing)]

    def _batch(self, plan: Sequence[Planned], epoch: int) -> TrainBatch:
        records = tuple(image.record for image, _ in plan)
        images = MemoryImages({image.record.name: image.data for image, _ in plan})
        dataset = DetectionDataset(Labels(records, self.labels.class_names), images, self.side)
        used, samples = zip(*(self._sample(dataset, index, repeat, epoch) for index, (_, repeat) in enumerate(plan)))
        return TrainBatch(*stack(samples), tuple(records[index] for index in used))

    def _sample(self, dataset: DetectionDataset, index: int, repeat: int, epoch: int) -> Tuple[int, Arrays]:
        """Return the index in the batch of the image that is used, and its sample.

        An image that cannot be decoded is replaced by the next one in the batch.
        """
        names = [record.name for record in dataset.labels.records]
        seed = [self.sampler.seed, epoch, zlib.crc32(names[index].encode("utf-8", "surrogateescape")), repeat]

        def make(candidate: str) -> Arrays:
            """Make a sample of an image with the random numbers of `index`."""
            return dataset.train_sample(names.index(candidate), self.transform, np.random.RandomState(seed))

        name, arrays = self.bad_samples.first_valid(names[index:] + names[:index], make)
        return names.index(name), arrays
