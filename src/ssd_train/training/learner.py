"""Learner: a net, its optimizer and its devices. What a step of training is.

Who divides the gradient: the loss of each device is a sum, multiplied by one over the number of positive anchors of the
whole batch, of all hosts' parts of it, and the gradients of devices and hosts are added. Nothing divides again.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.config import TrainConfig
from ssd_train.data.batches import TrainBatch
from ssd_train.errors import TrainingDiverged
from ssd_train.model.fused import fused_features
from ssd_train.model.graphs import TrainGraph, compile_graph
from ssd_train.model.loss import DetectionLoss
from ssd_train.training.averaging import WeightAverage
from ssd_train.training.cluster import Cluster
from ssd_train.training.devices import split
from ssd_train.training.exchange import server_optimizer
from ssd_train.training.loss_scale import FLOAT16_SCALE, LossScale
from ssd_train.training.masked import MaskedAdam, Statistics, factor_of_step, mark_gradients

mx = framework.mxnet()


@dataclass(frozen=True)
class Step:
    """A step on its way through the devices, of which nothing is known yet.

    scale       what the loss was multiplied by before the division by `positives`
    outputs     of TrainGraph, for each device
    squares     sums of squares of the gradients, one for each parameter
    before      copies of BatchNorm's statistics before it, which it changes before anybody can know how it goes
    """

    batch: TrainBatch
    rate: float
    positives: int
    scale: float
    outputs: List[Any]
    squares: Any
    before: List[Any]


class Learner:
    """A net, its optimizer, its devices and those it learns together with: what makes a step.

    deferred    a step is known to have gone well when the next is on its way: until then the devices do not wait. It is
                they who leave out an update that is not finite. None: with adam on GPUs. (On the processor, which makes
                both, masking costs more than waiting; the other optimizers have no such update.) Never with ema_decay:
                an average follows the steps that count, so it has to know each before the next changes the weights.
    """

    def __init__(
        self,
        net: Any,
        config: TrainConfig,
        devices: Sequence[Any],
        cluster: Optional[Cluster] = None,
        deferred: Optional[bool] = None,
    ) -> None:
        self.net, self.devices = net, list(devices)
        self.cluster = cluster or Cluster()
        self.exchange = self.cluster.exchange
        net.collect_params().reset_ctx(self.devices)
        self.features = self._fused_features(config)  # None: the net's own, as they are
        self.graph = compile_graph(TrainGraph(net, make_loss(config), self.features))
        self.average: Optional[WeightAverage] = None  # follows every step that counts, where there is one
        self.clip = config.clip_gradient
        self.clipped = False  # whether the gradient of the step that ended last was
        self.loss_scale = LossScale(FLOAT16_SCALE if config.amp and self.devices[0].device_type == "gpu" else 1.0)
        self.parameters = [p for p in net.collect_params().values() if p.grad_req != "null"]
        self.marked = min(self.parameters, key=lambda parameter: int(np.prod(parameter.shape)))  # the smallest
        able = config.optimizer == "adam" and self.exchange.together and not config.ema_decay
        self.deferred = able and (self.devices[0].device_type == "gpu" if deferred is None else deferred)
        self.statistics = Statistics(net, self.devices)
        self.newest: List[Any] = []  # `before` of the step that began last
        settings = optimizer_settings(config)
        self.trainer = mx.gluon.Trainer(
            self.parameters,
            MaskedAdam(**settings) if self.deferred else config.optimizer,
            None if self.deferred else settings,
            kvstore=self.exchange.local_store(config, self.devices),
            update_on_kvstore=False,
        )

    def _fused_features(self, config: TrainConfig) -> Any:
        """The net's layers as they learn fastest on the processor with a device's part of a batch; None elsewhere."""
        if config.amp or self.devices[0].device_type != "cpu":
            return None
        images = max(config.mini_batch_size // self.cluster.local_size // len(self.devices), 1)
        return fused_features(self.net, (images, 3, config.image_shape, config.image_shape))

    def begin(self, config: TrainConfig, steps: int, epoch: int, made: int = 0) -> None:
        """To be called with the first weights in place, when `made` steps of epoch `epoch` (from 0), which has `steps`,
        are made."""
        size, settings = self.cluster.size, optimizer_settings(config)
        before = (epoch * steps + made) * size
        self.exchange.begin(self.trainer, lambda: server_optimizer(config, settings, steps * size, before))

    def end_epoch(self) -> None:
        """Take the newest weights, which all hosts have in common after an epoch; that they do is made sure of."""
        mx.nd.waitall()
        self.cluster.total([0])
        self.exchange.settle(self.trainer)
        if self.cluster.size > 1:
            self.cluster.require_equal("weights", digest(self.parameters))

    def counts(self, batch: Optional[TrainBatch]) -> Tuple[int, int]:
        """Return the images and positive anchors of a step, of all hosts' batches; (0, 0) when a host has no batch."""
        own = [0, 0, 1] if batch is None else [len(batch), batch.positives, 0]
        images, positives, hosts_without = self.cluster.total_of_step(own)
        return (0, 0) if hosts_without else (int(images), int(positives))

    def step(self, batch: TrainBatch, rate: float, positives: Optional[int] = None) -> np.ndarray:
        """`begin_step` and `end_step`."""
        return self.end_step(self.begin_step(batch, rate, positives))

    def begin_step(self, batch: TrainBatch, rate: float, positives: Optional[int] = None) -> Step:
        """Send `batch` through the devices, to be learned from at learning rate `rate`. `positives` are the anchors
        with an object of all hosts, counted where they are not given. Another step may begin before the end of this one
        if steps are deferred."""
        positives = max(self.counts(batch)[1] if positives is None else positives, 1)
        before = self.newest = self.statistics.copies()
        scale = self.loss_scale.value
        step = Step(batch, rate, positives, scale, *self._forward_backward(batch, scale / positives), before)
        if self.deferred:
            factor = factor_of_step(step.squares, scale, self.clip)
            self.trainer._optimizer.factors = [factor.as_in_context(device) for device in self.devices]
            self._update(rate, 1.0)
        return step

    def end_step(self, step: Step) -> np.ndarray:
        """Wait for a step; returns the summed (CrossEntropy, SmoothL1) of all hosts'.

        A TrainingDiverged, without anything learned from it, when the loss or the gradient is not finite.
        """
        losses, norm = self._read(step.outputs, step.squares)
        norm /= step.scale
        self.clipped = False
        if self.loss_scale.overflows(losses, norm):
            self._take_back(step)
            return losses  # 16 bits were too few for a gradient: the step is left out, the next has a smaller scale
        if not (np.isfinite(losses).all() and math.isfinite(norm)):
            self._take_back(step)
            raise TrainingDiverged(
                f"found loss {losses.sum() / step.positives:g} with gradient norm {norm:g}, "
                f"expected finite numbers; learning rate {step.rate:g}; the batch came from {step.batch.where()}"
            )
        self.clipped = bool(self.clip) and norm > self.clip
        if not self.deferred:
            self._update(step.rate, step.scale * (max(norm / self.clip, 1.0) if self.clip else 1.0))
        return losses

    def _update(self, rate: float, divisor: float) -> None:
        self.trainer.set_learning_rate(rate)
        self.exchange.update(self.trainer, divisor)
        if self.average:
            self.average.update()

    def _take_back(self, step: Step) -> None:
        """What a step that is left out has left behind all the same: in the net, and in what the next one, if it is on
        its way by now, has copied of that before it began."""
        self.statistics.put_back(step.before)
        self.newest[:] = step.before
        if self.deferred:
            self.trainer._optimizer.take_back()

    def _forward_backward(self, batch: TrainBatch, scale: float) -> "tuple[List[Any], Any]":
        """Outputs of each device, and the sums of squares of the gradients, on their way."""
        inputs = zip(*[split(array, self.devices) for array in batch.arrays()])
        with mx.autograd.record():
            outputs = [self.graph(*part, mx.nd.array([scale], ctx=ctx)) for part, ctx in zip(inputs, self.devices)]
        mx.autograd.backward([output[0] for output in outputs])
        if self.deferred:
            mark_gradients(outputs, self.marked.list_grad())
        self.exchange.add_up(self.trainer)
        gradients = [p.list_grad()[0] for p in self.parameters]
        return outputs, mx.nd.multi_sum_sq(*gradients, num_arrays=len(gradients))

    def _read(self, outputs: List[Any], squares: Any) -> "tuple[np.ndarray, float]":
        """Losses summed over devices and hosts, and the gradient's norm: one wait for the devices a step."""
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
