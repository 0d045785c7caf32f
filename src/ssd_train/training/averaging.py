"""Exponential moving average of a network's weights."""

from __future__ import annotations

from typing import Any, List, Tuple

from ssd_train import framework
from ssd_train.model.pretrained import saved_parameters

mx = framework.mxnet()


class WeightAverage:
    """Exponential moving average of a network's weights and BatchNorm statistics.

    Averages of many steps are steadier than the last step (Polyak & Juditsky, 1992). Step n has a decay of at most (1 +
    n) / (10 + n), as in TensorFlow, so that the initial weights are forgotten soon.

    Args:
        net: network that receives the average; equal in structure to `learner`.
        learner: network that is trained.
        decay: weight of the old average in each step, 0 < decay < 1.
    """

    def __init__(self, net: Any, learner: Any, decay: float) -> None:
        self.net, self.decay = net, decay
        self.updates = 0
        sources, targets = saved_parameters(learner), saved_parameters(net)
        self._pairs: List[Tuple[Any, Any]] = [(targets[name], source) for name, source in sources.items()]
        for target, source in self._pairs:
            target.set_data(source.list_data()[0])

    def update(self) -> None:
        """Add the current weights of the trained network to the average."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for target, source in self._pairs:
            average = target.list_data()[0]
            # one pass in place: average - weight * (1 * average - value)
            mx.nd.sgd_update(average, source.list_data()[0], out=average, lr=weight, wd=1.0, rescale_grad=-1.0)
