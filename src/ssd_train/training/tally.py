"""What an epoch has come to so far: sums that a checkpoint can hold, so that it goes on after any step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Optional, Sequence


@dataclass
class Tally:
    """Sums over the steps of an epoch.

    cross_entropy, smooth_l1    losses summed over `positives` anchors that have an object
    clipped                     steps whose gradient was longer than clip_gradient
    seconds, data_seconds       of training, and of these, of waiting for data
    """

    steps: int = 0
    images: int = 0
    positives: int = 0
    cross_entropy: float = 0.0
    smooth_l1: float = 0.0
    seconds: float = 0.0
    data_seconds: float = 0.0
    clipped: int = 0

    def __post_init__(self) -> None:
        # no field: the losses of a step on its way; a checkpoint is written when it is settled
        self._open: Optional[Callable[[], Sequence[float]]] = None

    def begin(self, images: int, positives: int, losses: Callable[[], Sequence[float]]) -> None:
        """Take a step. `losses` waits for the two summed over its anchors and for whether its gradient was clipped, and
        is asked by `settle`."""
        self.steps += 1
        self.images += images
        self.positives += positives
        self._open = losses

    def settle(self) -> None:
        """Take the losses of the step that was begun; after it all that is here has been made, and went well."""
        waited_for, self._open = self._open, None
        if waited_for:
            cross_entropy, smooth_l1, clipped = waited_for()
            self.cross_entropy += float(cross_entropy)
            self.smooth_l1 += float(smooth_l1)
            self.clipped += bool(clipped)

    def result(self) -> Dict[str, float]:
        """The mean losses per anchor that has an object, and the other sums by name."""
        return {
            "CrossEntropy": self.cross_entropy / max(self.positives, 1),
            "SmoothL1": self.smooth_l1 / max(self.positives, 1),
            "images": self.images,
            "steps": self.steps,
            "clipped": self.clipped,
            "seconds": self.seconds,
            "data_seconds": self.data_seconds,
        }
