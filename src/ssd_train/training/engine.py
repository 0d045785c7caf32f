"""One epoch of training, one evaluation. Knows no files, no formats, no log lines and no SageMaker."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import numpy as np

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.data.batches import EvalBatch, TrainBatch
from ssd_train.data.records import ClassNames, Detections, Record
from ssd_train.errors import TrainingDiverged
from ssd_train.model.graphs import EvalGraph, compile_answers
from ssd_train.training.learner import Learner, make_loss
from ssd_train.training.metrics import MeanAveragePrecision, RunningMean
from ssd_train.training.scores import Scores
from ssd_train.training.tally import Tally

mx = framework.mxnet()


def train_one_epoch(
    learner: Learner,
    batches: Iterable[TrainBatch],
    rates: Sequence[float],
    tally: Optional[Tally] = None,
    after_step: Callable[[], None] = lambda: None,
) -> Dict[str, float]:
    """Learn from each batch at its rate; returns the mean CrossEntropy and SmoothL1 per positive anchor, the number of
    images, of steps and of those whose gradient was clipped, the seconds and, of these, the seconds spent waiting for
    data.

    The epoch ends early when there are no more batches, as in a stream that is shorter than its first pass. Hosts that
    step together all end it when the first of them has none left.

    rates           of all steps of the epoch
    tally           the steps made before, to which these are added; `batches` are those that remain
    after_step      called when `tally` has a step more

    Raises:
        ValueError: there are more batches than rates.
    """
    tally = Tally() if tally is None else tally
    remaining = iter(batches)
    start = time.perf_counter()
    while tally.steps < len(rates):
        batch = next(remaining, None)
        waited = time.perf_counter() - start
        images, positives = learner.counts(batch)
        if batch is None or not images:
            break
        step = learner.begin_step(batch, rates[tally.steps], positives)
        tally.settle()
        tally.begin(images, max(positives, 1), lambda step=step: (*learner.end_step(step), learner.clipped))
        if not learner.deferred:
            tally.settle()
        tally.data_seconds += waited
        tally.seconds += time.perf_counter() - start
        after_step()
        start = time.perf_counter()
    unused = sum(1 for _ in remaining)  # taken to the end all the same: a stream's writer waits for that
    if unused and tally.steps == len(rates):
        raise ValueError(f"found {unused} batches more than the {len(rates)} rates of the epoch, expected no more")
    tally.settle()
    learner.end_epoch()
    tally.seconds += time.perf_counter() - start
    return tally.result()


class Evaluator:
    """A net as it answers, on `device`, where its parameters have to be."""

    def __init__(self, net: Any, config: TrainConfig, device: Any, post_nms: int) -> None:
        self.net, self.device = net, device
        self.side = config.image_shape
        self.overlap_threshold = config.overlap_threshold
        self.graph = compile_answers(
            EvalGraph(net, make_loss(config), config.nms_threshold, config.candidates, post_nms)
        )

    def require_finite_weights(self) -> None:
        """A TrainingDiverged that names a weight or statistic of NaN or infinity. Answers may hide it: ReLU turns NaN
        into 0, and suppression drops scores of NaN."""
        for name, parameter in self.net._collect_params_with_prefix().items():
            if not mx.nd.contrib.isfinite(parameter.data(self.device)).min().asscalar():
                raise TrainingDiverged(f"found NaN or infinity in {name}, expected finite weights")

    def detect(self, batch: EvalBatch) -> "tuple[List[Detections], float]":
        """What the net finds in each picture, and the summed SmoothL1 on the batch's targets."""
        arrays = [mx.nd.array(array, ctx=self.device, dtype=array.dtype) for array in batch.arrays()]
        rows, _, smooth_l1 = self.graph(*arrays)
        rows, loss = rows.asnumpy(), float(smooth_l1.asscalar())
        if not (np.isfinite(rows).all() and math.isfinite(loss)):
            raise TrainingDiverged("found NaN or infinity in the network's answer, expected finite scores and boxes")
        return [Detections.from_network(r, size, self.side) for r, size in zip(rows, batch.sizes)], loss


def evaluate(
    evaluator: Evaluator, batches: Iterable[EvalBatch], class_names: ClassNames
) -> "tuple[Scores, Optional[float], List[tuple[Record, Detections]]]":
    """Scores over all batches, the mean SmoothL1 per positive anchor, and every record with its answer."""
    metric, smooth_l1 = MeanAveragePrecision(class_names), RunningMean()
    answers = []
    evaluator.require_finite_weights()
    for batch in batches:
        detections, loss = evaluator.detect(batch)
        smooth_l1.update(loss, batch.positives)
        for record, found in zip(batch.records, detections):
            metric.update(found, record)
            answers.append((record, found))
    return metric.compute(evaluator.overlap_threshold), smooth_l1.value, answers
