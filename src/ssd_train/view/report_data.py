"""What a report tells: one frozen value that the training hall fills and `view.report` turns into a page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ssd_train.data.boxes import SizeWH, areas
from ssd_train.data.records import ClassNames, Detections, LabelSet, Record, Skipped

# limits of the box size histogram: the square root of box area over image area, 0..1
RELATIVE_SIZE_EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_PLACES_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """One validation picture with its truth and what the model said.

    `image` is RGB uint8 (H, W, 3) in any size, or a function that reads it: then a whole validation set may be handed
    over to be ranked, and only the few pictures that are shown are ever read.
    """

    name: str
    image: Union[np.ndarray, Callable[[], np.ndarray]]
    truth: Record
    detections: Detections

    def picture(self) -> np.ndarray:
        """The pixels, RGB uint8 (H, W, 3)."""
        return self.image() if callable(self.image) else self.image


@dataclass(frozen=True)
class Reason:
    """Why some lines of the labels were left out or mended: how many, and the first places."""

    text: str
    count: int
    places: Tuple[str, ...] = ()


@dataclass(frozen=True)
class SubsetSummary:
    """What is in a set of labels, by numbers.

    boxes_per_class   counts (num_classes,)
    relative_sizes    counts of boxes by RELATIVE_SIZE_EDGES, one fewer than edges; without images of unknown size
    image_sizes       (width, height) -> images; without images of unknown size
    """

    name: str
    images: int
    background_images: int
    boxes_per_class: Tuple[int, ...]
    relative_sizes: Tuple[int, ...] = ()
    image_sizes: Mapping[SizeWH, int] = field(default_factory=dict)
    skipped: Tuple[Reason, ...] = ()
    mended: Tuple[Reason, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; every part but the title and the class names may be missing.

    history     one mapping an epoch: "epoch", "CrossEntropy", "SmoothL1", "learning_rate", "images_per_second", and
                where it was evaluated "VOC07", "mAP" (COCO), "mAP@0.5", "val_SmoothL1"
    scores      as `training.scores` writes them: "mAP", "mAP@0.5", "mAP@0.75", "VOC07", "VOC_area", "per_class",
                "best_f1", "false_positives_per_background_image", "images", "background_images", "boxes"
    curves      class name -> {"recall": [...], "precision": [...], "score": [...]}, 0..1, at an overlap of 0.5
    samples     validation pictures: some are shown, all are searched for the worst misses and false alarms
    threshold   the score from which a detection is drawn
    """

    title: str
    class_names: ClassNames
    started: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    scores: Optional[Mapping[str, Any]] = None
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    data: Sequence[SubsetSummary] = ()
    samples: Sequence[Sample] = ()
    best_epoch: Optional[int] = None
    threshold: float = 0.3
    notes: Sequence[str] = ()


def summarise(name: str, labels: LabelSet) -> SubsetSummary:
    """The numbers of a set of labels, under the name it has in the report ("train", "validation")."""
    sizes = Counter(record.size_wh for record in labels.records if record.size_wh is not None)
    return SubsetSummary(
        name=name,
        images=len(labels),
        background_images=sum(record.is_background for record in labels.records),
        boxes_per_class=tuple(int(count) for count in labels.boxes_per_class()),
        relative_sizes=_relative_sizes(labels.records),
        image_sizes=dict(sizes.most_common()),
        skipped=_reasons(labels.skipped),
        mended=_reasons(labels.mended),
    )


def _relative_sizes(records: Sequence[Record]) -> Tuple[int, ...]:
    shares = [np.sqrt(areas(r.boxes) / (r.size_wh[0] * r.size_wh[1])) for r in records if r.size_wh is not None]
    counts, _ = np.histogram(np.concatenate(shares) if shares else np.zeros(0), RELATIVE_SIZE_EDGES)
    return tuple(int(count) for count in counts)


def _reasons(lines: Sequence[Skipped]) -> Tuple[Reason, ...]:
    """The lines counted by reason, the most frequent first."""
    places: Dict[str, list] = {}
    for line in lines:
        places.setdefault(line.reason, []).append(f"{line.where} ({line.detail})" if line.detail else line.where)
    ordered = sorted(places.items(), key=lambda item: -len(item[1]))
    return tuple(Reason(text, len(found), tuple(found[:_PLACES_SHOWN])) for text, found in ordered)
