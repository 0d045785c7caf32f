"""Compute mean average precision by the VOC and COCO rules.

The rules are VOC 2007 (11 points), VOC 2010 (area) and COCO (101 points, 10 IoU thresholds). IoU is computed without
the VOC kit's "+ 1" pixel. COCO figures equal those of pycocotools (area "all", at most 100 detections per image and
class), including crowds; VOC figures equal those of GluonCV's metric, including difficult objects. Confidence intervals
of COCO mAP are bootstrapped: images are drawn with replacement.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.boxes import areas
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import ConfigError, DataError
from ssd_train.evaluation.matching import (
    GroupedBoxes,
    ImageBoxes,
    IouPairs,
    ignored_coco,
    iou_pairs,
    joined,
    match_coco,
    match_voc_ignoring,
    paired_coverage,
    rank_within_group,
)
from ssd_train.evaluation.results import FIXED_SCORE, BestF1, ClassScores, Curve, Details, Scores, SizeScores

RESAMPLES, SEED = 300, 0
LEVEL = 0.95
_ELEMENTS_AT_ONCE = 1 << 22  # bounds the memory of the cumulative counts

Interval = Tuple[float, float]


class ClassMatches(NamedTuple):
    """The detections of one class by falling score, with their matches at each IoU threshold.

    Attributes:
        images: index of each detection's image (D,).
        hits: sorted indexes of the hits, one array for each threshold.
        ignored: sorted indexes of the ignored detections, one array for each threshold.
        boxes: number of labelled boxes in each image (I,).
    """

    images: np.ndarray
    hits: Sequence[np.ndarray]
    ignored: Sequence[np.ndarray]
    boxes: np.ndarray


def map_intervals(classes: Sequence[ClassMatches], recalls: np.ndarray) -> Dict[str, Optional[Interval]]:
    """Return the 95 % intervals of "mAP" and "mAP@0.5"; None for fewer than two images or without boxes.

    They are basic bootstrap intervals: the mAP of a few images is too high, that of a resample again by as much, and
    percentile intervals, which do not correct this, hold the true value far less often.
    """
    images = len(classes[0].boxes) if classes else 0
    if images < 2 or not any(one.boxes.any() for one in classes):
        return {"mAP": None, "mAP@0.5": None}
    drawn = np.random.RandomState(SEED).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    weights = np.concatenate([np.ones((1, images), drawn.dtype), drawn])  # the first row is the data set itself
    precision = resampled_precision(classes, weights, recalls)
    labelled = ~np.isnan(precision[:, :, 0])  # (B, classes)
    usable = labelled.any(axis=1)  # a resample may lack labelled boxes
    means = np.nansum(precision[usable], axis=1) / labelled[usable].sum(axis=1)[:, None]  # (B, IoUs)
    return {"mAP": _interval(means.mean(axis=1)), "mAP@0.5": _interval(means[:, 0])}


def _interval(values: np.ndarray) -> Interval:
    """Return the basic bootstrap interval of values[0] by those of its resamples, within 0..1."""
    value = values[0]
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return max(0.0, min(value, 2 * value - high)), min(1.0, max(value, 2 * value - low))


def resampled_precision(classes: Sequence[ClassMatches], weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the average precision (B, classes, IoUs) of each resample; NaN for a class without labelled boxes.

    It equals that of a data set in which image i occurs weights[b, i] times.

    Args:
        classes: detections and labels by class.
        weights: number of times (B, I) that each resample contains each image.
        recalls: recalls at which the precision is averaged.
    """
    largest = max((len(one.images) for one in classes), default=0)
    rows = max(1, _ELEMENTS_AT_ONCE // max(largest, 1))
    parts = [weights[start : start + rows] for start in range(0, len(weights), rows)]
    return np.concatenate([np.stack([_class_precision(one, part, recalls) for one in classes], 1) for part in parts])


def _class_precision(matches: ClassMatches, weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the average precision (B, IoUs)."""
    boxes = weights @ matches.boxes  # (B,)
    copies = weights[:, matches.images]  # (B, D)
    shown = np.cumsum(copies, axis=1)
    needed = _hits_needed(boxes, recalls)
    by_iou: List[np.ndarray] = []
    for hits, ignored in zip(matches.hits, matches.ignored):
        counted = shown[:, hits]
        if len(ignored):
            left_out = np.cumsum(copies[:, ignored], axis=1)
            counted = counted - np.pad(left_out, ((0, 0), (1, 0)))[:, np.searchsorted(ignored, hits)]
        by_iou.append(_mean_precision(np.cumsum(copies[:, hits], axis=1), counted, needed))
    precision = np.stack(by_iou, axis=1)
    precision[boxes == 0] = np.nan
    return precision


def _hits_needed(boxes: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the number of hits (B, R) from which each recall is reached, at least 1."""
    counts, inverse = np.unique(boxes, return_inverse=True)
    # the comparison of coco_average_precision, so that rounding is the same
    needed = [np.searchsorted(np.arange(1, n + 1) / max(n, 1), recalls, side="left") + 1 for n in counts]
    return np.stack(needed)[inverse.ravel()]


def _mean_precision(hits: np.ndarray, shown: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Return the mean (B,) of the precision envelope at each recall.

    Copies of a hit follow each other, and precision rises within them: the last one decides.

    Args:
        hits: cumulative number of hits (B, H).
        shown: cumulative number of counted detections at each hit (B, H).
        needed: number of hits (B, R) from which each recall is reached.
    """
    envelope = np.maximum.accumulate((hits / np.maximum(shown, 1))[:, ::-1], axis=1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))  # the last value, 0, is for recalls that are not reached
    length = hits.shape[1]
    rows = np.arange(len(hits))[:, None]
    # all resamples in one search: those of row b lie between b * stride and (b + 1) * stride
    stride = int(max(hits.max(initial=0), needed.max(initial=0))) + 1
    position = np.searchsorted((hits + rows * stride).ravel(), (needed + rows * stride).ravel(), side="left")
    position = np.minimum(position.reshape(needed.shape) - rows * length, length)
    return np.take_along_axis(envelope, position, axis=1).mean(axis=1)


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
# limits of a box's area in square pixels of the image, inclusive, as in pycocotools
AREA_RANGES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}


def score_curve(scores: np.ndarray, hit_scores: np.ndarray, boxes: int) -> Curve:
    """Return recall and precision of all classes together at each distinct score, falling; empty without boxes.

    Args:
        scores: scores of all detections (N,).
        hit_scores: scores of the hits (H,).
        boxes: number of labelled boxes.
    """
    distinct = np.unique(scores) if boxes else np.zeros(0)
    shown = len(scores) - np.searchsorted(np.sort(scores), distinct, side="left")
    hits = len(hit_scores) - np.searchsorted(np.sort(hit_scores), distinct, side="left")
    return Curve((hits / max(boxes, 1))[::-1], (hits / np.maximum(shown, 1))[::-1], distinct[::-1])


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

    def compute(self, iou_threshold: float = 0.5, detailed: bool = False) -> Scores:
        """Return all scores.

        Args:
            iou_threshold: of the VOC scores, above 0 and at most 1.
            detailed: add confidence intervals, AP by box size and the confusion matrix, which take longer.

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
        matches = match_coco(pairs, COCO_IOUS)
        hits = [at_iou.detection for at_iou in matches]
        ignored = ignored_coco(difficult_pairs, crowd_pairs, hits, COCO_IOUS)
        coco_ranks = [_ranks(*at_iou, limits) for at_iou in zip(hits, ignored)]
        scored = considered.take(np.delete(np.arange(len(considered.scores)), ignored[0]))
        scored_hits = _without(hits[0], ignored[0])

        best = best_f1(scored.scores, scored.scores[scored_hits], len(truth.boxes))
        details = None
        if detailed:
            counted = np.setdiff1d(np.flatnonzero(considered.scores >= _chosen_score(best)), ignored[0])
            details = Details(
                intervals=map_intervals(self._class_matches(considered, truth, hits, ignored), COCO_RECALLS),
                by_size=_scores_by_size(truth, considered, pairs, difficult_pairs, crowd_pairs, size),
                confusion=_confusion(truth, considered, matches[0], counted, size),
            )

        is_background = np.array([record.is_background for record in self._records()])
        return Scores(
            per_class=self._class_scores(truth, detections, voc_ranks, coco_ranks),
            best_f1=best,
            images=len(self),
            background_images=int(is_background.sum()),
            background_scores=detections.scores[is_background[detections.images]],
            overlap_threshold=iou_threshold,
            curves=self._curves(scored, scored_hits, truth),
            score_curve=score_curve(scored.scores, scored.scores[scored_hits], len(truth.boxes)),
            details=details,
        )

    def _in_order(self) -> List[Tuple[str, Detections, LabeledImage]]:
        """Return the images sorted by name, which defines their indexes."""
        return sorted(self._images, key=lambda image: image[0])

    def _records(self) -> List[LabeledImage]:
        """Return the labels of the images, sorted by image name."""
        return [record for _, _, record in self._in_order()]

    def _gather_ignored(self) -> Tuple[ImageBoxes, np.ndarray]:
        """Return the ignored regions of all named classes, and a mask of the crowds."""
        regions = [record.ignored for record in self._records()]
        everything = joined([(r.boxes, r.class_ids, np.ones(len(r), np.float32)) for r in regions])
        named = (everything.class_ids >= 0) & (everything.class_ids < len(self.class_names))
        return everything.take(named), np.concatenate([r.crowds for r in regions])[named]

    def _gather(self) -> Tuple[ImageBoxes, ImageBoxes]:
        """Return the labels and the sorted detections of all images.

        Raises:
            DataError: a class id is out of range.
        """
        images = self._in_order()
        truth = joined([(r.boxes, r.class_ids, np.ones(len(r.boxes), np.float32)) for _, _, r in images])
        detections = joined([(d.boxes, d.class_ids, d.scores) for _, d, _ in images])
        for table, what in ((truth, "labels"), (detections, "detections")):
            unknown = (table.class_ids < 0) | (table.class_ids >= len(self.class_names))
            if unknown.any():
                first = int(np.argmax(unknown))
                raise DataError(
                    f"{images[table.images[first]][0]}: found class id {table.class_ids[first]} in the {what}, "
                    f"expected less than {len(self.class_names)}"
                )
        return truth, detections.by_class_and_score(len(self.class_names))

    def _class_matches(
        self, detections: ImageBoxes, truth: ImageBoxes, hits: Sequence[np.ndarray], ignored: Sequence[np.ndarray]
    ) -> List[ClassMatches]:
        """Return the matches of each class, with indexes among the detections of that class."""
        limits = detections.class_limits(len(self.class_names))
        classes = []
        for class_id, (start, stop) in enumerate(zip(limits, limits[1:])):
            own_hits, own_ignored = (
                [at_iou[(at_iou >= start) & (at_iou < stop)] - start for at_iou in by_iou] for by_iou in (hits, ignored)
            )
            boxes = np.bincount(truth.images[truth.class_ids == class_id], minlength=len(self))
            classes.append(ClassMatches(detections.images[start:stop], own_hits, own_ignored, boxes))
        return classes

    def _class_scores(
        self, truth: ImageBoxes, detections: ImageBoxes, voc: List[np.ndarray], coco: List[List[np.ndarray]]
    ) -> Tuple[ClassScores, ...]:
        size = len(self.class_names)
        labelled = np.bincount(truth.class_ids, minlength=size).tolist()
        detected = np.bincount(detections.class_ids, minlength=size).tolist()
        columns = zip(self.class_names, labelled, detected, voc, zip(*coco))
        return tuple(_scores_of_class(*column) for column in columns)

    def _curves(self, detections: ImageBoxes, hits: np.ndarray, truth: ImageBoxes) -> Dict[str, Curve]:
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
    predictions: Iterable[Tuple[LabeledImage, Detections]],
    class_names: ClassNames,
    iou_threshold: float = 0.5,
    detailed: bool = False,
) -> Scores:
    """Return the scores of images, each with its labels and detections; training and `evaluate` both use this.

    The arguments are those of `MeanAveragePrecision.compute`.

    Raises:
        ConfigError, DataError: as `MeanAveragePrecision`.
    """
    metric = MeanAveragePrecision(class_names)
    for record, detections in predictions:
        metric.update(detections, record)
    return metric.compute(iou_threshold, detailed)


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


def _best_of_each_group(detections: ImageBoxes, num_classes: int) -> np.ndarray:
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


def _chosen_score(best: Optional[BestF1]) -> float:
    """Return the score threshold with the best F1; FIXED_SCORE if there is none."""
    return FIXED_SCORE if best is None or best.threshold is None else best.threshold


def _confusion(
    truth: ImageBoxes, detections: ImageBoxes, matches: IouPairs, counted: np.ndarray, num_classes: int
) -> np.ndarray:
    """Return the counts int64 (classes + 1, classes + 1) of labelled class (rows) by detected class (columns).

    The last row is background that was detected, the last column are labelled boxes that were missed. Detections that
    match a box of their class count there, as for AP. Of the others, in order of falling scores, each takes the free
    box of any class that it overlaps most.

    Args:
        truth: labelled boxes; scores are not used.
        detections: all detections.
        matches: matched pairs of the same class at COCO_IOUS[0].
        counted: sorted indexes of the detections to count.
        num_classes: number of classes.
    """
    matches, detections = _renumbered(matches, counted), detections.take(counted)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    free_truth, free = np.ones(len(truth.boxes), bool), np.ones(len(detections.boxes), bool)
    free_truth[matches.truth] = free[matches.detection] = False
    np.add.at(matrix, (truth.class_ids[matches.truth], detections.class_ids[matches.detection]), 1)

    labelled, rest = np.flatnonzero(free_truth), np.flatnonzero(free)
    rest = rest[np.argsort(-detections.scores[rest], kind="stable")]
    groups = (
        GroupedBoxes(detections.boxes[rest], detections.images[rest]),
        GroupedBoxes(truth.boxes[labelled], truth.images[labelled]),
    )
    (confused,) = match_coco(iou_pairs(*groups, COCO_IOUS[0]), COCO_IOUS[:1])
    confused_truth, confused_detections = labelled[confused.truth], rest[confused.detection]
    np.add.at(matrix, (truth.class_ids[confused_truth], detections.class_ids[confused_detections]), 1)
    missed, false = np.setdiff1d(labelled, confused_truth), np.setdiff1d(rest, confused_detections)
    matrix[:-1, -1] = np.bincount(truth.class_ids[missed], minlength=num_classes)
    matrix[-1, :-1] = np.bincount(detections.class_ids[false], minlength=num_classes)
    return matrix


def _scores_by_size(
    truth: ImageBoxes, detections: ImageBoxes, pairs: IouPairs, difficult: IouPairs, crowds: IouPairs, num_classes: int
) -> Dict[str, SizeScores]:
    """Return COCO AP by the area of the labelled boxes, by the rule of pycocotools.

    Labelled boxes of other sizes are ignored as difficult ones are, and so are detections of other sizes that are no
    hits.
    """
    limits = detections.class_limits(num_classes)
    truth_areas, detection_areas = (areas(table.boxes.astype(np.float64)) for table in (truth, detections))
    # behind the labelled boxes, so that the numbers differ
    difficult = difficult._replace(truth=difficult.truth + len(truth.boxes))
    by_size = {}
    for name, (low, high) in AREA_RANGES.items():
        inside = (truth_areas >= low) & (truth_areas <= high)
        fits = inside[pairs.truth]
        outside = np.flatnonzero((detection_areas < low) | (detection_areas > high))
        hits = [matches.detection for matches in match_coco(pairs.take(fits), COCO_IOUS)]
        regions = IouPairs(*(np.concatenate(columns) for columns in zip(difficult, pairs.take(~fits))))
        ignored = ignored_coco(regions, crowds, hits, COCO_IOUS)
        ignored = [np.union1d(some, np.setdiff1d(outside, hit)) for some, hit in zip(ignored, hits)]
        ranks = [_ranks(*at_iou, limits) for at_iou in zip(hits, ignored)]
        boxes = np.bincount(truth.class_ids[inside], minlength=num_classes)
        labelled = np.flatnonzero(boxes)
        precision = [[coco_average_precision(at_iou[c], boxes[c]) for at_iou in ranks] for c in labelled]
        by_size[name] = SizeScores(float(np.mean(precision)) if precision else None, int(boxes.sum()))
    return by_size


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
