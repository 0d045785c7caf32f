"""A network's layers in the form in which they train fastest, with the parameters and the values of their own.

BatchNorm and the ReLU after it as one operator: of a step of MobileNet on a processor a third is spent in these two,
which hardly compute, but read maps and write them. The class and the box predictor of a map as one convolution.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from typing import Any, Dict, List, Tuple

from ssd_train import framework

mx = framework.mxnet()

JOINED = "_contrib_BatchNormWithReLU"
CHANNELS_AT_ONCE = 16  # with AVX-512; 8 with AVX2


def fused_features(net: Any, shape: Tuple[int, int, int, int]) -> Any:
    """`net.features` for training on a CPU with batches of `shape` (B, 3, S, S): a block with the same parameters whose
    values are the same; None where that would not help, or MXNet cannot do it here.

    `net` itself stays as it is: neither GPUs nor ONNX have the joined operator. Whether oneDNN has its backward pass
    depends on the order in which the convolutions beside it leave their maps in memory, which they choose by processor
    and shape; so it is tried, for as long as a step takes.
    """
    if not isinstance(net.features, mx.gluon.SymbolBlock) or not framework.has_fused_batchnorm():
        return None
    inputs, outputs = net.features._cached_graph
    graph = json.loads(outputs.tojson(remove_amp_cast=False))
    if not _join(graph):
        return None
    symbol = mx.sym.load_json(json.dumps(graph))
    if not _trains(_block(symbol, inputs, None), shape):
        return None
    return _block(symbol, inputs, net.features.collect_params())


class JoinedPredictors(mx.gluon.HybridBlock):
    """The two convolutions `classes` and `boxes` of a map (Conv2D of equal form, with bias) as one.

    Its channels are made a multiple of 16 by such as count for nothing: the convolutions of oneDNN work on 16 channels
    at once, and for the 8 or 12 of few classes it falls back to matrix products, at a sixth of the speed.
    """

    def __init__(self, classes: Any, boxes: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for layer in (classes, boxes):
            self.params.update(layer.params)
        self.class_weight, self.class_bias = classes.weight, classes.bias
        self.box_weight, self.box_bias = boxes.weight, boxes.bias
        self._widths = classes.weight.shape[0], boxes.weight.shape[0]
        self._padding = -sum(self._widths) % CHANNELS_AT_ONCE
        self._form = {**classes._kwargs, "num_filter": sum(self._widths) + self._padding}

    def hybrid_forward(
        self, F: Any, maps: Any, class_weight: Any, class_bias: Any, box_weight: Any, box_bias: Any
    ) -> Any:
        """Maps (B, C, H, W) -> (B, k * (classes + 1), H, W), (B, k * 4, H, W)."""
        weight, bias = self._one(F, class_weight, box_weight), self._one(F, class_bias, box_bias)
        scores = F.Convolution(maps, weight, bias, **self._form)
        classes, boxes = self._widths
        return (
            F.slice_axis(scores, axis=1, begin=0, end=classes),
            F.slice_axis(scores, axis=1, begin=classes, end=classes + boxes),
        )

    def _one(self, F: Any, of_classes: Any, of_boxes: Any) -> Any:
        """Weights or biases of both and, for the padding, zeros of the shape of as many of a box's 16 or more."""
        parts = [of_classes, of_boxes]
        if self._padding:
            parts.append(F.zeros_like(F.slice_axis(of_boxes, axis=0, begin=0, end=self._padding)))
        return F.concat(*parts, dim=0)


def _block(symbol: Any, inputs: Any, parameters: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Cannot decide type": of the input, which is known when the net runs
        return mx.gluon.SymbolBlock(symbol, inputs, params=parameters)


def _trains(features: Any, shape: Tuple[int, int, int, int]) -> bool:
    """Whether `features`, with values of no account, can go forward and back."""
    features.initialize(mx.init.Zero())
    features.hybridize(static_alloc=True, static_shape=True)
    try:
        with mx.autograd.record():
            maps = features(mx.nd.zeros(shape))
        mx.autograd.backward(maps)
        mx.nd.waitall()
    except mx.MXNetError:  # "could not create a primitive descriptor iterator"
        return False
    return True


def _join(graph: Dict[str, Any]) -> int:
    """Change a symbol's JSON: each BatchNorm that only a ReLU reads is one with it; returns how many are.

    What only one layer reads comes from the joined operator itself. What several read, or the heads, passes through a
    copy: its gradient is a sum whose parts may lie in memory in different orders, and after a copy it lies in the plain
    one. From mixed orders oneDNN cannot do the joined operator's backward pass at all, and that of BatchNorm alone only
    by its reference code, 25 times as slowly.
    """
    nodes: List[Dict[str, Any]] = graph["nodes"]
    heads = {entry[0] for entry in graph["heads"]}
    readers = Counter(entry[0] for node in nodes for entry in node["inputs"])
    joined = 0
    moved = {}
    for index, node in enumerate(nodes):
        if node["op"] != "Activation" or node["attrs"]["act_type"] != "relu":
            continue
        source = node["inputs"][0][0]
        if nodes[source]["op"] != "BatchNorm" or readers[source] > 1 or source in heads:
            continue
        nodes[source]["op"] = JOINED
        joined += 1
        if readers[index] > 1 or index in heads:
            node.update(op="_copy", attrs={})
        else:
            moved[index] = source
    for node in nodes:
        node["inputs"] = [[moved.get(entry[0], entry[0]), *entry[1:]] for entry in node["inputs"]]
    return joined
