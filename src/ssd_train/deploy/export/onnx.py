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
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Sequence, Union

import numpy as np

from ssd_train.errors import DependencyError, SsdTrainError

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
    "Concat": lambda graph, node: graph.add("Concat", *node.inputs, name=node.name, axis=node.value("dim", 1)),
    "transpose": lambda graph, node: graph.add("Transpose", *node.inputs, name=node.name, perm=node.value("axes")),
}
