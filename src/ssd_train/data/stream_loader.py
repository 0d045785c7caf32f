"""Training batches from a stream, like those of TrainLoader from a dataset."""

from __future__ import annotations

import zlib
from itertools import islice
from typing import Iterator, List, Sequence, Tuple

import numpy as np

from ssd_train.data.batches import Arrays, EpochSampler, TrainBatch, in_order
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.records import LabelSet
from ssd_train.data.setbacks import Setbacks
from ssd_train.data.sources import MemoryImages
from ssd_train.data.stream import DetectionStream, StreamedImage
from ssd_train.data.transforms import TrainTransform
from ssd_train.errors import DataError

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
        labels: LabelSet,
        transform: TrainTransform,
        sampler: EpochSampler,
        side: int,
        workers: int = 1,
    ) -> None:
        self.stream, self.labels, self.transform = stream, labels, transform
        self.sampler, self.side, self.workers = sampler, side, workers
        self.setbacks = Setbacks(len(labels), stream.options.on_bad, stream.progress)
        self._known_lengths = {sampler.length}  # numbers of images already warned about

    def __len__(self) -> int:
        return self.sampler.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of `epoch`, starting at step `first_step`.

        Must be consumed completely before the next call.
        """
        plans = map(self.sampler.own, islice(self._plans(epoch), first_step, None))
        return in_order(plans, lambda plan: self._batch(plan, epoch), self.workers)

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
            self.stream.progress.warn(
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
        dataset = DetectionDataset(LabelSet(records, self.labels.class_names), images, self.side)
        places, samples = zip(*(self._sample(dataset, index, repeat, epoch) for index, (_, repeat) in enumerate(plan)))
        pictures, classes, boxes = (np.stack(column) for column in zip(*samples))
        return TrainBatch(pictures, classes, boxes, tuple(records[place] for place in places))

    def _sample(self, dataset: DetectionDataset, index: int, repeat: int, epoch: int) -> Tuple[int, Arrays]:
        """Return the place in the batch of a sample, and the sample.

        An image that cannot be decoded is replaced by the next one in the batch.
        """
        names = [record.name for record in dataset.labels.records]
        seed = [self.sampler.seed, epoch, zlib.crc32(names[index].encode("utf-8", "surrogateescape")), repeat]
        name, arrays = self.setbacks.first_usable(
            names[index:] + names[:index], lambda name: self._seen(dataset, names.index(name), seed)
        )
        return names.index(name), arrays

    def _seen(self, dataset: DetectionDataset, place: int, seed: List[int]) -> Arrays:
        random = np.random.RandomState(seed)
        (image, boxes, class_ids), view = dataset.look(
            place, lambda size_wh, boxes: self.transform.policy(size_wh, boxes, random)
        )
        return self.transform.show(image, boxes, class_ids, view)
