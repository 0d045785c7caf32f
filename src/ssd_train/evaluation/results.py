"""Results of an evaluation: scores per class and their means, as JSON and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

FIXED_SCORE = 0.3  # false positives are also counted at this threshold, the default of drawn predictions
# name in reports, of a class -> attribute of ClassScores and of Scores
FIGURES = {"AP": "coco", "AP@0.5": "ap50", "AP@0.75": "ap75", "VOC07": "voc07", "VOC_area": "voc_area"}


class Curve(NamedTuple):
    """Recall, precision and score after each detection of a class, each (N,), at IoU 0.5.

    Detections are in order of descending score.
    """

    recall: np.ndarray
    precision: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class: average precisions in 0..1, None for a class without ground truth boxes."""

    name: str
    boxes: int
    detections: int
    coco: Optional[float] = None
    ap50: Optional[float] = None
    ap75: Optional[float] = None
    voc07: Optional[float] = None
    voc_area: Optional[float] = None

    def to_json(self) -> Dict[str, Any]:
        figures = {name: getattr(self, field) for name, field in FIGURES.items()}
        return {**figures, "boxes": self.boxes, "detections": self.detections}


@dataclass(frozen=True)
class BestF1:
    """The score threshold with the best F1 over all classes at IoU 0.5.

    precision and threshold are None if no detection is a hit.
    """

    f1: float
    recall: float
    precision: Optional[float]
    threshold: Optional[float]


class SizeScores(NamedTuple):
    """COCO AP of the labelled boxes of one size (None without any), and their number."""

    ap: Optional[float]
    boxes: int


@dataclass(frozen=True)
class Details:
    """Results that take longer to compute.

    Attributes:
        intervals: 95 % bootstrap interval (low, high) over images of "mAP" and "mAP@0.5"; None for fewer than two
            images.
        by_size: COCO's "small", "medium" and "large".
        confusion: number of boxes (classes + 1, classes + 1) by labelled class (rows) and detected class (columns), at
            the score of the best F1 and IoU 0.5; last row: false positives, last column: missed boxes.
    """

    intervals: Dict[str, Optional[Tuple[float, float]]]
    by_size: Dict[str, SizeScores]
    confusion: np.ndarray

    def to_json(self) -> Dict[str, Any]:
        return {
            "intervals": {name: None if limits is None else list(limits) for name, limits in self.intervals.items()},
            "by_size": {name: {"AP": scores.ap, "boxes": scores.boxes} for name, scores in self.by_size.items()},
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Scores:
    """Results of MeanAveragePrecision.compute.

    Attributes:
        best_f1: None if there is no ground truth box.
        background_images: number of images without ground truth boxes.
        background_alarms: scores (N,) of all detections in those images.
        overlap_threshold: IoU threshold of the two VOC scores.
        curves: by class name, for the classes with ground truth boxes.
        score_curve: recall and precision of all classes together by score.
        details: None unless they were asked for.
        unanswered_images: number of labeled images without a line in a predictions file; scored as without detections.
        unlabelled_answers: number of lines in a predictions file for images without labels; ignored.
    """

    per_class: Tuple[ClassScores, ...]
    best_f1: Optional[BestF1]
    images: int
    background_images: int
    background_scores: np.ndarray = field(repr=False, compare=False)
    overlap_threshold: float = 0.5
    curves: Dict[str, Curve] = field(default_factory=dict, repr=False, compare=False)
    score_curve: Optional[Curve] = field(default=None, repr=False, compare=False)
    details: Optional[Details] = field(default=None, repr=False, compare=False)
    unanswered_images: int = 0
    unlabelled_answers: int = 0

    @property
    def boxes(self) -> int:
        """Return the number of ground truth boxes."""
        return sum(scores.boxes for scores in self.per_class)

    @property
    def detections(self) -> int:
        """Return the number of detections."""
        return sum(scores.detections for scores in self.per_class)

    @property
    def coco(self) -> Optional[float]:
        """Return COCO mAP: the mean over IoU 0.50, 0.55 ... 0.95 and the classes with ground truth boxes."""
        return self._mean("coco")

    @property
    def ap50(self) -> Optional[float]:
        """Return COCO mAP at IoU 0.5."""
        return self._mean("ap50")

    @property
    def ap75(self) -> Optional[float]:
        """Return COCO mAP at IoU 0.75."""
        return self._mean("ap75")

    @property
    def voc07(self) -> Optional[float]:
        """Return VOC 2007 11-point mAP at `overlap_threshold`."""
        return self._mean("voc07")

    @property
    def voc_area(self) -> Optional[float]:
        """Return VOC 2010 mAP (area under the curve) at `overlap_threshold`."""
        return self._mean("voc_area")

    def false_positives_per_image(self, threshold: float) -> Optional[float]:
        """Return the number of detections per background image with at least this score.

        It is None without background images.
        """
        if not self.background_images:
            return None
        return float(np.count_nonzero(self.background_scores >= threshold) / self.background_images)

    @property
    def false_positives_at_best_f1(self) -> Optional[float]:
        """Return `false_positives` at the threshold of `best_f1`; None without one."""
        if self.best_f1 is None or self.best_f1.threshold is None:
            return None
        return self.false_positives_per_image(self.best_f1.threshold)

    def _mean(self, figure: str) -> Optional[float]:
        values = [getattr(scores, figure) for scores in self.per_class if scores.boxes]
        return float(np.mean(values)) if values else None

    def means(self) -> Dict[str, Optional[float]]:
        """Return the means over the classes, by their names in reports."""
        return {name.replace("AP", "mAP"): self._mean(field) for name, field in FIGURES.items()}

    def to_json(self) -> Dict[str, Any]:
        """Return the scores without curves; unknown values are None."""
        return {
            **self.means(),
            **({} if self.details is None else self.details.to_json()),
            "overlap_threshold": self.overlap_threshold,
            "per_class": {scores.name: scores.to_json() for scores in self.per_class},
            "best_f1": None if self.best_f1 is None else dict(vars(self.best_f1)),
            "false_positives_per_background_image": self.false_positives_at_best_f1,
            f"false_positives_per_background_image@{FIXED_SCORE}": self.false_positives_per_image(FIXED_SCORE),
            "images": self.images,
            "background_images": self.background_images,
            "boxes": self.boxes,
            "detections": self.detections,
            "unanswered_images": self.unanswered_images,
            "unlabelled_answers": self.unlabelled_answers,
        }

    def lines(self) -> List[str]:
        """Return the scores as text lines; the means as ``mAP@0.5 0.812``."""
        lines = [f"{name} {_text(value)}" for name, value in self.means().items()]
        if self.details is not None:
            intervals = [f"{name} {_range(limits)}" for name, limits in self.details.intervals.items()]
            lines.append(f"95 % interval over images: {', '.join(intervals)}")
        lines += [_class_line(scores) for scores in self.per_class]
        if self.details is not None:
            sizes = [f"{size} {_text(one.ap)} (boxes {one.boxes})" for size, one in self.details.by_size.items()]
            lines.append(f"AP by box size: {', '.join(sizes)}")
        if self.best_f1 is not None:
            best = self.best_f1
            lines.append(
                f"best F1 {_text(best.f1)} at score {_text(best.threshold)}: "
                f"precision {_text(best.precision)}, recall {_text(best.recall)}"
            )
        lines.append(
            f"false positives per image without objects: {_text(self.false_positives_at_best_f1)} at the best F1, "
            f"{_text(self.false_positives_per_image(FIXED_SCORE))} at score {FIXED_SCORE}"
        )
        lines.append(
            f"images {self.images} ({self.background_images} without objects), "
            f"boxes {self.boxes}, candidates of any score {self.detections}"
        )
        if self.unanswered_images or self.unlabelled_answers:
            lines.append(
                f"images without predictions {self.unanswered_images} (scored as nothing detected), "
                f"predictions without a label {self.unlabelled_answers} (left out)"
            )
        return lines


def _class_line(scores: ClassScores) -> str:
    figures = scores.to_json()
    counts = f"boxes {figures.pop('boxes')}, candidates {figures.pop('detections')}"
    return f"class {scores.name}: {', '.join(f'{name} {_text(value)}' for name, value in figures.items())}, {counts}"


def _text(value: Optional[float]) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _range(interval: Optional[Tuple[float, float]]) -> str:
    return "n/a" if interval is None else f"{_text(interval[0])} to {_text(interval[1])}"
