"""Steps that the devices leave out by themselves where they are not finite, so that nobody waits to see what they are.

The host hears of it a step later, and takes back what it has counted.
"""

from __future__ import annotations

import math
from typing import Any, List, Sequence, Tuple

from ssd_train import framework
from ssd_train.model.pretrained import saved_parameters

mx = framework.mxnet()

TENSORS_AT_ONCE = 40
STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_var")  # as layers and as symbols call them


def mark_gradients(outputs: Sequence[Any], gradients: Sequence[Any]) -> None:
    """Make the gradient of each device NaN where its losses are not finite, and leave it as it is where they are. Added
    up, the gradients then tell all devices and hosts alike whether any loss was not finite.

    outputs     of TrainGraph, for each device
    gradients   of one parameter, for each device, before they are added up
    """
    for output, gradient in zip(outputs, gradients):
        mark = (mx.nd.concat(output[1], output[2], dim=0) * 0).sum()  # 0, or NaN
        gradient += mark.astype(gradient.dtype).reshape((1,) * gradient.ndim)


def factor_of_step(squares: Any, scale: float, clip: float) -> Any:
    """What the gradients of a step are multiplied by, (1,) on the first device: it takes the loss scale out, clips the
    norm to `clip` (0: it does not), and is 0 where a gradient is not finite.

    squares     sums of squares of the gradients, added up and marked, which were multiplied by `scale`
    """
    norm = mx.nd.sqrt(mx.nd.sum(squares)) / scale
    factor = 1 / (scale * mx.nd.maximum(norm / clip, 1)) if clip else mx.nd.ones_like(norm) / scale
    return mx.nd.where(mx.nd.contrib.isfinite(norm), factor, mx.nd.zeros_like(factor)).reshape(1)


class MaskedAdam(mx.optimizer.Adam):
    """Adam whose update is left out where the factor of its gradients is 0 or not finite: the rule of MXNet's operators
    for AdamW, of which Adam is the one without weight decay.

    factors     (1,) on each device, set before each update
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.aggregate_num = TENSORS_AT_ONCE
        self.factors: List[Any] = []

    def update(self, index: Tuple[int, ...], weight: Any, grad: Any, state: Any) -> None:
        """Called by Gluon's Trainer with up to TENSORS_AT_ONCE parameters of one device."""
        (factor,) = [factor for factor in self.factors if factor.context == weight[0].context]
        mx.nd.contrib.multi_adamw_update(
            weight,
            grad,
            *zip(*state),
            factor,
            lrs=[self._rate(number) for number in index],
            wds=[0.0] * len(index),
            etas=[1.0] * len(index),
            out=list(weight),
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
        )

    def _rate(self, index: int) -> float:
        """The learning rate of this update, which is counted, with the correction of the first steps' bias."""
        self._update_count(index)
        updates = self._index_update_count[index]
        return self._get_lr(index) * math.sqrt(1 - self.beta2**updates) / (1 - self.beta1**updates)

    def take_back(self) -> None:
        """Do not count the last update."""
        for counts in self._all_index_update_counts.values():
            counts.update({index: count - 1 for index, count in counts.items()})
        self.num_update -= 1


class Statistics:
    """BatchNorm's statistics of a net on all its devices, which a backward pass changes, finite or not."""

    def __init__(self, net: Any, devices: Sequence[Any]) -> None:
        found = [parameter for name, parameter in saved_parameters(net).items() if name.endswith(STATISTICS)]
        self._arrays = [[parameter.data(device) for parameter in found] for device in devices if found]

    def copies(self) -> List[Any]:
        """All of them as they are, end to end: (N,) for each device."""
        return [mx.nd.concat(*arrays, dim=0) for arrays in self._arrays]

    def put_back(self, copies: List[Any]) -> None:
        """As they were when `copies` were made."""
        for arrays, values in zip(self._arrays, copies):
            start = 0
            for array in arrays:
                array[:] = values[start : start + len(array)]
                start += len(array)
