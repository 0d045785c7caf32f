"""Builders shared by the tests: drawn data sets, label sets, settings, and an ear for what long work says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.config import TrainConfig
from ssd_train.data.image_io import encode_png
from ssd_train.data.image_sources import MemoryImages
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.data.synthetic import SHAPE_CLASSES, draw_shapes_set, write_drawn_set
from ssd_train.progress import Item, Progress

# the smallest job that is still a whole one
SMALL = {
    "base_network": "mobilenet0.25",
    "image_shape": 128,
    "use_pretrained_model": 0,
    "epochs": 2,
    "mini_batch_size": 4,
    "num_workers": 1,
}


class DrawnSet(NamedTuple):
    """A folder of images and the manifest that labels them."""

    images: Path
    manifest: Path


def shapes_set(folder: Path, count: int, seed: int = 1, **drawing: Any) -> DrawnSet:
    """`count` drawn pictures of discs, squares and triangles below `folder`, as a labelling job leaves them."""
    samples = draw_shapes_set(count, seed, **drawing)
    return DrawnSet(*write_drawn_set(folder, samples, SHAPE_CLASSES, "shapes", "png"))


def small_config(**settings: Any) -> TrainConfig:
    """The settings of SMALL, changed by `settings`."""
    return TrainConfig.from_mapping({**SMALL, **settings})


def flags_of(settings: "dict[str, Any]") -> List[str]:
    """--name value for each of `settings` that is not None."""
    given = {name: str(value) for name, value in settings.items() if value is not None}
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def picture(size_wh: Tuple[int, int] = (40, 30), seed: int = 0) -> np.ndarray:
    """Noise, RGB uint8 (H, W, 3)."""
    return np.random.RandomState(seed).randint(0, 256, (size_wh[1], size_wh[0], 3)).astype(np.uint8)


def label_set(
    boxes: "Sequence[Sequence[Sequence[float]]]",
    class_ids: "Optional[Sequence[Sequence[int]]]" = None,
    size_wh: Optional[Tuple[int, int]] = (40, 30),
    class_names: Sequence[str] = ("cat", "dog"),
) -> Labels:
    """A record for each entry of `boxes`, of class 0 unless `class_ids` tells, from lines 1, 2, ... of a file."""
    ids = class_ids or [[0] * len(rows) for rows in boxes]
    records = [
        LabeledImage(f"{index}.png", rows, classes, size_wh, f"train.manifest:{index + 1}")
        for index, (rows, classes) in enumerate(zip(boxes, ids))
    ]
    return Labels(tuple(records), ClassNames(tuple(class_names)), source="train.manifest")


def memory_images(labels: Labels, pictures: Optional[Iterable[np.ndarray]] = None) -> MemoryImages:
    """A PNG for each record of `labels`: of `pictures`, or of noise in the record's size."""
    given = pictures or [picture(record.size_wh or (40, 30), index) for index, record in enumerate(labels.records)]
    return MemoryImages({record.name: encode_png(image) for record, image in zip(labels.records, given)})


class HeardProgress(Progress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: List[str] = []
        self.warnings: List[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def track(self, items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
        yield from items
