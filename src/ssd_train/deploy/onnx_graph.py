"""A network as ONNX: MXNet's symbol node by node, BatchNorm folded into the convolution before it.

By hand and not by mxnet.onnx, which lists weights among the inputs (runtimes then fold nothing: 2.5 times slower), is
missing from MXNet 1.9.0, and needs an onnx package of 2024 at the latest. The table below has the operators that our
networks are made of; what it lacks is an error.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
from collections import Counter
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Sequence, Union

import numpy as np

from ssd_train.errors import DependencyError, SsdTrainError

OPSET, IR_VERSION = 13, 7  # of 2020: all that is needed, and what the runtimes in use know
FLOAT, UINT8 = 1, 2  # element types

HOW_TO_INSTALL = "install the extra: pip install 'ssd-train[onnx]'"


def onnx_module(part: str = "onnx") -> Any:
    """The `onnx` package, or another that comes with the extra; a DependencyError when it is missing."""
    try:
        return importlib.import_module(part)
    except ImportError as error:
        raise DependencyError(
            f"{part} cannot be imported ({str(error) or type(error).__name__}); {HOW_TO_INSTALL}"
        ) from None


class Value(NamedTuple):
    """A tensor at an end of a graph: name, element type (onnx.TensorProto's number), shape with names for what is
    open."""

    name: str
    element: int
    shape: Sequence[Union[int, str, None]]


class GraphBuilder:
    """Nodes and constants of an ONNX graph, in the order of computation."""

    def __init__(self) -> None:
        self._onnx = onnx_module()
        self.nodes: List[Any] = []
        self.constants: Dict[str, np.ndarray] = {}
        self._numbers = itertools.count()

    def document(self, input: Value, outputs: Sequence[Value]) -> Any:
        """The graph as an ONNX model. Constants are not among its inputs: runtimes may fold them."""
        helper = self._onnx.helper
        infos = [helper.make_tensor_value_info(*value) for value in (input, *outputs)]
        tensors = [self._onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "ssd_train", infos[:1], infos[1:], tensors)
        document = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        document.ir_version = IR_VERSION
        return document

    def take(self, document: Any) -> None:
        """Go on from the nodes and constants of an ONNX model."""
        self.nodes = list(document.graph.node)
        self.constants = {t.name: self._onnx.numpy_helper.to_array(t) for t in document.graph.initializer}

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node of one output; the output's name."""
        name = name or f"{operator.lower()}_{next(self._numbers)}"
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str = "", dtype: Any = np.float32) -> str:
        """A constant tensor; its name."""
        name = name or f"constant_{next(self._numbers)}"
        self.constants[name] = np.asarray(value, dtype)
        return name


class Node(NamedTuple):
    """A node of a symbol: its name, attributes as text, names of its input tensors, and whether the first of them goes
    nowhere else."""

    name: str
    attributes: Dict[str, str]
    inputs: List[str]
    is_only_reader: bool

    def value(self, attribute: str, default: Any = None) -> Any:
        """An attribute as Python's value: "(3, 3)" -> (3, 3)."""
        text = self.attributes.get(attribute)
        if text is None:
            return default
        return ast.literal_eval(text) if text[:1] in "(-.0123456789TF" else text


def convert_symbol(
    graph: GraphBuilder, symbol_json: str, arrays: Mapping[str, np.ndarray], given: Mapping[str, str]
) -> List[str]:
    """Add the nodes of a symbol to `graph`; the names of its outputs.

    symbol_json     Symbol.tojson()
    arrays          parameters and auxiliary states by name
    given           tensors of `graph` that stand for what a node puts out, by the node's name or operator
    """
    document = json.loads(symbol_json)
    ends = [source for source, *_ in document["heads"]]
    readers = Counter([source for node in document["nodes"] for source, *_ in node["inputs"]] + ends)
    tensors: List[str] = []
    for row in document["nodes"]:
        name, operator, sources = row["name"], row["op"], [source for source, *_ in row["inputs"]]
        node = Node(
            name, row.get("attrs", {}), [tensors[s] for s in sources], bool(sources) and readers[sources[0]] == 1
        )
        if name in given or operator in given:
            tensors.append(given[name if name in given else operator])
        elif operator == "null":
            if name not in arrays:
                _refuse(f"no value of {name}")
            tensors.append(graph.constant(arrays[name], _free_name(name)))
        elif operator in _OPERATORS:
            tensors.append(_OPERATORS[operator](graph, node))
        else:
            _refuse(f"operator {operator} ({name})")
    _drop_unused(graph)
    return [tensors[source] for source in ends]


def _refuse(what: str) -> NoReturn:
    raise SsdTrainError(f"ONNX: found {what}, expected a network of the kinds that ssd_train builds")


def _free_name(name: str) -> str:
    """`name`, unless it is one that ONNX Runtime's quantisation takes for a tensor's own scale: mxnet-ssd's
    relu4_3_scale is a parameter beside the layer relu4_3."""
    return f"{name}_value" if name.endswith(("_scale", "_zero_point")) else name


def _drop_unused(graph: GraphBuilder) -> None:
    used = {name for node in graph.nodes for name in node.input}
    graph.constants = {name: value for name, value in graph.constants.items() if name in used}


def _convolution(graph: GraphBuilder, node: Node) -> str:
    data, weight = node.inputs[:2]
    bias = f"{node.name}_bias"  # always there, so that BatchNorm has where to fold its shift
    given = graph.constants[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(len(graph.constants[weight]))
    graph.constant(given, bias)
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
    length = graph.add("Sqrt", graph.add("Add", squares, graph.constant(node.value("eps", 1e-10))))
    return graph.add("Div", node.inputs[0], length, name=node.name)


def _reshape(graph: GraphBuilder, node: Node) -> str:
    shape: Sequence[int] = node.value("shape")
    if min(shape) < -1:
        _refuse(f"reshape to {shape} ({node.name})")  # MXNet's codes that ONNX has not
    return graph.add("Reshape", *node.inputs, graph.constant(shape, dtype=np.int64), name=node.name)


def _same(operator: str) -> Callable[[GraphBuilder, Node], str]:
    return lambda graph, node: graph.add(operator, *node.inputs, name=node.name)


_OPERATORS: Dict[str, Callable[[GraphBuilder, Node], str]] = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Activation": _activation,
    "Pooling": _pooling,
    "clip": _clip,
    "L2Normalization": _l2_normalization,
    "Reshape": _reshape,
    "Flatten": _same("Flatten"),
    "elemwise_add": _same("Add"),
    "_copy": lambda graph, node: node.inputs[0],
    "broadcast_mul": _same("Mul"),
    "Concat": lambda graph, node: graph.add("Concat", *node.inputs, name=node.name, axis=node.value("dim", 1)),
    "transpose": lambda graph, node: graph.add("Transpose", *node.inputs, name=node.name, perm=node.value("axes")),
}
