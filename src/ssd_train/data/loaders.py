"""Batches, the order of an epoch, and the threaded loaders.

Threads, not processes: OpenCV and NumPy release the GIL, nothing has to be pickled or put into /dev/shm, and forking a
process with a running MXNet engine can hang.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Callable, Hashable, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, TypeVar

import numpy as np

from ssd_train.data.dataset import Arrays, DetectionDataset
from ssd_train.data.structures import LabeledImage
from ssd_train.data.transforms import EvalTransform, TrainTransform
from ssd_train.errors import DataError
from ssd_train.parallel import ordered_map
from ssd_train.progress import Progress
from ssd_train.resources import available_cpus

Key = TypeVar("Key", bound=Hashable)
Sample = TypeVar("Sample")

MAX_BAD_FRACTION = 0.5  # of unusable images; above it the data has vanished rather than some files being bad


@dataclass(frozen=True)
class TrainBatch:
    """A batch of training images and targets.

    Attributes:
        images: Images uint8 (B, S, S, 3), RGB.
        class_targets: Float32 (B, A); -1 is ignored, 0 is background.
        box_targets: Float32 (B, A, 4).
        records: Labels of each image.
    """

    images: np.ndarray
    class_targets: np.ndarray
    box_targets: np.ndarray
    records: Tuple[LabeledImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def positives(self) -> int:
        """Number of anchors that are assigned to an object."""
        return int(np.count_nonzero(self.class_targets > 0))

    def arrays(self) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the arrays that are copied to the devices."""
        return self.images, self.class_targets, self.box_targets

    def where(self) -> str:
        """Return the places of the labels, for messages."""
        return ", ".join(record.location for record in self.records)


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


class BadSampleHandler:
    """Handle unusable images: report each one once, or raise an error.

    Args:
        total: Number of images in the dataset.
        on_bad: "error" to raise the first error, "skip" to leave out images unless they are too many.
        progress: Output for warnings.
    """

    def __init__(self, total: int, on_bad: str = "error", progress: Optional[Progress] = None) -> None:
        self._total, self._on_bad, self._progress = total, on_bad, progress or Progress()
        self._dropped: Set[Hashable] = set()
        self._lock = threading.Lock()

    def first_valid(self, keys: Iterable[Key], make: Callable[[Key], Sample]) -> Tuple[Key, Sample]:
        """Return the first key for which `make` yields a sample, and the sample.

        Images that were left out are not tried again, so that a slow disk does not delay every epoch.

        Raises:
            DataError: No key is usable, an image is unusable with `on_bad` "error", or too many are.
        """
        first = next(self._usable(keys, make, "another takes its place"), None)
        if first is not None:
            return first
        raise DataError(f"found none of {self._total} images that can still be used, expected some")

    def valid(self, keys: Iterable[Key], make: Callable[[Key], Sample]) -> "List[Tuple[Key, Sample]]":
        """Return the keys for which `make` yields a sample, with the samples.

        Raises:
            DataError: An image is unusable with `on_bad` "error", or too many are.
        """
        return list(self._usable(keys, make, "scores are without it"))

    def _usable(
        self, keys: Iterable[Key], make: Callable[[Key], Sample], consequence: str
    ) -> Iterator[Tuple[Key, Sample]]:
        for key in keys:
            if key not in self._dropped:
                try:
                    sample = make(key)
                except DataError as error:
                    self._drop(key, error, consequence)
                else:
                    yield key, sample

    def _drop(self, key: Hashable, error: DataError, consequence: str) -> None:
        if self._on_bad == "error":
            raise error
        with self._lock:
            known = key in self._dropped
            self._dropped.add(key)
            count = len(self._dropped)
        if count > MAX_BAD_FRACTION * self._total:
            raise DataError(f"{error}: {count} of {self._total} images cannot be used any more, expected most of them")
        if not known:
            self._progress.warning(f"left out: {error}; {consequence}")


class TrainLoader:
    """Training batches, prepared ahead by threads.

    A sample depends on (seed, epoch, index) only, so the images are the same for any number of threads. An image that
    `bad_samples` drops is replaced by the next one in the labels.

    Args:
        dataset: The images and labels.
        transform: Augmentation and target encoding.
        sampler: Order of the images.
        workers: Number of threads; 0 prepares batches in the calling thread.
        bad_samples: Handler of images that cannot be used; by default they are errors.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: TrainTransform,
        sampler: EpochSampler,
        workers: int = 1,
        bad_samples: Optional[BadSampleHandler] = None,
    ) -> None:
        self.dataset, self.transform, self.sampler, self.workers = dataset, transform, sampler, workers
        self.bad_samples = bad_samples or BadSampleHandler(len(dataset))

    def __len__(self) -> int:
        return self.sampler.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of `epoch`, starting at step `first_step`."""
        plans = self.sampler.batches(epoch)[first_step:]
        return prepare_ahead(lambda plan: self._batch(plan, epoch), plans, self.workers)

    def _batch(self, indices: Sequence[int], epoch: int) -> TrainBatch:
        used, samples = zip(*(self._sample(index, epoch) for index in indices))
        return TrainBatch(*stack(samples), tuple(self.dataset.record(index) for index in used))

    def _sample(self, index: int, epoch: int) -> Tuple[int, Arrays]:
        """Return the index of the image that is used, and its sample."""
        count = len(self.dataset)

        def make(candidate: int) -> Arrays:
            """Make a sample of an image with the random numbers of `index`."""
            # seeded in a seventh of the time of the default
            random = np.random.RandomState(np.random.PCG64([self.sampler.seed, epoch, index]))
            return self.dataset.train_sample(candidate, self.transform, random)

        return self.bad_samples.first_valid(((index + offset) % count for offset in range(count)), make)


class EvalLoader:
    """All images of a dataset once, in order, in batches of at most `batch_size`.

    Images that `bad_samples` drops are missing.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        transform: EvalTransform,
        batch_size: int,
        workers: int = 1,
        bad_samples: Optional[BadSampleHandler] = None,
    ) -> None:
        self.dataset, self.transform, self.batch_size, self.workers = dataset, transform, batch_size, workers
        self.bad_samples = bad_samples or BadSampleHandler(len(dataset))

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        indices = range(len(self.dataset))
        plans = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        return filter(None, prepare_ahead(self._batch, plans, self.workers))

    def _batch(self, indices: Sequence[int]) -> Optional[EvalBatch]:
        """Return a batch, or None if none of its images can be used."""
        usable = self.bad_samples.valid(indices, self.dataset.__getitem__)
        if not usable:
            return None
        records = tuple(self.dataset.record(index) for index, _ in usable)
        sizes = tuple(self.dataset.size_wh(index) for index, _ in usable)
        return EvalBatch(*stack(self.transform(*sample) for _, sample in usable), records, sizes)


def stack(samples: Iterable[Arrays]) -> Arrays:
    """Stack samples along a new first axis."""
    images, class_targets, box_targets = (np.stack(column) for column in zip(*samples))
    return images, class_targets, box_targets


def prepare_ahead(make: Callable[[Any], Sample], plans: Iterable[Any], workers: int) -> Iterator[Sample]:
    """Yield make(plan) for each plan, in order; threads prepare at most `workers` + 1 batches ahead of the consumer."""
    return ordered_map(make, plans, workers, at_once=1, ahead=workers + 1)


def default_workers() -> int:
    """Return the number of threads for num_workers -1: one per usable CPU, at most 8."""
    return min(available_cpus(), 8)
