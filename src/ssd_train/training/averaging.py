"""WeightAverage: a second net whose weights follow those of the net that learns."""

from __future__ import annotations

from typing import Any, List, Tuple

from ssd_train import framework
from ssd_train.model.pretrained import saved_parameters

mx = framework.mxnet()


class WeightAverage:
    """The exponential moving average of a net's weights and BatchNorm statistics, in a net of its own.

    Averages of many steps are steadier than the last step (Polyak & Juditsky, 1992). The first steps count less: step n
    has a decay of at most (1 + n) / (10 + n), TensorFlow's rule, so that the first weights are soon forgotten.

    net         that follows; built as `learner`, on the device that answers
    learner     that learns
    decay       share of the average that a step leaves, 0 < decay < 1
    """

    def __init__(self, net: Any, learner: Any, decay: float) -> None:
        self.net, self.decay = net, decay
        self.updates = 0
        sources, targets = saved_parameters(learner), saved_parameters(net)
        self._pairs: List[Tuple[Any, Any]] = [(targets[name], source) for name, source in sources.items()]
        for target, source in self._pairs:
            target.set_data(source.list_data()[0])

    def update(self) -> None:
        """Take the weights of the step just made."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for target, source in self._pairs:
            average = target.list_data()[0]
            # one pass in place: average - share * (1 * average - value)
            mx.nd.sgd_update(average, source.list_data()[0], out=average, lr=share, wd=1.0, rescale_grad=-1.0)
