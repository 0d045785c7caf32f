"""Convert an MXNet symbol to ONNX, with BatchNorm folded into convolutions.

mxnet.onnx is not used: it lists weights among the inputs, which keeps runtimes from folding constants (2.5 times
slower), MXNet 1.9.0 lacks it, and it fails with onnx packages released after 2024. _OPERATORS at the end covers the
operators of our networks; any other operator is an error.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Sequence, Tuple, Union

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import RAW_KIND, RAW_OUTPUTS, ExportMetadata
from ssd_train.artifacts.saved_model import SavedModel
from ssd_train.errors import DependencyError, SsdTrainError
from ssd_train.model.anchors import layout_of, make_anchors
from ssd_train.model.graphs import SCORE_THRESHOLD, DetectGraph, vote
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD
from ssd_train.model.targets import STDS
from ssd_train.storage import atomic

OPSET, IR_VERSION = 13, 7  # of 2020, for old runtimes; nothing newer is needed
FLOAT, UINT8 = 1, 2  # element types

HOW_TO_INSTALL = "install the extra: pip install 'ssd-train[onnx]'"


def onnx_module(part: str = "onnx") -> Any:
    """Import a package of the onnx extra; raise a DependencyError without it."""
    try:
        return importlib.import_module(part)
    except ImportError as error:
        raise DependencyError(
            f"{part} cannot be imported ({str(error) or type(error).__name__}); {HOW_TO_INSTALL}"
        ) from None


class Value(NamedTuple):
    """An input or output of a graph.

    Attributes:
        name: of the tensor.
        element: element type, a number of onnx.TensorProto.
        shape: with a name, or None, for each variable dimension.
    """

    name: str
    element: int
    shape: Sequence[Union[int, str, None]]


class GraphBuilder:
    """Build an ONNX graph node by node, in the order of computation."""

    def __init__(self) -> None:
        self._onnx = onnx_module()
        self.nodes: List[Any] = []
        self.constants: Dict[str, np.ndarray] = {}
        self._numbers = itertools.count()

    def to_model(self, input: Value, outputs: Sequence[Value]) -> Any:
        """Return an ONNX model; constants are not inputs, so that they can be folded."""
        helper = self._onnx.helper
        infos = [helper.make_tensor_value_info(*value) for value in (input, *outputs)]
        tensors = [self._onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "ssd_train", infos[:1], infos[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        return model

    def load(self, model: Any) -> None:
        """Replace all nodes and constants by those of an ONNX model."""
        self.nodes = list(model.graph.node)
        self.constants = {t.name: self._onnx.numpy_helper.to_array(t) for t in model.graph.initializer}

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = name or f"{operator.lower()}_{next(self._numbers)}"
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str = "", dtype: Any = np.float32) -> str:
        """Add a constant tensor; return its name."""
        name = name or f"constant_{next(self._numbers)}"
        self.constants[name] = np.asarray(value, dtype)
        return name


class Node(NamedTuple):
    """A node of an MXNet symbol.

    Attributes:
        name: of the node.
        attributes: values as strings.
        inputs: names of the ONNX tensors that it reads.
        is_only_reader: True if no other node reads the first input.
    """

    name: str
    attributes: Dict[str, str]
    inputs: List[str]
    is_only_reader: bool

    def value(self, attribute: str, default: Any = None) -> Any:
        """Parse an attribute: "(3, 3)" -> (3, 3)."""
        text = self.attributes.get(attribute)
        if text is None:
            return default
        return ast.literal_eval(text) if text[:1] in "(-.0123456789TF" else text


def convert_symbol(
    graph: GraphBuilder, symbol_json: str, arrays: Mapping[str, np.ndarray], known: Mapping[str, str]
) -> List[str]:
    """Add the nodes of a symbol to `graph`.

    Args:
        graph: receives the nodes.
        symbol_json: Symbol.tojson().
        arrays: parameters and auxiliary states by name.
        known: tensors of `graph` that replace the output of a node, by the node's name or operator.

    Returns:
        The names of the outputs.
    """
    document = json.loads(symbol_json)
    outputs = [source for source, *_ in document["heads"]]
    readers = Counter([source for node in document["nodes"] for source, *_ in node["inputs"]] + outputs)
    tensors: List[str] = []
    for row in document["nodes"]:
        name, operator, sources = row["name"], row["op"], [source for source, *_ in row["inputs"]]
        node = Node(
            name, row.get("attrs", {}), [tensors[s] for s in sources], bool(sources) and readers[sources[0]] == 1
        )
        if name in known or operator in known:
            tensors.append(known[name if name in known else operator])
        elif operator == "null":
            if name not in arrays:
                _refuse(f"no value of {name}")
            tensors.append(graph.constant(arrays[name], _free_name(name)))
        elif operator in _OPERATORS:
            tensors.append(_OPERATORS[operator](graph, node))
        else:
            _refuse(f"operator {operator} ({name})")
    _drop_unused(graph)
    return [tensors[source] for source in outputs]


def _refuse(problem: str) -> NoReturn:
    raise SsdTrainError(f"ONNX: found {problem}, expected a network of the kinds that ssd_train builds")


def _free_name(name: str) -> str:
    """Change names that ONNX Runtime's quantization uses for its own constants.

    mxnet-ssd has a layer relu4_3 with a parameter relu4_3_scale, for example.
    """
    return f"{name}_value" if name.endswith(("_scale", "_zero_point")) else name


def _drop_unused(graph: GraphBuilder) -> None:
    used = {name for node in graph.nodes for name in node.input}
    graph.constants = {name: value for name, value in graph.constants.items() if name in used}


def _convolution(graph: GraphBuilder, node: Node) -> str:
    data, weight = node.inputs[:2]
    bias = f"{node.name}_bias"  # always present, so that BatchNorm can be folded into it
    value = graph.constants[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(len(graph.constants[weight]))
    graph.constant(value, bias)
    spatial = {"kernel_shape": node.value("kernel"), "strides": node.value("stride", (1, 1))}
    spatial.update(pads=node.value("pad", (0, 0)) * 2, dilations=node.value("dilate", (1, 1)))
    return graph.add("Conv", data, weight, bias, name=node.name, group=node.value("num_group", 1), **spatial)


def _batch_norm(graph: GraphBuilder, node: Node) -> str:
    data, *parameters = node.inputs
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in parameters)
    if node.value("fix_gamma", True):
        gamma = np.ones_like(gamma)
    scale = gamma / np.sqrt(variance + node.value("eps", 1e-3))  # (C,)
    shift = beta - mean * scale
    before = next((n for n in graph.nodes if n.output[0] == data), None)
    if before is not None and before.op_type == "Conv" and node.is_only_reader:
        weight, bias = before.input[1:]
        graph.constant(graph.constants[weight] * scale.reshape(-1, 1, 1, 1), weight)
        graph.constant(graph.constants[bias] * scale + shift, bias)
        return data
    factor, term = (graph.constant(values.reshape(1, -1, 1, 1)) for values in (scale, shift))
    return graph.add("Add", graph.add("Mul", data, factor), term, name=node.name)


def _activation(graph: GraphBuilder, node: Node) -> str:
    if node.value("act_type") != "relu":
        _refuse(f"activation {node.value('act_type')} ({node.name})")
    return graph.add("Relu", *node.inputs, name=node.name)


def _pooling(graph: GraphBuilder, node: Node) -> str:
    if node.value("pool_type", "max") != "max" or node.value("global_pool", False):
        _refuse(f"pooling {node.attributes} ({node.name})")
    spatial = {"kernel_shape": node.value("kernel"), "strides": node.value("stride", (1, 1))}
    spatial["pads"] = node.value("pad", (0, 0)) * 2
    ceil = int(node.value("pooling_convention", "valid") == "full")
    return graph.add("MaxPool", *node.inputs, name=node.name, ceil_mode=ceil, **spatial)


def _clip(graph: GraphBuilder, node: Node) -> str:
    limits = [graph.constant(node.value(name)) for name in ("a_min", "a_max")]
    return graph.add("Clip", *node.inputs, *limits, name=node.name)


def _l2_normalization(graph: GraphBuilder, node: Node) -> str:
    mode = node.value("mode", "instance")
    if mode != "channel":
        _refuse(f"L2Normalization over {mode} ({node.name})")
    squares = graph.add("ReduceSumSquare", *node.inputs, axes=[1], keepdims=1)  # (N, 1, H, W)
    norm = graph.add("Sqrt", graph.add("Add", squares, graph.constant(node.value("eps", 1e-10))))
    return graph.add("Div", node.inputs[0], norm, name=node.name)


def _reshape(graph: GraphBuilder, node: Node) -> str:
    shape: Sequence[int] = node.value("shape")
    if min(shape) < -1:
        _refuse(f"reshape to {shape} ({node.name})")  # special values of MXNet that ONNX lacks
    return graph.add("Reshape", *node.inputs, graph.constant(shape, dtype=np.int64), name=node.name)


def _slice_axis(graph: GraphBuilder, node: Node) -> str:
    return slice_axis(graph, node.inputs[0], node.value("begin"), node.value("end"), axis=node.value("axis"))


def _sum(graph: GraphBuilder, node: Node) -> str:
    axes = graph.constant(np.atleast_1d(node.value("axis")), dtype=np.int64)
    return graph.add("ReduceSum", *node.inputs, axes, name=node.name, keepdims=int(node.value("keepdims", False)))


def _scalar(operator: str) -> Callable[[GraphBuilder, Node], str]:
    return lambda graph, node: graph.add(operator, *node.inputs, graph.constant(node.value("scalar")), name=node.name)


def _comparison(operator: str) -> Callable[[GraphBuilder, Node], str]:
    return lambda graph, node: graph.add("Cast", graph.add(operator, *node.inputs), name=node.name, to=FLOAT)


def _direct(operator: str) -> Callable[[GraphBuilder, Node], str]:
    return lambda graph, node: graph.add(operator, *node.inputs, name=node.name)


_OPERATORS: Dict[str, Callable[[GraphBuilder, Node], str]] = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Activation": _activation,
    "Pooling": _pooling,
    "clip": _clip,
    "L2Normalization": _l2_normalization,
    "Reshape": _reshape,
    "Flatten": _direct("Flatten"),
    "elemwise_add": _direct("Add"),
    "_copy": lambda graph, node: node.inputs[0],
    "broadcast_mul": _direct("Mul"),
    "broadcast_add": _direct("Add"),
    "broadcast_sub": _direct("Sub"),
    "broadcast_div": _direct("Div"),
    "broadcast_minimum": _direct("Min"),
    "broadcast_maximum": _direct("Max"),
    "broadcast_equal": _comparison("Equal"),
    "broadcast_greater_equal": _comparison("GreaterOrEqual"),
    "_mul_scalar": _scalar("Mul"),
    "_maximum_scalar": _scalar("Max"),
    "batch_dot": _direct("MatMul"),
    "relu": _direct("Relu"),
    "slice_axis": _slice_axis,
    "sum": _sum,
    "Concat": lambda graph, node: graph.add("Concat", *node.inputs, name=node.name, axis=node.value("dim", 1)),
    "transpose": lambda graph, node: graph.add("Transpose", *node.inputs, name=node.name, perm=node.value("axes")),
}


NORMALISED = "normalised_pixels"


class Suppression(NamedTuple):
    """Parameters of NMS.

    Attributes:
        threshold: IoU above which the lower-scored of two boxes of a class is dropped.
        topk: number of candidates of an image, over all classes, that NMS considers.
        post_nms: maximum number of boxes of an image after NMS.
        score_floor: candidates at or below this score are dropped.
        box_voting: True: see `vote`.
    """

    threshold: float
    topk: int
    post_nms: int
    score_floor: float
    box_voting: bool = False


def add_normalisation(graph: GraphBuilder, pixels: str) -> str:
    """Normalize pixels, uint8 (N, S, S, 3), to float32 (N, 3, S, S).

    Mean and standard deviation are ImageNet's.
    """
    channels_first = graph.add("Cast", graph.add("Transpose", pixels, perm=[0, 3, 1, 2]), to=1)
    mean, std = (np.array(values, np.float64).reshape(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    scaled = graph.add("Mul", channels_first, graph.constant(1 / (255 * std)))
    return graph.add("Add", scaled, graph.constant(-mean / std), name=NORMALISED)


def add_decoding(graph: GraphBuilder, offsets: str, anchors: np.ndarray, variances: Tuple[float, float]) -> str:
    """Decode box offsets (N, A, 4) to boxes (N, A, 4), xyxy in input pixels.

    `anchors` are (A, 4), cxcywh in input pixels; `variances` those of the center and of the size.
    """
    center, size = anchors[None, :, :2], anchors[None, :, 2:]  # (1, A, 2)
    center_offset, size_offset = (slice_axis(graph, offsets, start, start + 2, axis=2) for start in (0, 2))
    shift = graph.add("Mul", center_offset, graph.constant(size * variances[0]))
    box_center = graph.add("Add", shift, graph.constant(center))
    factor = graph.add("Exp", graph.add("Mul", size_offset, graph.constant(variances[1])))
    half = graph.add("Mul", factor, graph.constant(size / 2))
    return graph.add("Concat", graph.add("Sub", box_center, half), graph.add("Add", box_center, half), axis=2)


def add_detection(
    graph: GraphBuilder, class_scores: str, boxes: str, counts: Tuple[int, int], rules: Suppression, name: str
) -> str:
    """Add softmax and NMS.

    Args:
        graph: receives the nodes.
        class_scores: name of the scores (N, A, C + 1) before softmax, background first.
        boxes: name of the boxes (N, A, 4).
        counts: A and C.
        rules: NMS parameters.
        name: of the output.

    Returns:
        The name of the rows (N, post_nms, 6): class id, score, x1, y1, x2, y2, best first; -1: unused.
    """
    anchors, classes = counts
    probabilities = graph.add("Transpose", graph.add("Softmax", class_scores, axis=2), perm=[0, 2, 1])
    scores = slice_axis(graph, probabilities, 1, classes + 1, axis=1)  # (N, C, A)
    topk = min(rules.topk, anchors * classes)
    if topk < anchors * classes or rules.box_voting:
        scores, first, first_index = keep_top_k(graph, scores, topk)
    kept = suppress(graph, scores, boxes, rules)  # (N, C, A), -1 where dropped
    flat = graph.add("Reshape", kept, graph.constant([0, anchors * classes], dtype=np.int64))
    count = graph.constant([min(rules.post_nms, anchors * classes)], dtype=np.int64)
    best, index = top_k(graph, flat, count)  # (N, P)
    rows = _rows(graph, best, index, boxes, anchors)
    if rules.box_voting:
        valid = graph.add("Greater", first, graph.constant(rules.score_floor))
        first = graph.add("Where", valid, first, graph.constant(-1))
        rows = _add_voting(graph, rows, _rows(graph, first, first_index, boxes, anchors))
    return propagate_nan(graph, rows, class_scores, name)


def _add_voting(graph: GraphBuilder, rows: str, candidates: str) -> str:
    """Add `vote` for rows (N, P, 6) and candidates (N, K, 6); return the name of the voted rows."""
    with mx.name.Prefix("voting_"):
        symbol = vote(mx.sym, mx.sym.var("rows"), mx.sym.var("candidates"))
    known = {"rows": rows, "candidates": candidates}
    return convert_symbol(graph, symbol.tojson(), {}, known)[0]


def add_raw_outputs(graph: GraphBuilder, class_scores: str, boxes: str, anchors: int, classes: int) -> List[Value]:
    """Add softmax; return the outputs of a graph without NMS, named RAW_OUTPUTS."""
    probabilities = graph.add("Softmax", class_scores, axis=2)  # (N, A, C + 1), background first
    scores = graph.add(
        "Slice",
        probabilities,
        *(graph.constant([value], dtype=np.int64) for value in (1, classes + 1, 2)),
        name=RAW_OUTPUTS[0],
    )
    corners = graph.add("Identity", boxes, name=RAW_OUTPUTS[1])
    return [Value(scores, FLOAT, ["N", anchors, classes]), Value(corners, FLOAT, ["N", anchors, 4])]


def propagate_nan(graph: GraphBuilder, rows: str, class_scores: str, name: str) -> str:
    """Set the rows (N, P, 6) of images with NaN scores to NaN.

    NMS would drop NaN scores silently.
    """
    zeros = graph.add("Mul", class_scores, graph.constant(0))
    zero_or_nan = graph.add("ReduceSum", zeros, graph.constant([1, 2], dtype=np.int64), keepdims=1)  # (N, 1, 1)
    return graph.add("Add", rows, zero_or_nan, name=name)


def keep_top_k(graph: GraphBuilder, scores: str, topk: int) -> "Tuple[str, str, str]":
    """Keep the best `topk` of each image's scores (N, C, A), set others to 0.

    Returns:
        The scores; the best of them, highest first, and their indices in C * A, both (N, topk).
    """
    flat = graph.add("Reshape", scores, graph.constant([0, -1], dtype=np.int64))
    best, index = top_k(graph, flat, graph.constant([topk], dtype=np.int64))
    last = unsqueeze(graph, slice_axis(graph, best, topk - 1, topk, axis=1), 2)  # (N, 1, 1)
    return graph.add("Where", graph.add("Less", scores, last), graph.constant(0), scores), best, index


def suppress(graph: GraphBuilder, scores: str, boxes: str, rules: Suppression) -> str:
    """Set the scores (N, C, A) of suppressed boxes to -1."""
    kept = graph.add(  # (K, 3) of image, class, anchor
        "NonMaxSuppression",
        boxes,
        scores,
        graph.constant([rules.post_nms], dtype=np.int64),
        graph.constant([rules.threshold]),
        graph.constant([rules.score_floor]),
    )
    suppressed = graph.add("Expand", graph.constant(-1), graph.add("Shape", scores))
    return graph.add("ScatterND", suppressed, kept, graph.add("GatherND", scores, kept))


def _rows(graph: GraphBuilder, best: str, index: str, boxes: str, anchors: int) -> str:
    """Build rows (N, P, 6) from scores and their indices in classes x anchors."""
    count = graph.constant(anchors, dtype=np.int64)
    class_ids = graph.add("Cast", graph.add("Div", index, count), to=1)
    corners = graph.add("GatherND", boxes, unsqueeze(graph, graph.add("Mod", index, count), 2), batch_dims=1)
    columns = [unsqueeze(graph, column, 2) for column in (class_ids, best)]
    rows = graph.add("Concat", *columns, corners, axis=2)
    unused = graph.add("Less", columns[1], graph.constant(0))
    return graph.add("Where", unused, graph.constant(-1), rows)


def top_k(graph: GraphBuilder, values: str, count: str) -> Tuple[str, str]:
    """Return the highest `count` of values (N, M) and their indices, highest first."""
    highest = graph.add("TopK", values, count, axis=1)
    graph.nodes[-1].output.append(f"{highest}_index")
    return highest, f"{highest}_index"


def slice_axis(graph: GraphBuilder, tensor: str, start: int, stop: int, axis: int) -> str:
    """Slice `tensor` from `start` to `stop` (exclusive) along `axis`."""
    return graph.add("Slice", tensor, *(graph.constant([value], dtype=np.int64) for value in (start, stop, axis)))


def unsqueeze(graph: GraphBuilder, tensor: str, axis: int) -> str:
    """Insert an axis of length 1."""
    return graph.add("Unsqueeze", tensor, graph.constant([axis], dtype=np.int64))


mx = mxnet_compat.mxnet()

OUTPUT = "detections"
# nodes of the symbol before the first layer: `add_normalisation` replaces them
_PREPROCESSING = ("data", "_image_to_tensor", "_image_normalize")

Change = Callable[[Any], Any]


def write_onnx(
    model: SavedModel, path: Path, input: str = "pixels", kind: str = "onnx", change: Optional[Change] = None
) -> None:
    """Write `model` to the file `path`.

    Of kind RAW_KIND it ends before NMS, with the outputs "scores" (N, A, C) and "boxes" (N, A, 4).

    Args:
        model: the trained model.
        path: the file.
        input: "pixels" or "normalised", see description.INPUTS.
        kind: export kind in the metadata.
        change: transforms the layers, an ONNX model from the input to class scores and box offsets, before decoding and
            NMS are added.

    Raises:
        DependencyError: the onnx package is missing.
    """
    config, class_count = model.config, len(model.class_names)
    anchors = make_anchors(layout_of(config))
    description = model.describe(kind, input)
    graph = GraphBuilder()
    class_scores, offsets = _add_layers(graph, model, input)
    entry = input_value(description)
    if change is not None:
        heads = [Value(name, FLOAT, ["N", len(anchors), None]) for name in (class_scores, offsets)]
        graph.load(change(graph.to_model(entry, heads)))
    boxes = add_decoding(graph, offsets, anchors, (float(STDS[0]), float(STDS[2])))
    if kind == RAW_KIND:
        save_model(
            graph.to_model(entry, add_raw_outputs(graph, class_scores, boxes, len(anchors), class_count)),
            path,
            description,
        )
        return
    rules = Suppression(config.nms_threshold, config.candidates, model.post_nms, SCORE_THRESHOLD, config.box_voting)
    add_detection(graph, class_scores, boxes, (len(anchors), class_count), rules, OUTPUT)
    rows = min(model.post_nms, len(anchors) * class_count)
    save_model(graph.to_model(entry, [Value(OUTPUT, FLOAT, ["N", rows, 6])]), path, description)


def save_model(model: Any, path: Path, description: ExportMetadata) -> None:
    """Write an ONNX model to `path` atomically, with `description` as its metadata."""
    onnx = onnx_module()
    model.producer_name, model.producer_version = "ssd_train", description.package
    onnx.helper.set_model_props(model, description.to_texts())
    onnx.checker.check_model(model)
    atomic.write_bytes_atomic(path, model.SerializeToString())


def input_value(description: ExportMetadata) -> Value:
    """Return the graph's input, with a variable batch size."""
    side = description.side
    if description.input == "pixels":
        return Value("pixels", UINT8, ["N", side, side, 3])
    return Value(description.input, FLOAT, ["N", 3, side, side])


def _add_layers(graph: GraphBuilder, model: SavedModel, input: str) -> "Tuple[str, str]":
    """Add the layers; return class scores (N, A, C + 1) and offsets (N, A, 4)."""
    heads = DetectGraph(model.build(), 0.5, 1, 1).heads  # the numbers are NMS parameters, which heads do not use
    class_scores, offsets, _ = heads(mx.sym.var("data"))
    arrays = {name: parameter.data().asnumpy() for name, parameter in heads.collect_params().items()}
    normalised = add_normalisation(graph, input) if input == "pixels" else input
    text = mx.sym.Group([class_scores, offsets]).tojson()
    outputs = convert_symbol(graph, text, arrays, dict.fromkeys(_PREPROCESSING, normalised))
    return outputs[0], outputs[1]
