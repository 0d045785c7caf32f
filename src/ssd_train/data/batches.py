"""Batches: TrainBatch, EvalBatch, the order of an epoch, and the loader that prepares them in threads.

Threads, not processes: OpenCV and NumPy let go of the interpreter while they work, nothing is pickled, /dev/shm is not
needed, and a fork beneath a running MXNet engine, with its hangs, is avoided.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from ssd_train.cpus import available_cpus
from ssd_train.data.dataset import DetectionDataset
from ssd_train.data.records import Record
from ssd_train.data.setbacks import Setbacks
from ssd_train.data.transforms import EvalTransform, TrainTransform

Batch = TypeVar("Batch")
Arrays = Tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TrainBatch:
    """Pictures uint8 (B, S, S, 3), class targets float32 (B, A), -1 where ignored, box targets float32 (B, A, 4), and
    where they are from."""

    pictures: np.ndarray
    class_targets: np.ndarray
    box_targets: np.ndarray
    records: Tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def positives(self) -> int:
        """Anchors that have an object."""
        return int(np.count_nonzero(self.class_targets > 0))

    def arrays(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What goes to the devices."""
        return self.pictures, self.class_targets, self.box_targets

    def where(self) -> str:
        """The lines of the labels, for messages."""
        return ", ".join(record.where or record.name for record in self.records)


@dataclass(frozen=True)
class EvalBatch(TrainBatch):
    """As TrainBatch, and the (width, height) that the boxes of each record refer to."""

    sizes: Tuple[Tuple[int, int], ...] = ()


class EpochSampler:
    """The order of each epoch: a permutation drawn from (seed, epoch), in batches that are all full.

    The last batch is filled up with images from the beginning of the permutation: steps have one shape, no BatchNorm
    sees a batch of two, and a set smaller than a batch still trains. Such a repeat counts as index + number of images,
    so that it is augmented anew.

    Several processes that make a step together, `parts` of them, each take `batch_size` images of it: the one numbered
    `part` those at its place. All together see what one with batches `parts` times as large would.
    """

    def __init__(self, length: int, batch_size: int, seed: int, part: int = 0, parts: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.part, self.parts = part, parts

    @property
    def step_size(self) -> int:
        """Images of a step, in all parts."""
        return self.batch_size * self.parts

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.length // self.step_size)

    def own(self, step: Sequence[Any]) -> List[Any]:
        """Of the images of a step those of this part."""
        return list(step[self.part * self.batch_size : (self.part + 1) * self.batch_size])

    def batches(self, epoch: int) -> List[List[int]]:
        """Indices of each batch; an index of `length` or more is a repeat of that index modulo `length`."""
        order = np.random.RandomState([self.seed, epoch]).permutation(self.length)
        total = self.steps * self.step_size
        repeats = np.arange(total) // self.length
        indices = np.resize(order, total) + repeats * self.length
        return [self.own(step) for step in indices.reshape(self.steps, self.step_size).tolist()]


class TrainLoader:
    """The batches of an epoch of training, prepared ahead by `workers` threads (0: none).

    A sample depends on (seed, epoch, index) alone, so the pictures are the same for any number of threads. In the place
    of an image that `setbacks` leaves out comes the next in the labels.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: TrainTransform,
        sampler: EpochSampler,
        workers: int = 1,
        setbacks: Optional[Setbacks] = None,
    ) -> None:
        self.dataset, self.transform, self.sampler, self.workers = dataset, transform, sampler, workers
        self.setbacks = setbacks or Setbacks(len(dataset))

    def __len__(self) -> int:
        return self.sampler.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainBatch]:
        """The batches of `epoch`, from step `first_step` on."""
        plans = self.sampler.batches(epoch)[first_step:]
        return in_order(plans, lambda plan: self._batch(plan, epoch), self.workers)

    def _batch(self, indices: Sequence[int], epoch: int) -> TrainBatch:
        places, samples = zip(*(self._sample(index, epoch) for index in indices))
        pictures, classes, boxes = (np.stack(column) for column in zip(*samples))
        return TrainBatch(pictures, classes, boxes, tuple(self.dataset.record(place) for place in places))

    def _sample(self, index: int, epoch: int) -> Tuple[int, Arrays]:
        count = len(self.dataset)
        places = ((index + further) % count for further in range(count))
        return self.setbacks.first_usable(places, lambda place: self._seen(place, [self.sampler.seed, epoch, index]))

    def _seen(self, place: int, seed: List[int]) -> Arrays:
        random = np.random.RandomState(np.random.PCG64(seed))  # made in a seventh of the time that its own takes
        (image, boxes, class_ids), view = self.dataset.look(
            place, lambda size_wh, boxes: self.transform.policy(size_wh, boxes, random)
        )
        return self.transform.show(image, boxes, class_ids, view)


class EvalLoader:
    """All images of a data set once, in order, in batches of at most `batch_size`; without those that `setbacks` leaves
    out."""

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: EvalTransform,
        batch_size: int,
        workers: int = 1,
        setbacks: Optional[Setbacks] = None,
    ) -> None:
        self.dataset, self.transform, self.batch_size, self.workers = dataset, transform, batch_size, workers
        self.setbacks = setbacks or Setbacks(len(dataset))

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        indices = range(len(self.dataset))
        plans = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        return filter(None, in_order(plans, self._batch, self.workers))

    def _batch(self, indices: Sequence[int]) -> Optional[EvalBatch]:
        """None where no image of the batch can be used any more."""
        usable = self.setbacks.usable(indices, self.dataset.__getitem__)
        if not usable:
            return None
        places, samples = zip(*usable)
        records = tuple(self.dataset.record(place) for place in places)
        pictures, classes, boxes = (np.stack(column) for column in zip(*(self.transform(*s) for s in samples)))
        sizes = tuple(self.dataset.size_wh(place) for place in places)
        return EvalBatch(pictures, classes, boxes, records, sizes)


def in_order(plans: Iterable[Any], make: Callable[[Any], Batch], workers: int) -> Iterator[Batch]:
    """make(plan) for each plan, in order; with threads, up to two batches more than there are threads ahead."""
    if workers == 0:
        yield from map(make, plans)
        return
    waiting: Deque["Future[Batch]"] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        for plan in plans:
            waiting.append(pool.submit(make, plan))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)


def default_workers() -> int:
    """Threads for num_workers -1: one for each processor this process may use, at most 8."""
    return min(available_cpus(), 8)
