"""LossScale: what the loss is multiplied by in mixed precision."""

from __future__ import annotations

import math
from typing import List, Sequence

import numpy as np

FLOAT16_SCALE = 2.0**16
GROWTH_STEPS = 2000


class LossScale:
    """What the loss is multiplied by so that gradients fit into float16: halved when one overflows, doubled after 2000
    steps without (Micikevicius et al., "Mixed Precision Training", 2018, section 3.2). 1, and left so, in 32 bits."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.dynamic = value != 1.0
        self.good_steps = 0

    def state(self) -> List[float]:
        """What a checkpoint keeps of it."""
        return [self.value, self.good_steps]

    def restore(self, state: Sequence[float]) -> None:
        """Go on from a `state()`."""
        self.value, self.good_steps = state[0], int(state[1])

    def overflows(self, losses: np.ndarray, norm: float) -> bool:
        """Take note of a step; true when only its gradient overflowed, and a smaller scale can help."""
        if not self.dynamic or not np.isfinite(losses).all():
            return False
        if not math.isfinite(norm):
            self.value, self.good_steps = self.value / 2, 0
            return self.value >= 1.0
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.value, self.good_steps = self.value * 2, 0
        return False
