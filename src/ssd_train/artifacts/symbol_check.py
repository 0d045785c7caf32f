"""Read symbols from untrusted sources: only operators of detectors are allowed.

MXNet has others that read files (_cvimread), run code (Custom) or allocate arrays of any size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

from ssd_train import mxnet_compat
from ssd_train.errors import WeightsError

mx = mxnet_compat.mxnet()

MAX_BYTES = 16 << 20
MAX_NODES = 20_000
# of our networks, their quantized forms, and the training symbols of the built-in algorithm, which include losses
OPERATORS = frozenset(
    """null Activation BatchNorm Concat Convolution Dropout Flatten FullyConnected L2Normalization Pooling Reshape
    SliceChannel SoftmaxActivation SoftmaxOutput MakeLoss BlockGrad LeakyReLU LRN UpSampling
    _copy _image_normalize _image_to_tensor _mul_scalar _div_scalar _plus_scalar _minus_scalar _greater_scalar
    broadcast_add broadcast_sub broadcast_mul broadcast_div broadcast_like broadcast_minimum broadcast_maximum
    broadcast_equal broadcast_greater_equal _maximum_scalar batch_dot clip elemwise_add elemwise_sub elemwise_mul
    elemwise_div exp expand_dims sigmoid relu ones_like zeros_like where slice slice_axis slice_like smooth_l1 softmax
    sum mean max argmax concat stack squeeze transpose Cast
    _contrib_box_nms _contrib_box_decode _contrib_AdaptiveAvgPooling2D
    _contrib_MultiBoxPrior _contrib_MultiBoxTarget _contrib_MultiBoxDetection
    _contrib_quantize _contrib_quantize_v2 _contrib_dequantize _contrib_requantize _contrib_quantized_act
    _contrib_quantized_batch_norm _contrib_quantized_concat _contrib_quantized_conv _contrib_quantized_elemwise_add
    _contrib_quantized_elemwise_mul _contrib_quantized_flatten _contrib_quantized_fully_connected
    _contrib_quantized_pooling _sg_mkldnn_conv _sg_mkldnn_fully_connected _sg_onednn_conv
    _sg_onednn_fully_connected""".split()
)


def read_symbol(path: "str | Path") -> Any:
    """Read a symbol from a JSON file.

    Raises:
        WeightsError: it is too large, damaged, or has an operator that detectors do not have.
        mxnet.MXNetError: the graph is inconsistent.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise WeightsError(f"{path}: found {size} bytes, expected a symbol of at most {MAX_BYTES}")
    try:
        text = path.read_text("utf-8")
        operators = list(_operators(json.loads(text)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as a symbol ({error!r}), expected MXNet's JSON") from None
    if len(operators) > MAX_NODES:
        raise WeightsError(f"{path}: found {len(operators)} nodes, expected a network of at most {MAX_NODES}")
    unknown = sorted({str(operator)[:50] for operator in operators if operator not in OPERATORS})
    if unknown:
        raise WeightsError(f"{path}: found the operator {', '.join(unknown)}, expected those of a detector")
    return mx.sym.load_json(text)


def _operators(document: Any) -> Iterator[Any]:
    """Yield the operators of all nodes and of their subgraphs."""
    for node in document["nodes"]:
        yield node["op"]
        for graph in node.get("subgraphs", ()):
            yield from _operators(graph)
