"""Fused layers that train faster on a CPU, with the same parameters and outputs.

BatchNorm and its ReLU become one operator: in MobileNet, a third of a training step on a CPU goes into these two, which
    are bound by memory. The class and box predictors of a map become one convolution.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from typing import Any, Dict, List, Tuple

from ssd_train import mxnet_compat

mx: Any = mxnet_compat.mxnet()

FUSED_OPERATOR = "_contrib_BatchNormWithReLU"
CHANNELS_AT_ONCE = 16  # with AVX-512; 8 with AVX2


def fused_features(net: Any, shape: Tuple[int, int, int, int]) -> Any:
    """Return `net.features` with BatchNorm and ReLU fused, for training on a CPU.

    The block shares the parameters of `net`, which is not changed: neither GPUs nor ONNX have the fused operator.
        Whether oneDNN has its backward pass depends on the memory layouts that neighbouring convolutions choose by CPU
        and shape, so one forward and backward pass is tried.

    Args:
        net: the network.
        shape: (B, 3, S, S), shape of the batches.

    Returns:
        The fused block; None if there is nothing to fuse, or the operator does not work here.
    """
    if not isinstance(net.features, mx.gluon.SymbolBlock) or not mxnet_compat.has_fused_batchnorm():
        return None
    inputs, outputs = net.features._cached_graph
    graph = json.loads(outputs.tojson())
    if not _join(graph):
        return None
    symbol = mx.sym.load_json(json.dumps(graph))
    if not _supports_backward(_block(symbol, inputs, None), shape):
        return None
    return _block(symbol, inputs, net.features.collect_params())


class FusedPredictor(mx.gluon.HybridBlock):
    """Computes the class and the box predictor of a map as one convolution.

    Its channels are zero-padded to a multiple of 16: oneDNN's convolutions process 16 channels at a time, and for the 8
    or 12 channels of few classes it falls back to matrix products at a sixth of the speed.

    Args:
        classes: Conv2D with bias.
        boxes: Conv2D with bias, of the same kernel, stride and padding.
    """

    def __init__(self, classes: Any, boxes: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for layer in (classes, boxes):
            self.params.update(layer.params)
        self.class_weight, self.class_bias = classes.weight, classes.bias
        self.box_weight, self.box_bias = boxes.weight, boxes.bias
        self._widths = classes.weight.shape[0], boxes.weight.shape[0]
        self._padding = -sum(self._widths) % CHANNELS_AT_ONCE
        self._convolution = {**classes._kwargs, "num_filter": sum(self._widths) + self._padding}

    def hybrid_forward(
        self, F: Any, maps: Any, class_weight: Any, class_bias: Any, box_weight: Any, box_bias: Any
    ) -> Any:
        """Predict from maps (B, C, H, W).

        Returns:
            Class scores (B, k * (classes + 1), H, W) and box offsets (B, k * 4, H, W).
        """
        weight, bias = self._concat(F, class_weight, box_weight), self._concat(F, class_bias, box_bias)
        scores = F.Convolution(maps, weight, bias, **self._convolution)
        classes, boxes = self._widths
        return (
            F.slice_axis(scores, axis=1, begin=0, end=classes),
            F.slice_axis(scores, axis=1, begin=classes, end=classes + boxes),
        )

    def _concat(self, F: Any, of_classes: Any, of_boxes: Any) -> Any:
        """Concatenate both predictors' weights (or biases) and zero-pad to a multiple of 16 channels."""
        parts = [of_classes, of_boxes]
        if self._padding:
            parts.append(F.zeros_like(F.slice_axis(of_boxes, axis=0, begin=0, end=self._padding)))
        return F.concat(*parts, dim=0)


def _block(symbol: Any, inputs: Any, parameters: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Cannot decide type" of the input, which is known once the network runs
        return mx.gluon.SymbolBlock(symbol, inputs, params=parameters)


def _supports_backward(features: Any, shape: Tuple[int, int, int, int]) -> bool:
    """Return whether `features` can run forward and backward; its values are overwritten with zeros."""
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
    """Fuse each BatchNorm in a symbol's JSON with the ReLU that alone reads it; return the number of fused layers.

    A result with one reader is read from the fused operator. A result with several readers, or an output, passes
    through a copy: its gradient is a sum, whose parts may have different memory layouts, and after a copy it has the
    plain one. With mixed layouts oneDNN has no backward pass of the fused operator, and for BatchNorm alone only the
    reference code, which is 25 times slower.
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
        nodes[source]["op"] = FUSED_OPERATOR
        joined += 1
        if readers[index] > 1 or index in heads:
            node.update(op="_copy", attrs={})
        else:
            moved[index] = source
    for node in nodes:
        node["inputs"] = [[moved.get(entry[0], entry[0]), *entry[1:]] for entry in node["inputs"]]
    return joined
