"""DetectionDataset: decoded images and boxes of a LabelSet, with a memory cache."""

from __future__ import annotations

import dataclasses
import threading
from typing import Callable, Dict, Hashable, Iterable, List, Optional, Set, Tuple, TypeVar

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.data.augment import View
from ssd_train.data.image_io import decode, read_header, recheck_decoded, reduction
from ssd_train.data.structures import ImageSource, LabeledImage, Labels
from ssd_train.errors import DataError
from ssd_train.progress import Progress

Sample = Tuple[np.ndarray, np.ndarray, np.ndarray]


class ImageCache:
    """Cache of decoded images by index, limited in bytes.

    Images that do not fit are not stored; nothing is evicted.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes_used = 0
        self._images: Dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def __str__(self) -> str:
        return f"{len(self)} images decoded, {self.bytes_used / 1e6:.0f} MB of at most {self.max_bytes / 1e6:.0f} MB"

    def get(self, index: int) -> Optional[np.ndarray]:
        """Return the image, or None if it is not cached."""
        return self._images.get(index)

    def put(self, index: int, image: np.ndarray) -> None:
        """Store `image` if it fits, and make it read-only."""
        with self._lock:
            if index not in self._images and self.bytes_used + image.nbytes <= self.max_bytes:
                image.setflags(write=False)
                self._images[index] = image
                self.bytes_used += image.nbytes


class DetectionDataset:
    """Random access to decoded images and their boxes.

    A sample is (image uint8 RGB (H, W, 3), boxes (N, 4) xyxy in pixels of this image, class ids (N,)). Regions to be
    ignored are boxes with class id -1.

    Args:
        labels: The labels.
        images: Source of the encoded images.
        side: Input side of the network. Much larger images are decoded at 1/2, 1/4 or 1/8 of their size, and their
            boxes are scaled accordingly.
        cache_bytes: Maximum size of the cache of decoded images; 0 disables it.
    """

    def __init__(self, labels: Labels, images: ImageSource, side: int, cache_bytes: int = 0) -> None:
        self.labels = labels
        self.images = images
        self.side = side
        self.cache = ImageCache(cache_bytes)
        self._undamaged: Set[int] = set()  # indices of images already checked
        self._sizes: Dict[int, SizeWH] = {}  # of images whose labels have no size, once read

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> LabeledImage:
        """Return the labels of sample `index`."""
        return self.labels.records[index]

    def size_wh(self, index: int) -> SizeWH:
        """Return the (width, height) that the labelled boxes of sample `index` refer to.

        If the labels do not contain it, the sample must have been read before.
        """
        return self.record(index).size_wh or self._sizes[index]

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        image = self.cache.get(index)
        if image is None:
            image = self._read(index, record)
            self.cache.put(index, image)
        return image, self._scaled(index, image), _class_ids(record)

    def get_view(self, index: int, choose: Callable[[SizeWH, np.ndarray], View]) -> Tuple[Sample, View]:
        """Return a sample and the view of it that `choose` draws.

        Without a cache, the image is decoded at the resolution that the view needs.

        Args:
            index: Index of the sample.
            choose: Function of (width, height) and boxes (N, 4), both as labelled, that returns a view.

        Returns:
            The sample, and the view in pixels of the decoded image.
        """
        record = self.record(index)
        if self.cache.max_bytes:
            sample = self[index]
            view = choose(self.size_wh(index), record.boxes)
        else:
            data = self._fetch(index, record)
            view = choose(self.size_wh(index), record.boxes)
            image = self._decoded(index, data, reduction(view.rect[2:], self.side))
            sample = image, self._scaled(index, image), _class_ids(record)
        height, width = sample[0].shape[:2]
        return sample, _scaled_view(view, self.size_wh(index), (width, height))

    def _read(self, index: int, record: LabeledImage) -> np.ndarray:
        data = self._fetch(index, record)
        return self._decoded(index, data, reduction(self.size_wh(index), self.side))

    def _fetch(self, index: int, record: LabeledImage) -> bytes:
        data = self.images.read(record)
        if record.size_wh is None:
            self._sizes[index] = read_header(data, record.where or record.name).display_wh
        return data

    def _decoded(self, index: int, data: bytes, reduce: int) -> np.ndarray:
        """Decode an image, reduced by `reduce`; check it for damage the first time."""
        record = self.record(index)
        where = record.where or record.name
        image = decode(data, where, record.size_wh, reduce=reduce)
        if index not in self._undamaged:
            recheck_decoded(data, image, where)
            self._undamaged.add(index)
        return image

    def _scaled(self, index: int, image: np.ndarray) -> np.ndarray:
        record, (width, height) = self.record(index), self.size_wh(index)
        boxes = np.concatenate([record.boxes, record.ignored.boxes]) if len(record.ignored) else record.boxes
        factor = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        return boxes * factor if (factor != 1).any() else boxes


def _class_ids(record: LabeledImage) -> np.ndarray:
    """Return the class ids (N,) of a sample; ignored regions come last and have -1."""
    return np.append(record.class_ids, np.full(len(record.ignored), -1)) if len(record.ignored) else record.class_ids


def _scaled_view(view: View, size_wh: SizeWH, decoded_wh: SizeWH) -> View:
    """Convert `view` from pixels of an image of `size_wh` to those of `decoded_wh`."""
    if decoded_wh == tuple(size_wh):
        return view
    x, y = (decoded / size for decoded, size in zip(decoded_wh, size_wh))
    left, top, width, height = view.rect
    return dataclasses.replace(view, rect=(left * x, top * y, width * x, height * y))


Key = TypeVar("Key", bound=Hashable)
SampleT = TypeVar("SampleT")

MOST = 0.5  # maximum fraction of unusable images; above it the data has vanished rather than some files being bad


class BadSampleHandler:
    """Handle unusable images: report each one once, or raise an error.

    Args:
        total: Number of images in the dataset.
        on_bad: "error" to raise the first error, "skip" to leave out images unless they are too many.
        progress: Output for warnings.
    """

    def __init__(self, total: int, on_bad: str = "error", progress: Optional[Progress] = None) -> None:
        self._total, self._on_bad, self._progress = total, on_bad, progress or Progress()
        self._left_out: Set[Hashable] = set()
        self._lock = threading.Lock()

    def first_valid(self, keys: Iterable[Key], make: Callable[[Key], SampleT]) -> Tuple[Key, SampleT]:
        """Return the first key for which `make` yields a sample, and the sample.

        Images that were left out are not tried again, so that a slow disk does not delay every epoch.

        Raises:
            DataError: No key is usable, an image is unusable with `on_bad` "error", or too many are.
        """
        for key in keys:
            if key in self._left_out:
                continue
            try:
                return key, make(key)
            except DataError as fault:
                self._leave_out(key, fault, "another takes its place")
        raise DataError(f"found none of {self._total} images that can still be used, expected some")

    def valid(self, keys: Iterable[Key], make: Callable[[Key], SampleT]) -> "List[Tuple[Key, SampleT]]":
        """Return the keys for which `make` yields a sample, with the samples.

        Raises:
            DataError: An image is unusable with `on_bad` "error", or too many are.
        """
        found = []
        for key in keys:
            if key in self._left_out:
                continue
            try:
                found.append((key, make(key)))
            except DataError as fault:
                self._leave_out(key, fault, "scores are without it")
        return found

    def _leave_out(self, key: Hashable, fault: DataError, consequence: str) -> None:
        if self._on_bad == "error":
            raise fault
        with self._lock:
            known = key in self._left_out
            self._left_out.add(key)
            count = len(self._left_out)
        if count > MOST * self._total:
            raise DataError(f"{fault}: {count} of {self._total} images cannot be used any more, expected most of them")
        if not known:
            self._progress.warning(f"left out: {fault}; {consequence}")
