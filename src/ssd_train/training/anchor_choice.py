"""Anchor sizes chosen by the boxes of a data set, or by the detector that training starts from."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.archives import opened_model
from ssd_train.config import TrainConfig
from ssd_train.data.augment import ZOOM, View
from ssd_train.data.boxes import areas, clip_boxes, cxcywh_to_xyxy, iou_matrix
from ssd_train.data.records import LabelSet
from ssd_train.errors import WeightsError
from ssd_train.model.anchors import anchor_layout, even_shares, feature_cells, make_anchors
from ssd_train.model.pretrained import CLASS_HEADS, read_arrays
from ssd_train.progress import Progress
from ssd_train.setting_values import rising_shares
from ssd_train.training.saved_model import CONFIG, SavedModel

# what is tried, of the image's side; SSD's own are 0.1, 0.2 (0.15 with seven maps or more) and 1.05
SMALLEST = (0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.35)
SECOND = (1.4, 2.0, 2.8, 4.0)  # times the smallest
LARGEST = 1.05
# anchors of each box that count. More than one: sizes that many anchors share with a box teach more, and large boxes
# found by the fine maps, whose layers are pretrained, are learned sooner than by the coarse ones, whose are new
NEIGHBOURS = 4
MOST_OVERLAPS = 600_000  # of boxes and anchors: a trial of 20 ms
FEWEST_BOXES = 100


class Choice(NamedTuple):
    """Anchor sizes as shares of the image's side, and the mean IoU of the training boxes with their four best anchors:
    of these sizes, and of SSD's own."""

    shares: Tuple[float, ...]
    overlap: float
    usual: float


def with_anchors(config: TrainConfig, pretrained: Optional[Path], labels: LabelSet, progress: Progress) -> TrainConfig:
    """`config` with the anchor_sizes to train with: those given; those of the detector in `pretrained`, whose answers
    are told from them; with auto_anchors, those that fit `labels`; else none, which are SSD's own."""
    if config.anchor_sizes or not config.auto_anchors:
        return config
    old = None if pretrained is None else anchors_of(pretrained, config)
    if old is not None:
        progress.say(f"anchor_sizes {old or 'of SSD'}: those of {pretrained}")
        return dataclasses.replace(config, anchor_sizes=old)
    if not any(record.size_wh and len(record.boxes) for record in labels.records):
        progress.warn("auto_anchors: found no box of an image of known size; anchors of SSD's own sizes are used")
        return config
    choice = fitted_shares(config, labels)
    sizes = ",".join(f"{share:g}" for share in choice.shares)
    progress.say(f"anchor_sizes {sizes}: mean IoU with the boxes {choice.overlap:.3f}, of SSD's own {choice.usual:.3f}")
    return dataclasses.replace(config, anchor_sizes=sizes)


def anchors_of(pretrained: Path, config: TrainConfig) -> Optional[str]:
    """The anchor_sizes of a detector: a model of ours for images of the same size (others have other maps), or one of
    GluonCV's; None where there is no such detector."""
    if not pretrained.exists():
        return None  # which loading it will tell
    with opened_model(pretrained) as place:
        if not (place / CONFIG).exists():
            return _gluoncv_sizes(place, len(feature_cells(config.base_network, config.image_shape)))
        old = SavedModel.load(place).config
    same = (old.base_network, old.image_shape) == (config.base_network, config.image_shape)
    return old.anchor_sizes if same else None


def _gluoncv_sizes(place: Path, maps: int) -> Optional[str]:
    """Return the anchor_sizes of the detector in a .params file there, "" (SSD's own) where it holds no anchors of so
    many feature maps; None where there is no detector. A file that cannot be read is reported when it is loaded."""
    for file in [place] if place.is_file() else sorted(place.glob("*.params")):
        try:
            arrays = read_arrays(file)
        except WeightsError:
            return None
        if any(name.startswith(CLASS_HEADS) for name in arrays):
            return _sizes_of_anchors([arrays[name] for name in sorted(arrays) if name.endswith(".anchors")], maps)
    return None


def _sizes_of_anchors(generators: Sequence[Any], maps: int) -> str:
    """Return the anchor_sizes of the anchors that GluonCV's SSD saves, (1, 1, H, W, 4 * shapes) of cx, cy, w, h for
    each map: its presets differ (those for COCO have smaller ones than those for VOC). The last map is one cell, whose
    centre is the image's."""
    if len(generators) != maps or any(array.ndim != 5 or array.shape[-1] < 8 for array in generators):
        return ""
    first = [array[0, 0, 0, 0, :8].asnumpy() for array in generators]  # a square, and one between it and the next size
    side, last = 2 * first[-1][0], first[-1][2]
    if min(side, last) <= 0:
        return ""
    sizes = np.array([*(cell[2] for cell in first), first[-1][6] ** 2 / last])
    text = ",".join(f"{size / side:.6g}" for size in sizes)
    return text if rising_shares(text) else ""


def fitted_shares(config: TrainConfig, labels: LabelSet) -> Choice:
    """The sizes, among a few dozen, whose anchors overlap best the boxes of images of known size, of which there must
    be some; every class counts as much.

    The boxes are taken as they lie in the network's input, and half and twice as large where augmentation zooms so.
    """
    boxes = _augmented(_sample(labels, config), config)
    maps = len(feature_cells(config.base_network, config.image_shape))
    usual = tuple(size / config.image_shape for size in anchor_layout(config.base_network, config.image_shape).sizes)
    shapes = [(s, s * times) for s, times in itertools.product(SMALLEST, SECOND) if s * times < LARGEST]
    candidates = [usual, *(even_shares(maps, smallest, second, LARGEST) for smallest, second in shapes)]
    overlaps = [_overlap(config, boxes, shares) for shares in candidates]
    best = int(np.argmax(overlaps))
    return Choice(tuple(round(share, 4) for share in candidates[best]), overlaps[best], overlaps[0])


def _sample(labels: LabelSet, config: TrainConfig) -> np.ndarray:
    """As many boxes (N, 4) xyxy as can be tried in seconds, in pixels of the input, drawn from all classes evenly and
    always the same."""
    sized = [(r.boxes, np.array([*r.size_wh, *r.size_wh]), r.class_ids) for r in labels.records if r.size_wh]
    boxes = np.concatenate([boxes * (config.image_shape / size) for boxes, size, _ in sized])
    class_ids = np.concatenate([ids for _, _, ids in sized])
    chances = 1 / np.bincount(class_ids)[class_ids]
    anchors = len(make_anchors(anchor_layout(config.base_network, config.image_shape)))
    count = max(MOST_OVERLAPS // anchors, FEWEST_BOXES)
    return boxes[np.random.RandomState(0).choice(len(boxes), count, p=chances / chances.sum())].astype(np.float32)


def _augmented(boxes: np.ndarray, config: TrainConfig) -> np.ndarray:
    """A third each of `boxes` as they are, half and twice as large, as far as in view, where augmentation zooms."""
    if config.augmentation != "strong":
        return boxes
    side = config.image_shape
    zoom = np.resize([1 / ZOOM, 1, ZOOM], (len(boxes), 1))
    zoomed = (boxes - side / 2) * zoom + side / 2  # about the image's middle: where a box stands matters little
    seen = clip_boxes(zoomed.astype(np.float32), (side, side))
    return seen[areas(seen) >= View.least_visible * areas(zoomed)]


def _overlap(config: TrainConfig, boxes: np.ndarray, shares: Tuple[float, ...]) -> float:
    anchors = cxcywh_to_xyxy(make_anchors(anchor_layout(config.base_network, config.image_shape, shares)))
    return float(np.partition(iou_matrix(boxes, anchors), -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean())
