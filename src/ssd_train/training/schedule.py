"""Learning rate schedules by epoch, selection of the best model, and the built-in algorithm's early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ssd_train.config import TrainConfig

Row = Mapping[str, Any]  # of a run's history


def learning_rate(config: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then constant, step or cosine decay.

    The cosine reaches 0 after the last step (Loshchilov & Hutter, "SGDR", 2017, equation 5, one period).

    Args:
        config: settings of the run.
        epoch: from 0.
        step: of the epoch, from 0.
        steps: number of steps in an epoch.
    """
    done = epoch + step / steps
    if done < config.warmup_epochs:
        return config.base_learning_rate * (epoch * steps + step + 1) / (config.warmup_epochs * steps + 1)
    if config.schedule == "step":
        return config.base_learning_rate * config.lr_scheduler_factor ** sum(epoch >= e for e in config.lr_steps or ())
    if config.schedule == "cosine":
        warm = min(config.warmup_epochs, config.epochs)
        progress = (done - warm) / max(config.epochs - warm, 1 / steps)
        return config.base_learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.base_learning_rate


@dataclass
class BestTracker:
    """The best model so far, and the count for early stopping.

    Attributes:
        value: highest VOC07 mAP (validation:mAP) so far, used by early stopping.
        epoch: epoch (from 0) of the best model, -1 before the first evaluation.
        epochs_since_improvement: epochs since `value` improved.
    """

    value: Optional[float] = None
    epoch: int = -1
    epochs_since_improvement: int = 0

    def update(self, row: Row, history: Sequence[Row], config: TrainConfig) -> bool:
        """Update with an evaluated epoch; return True if its model is the best so far.

        Args:
            row: the epoch's row of the history. A row without scores is never an improvement.
            history: rows of the epochs before it.
            config: settings of the run.
        """
        value = row["VOC07"]
        if value is None:
            return False
        # early stopping requires a relative improvement, as in the built-in algorithm
        improved = self.value is None or value - self.value > config.early_stopping_tolerance * self.value
        self.epochs_since_improvement = 0 if improved else self.epochs_since_improvement + config.validation_interval
        self.value = value if self.value is None else max(self.value, value)
        kept = self.kept_row(history)
        if kept is not None and not _is_better(row, kept, config.metric_for_best_model):
            return False
        self.epoch = row["epoch"]
        return True

    def kept_row(self, history: Sequence[Row]) -> Optional[Row]:
        """Return the row of the best model's epoch, None before the first."""
        return next((row for row in history if row.get("epoch") == self.epoch), None)

    def should_stop(self, config: TrainConfig, epochs_done: int) -> bool:
        """Return True if early stopping is on and there was no improvement for too long."""
        return (
            config.early_stopping
            and epochs_done >= config.early_stopping_min_epochs
            and self.epochs_since_improvement >= config.early_stopping_patience
        )


def _is_better(row: Row, kept: Row, metric: str) -> bool:
    """Return whether the model of `row` replaces the best one.

    VOC07 saturates at 1.0 on easy data. So by default COCO mAP decides, then VOC07, then the later epoch, which is
    better on average.
    """
    if metric == "voc07":
        return _figures(row, "VOC07") > _figures(kept, "VOC07")
    return _figures(row, "mAP", "VOC07") >= _figures(kept, "mAP", "VOC07")


def _figures(row: Row, *names: str) -> Tuple[float, ...]:
    """Return the named figures of `row`; -1 for those it lacks."""
    return tuple(-1.0 if row.get(name) is None else row[name] for name in names)


def epoch_learning_rates(config: TrainConfig, epoch: int, steps: int) -> List[float]:
    """Return the learning rates of all steps of `epoch`."""
    return [learning_rate(config, epoch, step, steps) for step in range(steps)]
