"""Which detections hit a labelled box: pairs of the same image and class, and the matching rules of VOC and of COCO.

Everything works on all images and classes at once. Detections are numbered so that, within a class, a lower number is a
higher score; the *group* of a box is the number of its image and class, and only boxes of one group can match.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

PAIRS_AT_ONCE = 1 << 18  # bounds the memory of the overlaps, and keeps them in the processor's cache


Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Pairs(NamedTuple):
    """Overlapping boxes: numbers of the detection and the labelled box, int64 (P,), and their IoU, float64 (P,)."""

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def take(self, index: np.ndarray) -> "Pairs":
        """The pairs that `index` (numbers or a mask) selects, in its order."""
        return Pairs(self.detection[index], self.truth[index], self.iou[index])


class Grouped(NamedTuple):
    """Boxes float32 (N, 4) xyxy pixels and the group int64 (N,) of each."""

    boxes: np.ndarray
    groups: np.ndarray


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union float64 (N,) of each row of `a` (N, 4) and the same row of `b` (N, 4); no "+ 1" pixel."""
    intersection, area_a, area_b = _paired_areas(a, b)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def paired_share(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share float64 (N,) of each of `a` (N, 4) that lies in the same row of `b`: pycocotools' overlap with a crowd."""
    intersection, area, _ = _paired_areas(a, b)
    return np.divide(intersection, area, out=np.zeros_like(area), where=area > 0)


def _paired_areas(a: np.ndarray, b: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The common area of each pair, and those of both boxes."""
    ax1, ay1, ax2, ay2 = a.T.astype(np.float64)
    bx1, by1, bx2, by2 = b.T.astype(np.float64)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    return width * height, (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)


def rank_in_group(groups: np.ndarray) -> np.ndarray:
    """How many earlier elements (N,) have the same group as this one."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = _offsets(np.diff(np.append(_run_starts(ordered), len(ordered))))
    return rank


def overlapping_pairs(detections: Grouped, truth: Grouped, min_iou: float, overlap: Overlap = paired_iou) -> Pairs:
    """All pairs of one group that overlap by at least `min_iou`, and at all; by rising detection, then truth."""
    chunks = [
        pairs._replace(iou=overlap(detections.boxes[pairs.detection], truth.boxes[pairs.truth]))
        for pairs in _candidates(detections.groups, truth.groups)
    ]
    kept = [pairs.take((pairs.iou >= min_iou) & (pairs.iou > 0)) for pairs in chunks]
    empty = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(columns) for columns in zip(empty, *kept)))


def _candidates(detection_groups: np.ndarray, truth_groups: np.ndarray) -> "Iterator[Pairs]":
    """All pairs of one group, a bounded number at a time; their IoU is still to be found."""
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
        yield Pairs(np.repeat(part, count), truth, np.zeros(0))


def _offsets(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, and so on."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def match_voc(pairs: Pairs, min_iou: float) -> np.ndarray:
    """Numbers, rising, of the detections that hit by the rule of the VOC development kit.

    A detection stands for the labelled box that it overlaps most (the first of equals), taken or not; of those that
    stand for one box by at least `min_iou` the best score hits it, the others are duplicates.
    """
    pairs = _best_of_each(pairs.take(pairs.iou >= min_iou))
    _, first = np.unique(pairs.truth, return_index=True)
    return np.sort(pairs.detection[first])


def match_voc_ignoring(pairs: Pairs, difficult: Pairs, crowds: Pairs, min_iou: float) -> Tuple[np.ndarray, np.ndarray]:
    """As `match_voc`, and the numbers, rising, of the detections that are neither right nor wrong.

    Those are, as in GluonCV's VOCMApMetric, what overlaps a difficult box most; and what would be wrong and lies, by
    `min_iou` of its area, in a crowd. Pairs with crowds have that share in the place of an IoU.
    """
    best = _best_of_each(difficult.take(difficult.iou >= min_iou))
    mine = _best_of_each(pairs.take(np.isin(pairs.detection, best.detection)))
    real = dict(zip(mine.detection.tolist(), mine.iou.tolist()))
    nearer = [iou > real.get(detection, 0.0) for detection, iou in zip(best.detection.tolist(), best.iou.tolist())]
    ignored = best.detection[np.array(nearer, bool)]
    hits = match_voc(pairs.take(~np.isin(pairs.detection, ignored)), min_iou)
    crowded = crowds.detection[crowds.iou >= min_iou]
    return hits, np.union1d(ignored, np.setdiff1d(crowded, hits))


def _best_of_each(pairs: Pairs) -> Pairs:
    """For each detection the pair with the largest overlap, the first of equals."""
    pairs = pairs.take(np.lexsort((pairs.truth, -pairs.iou, pairs.detection)))
    return pairs.take(_run_starts(pairs.detection))


def match_coco(pairs: Pairs, thresholds: "Sequence[float] | np.ndarray") -> List[np.ndarray]:
    """For each threshold (rising), the numbers, rising, of the detections that hit by the rule of pycocotools.

    In falling order of scores, each takes the free labelled box that it overlaps most (the last of equals), by at least
    the threshold.
    """
    return [_stable_matching(at_least) for at_least in _by_preference(pairs, thresholds)]


def ignored_coco(
    difficult: Pairs, crowds: Pairs, hits: Sequence[np.ndarray], thresholds: "Sequence[float] | np.ndarray"
) -> List[np.ndarray]:
    """For each threshold, the numbers, rising, of the detections that are neither right nor wrong by the rule of
    pycocotools: those without a hit that take a difficult box, which one alone can, or lie in a crowd, which any number
    can. Pairs with crowds have the share of the detection that lies in the crowd in the place of an IoU."""
    # a crowd of its own for each pair, so that none is ever taken
    apart = (difficult.truth.max() + 1 if len(difficult.truth) else 0) + np.arange(len(crowds.truth))
    pairs = Pairs(*(np.concatenate(columns) for columns in zip(difficult, crowds._replace(truth=apart))))
    return [
        _stable_matching(at_least.take(~np.isin(at_least.detection, taken)))
        for at_least, taken in zip(_by_preference(pairs, thresholds), hits)
    ]


def _by_preference(pairs: Pairs, thresholds: "Sequence[float] | np.ndarray") -> Iterator[Pairs]:
    """For each threshold (rising) the pairs that reach it, each detection's largest overlap first, the last of
    equals."""
    pairs = pairs.take(np.lexsort((-pairs.truth, -pairs.iou, pairs.detection)))
    for threshold in thresholds:
        pairs = pairs.take(pairs.iou >= threshold)
        yield pairs


def _stable_matching(pairs: Pairs) -> np.ndarray:
    """Numbers, rising, of the detections that get a labelled box; their pairs in order of preference.

    One choice after the other by falling score is the stable matching of detections that prefer larger overlaps to
    boxes that all prefer higher scores. So deferred acceptance (Gale and Shapley, 1962) finds it for all images
    together in a few rounds: each detection claims its next choice, a box keeps the best claimant.
    """
    choice = _run_starts(pairs.detection)
    claimants = pairs.detection[choice]
    end = np.append(choice[1:], len(pairs.detection))
    nobody = len(choice)
    owner = np.full(pairs.truth.max() + 1 if nobody else 0, nobody)
    waiting = np.arange(nobody)
    while len(waiting):
        wanted = pairs.truth[choice[waiting]]
        previous = owner[wanted]
        better = waiting < previous
        # written from the worst score to the best: the last write stays
        owner[wanted[better][::-1]] = waiting[better][::-1]
        refused = waiting[owner[wanted] != waiting]
        displaced = np.unique(previous[better & (previous < nobody)])
        waiting = np.sort(np.concatenate([refused, displaced]))
        choice[waiting] += 1
        waiting = waiting[choice[waiting] < end[waiting]]
    return claimants[np.sort(owner[owner < nobody])]


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin."""
    changes = np.ones(len(values), dtype=bool)
    changes[1:] = values[1:] != values[:-1]
    return np.flatnonzero(changes)
