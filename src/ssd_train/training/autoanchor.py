"""Choose strides and anchor scales from the boxes of a data set, or take those of the initial detector."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.artifacts.builtin_archive import anchor_scales, artifact_folder, read_artifact
from ssd_train.artifacts.model_config import CONFIG
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.boxes import areas, clip_boxes, cxcywh_to_xyxy, iou_matrix
from ssd_train.config import AUTO_STRIDES, FINE_STRIDES, TrainConfig
from ssd_train.config_fields import parse_increasing_floats
from ssd_train.data.checks.labels import FINE_CELL, scaled_boxes, small_classes
from ssd_train.data.structures import Labels
from ssd_train.data.transforms import ZOOM, View
from ssd_train.errors import WeightsError
from ssd_train.model.anchors import anchor_layout, layout_of, linear_scales, make_anchors
from ssd_train.model.net import CLASS_HEADS
from ssd_train.model.pretrained import read_arrays
from ssd_train.progress import Progress
from ssd_train.storage.archive import open_model

# candidates, as fractions of the image size; SSD's own are 0.1, 0.2 (0.15 with seven maps or more) and 1.05
SMALLEST = (0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.35)
SECOND = (1.4, 2.0, 2.8, 4.0)  # times the smallest
LARGEST = 1.05
# anchors of each box that count. More than one, because boxes with many positive anchors are learned better, and large
# boxes are learned sooner by the fine maps, whose layers are pretrained, than by the coarse ones, whose layers are new
NEIGHBOURS = 4
MAX_IOU_PAIRS = 600_000  # pairs of boxes and anchors; a candidate takes 20 ms
MIN_BOXES = 100
LISTED = 3  # small classes that are named


class AnchorChoice(NamedTuple):
    """Anchor scales as fractions of the image size, with their fit.

    Attributes:
        scales: the anchor scales.
        overlap: mean IoU of the training boxes with their four best anchors of these scales.
        usual: the same for SSD's own scales.
    """

    scales: Tuple[float, ...]
    overlap: float
    usual: float


def resolve_anchors(config: TrainConfig, pretrained: Optional[Path], labels: Labels, progress: Progress) -> TrainConfig:
    """Return `config` with the anchor_sizes to train with.

    They are, in this order: those in `config`; those of the detector whose heads are taken, because its box offsets
        refer to them; with auto_anchors, those that fit `labels`; else none, which means SSD's own.

    Args:
        config: the settings.
        pretrained: the initial weights whose heads are taken; None: the heads are new.
        labels: the training labels.
        progress: reports the choice.
    """
    if config.anchor_sizes:
        return config
    old = None if pretrained is None else anchors_of_checkpoint(pretrained, config)
    if old is not None:
        progress.info(f"anchor_sizes {old or 'of SSD'}: those of {pretrained}")
        return dataclasses.replace(config, anchor_sizes=old)
    if not config.auto_anchors:
        return config
    if not any(record.size_wh and len(record.boxes) for record in labels.records):
        progress.warning("auto_anchors: found no box of an image of known size; anchors of SSD's own sizes are used")
        return config
    choice = fit_anchor_scales(config, labels)
    sizes = ",".join(f"{scale:g}" for scale in choice.scales)
    progress.info(
        f"anchor_sizes {sizes}: mean IoU with the boxes {choice.overlap:.3f}, of SSD's own {choice.usual:.3f}"
    )
    small = _describe_small_classes(config, labels)
    if small:
        progress.info(
            f"{small} at image_shape {config.image_shape}: --feature_strides {FINE_STRIDES} finds more of them, and "
            "check advises an image_shape"
        )
    return dataclasses.replace(config, anchor_sizes=sizes)


def resolve_strides(config: TrainConfig, pretrained: Optional[Path], labels: Labels, progress: Progress) -> TrainConfig:
    """Return `config` with feature_strides "auto" resolved.

    They are those of the detector whose heads are taken, if it is a model of ours, or have a map of stride 8 if a class
    is small (`small_classes`), or else are the network's own. With anchor_sizes they are the network's own.

    Args:
        config: the settings.
        pretrained: the initial weights whose heads are taken; None: the heads are new.
        labels: the training labels.
        progress: reports the choice.
    """
    if config.feature_strides != AUTO_STRIDES:
        return config
    if pretrained is not None:
        with open_model(pretrained) as path:
            if (path / CONFIG).exists():
                return dataclasses.replace(config, feature_strides=SavedModel.load(path).config.feature_strides)
    small = "" if config.anchor_sizes else _describe_small_classes(config, labels)
    if small:
        progress.info(f"feature_strides {FINE_STRIDES}: {small} of stride 16 at image_shape {config.image_shape}")
    return dataclasses.replace(config, feature_strides=FINE_STRIDES if small else "")


def _describe_small_classes(config: TrainConfig, labels: Labels) -> str:
    """Return a description of the classes that a map of stride 8 helps; empty if none or if the network has one."""
    if layout_of(config).steps[0] <= FINE_CELL:
        return ""
    boxes = scaled_boxes(labels, [record.size_wh for record in labels.records])
    fractions = small_classes(boxes, config.image_shape)
    classes = [f"{fraction:.0%} of {labels.class_names[class_id]}" for class_id, (fraction, _) in fractions.items()]
    more = f" and {len(classes) - LISTED} more classes" if len(classes) > LISTED else ""
    return f"{', '.join(classes[:LISTED])}{more} lie between the anchors" if classes else ""


def anchors_of_checkpoint(pretrained: Path, config: TrainConfig) -> Optional[str]:
    """Return the anchor_sizes of a pretrained detector; None if it is none.

    It may be a model of ours for the same image size and strides (others have other feature maps), one of GluonCV's, or
    one of the built-in algorithm.
    """
    if not pretrained.exists():
        return None  # reported when it is loaded
    maps = len(layout_of(config).cells)
    with open_model(pretrained) as path:
        builtin = artifact_folder(path)
        if builtin is not None:
            return _sizes_text(anchor_scales(read_artifact(builtin)), maps)
        ours = (path / CONFIG).exists()
        old = SavedModel.load(path).config if ours else dataclasses.replace(config, feature_strides="")
        if (old.base_network, old.image_shape, layout_of(old).cells) != (
            config.base_network,
            config.image_shape,
            layout_of(config).cells,
        ):
            return None
        return old.anchor_sizes if ours else _gluoncv_sizes(path, maps)


def _gluoncv_sizes(path: Path, maps: int) -> Optional[str]:
    """Return the anchor_sizes of the GluonCV detector in a .params file; None if there is no detector.

    They are empty (SSD's own) if the file has no anchors for this number of maps. An unreadable file is reported when
    it is loaded.
    """
    for file in [path] if path.is_file() else sorted(path.glob("*.params")):
        try:
            arrays = read_arrays(file)
        except WeightsError:
            return None
        if any(name.startswith(CLASS_HEADS) for name in arrays):
            return _sizes_of_anchors([arrays[name] for name in sorted(arrays) if name.endswith(".anchors")], maps)
    return None


def _sizes_of_anchors(generators: Sequence[Any], maps: int) -> str:
    """Return the anchor_sizes of GluonCV's saved anchors: (1, 1, H, W, 4 * shapes) cxcywh for each map.

    GluonCV's presets differ: those for COCO have smaller anchors than those for VOC. The last map has one cell, whose
    centre is that of the image.
    """
    if len(generators) != maps or any(array.ndim != 5 or array.shape[-1] < 8 for array in generators):
        return ""
    first = [array[0, 0, 0, 0, :8].asnumpy() for array in generators]  # a square, and the one between two sizes
    side, last = 2 * first[-1][0], first[-1][2]
    if min(side, last) <= 0:
        return ""
    sizes = np.array([*(cell[2] for cell in first), first[-1][6] ** 2 / last])
    return _sizes_text(sizes / side, maps)


def _sizes_text(scales: Sequence[float], maps: int) -> str:
    """Return the anchor_sizes of these scales; empty (SSD's own) if they are not for this number of maps."""
    text = ",".join(f"{scale:.6g}" for scale in scales)
    return text if len(scales) == maps + 1 and parse_increasing_floats(text) else ""


def fit_anchor_scales(config: TrainConfig, labels: Labels) -> AnchorChoice:
    """Return the anchor scales with the highest mean IoU, out of a few dozen.

    Every class has the same weight. Boxes are scaled to the network's input and, if the augmentation zooms, also to
    half and twice the size. At least one image must have a known size.
    """
    boxes = _augmented(_sample(labels, config), config)
    maps = len(layout_of(config).cells)
    usual = tuple(size / config.image_shape for size in layout_of(config).sizes)
    shapes = [(s, s * times) for s, times in itertools.product(SMALLEST, SECOND) if s * times < LARGEST]
    candidates = [usual, *(linear_scales(maps, smallest, second, LARGEST) for smallest, second in shapes)]
    overlaps = [_overlap(config, boxes, scales) for scales in candidates]
    best = int(np.argmax(overlaps))
    return AnchorChoice(tuple(round(scale, 4) for scale in candidates[best]), overlaps[best], overlaps[0])


def _sample(labels: Labels, config: TrainConfig) -> np.ndarray:
    """Sample boxes (N, 4), xyxy in input pixels, evenly from all classes; deterministic."""
    sized = [(r.boxes, np.array([*r.size_wh, *r.size_wh]), r.class_ids) for r in labels.records if r.size_wh]
    boxes = np.concatenate([boxes * (config.image_shape / size) for boxes, size, _ in sized])
    class_ids = np.concatenate([ids for _, _, ids in sized])
    weights = 1 / np.bincount(class_ids)[class_ids]
    anchors = len(make_anchors(layout_of(config)))
    count = max(MAX_IOU_PAIRS // anchors, MIN_BOXES)
    return boxes[np.random.RandomState(0).choice(len(boxes), count, p=weights / weights.sum())].astype(np.float32)


def _augmented(boxes: np.ndarray, config: TrainConfig) -> np.ndarray:
    """Return a third of `boxes` each at the same, half and twice the size, clipped, if the augmentation zooms."""
    if config.augmentation != "strong":
        return boxes
    side = config.image_shape
    zoom = np.resize([1 / ZOOM, 1, ZOOM], (len(boxes), 1))
    zoomed = (boxes - side / 2) * zoom + side / 2  # about the image centre: the position of a box matters little
    clipped = clip_boxes(zoomed.astype(np.float32), (side, side))
    return clipped[areas(clipped) >= View.min_visibility * areas(zoomed)]


def _overlap(config: TrainConfig, boxes: np.ndarray, scales: Tuple[float, ...]) -> float:
    layout = anchor_layout(config.base_network, config.image_shape, scales, config.first_stride)
    anchors = cxcywh_to_xyxy(make_anchors(layout))
    return float(np.partition(iou_matrix(boxes, anchors), -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean())
