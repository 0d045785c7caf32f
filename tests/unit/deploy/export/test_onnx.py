"""MXNet's operators as ONNX: equal outputs, BatchNorm folded where possible, weights not among the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from ssd_train import mxnet_compat
from ssd_train.deploy.export.onnx import FLOAT, GraphBuilder, Value, convert_symbol
from ssd_train.errors import SsdTrainError

mx = mxnet_compat.mxnet()
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore:Cannot decide type")
SHAPE = (2, 4, 9, 9)
DATA = mx.sym.var("data")


def values(symbol):
    """Return random values of all variables but data, by name; variances are positive."""
    random = np.random.RandomState(0)
    shapes, _, states = symbol.infer_shape(data=SHAPE)
    named = [*zip(symbol.list_arguments(), shapes), *zip(symbol.list_auxiliary_states(), states)]
    made = {name: random.normal(0, 1, shape) for name, shape in named if name != "data"}
    return {name: np.abs(v) + 0.5 if "var" in name else v for name, v in made.items()}


def by_mxnet(symbol, arrays, data):
    """Run a Gluon block; an executor would fuse, which is wrong for a convolution with two readers."""
    block = mx.gluon.SymbolBlock(symbol, [DATA])
    for name, parameter in block.collect_params().items():
        parameter.shape = arrays[name].shape
        parameter.initialize()
        parameter.set_data(mx.nd.array(arrays[name]))
    return block(mx.nd.array(data)).asnumpy()


def converted(symbol, arrays):
    graph = GraphBuilder()
    (output,) = convert_symbol(graph, symbol.tojson(), arrays, {"data": "data"})
    rank = len(symbol.infer_shape(data=SHAPE)[1][0])
    return graph.to_model(Value("data", FLOAT, ["N", *SHAPE[1:]]), [Value(output, FLOAT, [None] * rank)])


def by_onnx(document, data):
    onnx.checker.check_model(document)
    session = runtime.InferenceSession(document.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"data": data})[0]


def convolution(data=DATA, name="c", kernel=(3, 3), **more):
    return mx.sym.Convolution(data, kernel=kernel, num_filter=8, name=name, **more)


def norm(data, **more):
    return mx.sym.BatchNorm(data, name="n", eps=1e-3, **more)


RELU = mx.sym.Activation(convolution(no_bias=True), act_type="relu", name="r")
SHARED = convolution(no_bias=True)
CASES = {
    "convolution": convolution(),
    "strided": convolution(stride=(2, 2), pad=(1, 1)),
    "dilated": convolution(dilate=(2, 2), pad=(2, 2), no_bias=True),
    "grouped": convolution(num_group=4, kernel=(1, 1)),
    "unequal": convolution(kernel=(1, 3), pad=(0, 1)),
    "norm-after-convolution": norm(convolution(no_bias=True), fix_gamma=False),
    "norm-after-bias": norm(convolution(), fix_gamma=False),
    "norm-fixed-gamma": norm(convolution(), fix_gamma=True),
    "norm-by-default": norm(convolution()),
    "norm-of-input": norm(DATA, fix_gamma=False),
    "norm-after-relu": norm(RELU, fix_gamma=False),
    "norm-of-shared-convolution": norm(SHARED, fix_gamma=False) + SHARED,
    "relu": RELU,
    "relu6": mx.sym.clip(DATA, a_min=0, a_max=6, name="k"),
    "pooling": mx.sym.Pooling(DATA, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name="p"),
    "pooling-full": mx.sym.Pooling(
        DATA, kernel=(2, 2), stride=(2, 2), pool_type="max", pooling_convention="full", name="p"
    ),
    "l2": mx.sym.broadcast_mul(
        mx.sym.L2Normalization(DATA, mode="channel", eps=1e-5, name="l"), mx.sym.var("scale", shape=(1, 4, 1, 1))
    ),
    "heads": mx.sym.reshape(
        mx.sym.concat(
            mx.sym.flatten(mx.sym.transpose(convolution(), (0, 2, 3, 1))),
            mx.sym.flatten(mx.sym.transpose(convolution(name="d", stride=(2, 2)), (0, 2, 3, 1))),
            dim=1,
        ),
        shape=(0, -1, 4),
    ),
}


@pytest.mark.parametrize("symbol", CASES.values(), ids=CASES.keys())
def test_convert_symbol_each_case_equals_mxnet(symbol):
    arrays, data = values(symbol), np.random.RandomState(1).normal(0, 3, SHAPE).astype(np.float32)
    document = converted(symbol, arrays)
    expected = by_mxnet(symbol, arrays, data)
    found = by_onnx(document, data)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        by_onnx(document, data[1:]), expected[1:], rtol=1e-4, atol=1e-4
    )  # any number of pictures


@pytest.mark.parametrize(
    "case, operators",
    [
        ("norm-after-convolution", ["Conv"]),
        ("norm-after-bias", ["Conv"]),
        ("norm-of-input", ["Mul", "Add"]),
        ("norm-after-relu", ["Conv", "Relu", "Mul", "Add"]),
        ("norm-of-shared-convolution", ["Conv", "Mul", "Add", "Add"]),
    ],
)
def test_convert_symbol_batch_norm_is_folded_into_its_only_convolution(case, operators):
    document = converted(CASES[case], values(CASES[case]))
    assert [node.op_type for node in document.graph.node] == operators


def test_convert_symbol_batch_norm_after_an_output_is_not_folded():
    both = mx.sym.Group([SHARED, norm(SHARED, fix_gamma=False)])
    graph = GraphBuilder()
    outputs = convert_symbol(graph, both.tojson(), values(both), {"data": "data"})
    assert [node.op_type for node in graph.nodes] == ["Conv", "Mul", "Add"] and outputs[0] != outputs[1]


def test_to_model_lists_no_weight_as_input_and_no_unused_one():
    document = converted(CASES["norm-after-bias"], values(CASES["norm-after-bias"]))
    assert [value.name for value in document.graph.input] == ["data"]
    assert sorted(tensor.name for tensor in document.graph.initializer) == ["c_bias", "c_weight"]
    assert [(entry.domain, entry.version) for entry in document.opset_import] == [("", 13)] and document.ir_version == 7


@pytest.mark.parametrize(
    "symbol, value",
    [
        pytest.param(mx.sym.Dropout(DATA, name="d"), r"operator Dropout \(d\)", id="operator"),
        pytest.param(mx.sym.Activation(DATA, act_type="tanh", name="t"), r"activation tanh \(t\)", id="activation"),
        pytest.param(mx.sym.Pooling(DATA, kernel=(2, 2), pool_type="avg", name="p"), r"pooling .*\(p\)", id="pooling"),
        pytest.param(mx.sym.L2Normalization(DATA, name="l"), r"L2Normalization over instance \(l\)", id="l2"),
        pytest.param(mx.sym.reshape(DATA, shape=(-3, -2), name="r"), r"reshape to \(-3, -2\) \(r\)", id="reshape"),
    ],
)
def test_convert_symbol_unsupported_operator_raises_with_its_name(symbol, value):
    with pytest.raises(SsdTrainError, match=f"^ONNX: .*{value}"):
        converted(symbol, values(symbol))


def test_convert_symbol_missing_weight_raises_with_its_name():
    with pytest.raises(SsdTrainError, match="^ONNX: .*c_weight"):
        converted(CASES["convolution"], {})
