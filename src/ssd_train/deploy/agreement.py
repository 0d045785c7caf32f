"""Whether two ways to run a network say the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssd_train.errors import SsdTrainError

SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of a score; of a corner, input pixels
LEAST_SCORE = 0.01  # the networks leave out what scores no more
# Suppression is a matter of yes or no: of two boxes whose overlap is the threshold to the sixth digit, sums in another
# order let one pass or not.
FLIPPED_SHARE = 0.01


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


def compare(expected: np.ndarray, found: np.ndarray) -> Agreement:
    """Compare rows (B, N, 6) with rows (B, N, 6) of the same pictures. A box is not missed where it would be at the
    lower end of the list, where a hair decides."""
    rows = unmatched = 0
    score_difference = box_difference = 0.0
    for ours, theirs in zip(expected, found):
        ours, theirs = (table[table[:, 0] >= 0] for table in (ours, theirs))
        first, second = _pairs(ours, theirs)
        differences = np.abs(ours[first] - theirs[second])
        score_difference = max(score_difference, differences[:, 1].max(initial=0))
        box_difference = max(box_difference, differences[:, 2:].max(initial=0))
        limit = expected.shape[1]
        unmatched += _missed(np.delete(ours[:, 1], first), theirs[:, 1], limit)
        unmatched += _missed(np.delete(theirs[:, 1], second), ours[:, 1], limit)
        rows += len(ours)
    return Agreement(rows, unmatched, float(score_difference), float(box_difference))


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
