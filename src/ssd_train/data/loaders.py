"""Batches, the order of an epoch, and the threaded loaders.

Threads, not processes: OpenCV and NumPy release the GIL, nothing has to be pickled or put into /dev/shm, and forking a
process with a running MXNet engine can hang.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from ssd_train.data.dataset import BadSampleHandler, DetectionDataset
from ssd_train.data.structures import LabeledImage
from ssd_train.data.transforms import EvalTransform, TrainTransform
from ssd_train.resources import available_cpus

Batch = TypeVar("Batch")
Arrays = Tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TrainBatch:
    """A batch of training images and targets.

    Attributes:
        pictures: Images uint8 (B, S, S, 3), RGB.
        class_targets: Float32 (B, A); -1 is ignored, 0 is background.
        box_targets: Float32 (B, A, 4).
        records: Labels of each image.
    """

    pictures: np.ndarray
    class_targets: np.ndarray
    box_targets: np.ndarray
    records: Tuple[LabeledImage, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def positives(self) -> int:
        """Number of anchors that are assigned to an object."""
        return int(np.count_nonzero(self.class_targets > 0))

    def arrays(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the arrays that are copied to the devices."""
        return self.pictures, self.class_targets, self.box_targets

    def where(self) -> str:
        """Return the places of the labels, for messages."""
        return ", ".join(record.where or record.name for record in self.records)


@dataclass(frozen=True)
class EvalBatch(TrainBatch):
    """A batch for evaluation.

    Attributes:
        sizes: (width, height) that the boxes of each record refer to.
    """

    sizes: Tuple[Tuple[int, int], ...] = ()


class EpochSampler:
    """The order of the images in each epoch: a permutation drawn from (seed, epoch).

    All batches are full: the last one is filled with images from the beginning of the permutation. So all steps have
    one shape, BatchNorm never sees a tiny batch, and a dataset smaller than a batch can be trained on. A repeated image
    has the index plus the number of images, so that it gets another augmentation.

    With several processes, each takes `batch_size` images of every step. Together they see the same images as one
    process with a batch size `parts` times as large.

    Args:
        length: Number of images.
        batch_size: Images per step and process.
        seed: Seed of the permutations.
        part: Rank of this process.
        parts: Number of processes.
    """

    def __init__(self, length: int, batch_size: int, seed: int, part: int = 0, parts: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.part, self.parts = part, parts

    @property
    def step_size(self) -> int:
        """Images per step over all processes."""
        return self.batch_size * self.parts

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return -(-self.length // self.step_size)

    def own(self, step: Sequence[Any]) -> List[Any]:
        """Return this process's part of the images of a step."""
        return list(step[self.part * self.batch_size : (self.part + 1) * self.batch_size])

    def batches(self, epoch: int) -> List[List[int]]:
        """Return the indices of each batch of this process.

        Index `length` or more is a repeat of that index modulo `length`.
        """
        order = np.random.RandomState([self.seed, epoch]).permutation(self.length)
        total = self.steps * self.step_size
        repeats = np.arange(total) // self.length
        indices = np.resize(order, total) + repeats * self.length
        return [self.own(step) for step in indices.reshape(self.steps, self.step_size).tolist()]


class TrainLoader:
    """Training batches, prepared ahead by threads.

    A sample depends on (seed, epoch, index) only, so the images are the same for any number of threads. An image that
    `setbacks` leaves out is replaced by the next one in the labels.

    Args:
        dataset: The images and labels.
        transform: Augmentation and target encoding.
        sampler: Order of the images.
        workers: Number of threads; 0 prepares batches in the calling thread.
        setbacks: Handler of images that cannot be used; by default they are errors.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: TrainTransform,
        sampler: EpochSampler,
        workers: int = 1,
        setbacks: Optional[BadSampleHandler] = None,
    ) -> None:
        self.dataset, self.transform, self.sampler, self.workers = dataset, transform, sampler, workers
        self.setbacks = setbacks or BadSampleHandler(len(dataset))

    def __len__(self) -> int:
        return self.sampler.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of `epoch`, starting at step `first_step`."""
        plans = self.sampler.batches(epoch)[first_step:]
        return in_order(plans, lambda plan: self._batch(plan, epoch), self.workers)

    def _batch(self, indices: Sequence[int], epoch: int) -> TrainBatch:
        places, samples = zip(*(self._sample(index, epoch) for index in indices))
        pictures, classes, boxes = (np.stack(column) for column in zip(*samples))
        return TrainBatch(pictures, classes, boxes, tuple(self.dataset.record(place) for place in places))

    def _sample(self, index: int, epoch: int) -> Tuple[int, Arrays]:
        count = len(self.dataset)
        places = ((index + further) % count for further in range(count))
        return self.setbacks.first_valid(places, lambda place: self._seen(place, [self.sampler.seed, epoch, index]))

    def _seen(self, place: int, seed: List[int]) -> Arrays:
        random = np.random.RandomState(np.random.PCG64(seed))  # seeded in a seventh of the time of the default
        (image, boxes, class_ids), view = self.dataset.get_view(
            place, lambda size_wh, boxes: self.transform.policy(size_wh, boxes, random)
        )
        return self.transform.apply(image, boxes, class_ids, view)


class EvalLoader:
    """All images of a dataset once, in order, in batches of at most `batch_size`.

    Images that `setbacks` leaves out are missing.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: EvalTransform,
        batch_size: int,
        workers: int = 1,
        setbacks: Optional[BadSampleHandler] = None,
    ) -> None:
        self.dataset, self.transform, self.batch_size, self.workers = dataset, transform, batch_size, workers
        self.setbacks = setbacks or BadSampleHandler(len(dataset))

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        indices = range(len(self.dataset))
        plans = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        return filter(None, in_order(plans, self._batch, self.workers))

    def _batch(self, indices: Sequence[int]) -> Optional[EvalBatch]:
        """Return a batch, or None if none of its images can be used."""
        usable = self.setbacks.valid(indices, self.dataset.__getitem__)
        if not usable:
            return None
        places, samples = zip(*usable)
        records = tuple(self.dataset.record(place) for place in places)
        pictures, classes, boxes = (np.stack(column) for column in zip(*(self.transform(*s) for s in samples)))
        sizes = tuple(self.dataset.size_wh(place) for place in places)
        return EvalBatch(pictures, classes, boxes, records, sizes)


def in_order(plans: Iterable[Any], make: Callable[[Any], Batch], workers: int) -> Iterator[Batch]:
    """Yield make(plan) for each plan, in order.

    With threads, at most `workers` + 1 results are prepared ahead of the consumer.

    Args:
        plans: Arguments of `make`.
        make: Function that makes a batch.
        workers: Number of threads; 0 calls `make` in the calling thread.
    """
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
    """Return the number of threads for num_workers -1: one per usable CPU, at most 8."""
    return min(available_cpus(), 8)
