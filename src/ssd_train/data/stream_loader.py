"""The batches of epochs that come as streams, as TrainLoader makes those of a set that is at hand."""

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

Planned = Tuple[StreamedImage, int]  # and how often it came before in this epoch


class StreamLoader:
    """The batches of an epoch, prepared ahead by `workers` threads (0: none). A sample depends on its image, (seed,
    epoch), and its place in the stream alone.

    `labels` are those of the first pass: their number decides how many steps an epoch has. The last batch is filled up
    with the first images of the epoch. A stream of another length is warned of, once for each length: images beyond
    that of the first pass are left out, missing ones make the epoch shorter.
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
        self._known_lengths = {sampler.length}  # in images: each other one is warned of once

    def __len__(self) -> int:
        return self.sampler.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainBatch]:
        """The batches of `epoch`, from step `first_step` on. To be taken to the end before the next call."""
        plans = map(self.sampler.own, islice(self._plans(epoch), first_step, None))
        return in_order(plans, lambda plan: self._batch(plan, epoch), self.workers)

    def _plans(self, epoch: int) -> Iterator[List[Planned]]:
        """The images of each step, those of other hosts' parts among them: every host gets the whole stream."""
        size = self.sampler.step_size
        first: List[StreamedImage] = []
        batch: List[Planned] = []
        count = 0
        for image in self.stream.epoch((self.sampler.seed, epoch)):
            count += 1
            if count > self.sampler.length:  # taken to the end all the same: its writer waits for that
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
        """A sample, and its place in the batch: in that of an image that cannot be decoded comes the next of them."""
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
