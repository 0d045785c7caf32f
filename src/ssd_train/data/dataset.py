"""DetectionDataset: the Gluon dataset of images and boxes that a network is trained on, with a memory cache."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any, Dict, Optional, Set, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.boxes import SizeWH
from ssd_train.data.formats.json_lines import PathLike
from ssd_train.data.image_io import EncodedImage, reduction
from ssd_train.data.labels import LabelOptions, load_labels
from ssd_train.data.structures import ImageSource, LabeledImage, Labels
from ssd_train.data.transforms import Random, TrainTransform, View

mx: Any = mxnet_compat.mxnet()

Arrays = Tuple[np.ndarray, np.ndarray, np.ndarray]


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
        """Make `image` read-only and store it, if it fits."""
        with self._lock:
            if index not in self._images and self.bytes_used + image.nbytes <= self.max_bytes:
                image.setflags(write=False)
                self._images[index] = image
                self.bytes_used += image.nbytes


class DetectionDataset(mx.gluon.data.Dataset):
    """A `gluon.data.Dataset` of decoded images and their boxes.

    An item is (image uint8 RGB (H, W, 3), boxes (N, 4) xyxy in pixels of this image, class ids (N,)). Regions to be
    ignored are boxes with class id -1; they come last. `dataset.transform(to_gluoncv)` has the items of GluonCV's
    detection datasets.

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
        self._verified: Set[int] = set()  # indices of images already checked for damage
        self._sizes: Dict[int, SizeWH] = {}  # of images whose labels have no size, once read

    @classmethod
    def from_manifest(
        cls,
        manifest: PathLike,
        images: Optional[PathLike] = None,
        side: int = 512,
        options: Optional[LabelOptions] = None,
        cache_bytes: int = 0,
    ) -> "DetectionDataset":
        """Return the dataset of a Ground Truth manifest, or of labels in any other format.

        Args:
            manifest: File or folder of labels.
            images: Folder of images; if None, the folder of the labels is searched.
            side: Input side of the network.
            options: Options for reading the labels.
            cache_bytes: Maximum size of the cache of decoded images; 0 disables it.

        Raises:
            DataError: The labels cannot be used.
        """
        data = load_labels(images, manifest, options or LabelOptions())
        return cls(data.labels, data.images, side, cache_bytes)

    @property
    def classes(self) -> Tuple[str, ...]:
        """Class names, as GluonCV's datasets have them."""
        return self.labels.class_names.names

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> LabeledImage:
        """Return the labels of image `index`."""
        return self.labels.records[index]

    def size_wh(self, index: int) -> SizeWH:
        """Return the (width, height) that the labelled boxes of image `index` refer to.

        If the labels do not contain it, the image must have been read before.
        """
        return self.record(index).size_wh or self._sizes[index]

    def __getitem__(self, index: int) -> Arrays:
        image = self._cached(index)
        return (image, *self._labels_of(index, image))

    def train_sample(self, index: int, transform: TrainTransform, random: Random) -> Arrays:
        """Draw a view of image `index` and make the training sample that shows it.

        Without a cache, the view is drawn before the image is decoded, at the resolution that the view needs.

        Returns:
            Image uint8 (side, side, 3), class targets (A,), box targets (A, 4).

        Raises:
            DataError: The image cannot be used.
        """
        record = self.record(index)
        if self.cache.max_bytes:
            image = self._cached(index)
            view = transform.policy(self.size_wh(index), record.boxes, random)
        else:
            encoded = self._read(index)
            view = transform.policy(self.size_wh(index), record.boxes, random)
            image = self._decode(index, encoded, reduction(view.rect[2:], self.side))
        view = _scale_view(view, self.size_wh(index), (image.shape[1], image.shape[0]))
        return transform.apply(image, *self._labels_of(index, image), view)

    def _cached(self, index: int) -> np.ndarray:
        """Return the decoded image from the cache; decode it and put it there first if it is not cached."""
        image = self.cache.get(index)
        if image is None:
            encoded = self._read(index)
            image = self._decode(index, encoded, reduction(self.size_wh(index), self.side))
            self.cache.put(index, image)
        return image

    def _read(self, index: int) -> EncodedImage:
        record = self.record(index)
        encoded = EncodedImage(self.images.read(record), record.location)
        if record.size_wh is None:
            self._sizes[index] = encoded.header.display_wh
        return encoded

    def _decode(self, index: int, encoded: EncodedImage, reduce: int) -> np.ndarray:
        """Decode an image, reduced by `reduce`; check it for damage the first time."""
        image = encoded.decode(self.record(index).size_wh, reduce=reduce)
        if index not in self._verified:
            encoded.check_decoded(image)
            self._verified.add(index)
        return image

    def _labels_of(self, index: int, image: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the boxes (N, 4) in pixels of the decoded image, and the class ids (N,)."""
        record, (width, height) = self.record(index), self.size_wh(index)
        boxes, class_ids = record.boxes, record.class_ids
        if len(record.ignored):
            boxes = np.concatenate([boxes, record.ignored.boxes])
            class_ids = np.append(class_ids, np.full(len(record.ignored), -1))
        factor = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        return (boxes * factor if (factor != 1).any() else boxes), class_ids


def _scale_view(view: View, size_wh: SizeWH, decoded_wh: SizeWH) -> View:
    """Convert `view` from pixels of an image of `size_wh` to those of `decoded_wh`."""
    if decoded_wh == tuple(size_wh):
        return view
    x, y = (decoded / size for decoded, size in zip(decoded_wh, size_wh))
    left, top, width, height = view.rect
    return dataclasses.replace(view, rect=(left * x, top * y, width * x, height * y))


def to_gluoncv(image: np.ndarray, boxes: np.ndarray, class_ids: np.ndarray) -> Tuple[Any, np.ndarray]:
    """Convert an item of DetectionDataset to one of GluonCV's detection datasets.

    Regions to be ignored are left out. An image without objects has a label of shape (0, 5), which GluonCV's transforms
    do not accept.

    Returns:
        NDArray uint8 RGB (H, W, 3) on the CPU, and float32 (N, 5) rows of x1, y1, x2, y2 in pixels and class id.
    """
    objects = class_ids >= 0
    label = np.concatenate([boxes[objects], class_ids[objects, None].astype(np.float32)], axis=1)
    return mx.nd.array(image, dtype="uint8"), label
