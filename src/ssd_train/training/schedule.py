"""The learning rate by real epochs, and the built-in algorithm's early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional

from ssd_train.config import TrainConfig


def learning_rate(config: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps` in `epoch` (from 0): a linear warm-up, then constant, steps or a half
    cosine that would be 0 after the last step of all (Loshchilov & Hutter, "SGDR", 2017, equation 5, one period)."""
    done = epoch + step / steps  # epochs made
    if done < config.warmup_epochs:
        return config.learning_rate * (epoch * steps + step + 1) / (config.warmup_epochs * steps + 1)
    if config.schedule == "step":
        return config.learning_rate * config.lr_scheduler_factor ** sum(epoch >= e for e in config.lr_steps or ())
    if config.schedule == "cosine":
        warm = min(config.warmup_epochs, config.epochs)
        progress = (done - warm) / max(config.epochs - warm, 1 / steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.learning_rate


@dataclass
class BestScore:
    """The best validation:mAP so far and whether to go on without a better one."""

    value: Optional[float] = None
    epoch: int = -1
    epochs_since_improvement: int = 0

    def update(self, value: Optional[float], epoch: int, tolerance: float, interval: int = 1) -> bool:
        """Take the score of `epoch`; true when it is the best. None (nothing to score) is never an improvement."""
        if value is None:
            return False
        better = self.value is None or value > self.value
        # early stopping asks for a relative improvement, the best model for any
        enough = self.value is None or value - self.value > tolerance * self.value
        if better:
            self.value, self.epoch = value, epoch
        self.epochs_since_improvement = 0 if better and enough else self.epochs_since_improvement + interval
        return better

    def should_stop(self, config: TrainConfig, epochs_done: int) -> bool:
        """True when early stopping is on and its patience is over."""
        return (
            config.early_stopping
            and epochs_done >= config.early_stopping_min_epochs
            and self.epochs_since_improvement >= config.early_stopping_patience
        )


def course(config: TrainConfig, epoch: int, steps: int) -> List[float]:
    """The learning rate of every step of `epoch`."""
    return [learning_rate(config, epoch, step, steps) for step in range(steps)]
