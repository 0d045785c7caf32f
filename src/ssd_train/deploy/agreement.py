"""Whether two ways to run a network say the same.

Rows are compared after suppression, which is a matter of yes or no: where scores are equal but for rounding, another
box of an object survives, or other boxes are among the first nms_topk, and neither is wrong. So a row that only one
side has is looked up in what entered the network's suppression, where that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

from ssd_train.data.boxes import iou_matrix
from ssd_train.errors import SsdTrainError

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of a score; of a corner, input pixels
LEAST_SCORE = 0.01  # the networks leave out what scores no more
# Suppression is a matter of yes or no: of two boxes whose overlap is the threshold to the sixth digit, sums in another
# order let one pass or not.
FLIPPED_SHARE = 0.01
OVERLAP_TOLERANCE = 1e-3  # of an IoU


class Candidates(NamedTuple):
    """What enters suppression of a picture: scores (A, classes) and boxes (A, 4) of all anchors; and its rules: the IoU
    above which the lower of two boxes of a class is dropped, and how many of the best it takes."""

    scores: np.ndarray
    boxes: np.ndarray
    threshold: float
    topk: int


@dataclass(frozen=True)
class Agreement:
    """How the rows that two engines make of the same pictures compare.

    rows                boxes that the first one found
    unmatched           boxes of either that the other has not: same class, score and corners within the tolerances
    score_difference    largest of the boxes that both have
    box_difference      largest of a corner of those, input pixels
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

    def require(self, what: str) -> None:
        """A SsdTrainError unless `what` answers the same, and answers at all."""
        if not self.rows:
            raise SsdTrainError(
                f"{what} finds nothing in the pictures that it was compared on, expected some with objects: --images"
            )
        if self.unmatched > FLIPPED_SHARE * self.rows:
            raise SsdTrainError(
                f"{what} answers differently: {self}; expected scores within {SCORE_TOLERANCE} and corners within "
                f"{BOX_TOLERANCE} px of the trained network's"
            )


def compare(
    expected: np.ndarray, found: np.ndarray, candidates: Optional[Callable[[int], Candidates]] = None
) -> Agreement:
    """Compare rows (B, N, 6) with rows (B, N, 6) of the same pictures. A box is not missed where it would be at the
    lower end of the list, where a hair decides, nor where `candidates`, which returns those of the first side for the
    picture of an index, show that ties of scores explain it."""
    rows = unmatched = 0
    score_difference = box_difference = 0.0
    for index, (ours, theirs) in enumerate(zip(expected, found)):
        ours, theirs = (table[table[:, 0] >= 0] for table in (ours, theirs))
        first, second = _pairs(ours, theirs)
        differences = np.abs(ours[first] - theirs[second])
        score_difference = max(score_difference, differences[:, 1].max(initial=0))
        box_difference = max(box_difference, differences[:, 2:].max(initial=0))
        limit = expected.shape[1]
        lone, their_lone = np.delete(ours, first, 0), np.delete(theirs, second, 0)
        if candidates and len(lone) + len(their_lone):
            lone, their_lone = _without_ties(lone, their_lone, theirs[second], candidates(index))
            unmatched += len(their_lone)  # wrong, wherever they stand
        else:
            unmatched += _missed(their_lone[:, 1], ours[:, 1], limit)
        unmatched += _missed(lone[:, 1], theirs[:, 1], limit)
        rows += len(ours)
    return Agreement(rows, unmatched, float(score_difference), float(box_difference))


def _without_ties(
    lone: np.ndarray, their_lone: np.ndarray, common: np.ndarray, candidates: Candidates
) -> "Tuple[np.ndarray, np.ndarray]":
    """Return the rows (N, 6) and (M, 6) of either side alone that no tie explains, given those that both have.

    One of theirs is right when it is a candidate among the best, or too faint to tell, and none of their rows should
    have suppressed it. One of ours may be missing where a right row of theirs suppresses it, or where it is the last of
    the best.
    """
    scores, threshold = candidates.scores, candidates.threshold
    last = 0.0
    if scores.size > candidates.topk:
        last = float(np.partition(scores.ravel(), -candidates.topk)[-candidates.topk])
    theirs = np.concatenate([common, their_lone])
    right = np.array([_is_candidate(row, candidates) and row[1] >= last - SCORE_TOLERANCE for row in their_lone], bool)
    right |= their_lone[:, 1] <= LEAST_SCORE + SCORE_TOLERANCE
    right &= (_suppressed(their_lone, theirs, threshold + OVERLAP_TOLERANCE)).sum(axis=1) <= 1  # each by itself
    suppressing = np.concatenate([common, their_lone[right]])
    explained = _suppressed(lone, suppressing, threshold - OVERLAP_TOLERANCE).any(axis=1)
    explained |= lone[:, 1] <= last + SCORE_TOLERANCE
    return lone[~explained], their_lone[~right]


def _is_candidate(row: np.ndarray, candidates: Candidates) -> bool:
    """Return whether an anchor has this class, score and box."""
    if row[0] >= candidates.scores.shape[1]:
        return False
    near = np.abs(candidates.scores[:, int(row[0])] - row[1]) <= SCORE_TOLERANCE
    return bool((near & (np.abs(candidates.boxes - row[2:]) <= BOX_TOLERANCE).all(axis=1)).any())


def _suppressed(rows: np.ndarray, others: np.ndarray, threshold: float) -> np.ndarray:
    """Return which of `others` (M, 6) may suppress each of `rows` (N, 6): bool (N, M)."""
    same = rows[:, None, 0] == others[None, :, 0]
    above = others[None, :, 1] >= rows[:, None, 1] - SCORE_TOLERANCE
    return same & above & (iou_matrix(rows[:, 2:], others[:, 2:]) > threshold)


def _missed(lone: np.ndarray, others: np.ndarray, limit: int) -> int:
    """How many of the scores `lone` should have been among `others`, which are `limit` at most."""
    least = others.min() if len(others) == limit else 0.0
    return int((lone > max(LEAST_SCORE, least) + SCORE_TOLERANCE).sum())


def _pairs(ours: np.ndarray, theirs: np.ndarray) -> "tuple[list[int], list[int]]":
    """Indices of rows (N, 6) and (M, 6) that are the same box."""
    free = np.ones(len(theirs), bool)
    first, second = [], []
    for index, row in enumerate(ours):
        with np.errstate(invalid="ignore"):  # of corners that are infinite
            apart = np.abs(theirs - row)
        same = (
            free & (apart[:, 0] == 0) & (apart[:, 1] <= SCORE_TOLERANCE) & (apart[:, 2:] <= BOX_TOLERANCE).all(axis=1)
        )
        if same.any():
            nearest = int(np.argmin(np.where(same, apart[:, 1:].sum(axis=1), np.inf)))
            free[nearest] = False
            first.append(index)
            second.append(nearest)
    return first, second
