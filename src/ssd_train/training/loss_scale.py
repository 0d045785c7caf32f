"""Dynamic loss scaling for mixed precision."""

from __future__ import annotations

import math
from typing import List, Sequence

import numpy as np

FLOAT16_SCALE = 2.0**16
GROWTH_STEPS = 2000


class LossScale:
    """Factor of the loss that keeps float16 gradients in range.

    It is halved when a gradient overflows, and doubled after 2000 steps without overflow (Micikevicius et al., "Mixed
    Precision Training", 2018, section 3.2). A scale of 1, for float32, never changes.
    """

    def __init__(self, value: float) -> None:
        self.value = value
        self.dynamic = value != 1.0
        self.good_steps = 0

    def state(self) -> List[float]:
        """Return the values to store in a checkpoint."""
        return [self.value, self.good_steps]

    def restore(self, state: Sequence[float]) -> None:
        """Restore the values of `state`."""
        self.value, self.good_steps = state[0], int(state[1])

    def overflows(self, losses: np.ndarray, norm: float) -> bool:
        """Update the scale after a step; return True if the step must be skipped.

        It must if the losses are finite and only the gradient overflowed.

        Args:
            losses: summed losses of the step.
            norm: gradient norm.
        """
        if not self.dynamic or not np.isfinite(losses).all():
            return False
        if not math.isfinite(norm):
            self.value, self.good_steps = self.value / 2, 0
            return self.value >= 1.0
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.value, self.good_steps = self.value * 2, 0
        return False
