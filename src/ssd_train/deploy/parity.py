"""Compare the outputs of two engines that run the same network.

Rows are compared after non-maximum suppression (NMS). Where scores differ by rounding only, NMS may keep another box of
an object, or other boxes may be among the first nms_topk, and both outputs are correct. So a row that only one engine
has is looked up in the candidates before NMS, where these are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train.boxes import iou_matrix
from ssd_train.errors import SsdTrainError

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of a score; of a corner, input pixels
RELATIVE_BOX_TOLERANCE = 1e-3  # of a corner's coordinate
MIN_SCORE = 0.01  # the networks drop candidates at or below this score
# Where the IoU of two boxes equals the NMS threshold to six digits, the order of summation decides if one is dropped.
MAX_UNMATCHED_FRACTION = 0.01
OVERLAP_TOLERANCE = 1e-3  # of an IoU
MAX_TRIES = 20  # candidates that are tried as the origin of a voted box, nearest first


class Candidates(NamedTuple):
    """Input and parameters of the NMS of one image.

    Attributes:
        scores: (A, classes), of all A anchors.
        boxes: (A, 4), xyxy in input pixels.
        threshold: IoU above which the lower-scored of two boxes of a class is dropped.
        topk: number of candidates, best first, that NMS considers.
        voting_iou: IoU with a kept box from which candidates count in box voting; 0: no box voting.
    """

    scores: np.ndarray
    boxes: np.ndarray
    threshold: float
    topk: int
    voting_iou: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """Result of comparing the rows of two engines on the same images.

    Attributes:
        rows: number of boxes of the first engine.
        unmatched: boxes of either engine without a box of the same class, and score and corners within the tolerances,
            in the other.
        score_difference: largest score difference of matched boxes.
        box_difference: largest corner difference of matched boxes, in input pixels.
    """

    rows: int
    unmatched: int
    score_difference: float
    box_difference: float

    def __str__(self) -> str:
        return (
            f"{self.rows} boxes, {self.unmatched} unmatched, scores within {self.score_difference:.1e}, "
            f"corners within {self.box_difference:.1e} px"
        )

    def raise_for_mismatch(self, name: str) -> None:
        """Raise a SsdTrainError unless the network `name` has boxes that match."""
        if not self.rows:
            raise SsdTrainError(f"{name}: found no detections in the compared images, expected some: see --images")
        if self.unmatched > MAX_UNMATCHED_FRACTION * self.rows:
            raise SsdTrainError(
                f"{name}: found other detections ({self}), expected scores within {SCORE_TOLERANCE} and corners within "
                f"{BOX_TOLERANCE} px of the original network's"
            )


def compare(
    expected: np.ndarray, actual: np.ndarray, candidates: Optional[Callable[[int], Candidates]] = None
) -> Agreement:
    """Compare the rows of two engines on the same images.

    A row that only one engine has is not counted where its score is within the tolerance of the score below which the
    other engine lists nothing, nor where ties of scores explain it.

    Args:
        expected: (B, N, 6), class id, score, xyxy in input pixels; id -1: unused.
        actual: (B, N, 6), likewise.
        candidates: returns the NMS input of the first engine for an image index; without it, ties are not considered.
    """
    rows = unmatched = 0
    score_difference = box_difference = 0.0
    for index, (first, second) in enumerate(zip(expected, actual)):
        first, second = (table[table[:, 0] >= 0] for table in (first, second))
        first_ids, second_ids = _match_rows(first, second)
        differences = np.abs(first[first_ids] - second[second_ids])
        score_difference = max(score_difference, differences[:, 1].max(initial=0))
        box_difference = max(box_difference, differences[:, 2:].max(initial=0))
        limit = expected.shape[1]
        first_only, second_only = np.delete(first, first_ids, 0), np.delete(second, second_ids, 0)
        if candidates and len(first_only) + len(second_only):
            first_only, second_only = _drop_ties(first_only, second_only, second[second_ids], candidates(index))
            unmatched += len(second_only)  # wrong at any rank
        else:
            unmatched += _count_missed(second_only[:, 1], first[:, 1], limit)
        unmatched += _count_missed(first_only[:, 1], second[:, 1], limit)
        rows += len(first)
    return Agreement(rows, unmatched, float(score_difference), float(box_difference))


def compare_candidates(expected: Sequence[Candidates], scores: np.ndarray, boxes: np.ndarray) -> Agreement:
    """Compare the candidates before NMS of a network with those of images from another engine.

    Args:
        expected: candidates of each image.
        scores: (B, A, classes) of the other engine.
        boxes: (B, A, 4) of the other engine.
    """
    wanted = [np.stack([getattr(image, name) for image in expected]) for name in ("scores", "boxes")]
    with np.errstate(invalid="ignore"):  # corners may be infinite
        score_gap = np.abs(wanted[0] - scores).max(axis=2)  # (B, A)
        box_gap = np.abs(wanted[1] - boxes).max(axis=2)
        limit = np.maximum(BOX_TOLERANCE, RELATIVE_BOX_TOLERANCE * np.abs(wanted[1]).max(axis=2))
        same = (score_gap <= SCORE_TOLERANCE) & (box_gap <= limit)
    matched = [float(gap[same].max(initial=0)) for gap in (score_gap, box_gap)]
    return Agreement(same.size, int((~same).sum()), *matched)


def _drop_ties(
    first_only: np.ndarray, second_only: np.ndarray, common: np.ndarray, candidates: Candidates
) -> "Tuple[np.ndarray, np.ndarray]":
    """Drop rows that ties of scores explain from `first_only` and `second_only`.

    A row of the second engine is valid if it is one of the top candidates, or its score is near the minimum, and no
    other row of that engine should have suppressed it. A row of the first engine may be missing from the second where
    a valid row suppresses it, or where its score is that of the last candidate. `common` are the rows of both.
    """
    scores, threshold = candidates.scores, candidates.threshold
    last = 0.0
    if scores.size > candidates.topk:
        last = float(np.partition(scores.ravel(), -candidates.topk)[-candidates.topk])
    if candidates.voting_iou:
        first_only, second_only, common = (
            _unvote(rows, candidates, last) for rows in (first_only, second_only, common)
        )
    second = np.concatenate([common, second_only])
    valid = np.array([_is_candidate(row, candidates) and row[1] >= last - SCORE_TOLERANCE for row in second_only], bool)
    valid |= second_only[:, 1] <= MIN_SCORE + SCORE_TOLERANCE
    # each row suppresses itself, hence 1; which candidates have voted is not known where ties decide who they are
    tied = bool(candidates.voting_iou) & (second_only[:, 1] <= last + SCORE_TOLERANCE)
    valid &= tied | (_suppression_matrix(second_only, second, threshold + OVERLAP_TOLERANCE).sum(axis=1) <= 1)
    suppressors = np.concatenate([common, second_only[valid]])
    explained = _suppression_matrix(first_only, suppressors, threshold - OVERLAP_TOLERANCE).any(axis=1)
    explained |= first_only[:, 1] <= last + SCORE_TOLERANCE
    return first_only[~explained], second_only[~valid]


def _is_candidate(row: np.ndarray, candidates: Candidates) -> bool:
    """Return True if an anchor has this class, score and box within the tolerances."""
    if row[0] >= candidates.scores.shape[1]:
        return False
    near = np.abs(candidates.scores[:, int(row[0])] - row[1]) <= SCORE_TOLERANCE
    return bool((near & (np.abs(candidates.boxes - row[2:]) <= _box_tolerance(row)).all(axis=1)).any())


def _box_tolerance(row: np.ndarray) -> float:
    # corners of boxes that are much larger than the image differ by more, as float32 has seven digits
    return max(BOX_TOLERANCE, RELATIVE_BOX_TOLERANCE * float(np.abs(row[2:]).max()))


def _unvote(rows: np.ndarray, candidates: Candidates, last: float) -> np.ndarray:
    """Replace the boxes of rows (N, 6) by those before box voting; NaN if voting gives none of the candidates that box.

    `last` is the score of the last candidate.
    """
    unvoted = rows.copy()
    unvoted[:, 2:] = np.nan
    for row, result in zip(rows, unvoted):
        scores = candidates.scores[:, int(row[0])]
        anchors = np.flatnonzero(np.abs(scores - row[1]) <= SCORE_TOLERANCE)
        nearest = np.argsort(np.abs(candidates.boxes[anchors] - row[2:]).sum(axis=1))[:MAX_TRIES]
        for anchor in anchors[nearest]:
            low, high = _voting_range(anchor, scores, candidates, max(last, MIN_SCORE))
            if (np.abs(row[2:] - np.clip(row[2:], low, high)) <= _box_tolerance(row)).all():
                result[2:] = candidates.boxes[anchor]
                break
    return unvoted


def _voting_range(
    anchor: int, scores: np.ndarray, candidates: Candidates, last: float
) -> "Tuple[np.ndarray, np.ndarray]":
    """Return the lowest and the highest corners (4,) that box voting may give an anchor's box.

    They differ where candidates may count or not within the tolerances. Each is the mean of those that certainly count
    and of the most extreme of the others.
    """
    overlaps = iou_matrix(candidates.boxes[[anchor]], candidates.boxes)[0]
    near, above = overlaps - candidates.voting_iou, scores - last
    certain = (near >= OVERLAP_TOLERANCE) & (above >= SCORE_TOLERANCE)
    certain[anchor] = True
    possible = (near >= -OVERLAP_TOLERANCE) & (above >= -SCORE_TOLERANCE) & ~certain
    total, corners = scores[certain].sum(), scores[certain] @ candidates.boxes[certain]
    boxes, weights = candidates.boxes[possible], scores[possible, None]
    order = np.argsort(boxes, axis=0)  # (N, 4)
    means = [(corners / total)[None]]
    for ranks in (order, order[::-1]):
        totals = total + np.cumsum(np.take_along_axis(np.broadcast_to(weights, boxes.shape), ranks, 0), axis=0)
        means.append((corners + np.cumsum(np.take_along_axis(weights * boxes, ranks, 0), axis=0)) / totals)
    return np.concatenate(means).min(axis=0), np.concatenate(means).max(axis=0)


def _suppression_matrix(rows: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Return a mask (N, M): whether `others` (M, 6) may suppress `rows` (N, 6)."""
    same_class = rows[:, None, 0] == others[None, :, 0]
    above = others[None, :, 1] >= rows[:, None, 1] - SCORE_TOLERANCE
    return same_class & above & (iou_matrix(rows[:, 2:], others[:, 2:]) > threshold)


def _count_missed(scores: np.ndarray, other_scores: np.ndarray, limit: int) -> int:
    """Count the scores missing from `other_scores`, a list of at most `limit`."""
    lowest = other_scores.min() if len(other_scores) == limit else 0.0
    return int((scores > max(MIN_SCORE, lowest) + SCORE_TOLERANCE).sum())


def _match_rows(first: np.ndarray, second: np.ndarray) -> "tuple[list[int], list[int]]":
    """Return the indices of the rows in (N, 6) and (M, 6) that are the same box."""
    unused = np.ones(len(second), bool)
    first_ids, second_ids = [], []
    for index, row in enumerate(first):
        with np.errstate(invalid="ignore"):  # corners may be infinite
            gap = np.abs(second - row)
        same = unused & (gap[:, 0] == 0) & (gap[:, 1] <= SCORE_TOLERANCE) & (gap[:, 2:] <= BOX_TOLERANCE).all(axis=1)
        if same.any():
            nearest = int(np.argmin(np.where(same, gap[:, 1:].sum(axis=1), np.inf)))
            unused[nearest] = False
            first_ids.append(index)
            second_ids.append(nearest)
    return first_ids, second_ids
