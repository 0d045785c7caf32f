"""The training step: forward, backward, gradient synchronization, weight update.

Gradient scaling: the loss of each device is a sum, divided by the number of positive anchors in the batches of all
hosts. Gradients of devices and hosts are then added, and nothing divides them again.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.config import OPTIMIZERS_WITH, TrainConfig
from ssd_train.data.loaders import TrainBatch
from ssd_train.devices import split_and_load
from ssd_train.errors import TrainingDiverged
from ssd_train.model.fused import fused_features
from ssd_train.model.graphs import TrainGraph, hybridize_static, with_mixed_precision
from ssd_train.model.loss import DetectionLoss
from ssd_train.model.pretrained import state_dict
from ssd_train.training.distributed.communicator import Communicator, server_optimizer

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
        """Restore the values of `state`; float16 after a run without a scale begins with its own."""
        if not (self.dynamic and state[0] == 1.0):
            self.value, self.good_steps = state[0], int(state[1])

    def update(self, losses: np.ndarray, norm: float) -> bool:
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


mx = mxnet_compat.mxnet()

BATCHNORM_STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_var")  # Gluon's names and Symbol's


class BatchNormSnapshot:
    """A copy of a network's BatchNorm statistics on all its devices.

    A skipped step restores it, because its backward pass has already updated the statistics in MXNet.
    """

    def __init__(self, net: Any, devices: Sequence[Any]) -> None:
        statistics = [p for name, p in state_dict(net).items() if name.endswith(BATCHNORM_STATISTICS)]
        self._arrays = [[p.data(device) for p in statistics] for device in devices if statistics]
        self._copies: List[Any] = []  # (N,) for each device, all statistics concatenated

    def save(self) -> None:
        self._copies = [mx.nd.concat(*arrays, dim=0) for arrays in self._arrays]

    def restore(self) -> None:
        for arrays, values in zip(self._arrays, self._copies):
            start = 0
            for array in arrays:
                array[:] = values[start : start + len(array)]
                start += len(array)


class TrainStep:
    """A network with its optimizer on the devices of this process, synchronized with the other processes.

    Args:
        net: the network to train; it is moved to `devices`.
        config: optimizer, loss, clipping and mixed precision settings.
        devices: MXNet contexts of this process; a batch is split over them.
        cluster: the processes that train together; None: this one alone.
        class_weights: factor of the class loss of each class; empty: 1.

    Attributes:
        dtype: dtype of mixed precision, "" without it.
        features: layers fused for training on the CPU, None where the network's own are used.
        average: moving average of the weights, updated after every step that is not skipped; None without ema_decay.
        clipped: True if the gradient of the last step was clipped.
    """

    def __init__(
        self,
        net: Any,
        config: TrainConfig,
        devices: Sequence[Any],
        cluster: Optional[Communicator] = None,
        class_weights: Sequence[float] = (),
    ) -> None:
        self.net, self.devices = net, list(devices)
        self.cluster = cluster or Communicator()
        self.exchange = self.cluster.exchange
        net.collect_params().reset_ctx(self.devices)
        self.features = self._fused_features(config)
        loss = make_loss(config, class_weights)
        loss.initialize(ctx=self.devices)
        graph = TrainGraph(net, loss, self.features)
        self.dtype = amp_dtype(config, self.devices[0])
        self.graph = hybridize_static(with_mixed_precision(graph, self.dtype) if self.dtype else graph)
        self.average: Optional[ModelEMA] = None
        self.clip = config.clip_gradient
        self.clipped = False
        self.loss_scale = LossScale(FLOAT16_SCALE if self.dtype == "float16" else 1.0)
        self.parameters = [p for p in net.collect_params().values() if p.grad_req != "null"]
        self._batchnorm = BatchNormSnapshot(net, self.devices)
        self.trainer = mx.gluon.Trainer(
            self.parameters,
            config.optimizer,
            optimizer_settings(config),
            kvstore=self.exchange.local_kvstore(config, self.devices),
            update_on_kvstore=False,
        )

    def _fused_features(self, config: TrainConfig) -> Any:
        """Return the network's layers fused for the batch size of one device; None on GPUs and with mixed precision.

        With bfloat16 the fused operator is no faster, and its gradients are wrong.
        """
        if amp_dtype(config, self.devices[0]) or self.devices[0].device_type != "cpu":
            return None
        images = max(config.mini_batch_size // self.cluster.local_size // len(self.devices), 1)
        return fused_features(self.net, (images, 3, config.image_shape, config.image_shape))

    def start(self, config: TrainConfig, steps: int, epoch: int, steps_done: int = 0) -> None:
        """Prepare gradient synchronization; call it once, after the initial or resumed weights are loaded.

        Args:
            config: settings of the run.
            steps: number of steps in an epoch.
            epoch: the epoch (from 0) to continue with.
            steps_done: number of finished steps of that epoch.
        """
        size, settings = self.cluster.size, optimizer_settings(config)
        updates_done = (epoch * steps + steps_done) * size
        self.exchange.begin(self.trainer, lambda: server_optimizer(config, settings, steps * size, updates_done))

    def begin_epoch(self) -> None:
        """Prepare the weights for the casts to bfloat16, which cannot read the layout of weights used in inference.

        MXNet's inference on a CPU changes the layout of float32 weights in place.
        """
        if self.dtype != "bfloat16":
            return
        for parameter in self.net.collect_params().values():
            for array in parameter.list_data():
                values = array.asnumpy()
                array[:] = 0  # the layout becomes the plain one: only in operations that do not read the array
                array[:] = values

    def end_epoch(self) -> None:
        """Pull the newest weights once all hosts have finished the epoch."""
        mx.nd.waitall()
        self.cluster.allreduce_sum([0])
        self.exchange.pull_weights(self.trainer)
        if self.cluster.size > 1:
            self.cluster.assert_same_on_all_ranks("weights", digest(self.parameters))

    def global_batch_counts(self, batch: Optional[TrainBatch]) -> Tuple[int, int]:
        """Return the images and positive anchors of a step over all hosts; (0, 0) if a host has no batch left."""
        own = [0, 0, 1] if batch is None else [len(batch), batch.positives, 0]
        images, positives, hosts_without = self.cluster.allreduce_step(own)
        return (0, 0) if hosts_without else (int(images), int(positives))

    def step(self, batch: TrainBatch, rate: float, positives: Optional[int] = None) -> np.ndarray:
        """Update the weights from one batch.

        If its gradient overflows in float16, the step is skipped and the loss scale halved.

        Args:
            batch: this host's part of the global batch.
            rate: learning rate.
            positives: positive anchors of all hosts' batches; None: they are counted here.

        Returns:
            Summed (CrossEntropy, SmoothL1) over all hosts.

        Raises:
            TrainingDiverged: the loss or the gradient is not finite; the weights are unchanged.
        """
        positives = max(self.global_batch_counts(batch)[1] if positives is None else positives, 1)
        scale = self.loss_scale.value
        self._batchnorm.save()
        losses, norm = self._read(*self._forward_backward(batch, scale / positives))
        norm /= scale
        self.clipped = False
        if self.loss_scale.update(losses, norm):
            self._batchnorm.restore()
            return losses
        if not (np.isfinite(losses).all() and math.isfinite(norm)):
            self._batchnorm.restore()
            raise TrainingDiverged(
                f"found loss {losses.sum() / positives:g} with gradient norm {norm:g}, "
                f"expected finite numbers; learning rate {rate:g}; the batch came from {batch.where()}"
            )
        self.clipped = bool(self.clip) and norm > self.clip
        self.trainer.set_learning_rate(rate)
        self.exchange.update(self.trainer, scale * (max(norm / self.clip, 1.0) if self.clip else 1.0))
        if self.average:
            self.average.update()
        return losses

    def _forward_backward(self, batch: TrainBatch, scale: float) -> "tuple[List[Any], Any]":
        """Return the outputs of TrainGraph for each device and each parameter's sum of squared gradients."""
        inputs = zip(*[split_and_load(array, self.devices) for array in batch.arrays()])
        with mx.autograd.record():
            outputs = [self.graph(*part, mx.nd.array([scale], ctx=ctx)) for part, ctx in zip(inputs, self.devices)]
        mx.autograd.backward([output[0] for output in outputs])
        self.exchange.allreduce(self.trainer)
        gradients = [p.list_grad()[0] for p in self.parameters]
        return outputs, mx.nd.multi_sum_sq(*gradients, num_arrays=len(gradients))

    def _read(self, outputs: List[Any], squares: Any) -> "tuple[np.ndarray, float]":
        """Wait for the devices; return the losses summed over devices and hosts, and the gradient norm."""
        parts = [np.concatenate([o[1].asnumpy(), o[2].asnumpy()]) for o in outputs]
        with np.errstate(over="ignore"):
            losses = self.cluster.allreduce_step(np.sum(parts, axis=0, dtype=np.float64))
            return losses, math.sqrt(float(squares.sum().asscalar()))


def amp_dtype(config: TrainConfig, device: Any) -> str:
    """Return the dtype of mixed precision on `device`, "" without it: "auto" is resolved by training/setup.py."""
    if config.amp is not True:
        return ""
    return "float16" if device.device_type == "gpu" else "bfloat16"


def digest(parameters: Sequence[Any]) -> str:
    """Return the SHA-256 of the values of `parameters` on their first devices."""
    sha256 = hashlib.sha256()
    for parameter in parameters:
        sha256.update(parameter.list_data()[0].asnumpy().tobytes())
    return sha256.hexdigest()


def make_loss(config: TrainConfig, class_weights: Sequence[float] = ()) -> DetectionLoss:
    """Return the loss for `config`."""
    focal = config.classification_loss == "focal"
    return DetectionLoss(
        config.negative_mining_ratio, config.min_hard_negatives, focal, config.label_smoothing, class_weights
    )


def optimizer_settings(config: TrainConfig) -> Dict[str, float]:
    """Return the keyword arguments of MXNet's optimizer."""
    settings = {"learning_rate": config.base_learning_rate}
    if config.optimizer in OPTIMIZERS_WITH["momentum"]:
        settings["momentum"] = config.momentum
    if config.optimizer in OPTIMIZERS_WITH["weight_decay"]:
        settings["wd"] = config.weight_decay
    return settings


class ModelEMA:
    """Exponential moving average of a network's weights and BatchNorm statistics.

    Averages of many steps are steadier than the last step (Polyak & Juditsky, 1992). Step n has a decay of at most (1 +
    n) / (10 + n), as in TensorFlow, so that the initial weights are forgotten soon.

    Args:
        net: network that receives the average; equal in structure to `source`.
        source: network that is trained.
        decay: weight of the old average in each step, 0 < decay < 1.
    """

    def __init__(self, net: Any, source: Any, decay: float) -> None:
        self.net, self.decay = net, decay
        self.updates = 0
        sources, targets = state_dict(source), state_dict(net)
        self._pairs: List[Tuple[Any, Any]] = [(targets[name], source) for name, source in sources.items()]
        for target, source in self._pairs:
            target.set_data(source.list_data()[0])

    def update(self) -> None:
        """Add the current weights of the trained network to the average."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for target, source in self._pairs:
            average = target.list_data()[0]
            # average - weight * (1 * average - value), in one pass
            mx.nd.sgd_update(average, source.list_data()[0], out=average, lr=weight, wd=1.0, rescale_grad=-1.0)
