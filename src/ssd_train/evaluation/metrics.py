"""Compute running means, and mean average precision by the VOC and COCO rules.

The rules are VOC 2007 (11 points), VOC 2010 (area) and COCO (101 points, 10 IoU thresholds). IoU is computed without
the VOC kit's "+ 1" pixel. COCO figures equal those of pycocotools (area "all", at most 100 detections per image and
class), including crowds; VOC figures equal those of GluonCV's metric, including difficult objects.
"""

from __future__ import annotations

import math
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import ConfigError, DataError, TrainingDiverged
from ssd_train.evaluation.matching import (
    GroupedBoxes,
    IouPairs,
    ignored_coco,
    iou_pairs,
    match_coco,
    match_voc_ignoring,
    paired_coverage,
    rank_within_group,
)
from ssd_train.evaluation.results import BestF1, ClassScores, Curve, Scores

# the expression of pycocotools, so that comparisons with a recall agree: its 0.70 is 0.7000000000000001
COCO_RECALLS = np.linspace(0.0, 1.0, 101)


def precision_envelope(ranks: np.ndarray) -> np.ndarray:
    """Return the best precision (H,) at the recall of each hit or above it."""
    precision = np.arange(1, len(ranks) + 1) / ranks
    return np.maximum.accumulate(precision[::-1])[::-1]


def voc07_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Return the mean of the envelope at recalls 0, 0.1 ... 1 (VOC 2007)."""
    # hits needed for a recall of i / 10, in integers, because 0.1 * 3 is above 3 / 10 and would lose a point
    hits_needed = -(-np.arange(11) * boxes // 10)
    return _mean_at(precision_envelope(ranks), np.maximum(hits_needed, 1) - 1)


def voc_area_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Return the area under the envelope (VOC since 2010)."""
    return float(precision_envelope(ranks).sum() / boxes)


def coco_average_precision(ranks: np.ndarray, boxes: int) -> float:
    """Return the mean of the envelope at recalls 0, 0.01 ... 1 (COCO)."""
    recall = np.arange(1, len(ranks) + 1) / boxes
    return _mean_at(precision_envelope(ranks), np.searchsorted(recall, COCO_RECALLS, side="left"))


def _mean_at(envelope: np.ndarray, points: np.ndarray) -> float:
    """Return the mean of the envelope at `points`; unreached recalls count as 0."""
    return float(envelope[points[points < len(envelope)]].sum() / len(points))


def best_f1(scores: np.ndarray, hit_scores: np.ndarray, boxes: int) -> Optional[BestF1]:
    """Return the score threshold with the best F1; None without labelled boxes.

    A threshold keeps all detections of a score or none.

    Args:
        scores: scores of all detections (N,).
        hit_scores: scores of the hits (H,).
        boxes: number of labelled boxes.
    """
    if not boxes:
        return None
    if not len(hit_scores):
        return BestF1(f1=0.0, recall=0.0, precision=None, threshold=None)
    scores, hit_scores = np.sort(scores), np.sort(hit_scores)
    shown = len(scores) - np.searchsorted(scores, hit_scores, side="left")
    hits = len(hit_scores) - np.searchsorted(hit_scores, hit_scores, side="left")
    f1 = 2 * hits / (shown + boxes)
    best = int(np.argmax(f1))
    return BestF1(
        f1=float(f1[best]),
        recall=float(hits[best] / boxes),
        precision=float(hits[best] / shown[best]),
        threshold=float(hit_scores[best]),
    )


MAX_DETECTIONS = 100  # per image and class, pycocotools' maxDets
COCO_IOUS = np.linspace(0.5, 0.95, 10)


class AverageMeter:
    """Mean of values that arrive as sums, e.g. a loss summed over positive anchors."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0.0

    def update(self, total: float, count: float) -> None:
        """Add the sum of `count` values.

        Raises:
            TrainingDiverged: `total` is NaN or infinite.
        """
        if not math.isfinite(total):
            raise TrainingDiverged(f"running mean: found a sum of {total} over {count} values, expected a finite one")
        self.total += total
        self.count += count

    @property
    def value(self) -> Optional[float]:
        """Return the mean of all values; None without values."""
        return self.total / self.count if self.count else None


class _Boxes(NamedTuple):
    """Boxes of all images.

    Attributes:
        boxes: float32 (N, 4) xyxy in pixels.
        images: index of the image (N,).
        class_ids: class id (N,).
        scores: score (N,); 1 for labels.
    """

    boxes: np.ndarray
    images: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray

    def take(self, index: np.ndarray) -> "_Boxes":
        return _Boxes(*(column[index] for column in self))

    def by_class_and_score(self, num_classes: int) -> "_Boxes":
        """Sort stably by rising class, then falling score, as matching requires."""
        order = np.argsort(-self.scores, kind="stable")
        small = self.class_ids[order].astype(np.min_scalar_type(num_classes))  # sorted by radix in NumPy
        return self.take(order[np.argsort(small, kind="stable")])

    def grouped(self, num_classes: int) -> GroupedBoxes:
        """Return the boxes with a group number per image and class."""
        return GroupedBoxes(self.boxes, self.images * num_classes + self.class_ids)

    def class_limits(self, num_classes: int) -> np.ndarray:
        """Return the start index (num_classes + 1,) of each class in sorted boxes."""
        return np.searchsorted(self.class_ids, np.arange(num_classes + 1))


class MeanAveragePrecision:
    """Accumulator of detections and labels that `compute` scores.

    The scores do not depend on the order of the updates: equal scores are ranked by image name.
    """

    def __init__(self, class_names: ClassNames) -> None:
        self.class_names = class_names
        self._images: List[Tuple[str, Detections, LabeledImage]] = []

    def __len__(self) -> int:
        return len(self._images)

    def update(self, detections: Detections, truth: LabeledImage) -> None:
        """Add one image.

        Raises:
            DataError: the detections and the labels state different image sizes.
        """
        if truth.size_wh is not None and tuple(truth.size_wh) != tuple(detections.size_wh):
            raise DataError(
                f"{truth.location}: found detections in an image of {detections.size_wh}, "
                f"expected {truth.size_wh} as in the labels"
            )
        self._images.append((truth.name, detections, truth))

    def compute(self, iou_threshold: float = 0.5) -> Scores:
        """Return all scores.

        Args:
            iou_threshold: of the VOC scores, above 0 and at most 1.

        Raises:
            ConfigError: `iou_threshold` is out of range.
            DataError: there are no images, or a class id is out of range.
        """
        if not 0 < iou_threshold <= 1:
            raise ConfigError(f"overlap_threshold: found {iou_threshold}, expected above 0 and at most 1")
        if not self._images:
            raise DataError("evaluation: found no image, expected at least one")
        size = len(self.class_names)
        truth, detections = self._gather()
        least = min(iou_threshold, COCO_IOUS[0])
        pairs = iou_pairs(detections.grouped(size), truth.grouped(size), least)
        regions, crowds = self._gather_ignored()
        difficult_pairs = iou_pairs(detections.grouped(size), regions.take(~crowds).grouped(size), least)
        crowd_pairs = iou_pairs(detections.grouped(size), regions.take(crowds).grouped(size), least, paired_coverage)
        voc_hits, unscored = match_voc_ignoring(pairs, difficult_pairs, crowd_pairs, iou_threshold)
        voc_ranks = _ranks(voc_hits, unscored, detections.class_limits(size))

        kept = _best_of_each_group(detections, size)
        considered = detections.take(kept)
        pairs, difficult_pairs, crowd_pairs = (_renumbered(p, kept) for p in (pairs, difficult_pairs, crowd_pairs))
        limits = considered.class_limits(size)
        hits = [matches.detection for matches in match_coco(pairs, COCO_IOUS)]
        ignored = ignored_coco(difficult_pairs, crowd_pairs, hits, COCO_IOUS)
        coco_ranks = [_ranks(*at_iou, limits) for at_iou in zip(hits, ignored)]
        scored = considered.take(np.delete(np.arange(len(considered.scores)), ignored[0]))
        scored_hits = _without(hits[0], ignored[0])

        is_background = np.array([record.is_background for record in self._records()])
        return Scores(
            per_class=self._class_scores(truth, detections, voc_ranks, coco_ranks),
            best_f1=best_f1(scored.scores, scored.scores[scored_hits], len(truth.boxes)),
            images=len(self),
            background_images=int(is_background.sum()),
            background_scores=detections.scores[is_background[detections.images]],
            overlap_threshold=iou_threshold,
            curves=self._curves(scored, scored_hits, truth),
        )

    def _in_order(self) -> List[Tuple[str, Detections, LabeledImage]]:
        """Return the images sorted by name, which defines their indexes."""
        return sorted(self._images, key=lambda image: image[0])

    def _records(self) -> List[LabeledImage]:
        """Return the labels of the images, sorted by image name."""
        return [record for _, _, record in self._in_order()]

    def _gather_ignored(self) -> Tuple[_Boxes, np.ndarray]:
        """Return the ignored regions of all named classes, and a mask of the crowds."""
        regions = [record.ignored for record in self._records()]
        joined = _joined([(r.boxes, r.class_ids, np.ones(len(r), np.float32)) for r in regions])
        named = (joined.class_ids >= 0) & (joined.class_ids < len(self.class_names))
        return joined.take(named), np.concatenate([r.crowds for r in regions])[named]

    def _gather(self) -> Tuple[_Boxes, _Boxes]:
        """Return the labels and the sorted detections of all images.

        Raises:
            DataError: a class id is out of range.
        """
        images = self._in_order()
        truth = _joined([(r.boxes, r.class_ids, np.ones(len(r.boxes), np.float32)) for _, _, r in images])
        detections = _joined([(d.boxes, d.class_ids, d.scores) for _, d, _ in images])
        for table, what in ((truth, "labels"), (detections, "detections")):
            unknown = (table.class_ids < 0) | (table.class_ids >= len(self.class_names))
            if unknown.any():
                first = int(np.argmax(unknown))
                raise DataError(
                    f"{images[table.images[first]][0]}: found class id {table.class_ids[first]} in the {what}, "
                    f"expected less than {len(self.class_names)}"
                )
        return truth, detections.by_class_and_score(len(self.class_names))

    def _class_scores(
        self, truth: _Boxes, detections: _Boxes, voc: List[np.ndarray], coco: List[List[np.ndarray]]
    ) -> Tuple[ClassScores, ...]:
        size = len(self.class_names)
        labelled = np.bincount(truth.class_ids, minlength=size).tolist()
        detected = np.bincount(detections.class_ids, minlength=size).tolist()
        columns = zip(self.class_names, labelled, detected, voc, zip(*coco))
        return tuple(_scores_of_class(*column) for column in columns)

    def _curves(self, detections: _Boxes, hits: np.ndarray, truth: _Boxes) -> Dict[str, Curve]:
        """Return the curve of each class that has labelled boxes.

        `hits` are indexes of detections.
        """
        limits = detections.class_limits(len(self.class_names))
        labelled = np.bincount(truth.class_ids, minlength=len(self.class_names))
        is_hit = np.zeros(len(detections.scores), dtype=bool)
        is_hit[hits] = True
        curves = {}
        for class_id in np.flatnonzero(labelled):
            part = slice(limits[class_id], limits[class_id + 1])
            true_positives = np.cumsum(is_hit[part])
            precision = true_positives / np.arange(1, len(true_positives) + 1)
            recall = true_positives / labelled[class_id]
            curves[self.class_names[class_id]] = Curve(recall, precision, detections.scores[part])
        return curves


def score_detections(
    predictions: Iterable[Tuple[LabeledImage, Detections]], class_names: ClassNames, iou_threshold: float = 0.5
) -> Scores:
    """Return the scores of images, each with its labels and detections; training and `evaluate` both use this.

    Raises:
        ConfigError, DataError: as `MeanAveragePrecision`.
    """
    metric = MeanAveragePrecision(class_names)
    for record, detections in predictions:
        metric.update(detections, record)
    return metric.compute(iou_threshold)


def _joined(images: Sequence[Tuple[np.ndarray, np.ndarray, np.ndarray]]) -> _Boxes:
    """Concatenate the boxes, class ids and scores of all images."""
    boxes, class_ids, scores = (np.concatenate(column) for column in zip(*images))
    return _Boxes(boxes, np.repeat(np.arange(len(images)), [len(image[0]) for image in images]), class_ids, scores)


def _ranks(hits: np.ndarray, ignored: np.ndarray, limits: np.ndarray) -> List[np.ndarray]:
    """Return the 1-based ranks of each class's hits among its detections.

    Ignored detections are not counted. `hits` and `ignored` are sorted indexes of detections.
    """
    hits, limits = _without(hits, ignored), _without(limits, ignored)
    parts = np.split(hits, np.searchsorted(hits, limits[1:-1]))
    return [part - start + 1 for part, start in zip(parts, limits)]


def _without(numbers: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return indexes of detections after those in `ignored` (sorted) are removed."""
    return numbers - np.searchsorted(ignored, numbers) if len(ignored) else numbers


def _best_of_each_group(detections: _Boxes, num_classes: int) -> np.ndarray:
    """Return the indexes of the first MAX_DETECTIONS per image and class."""
    crowded = np.flatnonzero(np.bincount(detections.images)[detections.images] > MAX_DETECTIONS)
    keep = np.ones(len(detections.scores), dtype=bool)
    keep[crowded] = rank_within_group(detections.take(crowded).grouped(num_classes).groups) < MAX_DETECTIONS
    return np.flatnonzero(keep)


def _renumbered(pairs: IouPairs, kept: np.ndarray) -> IouPairs:
    """Return the pairs of the detections `kept` (sorted), renumbered from 0."""
    number = np.searchsorted(kept, pairs.detection)
    here = np.append(kept, -1)[number] == pairs.detection
    return pairs._replace(detection=number).take(here)


def _scores_of_class(
    name: str, boxes: int, detections: int, voc: np.ndarray, coco: Sequence[np.ndarray]
) -> ClassScores:
    """Return the scores of one class.

    Args:
        name: class name.
        boxes: number of labelled boxes.
        detections: number of detections.
        voc: ranks of the hits by the VOC rule.
        coco: ranks of the hits by the COCO rule at each of COCO_IOUS.
    """
    if not boxes:
        return ClassScores(name, boxes, detections)
    by_iou = [coco_average_precision(ranks, boxes) for ranks in coco]
    return ClassScores(
        name=name,
        boxes=boxes,
        detections=detections,
        coco=float(np.mean(by_iou)),
        ap50=by_iou[0],
        ap75=by_iou[5],
        voc07=voc07_average_precision(voc, boxes),
        voc_area=voc_area_average_precision(voc, boxes),
    )
