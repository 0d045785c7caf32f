"""Match detections to labelled boxes by the VOC and COCO rules.

All images and classes are processed at once. Detections are numbered so that, within a class, a lower number has a
higher score. The *group* of a box is the number of its image and class; only boxes of one group can match.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the overlaps, so that they fit the CPU cache


Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]


class IouPairs(NamedTuple):
    """Overlapping boxes.

    Attributes:
        detection: index of the detection, int64 (P,).
        truth: index of the labelled box, int64 (P,).
        iou: their IoU, float64 (P,).
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def take(self, index: np.ndarray) -> "IouPairs":
        """Return the pairs at `index` (indexes or a mask)."""
        return IouPairs(self.detection[index], self.truth[index], self.iou[index])


class GroupedBoxes(NamedTuple):
    """Boxes with their groups.

    Attributes:
        boxes: float32 (N, 4) xyxy in pixels.
        groups: group of each box, int64 (N,).
    """

    boxes: np.ndarray
    groups: np.ndarray


class ImageBoxes(NamedTuple):
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

    def take(self, index: np.ndarray) -> "ImageBoxes":
        return ImageBoxes(*(column[index] for column in self))

    def by_class_and_score(self, num_classes: int) -> "ImageBoxes":
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


def joined(images: Sequence[Tuple[np.ndarray, np.ndarray, np.ndarray]]) -> ImageBoxes:
    """Concatenate the boxes, class ids and scores of all images."""
    boxes, class_ids, scores = (np.concatenate(column) for column in zip(*images))
    return ImageBoxes(boxes, np.repeat(np.arange(len(images)), [len(image[0]) for image in images]), class_ids, scores)


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU float64 (N,) of corresponding rows of `a` and `b`, both (N, 4).

    Without the VOC kit's "+ 1" pixel; 0 if the union is empty.
    """
    intersection, area_a, area_b = _paired_areas(a, b)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def paired_coverage(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the fraction float64 (N,) of each box in `a` that lies in that of `b`.

    Both are (N, 4). This is pycocotools' overlap with a crowd.
    """
    intersection, area, _ = _paired_areas(a, b)
    return np.divide(intersection, area, out=np.zeros_like(area), where=area > 0)


def _paired_areas(a: np.ndarray, b: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the areas of the intersections, of `a` and of `b`, each (N,)."""
    ax1, ay1, ax2, ay2 = a.T.astype(np.float64)
    bx1, by1, bx2, by2 = b.T.astype(np.float64)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    return width * height, (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)


def rank_within_group(groups: np.ndarray) -> np.ndarray:
    """Return the number of earlier elements (N,) in the group of each element."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = _offsets(np.diff(np.append(_run_starts(ordered), len(ordered))))
    return rank


def iou_pairs(detections: GroupedBoxes, truth: GroupedBoxes, min_iou: float, overlap: Overlap = paired_iou) -> IouPairs:
    """Return the pairs within a group that overlap by at least `min_iou`.

    Pairs without overlap are excluded. They are sorted by detection, then by labelled box.
    """
    chunks = [
        pairs._replace(iou=overlap(detections.boxes[pairs.detection], truth.boxes[pairs.truth]))
        for pairs in _candidates(detections.groups, truth.groups)
    ]
    kept = [pairs.take((pairs.iou >= min_iou) & (pairs.iou > 0)) for pairs in chunks]
    empty = IouPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return IouPairs(*(np.concatenate(columns) for columns in zip(empty, *kept)))


def _candidates(detection_groups: np.ndarray, truth_groups: np.ndarray) -> "Iterator[IouPairs]":
    """Yield all pairs within a group in chunks of bounded size, without their IoU."""
    if not len(truth_groups):
        return
    by_group = np.argsort(truth_groups, kind="stable")
    groups, first, sizes = np.unique(truth_groups[by_group], return_index=True, return_counts=True)
    slot = np.minimum(np.searchsorted(groups, detection_groups), len(groups) - 1)
    partnered = np.flatnonzero(groups[slot] == detection_groups)
    slot = slot[partnered]
    total = np.cumsum(sizes[slot])
    cuts = np.searchsorted(total, np.arange(PAIRS_AT_ONCE, total[-1] if len(total) else 0, PAIRS_AT_ONCE))
    for part, slots in zip(np.split(partnered, cuts), np.split(slot, cuts)):
        count = sizes[slots]
        truth = by_group[np.repeat(first[slots], count) + _offsets(count)]
        yield IouPairs(np.repeat(part, count), truth, np.zeros(0))


def _offsets(counts: np.ndarray) -> np.ndarray:
    """Return 0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, and so on."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def match_voc(pairs: IouPairs, min_iou: float) -> np.ndarray:
    """Return the sorted indexes of the hits by the rule of the VOC development kit.

    Each detection is assigned to the labelled box with the largest IoU (the first if equal), even if that box is taken.
    Of the detections assigned to a box with at least `min_iou`, the one with the best score is a hit, the others are
    duplicates.
    """
    pairs = _best_of_each(pairs.take(pairs.iou >= min_iou))
    _, first = np.unique(pairs.truth, return_index=True)
    return np.sort(pairs.detection[first])


def match_voc_ignoring(
    pairs: IouPairs, difficult: IouPairs, crowds: IouPairs, min_iou: float
) -> Tuple[np.ndarray, np.ndarray]:
    """Match as `match_voc` does, with ignored regions as in GluonCV's VOCMApMetric.

    A detection is ignored if it overlaps a difficult box most, or if it is no hit and lies in a crowd.

    Args:
        pairs: pairs with labelled boxes.
        difficult: pairs with difficult boxes.
        crowds: pairs with crowds; `iou` is the fraction of the detection that lies in the crowd.
        min_iou: threshold of all overlaps.

    Returns:
        Sorted indexes of the hits and of the ignored detections.
    """
    best = _best_of_each(difficult.take(difficult.iou >= min_iou))
    mine = _best_of_each(pairs.take(np.isin(pairs.detection, best.detection)))
    real = dict(zip(mine.detection.tolist(), mine.iou.tolist()))
    nearer = [iou > real.get(detection, 0.0) for detection, iou in zip(best.detection.tolist(), best.iou.tolist())]
    ignored = best.detection[np.array(nearer, bool)]
    hits = match_voc(pairs.take(~np.isin(pairs.detection, ignored)), min_iou)
    crowded = crowds.detection[crowds.iou >= min_iou]
    return hits, np.union1d(ignored, np.setdiff1d(crowded, hits))


def _best_of_each(pairs: IouPairs) -> IouPairs:
    """Return the pair with the largest overlap per detection, the first if equal."""
    pairs = pairs.take(np.lexsort((pairs.truth, -pairs.iou, pairs.detection)))
    return pairs.take(_run_starts(pairs.detection))


def match_coco(pairs: IouPairs, thresholds: "Sequence[float] | np.ndarray") -> List[IouPairs]:
    """Return the matched pairs by the rule of pycocotools, for each threshold.

    In order of falling scores, each detection takes the free labelled box with the largest IoU (the last if equal) that
    reaches the threshold. Thresholds are rising; pairs are sorted by detection.
    """
    return [_stable_matching(at_least) for at_least in _by_preference(pairs, thresholds)]


def ignored_coco(
    difficult: IouPairs, crowds: IouPairs, hits: Sequence[np.ndarray], thresholds: "Sequence[float] | np.ndarray"
) -> List[np.ndarray]:
    """Return the indexes of ignored detections by the rule of pycocotools.

    A detection without a hit is ignored if it takes a difficult box, which only one detection can, or lies in a crowd,
    which any number can.

    Args:
        difficult: pairs with difficult boxes.
        crowds: pairs with crowds; `iou` is the fraction of the detection that lies in the crowd.
        hits: indexes of the hits at each threshold.
        thresholds: IoU thresholds, rising.

    Returns:
        Sorted indexes for each threshold.
    """
    # a separate crowd for each pair, so that any number of detections can take a crowd
    apart = (difficult.truth.max() + 1 if len(difficult.truth) else 0) + np.arange(len(crowds.truth))
    pairs = IouPairs(*(np.concatenate(columns) for columns in zip(difficult, crowds._replace(truth=apart))))
    return [
        _stable_matching(at_least.take(~np.isin(at_least.detection, taken))).detection
        for at_least, taken in zip(_by_preference(pairs, thresholds), hits)
    ]


def match_image(
    detections: GroupedBoxes, truth: GroupedBoxes, ignored: GroupedBoxes, crowds: np.ndarray, min_iou: float
) -> Tuple[IouPairs, np.ndarray]:
    """Match the detections of one image by the rule of pycocotools at one IoU, as the scores do.

    Args:
        detections: by falling score; the groups are class ids.
        truth: labelled boxes.
        ignored: difficult boxes and crowds.
        crowds: which of `ignored` are crowds, bool (K,).
        min_iou: threshold of all overlaps.

    Returns:
        The matched pairs and the sorted indexes of the ignored detections.
    """
    (matches,) = match_coco(iou_pairs(detections, truth, min_iou), [min_iou])
    difficult_boxes, crowd_boxes = (
        GroupedBoxes(ignored.boxes[mask], ignored.groups[mask]) for mask in (~crowds, crowds)
    )
    difficult = iou_pairs(detections, difficult_boxes, min_iou)
    crowded = iou_pairs(detections, crowd_boxes, min_iou, paired_coverage)
    return matches, ignored_coco(difficult, crowded, [matches.detection], [min_iou])[0]


def _by_preference(pairs: IouPairs, thresholds: "Sequence[float] | np.ndarray") -> Iterator[IouPairs]:
    """Yield, for each threshold (rising), the pairs that reach it.

    They are sorted by detection, then by falling overlap, the last labelled box first if equal.
    """
    pairs = pairs.take(np.lexsort((-pairs.truth, -pairs.iou, pairs.detection)))
    for threshold in thresholds:
        pairs = pairs.take(pairs.iou >= threshold)
        yield pairs


def _stable_matching(pairs: IouPairs) -> IouPairs:
    """Return the matched pairs by rising detection.

    `pairs` has each detection's pairs in order of preference. Choosing one by one by falling score is the stable
    matching of detections that prefer larger overlaps and boxes that all prefer higher scores. So deferred acceptance
    (Gale and Shapley, 1962) finds it for all images together in a few rounds: each detection proposes to its next
    choice, and a box keeps the best proposal.
    """
    choice = _run_starts(pairs.detection)
    end = np.append(choice[1:], len(pairs.detection))
    nobody = len(choice)
    owner = np.full(pairs.truth.max() + 1 if nobody else 0, nobody)
    waiting = np.arange(nobody)
    while len(waiting):
        wanted = pairs.truth[choice[waiting]]
        previous = owner[wanted]
        better = waiting < previous
        # written from worst to best score, because the last write wins
        owner[wanted[better][::-1]] = waiting[better][::-1]
        refused = waiting[owner[wanted] != waiting]
        displaced = np.unique(previous[better & (previous < nobody)])
        waiting = np.sort(np.concatenate([refused, displaced]))
        choice[waiting] += 1
        waiting = waiting[choice[waiting] < end[waiting]]
    return pairs.take(choice[np.sort(owner[owner < nobody])])


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Return the start indexes of runs of equal values."""
    changes = np.ones(len(values), dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    return np.flatnonzero(changes)
