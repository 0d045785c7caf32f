"""One epoch of training, one evaluation. Knows no files, no formats, no log lines and no SageMaker.

Who divides the gradient: the loss of each device is a sum, multiplied by one over the number of positive anchors of the
whole batch, of all hosts' parts of it, and the gradients of devices and hosts are added. Nothing divides again.
"""

from __future__ import annotations

import hashlib
import math
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.data.batches import EvalBatch, TrainBatch
from ssd_train.data.records import ClassNames, Detections, Record
from ssd_train.errors import TrainingDiverged
from ssd_train.model.graphs import EvalGraph, TrainGraph, compile_graph
from ssd_train.model.loss import DetectionLoss
from ssd_train.training.averaging import WeightAverage
from ssd_train.training.cluster import Cluster
from ssd_train.training.devices import split
from ssd_train.training.exchange import server_optimizer
from ssd_train.training.metrics import MeanAveragePrecision, RunningMean
from ssd_train.training.scores import Scores
from ssd_train.training.tally import Tally

mx = framework.mxnet()


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


class Learner:
    """A net, its optimizer, its devices and those it learns together with: what makes a step."""

    def __init__(
        self, net: Any, config: TrainConfig, devices: Sequence[Any], cluster: Optional[Cluster] = None
    ) -> None:
        self.net, self.devices = net, list(devices)
        self.cluster = cluster or Cluster()
        self.exchange = self.cluster.exchange
        net.collect_params().reset_ctx(self.devices)
        self.graph = compile_graph(TrainGraph(net, make_loss(config)))
        self.average: Optional[WeightAverage] = None  # follows every step where there is one
        self.clip = config.clip_gradient
        self.loss_scale = LossScale(FLOAT16_SCALE if config.amp and self.devices[0].device_type == "gpu" else 1.0)
        self.parameters = [p for p in net.collect_params().values() if p.grad_req != "null"]
        self.trainer = mx.gluon.Trainer(
            self.parameters,
            config.optimizer,
            optimizer_settings(config),
            kvstore=self.exchange.local_store(config, self.devices),
            update_on_kvstore=False,
        )

    def begin(self, config: TrainConfig, steps: int, epoch: int) -> None:
        """To be called with the first weights in place, before a step of epoch `epoch` (from 0) of `steps` each."""
        updates = steps * self.cluster.size
        settings = optimizer_settings(config)
        self.exchange.begin(self.trainer, lambda: server_optimizer(config, settings, updates, epoch * updates))

    def end_epoch(self) -> None:
        """Take the newest weights, which all hosts have in common after an epoch; that they do is made sure of."""
        mx.nd.waitall()
        self.cluster.total([0])
        self.exchange.settle(self.trainer)
        if self.cluster.size > 1:
            self.cluster.require_equal("weights", digest(self.parameters))

    def counts(self, batch: TrainBatch) -> Tuple[int, int]:
        """Images and positive anchors of a step: of all hosts' batches."""
        images, positives = self.cluster.total_of_step([len(batch), batch.positives])
        return int(images), int(positives)

    def step(self, batch: TrainBatch, rate: float, positives: Optional[int] = None) -> np.ndarray:
        """Learn from `batch` at learning rate `rate`; returns the summed (CrossEntropy, SmoothL1) of all hosts'.

        `positives` are the anchors with an object of all hosts, counted where they are not given. A TrainingDiverged,
        before anything is learned from it, when the loss or the gradient is not finite.
        """
        positives = max(self.counts(batch)[1] if positives is None else positives, 1)
        scale = self.loss_scale.value / positives
        losses, norm = self._gradients(batch, scale)
        norm /= self.loss_scale.value
        if self.loss_scale.overflows(losses, norm):
            return losses  # 16 bits were too few for a gradient: the step is left out, the next has a smaller scale
        if not (np.isfinite(losses).all() and math.isfinite(norm)):
            raise TrainingDiverged(
                f"found loss {losses.sum() / positives:g} with gradient norm {norm:g}, "
                f"expected finite numbers; learning rate {rate:g}; the batch came from {batch.where()}"
            )
        self.trainer.set_learning_rate(rate)
        self.exchange.update(self.trainer, self.loss_scale.value * (max(norm / self.clip, 1.0) if self.clip else 1.0))
        if self.average:
            self.average.update()
        return losses

    def _gradients(self, batch: TrainBatch, scale: float) -> "tuple[np.ndarray, float]":
        """Forward and backward on all devices; the summed losses, and the norm of the gradient of their sum times
        `scale`."""
        inputs = zip(*[split(array, self.devices) for array in batch.arrays()])
        with mx.autograd.record():
            outputs = [self.graph(*part, mx.nd.array([scale], ctx=ctx)) for part, ctx in zip(inputs, self.devices)]
        mx.autograd.backward([output[0] for output in outputs])
        self.exchange.add_up(self.trainer)
        return self._read(outputs)

    def _read(self, outputs: List[Any]) -> "tuple[np.ndarray, float]":
        """Losses summed over devices and hosts, and the gradient's norm: one wait for the devices a step."""
        gradients = [p.list_grad()[0] for p in self.parameters]
        squares = mx.nd.multi_sum_sq(*gradients, num_arrays=len(gradients))
        parts = [np.concatenate([o[1].asnumpy(), o[2].asnumpy()]) for o in outputs]
        with np.errstate(over="ignore"):
            losses = self.cluster.total_of_step(np.sum(parts, axis=0, dtype=np.float64))
            return losses, math.sqrt(float(squares.sum().asscalar()))


def digest(parameters: Sequence[Any]) -> str:
    """SHA-256 of the values of `parameters`, on their first devices."""
    found = hashlib.sha256()
    for parameter in parameters:
        found.update(parameter.list_data()[0].asnumpy().tobytes())
    return found.hexdigest()


def make_loss(config: TrainConfig) -> DetectionLoss:
    """The loss that `config` asks for."""
    focal = config.classification_loss == "focal"
    return DetectionLoss(config.negative_mining_ratio, config.min_hard_negatives, focal, config.label_smoothing)


def optimizer_settings(config: TrainConfig) -> Dict[str, float]:
    """Keyword arguments of MXNet's optimizer. As in the built-in algorithm, momentum is sgd's and weight decay is sgd's
    and rmsprop's alone."""
    settings = {"learning_rate": config.learning_rate}
    if config.optimizer == "sgd":
        settings["momentum"] = config.momentum
    if config.optimizer in ("sgd", "rmsprop"):
        settings["wd"] = config.weight_decay
    return settings


def train_one_epoch(
    learner: Learner,
    batches: Iterable[TrainBatch],
    rates: Sequence[float],
    tally: Optional[Tally] = None,
    after_step: Callable[[], None] = lambda: None,
) -> Dict[str, float]:
    """Learn from each batch at its rate; returns the mean CrossEntropy and SmoothL1 per positive anchor, the number of
    images and of steps, the seconds and, of these, the seconds spent waiting for data.

    rates           of all steps of the epoch
    tally           the steps made before, to which these are added; `batches` are those that remain
    after_step      called when `tally` has a step more

    Raises:
        ValueError: there are more or fewer batches than rates.
    """
    tally = Tally() if tally is None else tally
    start = time.perf_counter()
    for batch in batches:
        waited = time.perf_counter() - start
        if tally.steps == len(rates):
            raise ValueError(f"found more batches than the {len(rates)} rates of the epoch, expected one for each")
        images, positives = learner.counts(batch)
        losses = learner.step(batch, rates[tally.steps], positives)
        tally.add(images, max(positives, 1), *losses.tolist())
        tally.data_seconds += waited
        tally.seconds += time.perf_counter() - start
        after_step()
        start = time.perf_counter()
    if tally.steps != len(rates):
        raise ValueError(f"found {tally.steps} batches for {len(rates)} rates of the epoch, expected one for each")
    learner.end_epoch()
    tally.seconds += time.perf_counter() - start
    return tally.result()


class Evaluator:
    """A net as it answers, on the first of its devices."""

    def __init__(self, net: Any, config: TrainConfig, device: Any, post_nms: int) -> None:
        self.net, self.device = net, device
        self.side = config.image_shape
        self.overlap_threshold = config.overlap_threshold
        self.graph = compile_graph(EvalGraph(net, make_loss(config), config.nms_threshold, config.nms_topk, post_nms))

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
