"""ReportData: the content of a report, filled by training and rendered by `view.report`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ssd_train.boxes import SizeWH, areas
from ssd_train.data.structures import ClassNames, Detections, LabeledImage, LabelIssue, Labels

# edges of the box size histogram: the square root of box area over image area, 0..1
RELATIVE_SIZE_EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_LOCATIONS_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """A validation image with its labels and detections.

    `image` is RGB uint8 (H, W, 3) of any size, or a function that returns it, so that only images shown are read.
    """

    name: str
    image: Union[np.ndarray, Callable[[], np.ndarray]]
    truth: LabeledImage
    detections: Detections

    def load_image(self) -> np.ndarray:
        """Return the image, RGB uint8 (H, W, 3)."""
        return self.image() if callable(self.image) else self.image


@dataclass(frozen=True)
class Reason:
    """A reason to skip or repair lines of the labels, with the number of lines and their first locations."""

    text: str
    count: int
    locations: Tuple[str, ...] = ()


@dataclass(frozen=True)
class SubsetSummary:
    """Statistics of a labelled data set.

    Attributes:
        boxes_per_class: counts (num_classes,).
        relative_sizes: histogram of box sizes by RELATIVE_SIZE_EDGES, without images of unknown size.
        size_deciles: 0, 10 ... 100 % quantiles of the same sizes; empty without any.
        image_sizes: number of images by (width, height), without images of unknown size.
    """

    name: str
    images: int
    background_images: int
    boxes_per_class: Tuple[int, ...]
    relative_sizes: Tuple[int, ...] = ()
    image_sizes: Mapping[SizeWH, int] = field(default_factory=dict)
    skipped: Tuple[Reason, ...] = ()
    repaired: Tuple[Reason, ...] = ()
    size_deciles: Tuple[float, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """The content of a report; only title and class names are required.

    Attributes:
        command: command line of the run.
        seconds: duration of the training.
        random_weights: True if no pretrained weights were used.
        history: per epoch "epoch", "CrossEntropy", "SmoothL1", "learning_rate", "images_per_second" and, if evaluated,
            "VOC07", "mAP" (COCO), "mAP@0.5", "val_CrossEntropy", "val_SmoothL1".
        scores: the JSON of `evaluation.results.Scores`: "mAP", "mAP@0.5", "mAP@0.75", "VOC07", "VOC_area",
            "per_class", "best_f1", "false_positives_per_background_image", "images", "background_images", "boxes", and
            of its details "intervals", "by_size", "confusion".
        curves: class name -> {"recall": [...], "precision": [...], "score": [...]}, 0..1, at an IoU of 0.5.
        score_curve: the same of all classes together.
        samples: validation images; some are shown, all are searched for missed objects and false positives.
        threshold: minimum score of a detection to draw.
        run_id: identity of the run; `check_report` refuses to replace the report of another one.
    """

    title: str
    class_names: ClassNames
    started: str = ""
    command: str = ""
    seconds: Optional[float] = None
    random_weights: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    scores: Optional[Mapping[str, Any]] = None
    curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    score_curve: Optional[Mapping[str, Sequence[float]]] = None
    data: Sequence[SubsetSummary] = ()
    samples: Sequence[Sample] = ()
    best_epoch: Optional[int] = None
    threshold: float = 0.3
    notes: Sequence[str] = ()
    run_id: str = ""


def summarise(name: str, labels: Labels) -> SubsetSummary:
    """Return the statistics of `labels`; `name` is the split ("train" or "validation")."""
    sizes = Counter(record.size_wh for record in labels.records if record.size_wh is not None)
    relative = _relative_sizes(labels.records)
    return SubsetSummary(
        name=name,
        images=len(labels),
        background_images=sum(record.is_background for record in labels.records),
        boxes_per_class=tuple(int(count) for count in labels.boxes_per_class()),
        relative_sizes=tuple(int(count) for count in np.histogram(relative, RELATIVE_SIZE_EDGES)[0]),
        size_deciles=tuple(np.percentile(relative, range(0, 101, 10)).tolist()) if len(relative) else (),
        image_sizes=dict(sizes.most_common()),
        skipped=_reasons(labels.skipped),
        repaired=_reasons(labels.repaired),
    )


def _relative_sizes(records: Sequence[LabeledImage]) -> np.ndarray:
    """Return the square roots (N,) of box area over image area, without images of unknown size."""
    sizes = [np.sqrt(areas(r.boxes) / (r.size_wh[0] * r.size_wh[1])) for r in records if r.size_wh is not None]
    return np.concatenate(sizes) if sizes else np.zeros(0)


def _reasons(lines: Sequence[LabelIssue]) -> Tuple[Reason, ...]:
    """Group the lines by reason, the most frequent first."""
    locations: Dict[str, list] = {}
    for line in lines:
        locations.setdefault(line.reason, []).append(f"{line.where} ({line.detail})" if line.detail else line.where)
    ordered = sorted(locations.items(), key=lambda item: -len(item[1]))
    return tuple(Reason(text, len(group), tuple(group[:_LOCATIONS_SHOWN])) for text, group in ordered)
