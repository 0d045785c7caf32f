"""Running sums over the steps of an epoch; a checkpoint stores them, so a run can resume after any step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Sequence


@dataclass
class Tally:
    """Sums over the steps of an epoch.

    Attributes:
        positives: number of positive anchors.
        cross_entropy: class loss, summed over the positive anchors.
        smooth_l1: box loss, summed over the positive anchors.
        seconds: training time, including `data_seconds`.
        data_seconds: time spent waiting for data.
        clipped: number of steps whose gradient was clipped.
    """

    steps: int = 0
    images: int = 0
    positives: int = 0
    cross_entropy: float = 0.0
    smooth_l1: float = 0.0
    seconds: float = 0.0
    data_seconds: float = 0.0
    clipped: int = 0

    def update(self, images: int, positives: int, losses: Sequence[float], clipped: bool) -> None:
        """Add a step with its summed (CrossEntropy, SmoothL1)."""
        self.steps += 1
        self.images += images
        self.positives += positives
        self.cross_entropy += float(losses[0])
        self.smooth_l1 += float(losses[1])
        self.clipped += bool(clipped)

    def result(self) -> Dict[str, float]:
        """Return the mean losses per positive anchor and the other sums, by name."""
        return {
            "CrossEntropy": self.cross_entropy / max(self.positives, 1),
            "SmoothL1": self.smooth_l1 / max(self.positives, 1),
            "images": self.images,
            "steps": self.steps,
            "clipped": self.clipped,
            "seconds": self.seconds,
            "data_seconds": self.data_seconds,
        }
