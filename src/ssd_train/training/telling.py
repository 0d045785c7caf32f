"""Log a run: one line per epoch for people, metric lines for SageMaker."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, List

from ssd_train import metric_lines
from ssd_train.config import TrainConfig
from ssd_train.environment import Environment
from ssd_train.errors import TrainingDiverged
from ssd_train.progress import Progress
from ssd_train.training.checkpoint import TrainState


def tell_configuration(config: TrainConfig, environment: Environment, progress: Progress) -> None:
    """Log the settings in a SageMaker job, as the built-in algorithm does."""
    if environment.hosted:
        progress.say(metric_lines.stamped(metric_lines.configuration_line(config.to_json())))


def tell_epoch(
    config: TrainConfig, steps: int, state: TrainState, environment: Environment, progress: Progress
) -> None:
    """Log the last epoch, which has `steps` steps."""
    row = state.history[-1]
    text = (
        f"epoch {state.epoch}/{config.epochs}  CrossEntropy {row['CrossEntropy']:.3f}  "
        f"SmoothL1 {row['SmoothL1']:.3f}  {row['images_per_second']:.1f} images/s"
    )
    if row["clipped_steps"]:
        text += f"  gradient clipped in {row['clipped_steps']} of {row['steps']} steps"
    if row.get("VOC07") is not None:
        kept = "best so far" if state.best.epoch == row["epoch"] else f"best in epoch {state.best.epoch + 1}"
        text += f"  COCO mAP {row['mAP']:.3f}  VOC07 mAP {row['VOC07']:.3f} ({kept})"
    progress.say(text)
    if environment.hosted:
        for line in _metric_lines(row, steps, config.epochs, environment.host):
            progress.say(metric_lines.stamped(line))


def tell_weights(hosts: int, digest: str, progress: Progress) -> None:
    """Log the SHA-256 of the final weights, if there are several hosts."""
    if hosts > 1:
        progress.say(f"weights at the end, on all {hosts} hosts: SHA-256 {digest[:12]}")


@contextlib.contextmanager
def divergence_told(state: TrainState) -> Iterator[None]:
    """Add the epoch, the saved model and advice to the message of TrainingDiverged."""
    try:
        yield
    except TrainingDiverged as error:
        kept = f"; the model of epoch {state.best.epoch + 1} is kept" if state.best.epoch >= 0 else ""
        raise TrainingDiverged(
            f"epoch {state.epoch + 1}: {error}{kept}; try a lower --learning_rate or a longer --warmup_epochs"
        ) from None


def _metric_lines(row: Dict[str, Any], steps: int, epochs: int, host: str) -> List[str]:
    epoch = row["epoch"]
    lines = metric_lines.loss_lines(host, epoch, steps - 1, row["CrossEntropy"], row["SmoothL1"])
    lines.append(metric_lines.throughput_line(host, row["images_per_second"]))
    lines.append(metric_lines.progress_line(host, epoch + 1, epochs))
    if row.get("VOC07") is not None:
        lines.append(metric_lines.map_line(host, epoch, row["VOC07"]))
        lines.append(metric_lines.validation_loss_line(host, epoch, row["val_SmoothL1"]))
    return lines
