"""DetectionDataset: decoded images and boxes of a LabelSet, kept in memory while they fit."""

from __future__ import annotations

import threading
from typing import Dict, Optional, Set, Tuple

import numpy as np

from ssd_train.data.boxes import SizeWH
from ssd_train.data.damage import check_decoded
from ssd_train.data.images import decode_for, read_header
from ssd_train.data.records import ImageSource, LabelSet, Record

Sample = Tuple[np.ndarray, np.ndarray, np.ndarray]


class ImageCache:
    """Decoded images by index, up to a number of bytes; what does not fit is decoded again each time."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes_used = 0
        self._images: Dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def get(self, index: int) -> Optional[np.ndarray]:
        """The image, or None."""
        return self._images.get(index)

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep `image` if it fits."""
        with self._lock:
            if index not in self._images and self.bytes_used + image.nbytes <= self.max_bytes:
                image.setflags(write=False)
                self._images[index] = image
                self.bytes_used += image.nbytes


class DetectionDataset:
    """Random access to the samples of `labels`: (image uint8 RGB (H, W, 3), boxes (N, 4) xyxy of it, class ids (N,)).

    side    the network's input side; a picture much larger is decoded at a half, a quarter or an eighth, and its boxes
            follow
    """

    def __init__(self, labels: LabelSet, images: ImageSource, side: int, cache_bytes: int = 0) -> None:
        self.labels = labels
        self.images = images
        self.side = side
        self.cache = ImageCache(cache_bytes)
        self._undamaged: Set[int] = set()  # looked at for damage, which is done once
        self._sizes: Dict[int, SizeWH] = {}  # of images read whose labels do not tell it

    def __len__(self) -> int:
        return len(self.labels)

    def record(self, index: int) -> Record:
        """The labels of sample `index`."""
        return self.labels.records[index]

    def size_wh(self, index: int) -> SizeWH:
        """(width, height) that the boxes of sample `index` refer to; where its labels do not tell, the sample has to be
        read first."""
        return self.record(index).size_wh or self._sizes[index]

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        image = self.cache.get(index)
        if image is None:
            image = self._read(index, record)
            self.cache.put(index, image)
        return image, self._scaled(index, image), record.class_ids

    def _read(self, index: int, record: Record) -> np.ndarray:
        data, where = self.images.read(record), record.where or record.name
        if record.size_wh is None:
            self._sizes[index] = read_header(data, where).shown_wh
        image = decode_for(data, where, self.side, record.size_wh)
        if index not in self._undamaged:
            check_decoded(data, image, where)
            self._undamaged.add(index)
        return image

    def _scaled(self, index: int, image: np.ndarray) -> np.ndarray:
        boxes, (width, height) = self.record(index).boxes, self.size_wh(index)
        factor = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        return boxes * factor if (factor != 1).any() else boxes
