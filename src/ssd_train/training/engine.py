"""Train one epoch, run one evaluation; free of files, formats, logging and SageMaker."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.config import TrainConfig
from ssd_train.data.loaders import EvalBatch, TrainBatch
from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.errors import TrainingDiverged
from ssd_train.evaluation.metrics import score_detections
from ssd_train.evaluation.results import Scores
from ssd_train.model.graphs import EvalGraph, hybridize_static
from ssd_train.training.step import TrainStep, make_loss

mx = mxnet_compat.mxnet()


@dataclass
class EpochMeter:
    """Sums over the steps of an epoch.

    Attributes:
        positives: number of positive anchors, at least 1 for each step, as the loss is normalized.
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

    def update(self, images: int, positives: int, losses: "Sequence[float] | np.ndarray", clipped: bool) -> None:
        """Add a step with its summed (CrossEntropy, SmoothL1)."""
        self.steps += 1
        self.images += images
        self.positives += positives
        self.cross_entropy += float(losses[0])
        self.smooth_l1 += float(losses[1])
        self.clipped += bool(clipped)

    def averages(self) -> Dict[str, float]:
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


def train_one_epoch(
    train_step: TrainStep,
    batches: Iterable[TrainBatch],
    rates: Sequence[float],
    meter: Optional[EpochMeter] = None,
    after_step: Callable[[], None] = lambda: None,
) -> Dict[str, float]:
    """Train for one epoch, or for the rest of one.

    The epoch ends early if `batches` has fewer steps than `rates`, as a stream may that is shorter than its first pass.
    Synchronous hosts all end it when the first of them has no batch left.

    Args:
        train_step: makes the steps.
        batches: the remaining batches of the epoch.
        rates: learning rates of all steps of the epoch.
        meter: sums over the steps already made; updated in place.
        after_step: called after each step.

    Returns:
        Mean CrossEntropy and SmoothL1 per positive anchor; number of images, steps and clipped steps; seconds, and
        how many of these were spent waiting for data.

    Raises:
        ValueError: there are more batches than rates.
        TrainingDiverged: the loss or the gradient of a step is not finite.
    """
    meter = EpochMeter() if meter is None else meter
    train_step.begin_epoch()
    remaining = iter(batches)
    start = time.perf_counter()
    while meter.steps < len(rates):
        batch = next(remaining, None)
        waited = time.perf_counter() - start
        images, positives = train_step.global_batch_counts(batch)
        if batch is None or not images:
            break
        losses = train_step.step(batch, rates[meter.steps], positives)
        meter.update(images, max(positives, 1), losses, train_step.clipped)
        meter.data_seconds += waited
        meter.seconds += time.perf_counter() - start
        after_step()
        start = time.perf_counter()
    unused = sum(1 for _ in remaining)  # read to the end: the writer of a pipe waits for that
    if unused and meter.steps == len(rates):
        raise ValueError(f"found {unused} batches more than the {len(rates)} rates of the epoch, expected no more")
    train_step.end_epoch()
    meter.seconds += time.perf_counter() - start
    return meter.averages()


class Evaluator:
    """Runs a network for evaluation.

    Args:
        net: the network; its parameters are on `device`.
        config: image size, loss, suppression and IoU threshold.
        device: MXNet context.
        post_nms: maximum number of detections per image.
    """

    def __init__(self, net: Any, config: TrainConfig, device: Any, post_nms: int) -> None:
        self.net, self.device = net, device
        self.side = config.image_shape
        self.overlap_threshold = config.overlap_threshold
        self.graph = hybridize_static(
            EvalGraph(net, make_loss(config), config.nms_threshold, config.candidates, post_nms, config.box_voting)
        )

    def require_finite_weights(self) -> None:
        """Raise TrainingDiverged if a weight or statistic is NaN or infinite.

        Outputs alone do not show it: ReLU turns NaN into 0, and suppression drops scores of NaN.
        """
        for name, parameter in self.net._collect_params_with_prefix().items():
            if not mx.nd.contrib.isfinite(parameter.data(self.device)).min().asscalar():
                raise TrainingDiverged(f"found NaN or infinity in {name}, expected finite weights")

    def predict(self, batch: EvalBatch) -> "tuple[List[Detections], tuple[float, float]]":
        """Return the detections of each image, and CrossEntropy and SmoothL1 summed over the batch."""
        arrays = [mx.nd.array(array, ctx=self.device, dtype=array.dtype) for array in batch.arrays()]
        rows, *sums = self.graph(*arrays)
        rows, (cross_entropy, smooth_l1) = rows.asnumpy(), [float(loss.asscalar()) for loss in sums]
        if not (np.isfinite(rows).all() and math.isfinite(cross_entropy + smooth_l1)):
            raise TrainingDiverged("found NaN or infinity in the network's answer, expected finite scores and boxes")
        detections = [Detections.from_network(r, size, self.side) for r, size in zip(rows, batch.sizes)]
        return detections, (cross_entropy, smooth_l1)


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Attributes:
        scores: the scores of all images.
        smooth_l1: mean SmoothL1 per positive anchor; None if there is none.
        predictions: each record with its detections.
        cross_entropy: mean CrossEntropy per positive anchor; None if there is none.
    """

    scores: Scores
    smooth_l1: Optional[float]
    predictions: List[Tuple[LabeledImage, Detections]]
    cross_entropy: Optional[float]


def evaluate(evaluator: Evaluator, batches: Iterable[EvalBatch], class_names: ClassNames) -> Evaluation:
    """Evaluate on all batches; the losses are means over all positive anchors."""
    sums, positives, predictions = np.zeros(2), 0, []

    def predict() -> Iterator[Tuple[LabeledImage, Detections]]:
        nonlocal sums, positives
        for batch in batches:
            batch_detections, losses = evaluator.predict(batch)
            sums, positives = sums + losses, positives + batch.positives
            for prediction in zip(batch.records, batch_detections):
                predictions.append(prediction)
                yield prediction

    evaluator.require_finite_weights()
    scores = score_detections(predict(), class_names, evaluator.overlap_threshold)
    cross_entropy, smooth_l1 = (sums / positives).tolist() if positives else (None, None)
    return Evaluation(scores, smooth_l1, predictions, cross_entropy)
