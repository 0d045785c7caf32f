"""ONNX files whose weights lie elsewhere are found, wherever in the file they say so."""

from __future__ import annotations

import pytest

from ssd_train.deploy import onnx_check
from ssd_train.deploy.onnx_check import read_onnx_file
from ssd_train.errors import WeightsError


def attribute(model):
    return model.graph.node.add().attribute.add()


def deep(model):
    graph = model.graph
    for _ in range(30):
        graph = graph.node.add().attribute.add().g
    return graph.initializer.add()


# where a tensor may be -> how to put one there
PLACES = {
    "initializer": lambda model: model.graph.initializer.add(),
    "sparse": lambda model: model.graph.sparse_initializer.add().values,
    "indices": lambda model: model.graph.sparse_initializer.add().indices,
    "attribute": lambda model: attribute(model).t,
    "attributes": lambda model: attribute(model).tensors.add(),
    "sparse-attribute": lambda model: attribute(model).sparse_tensor.values,
    "sparse-attributes": lambda model: attribute(model).sparse_tensors.add().values,
    "branch": lambda model: attribute(model).g.initializer.add(),
    "branches": lambda model: attribute(model).graphs.add().initializer.add(),
    "function": lambda model: model.functions.add().node.add().attribute.add().t,
    "default": lambda model: model.functions.add().attribute_proto.add().t,
    "training": lambda model: model.training_info.add().algorithm.initializer.add(),
    "before-training": lambda model: model.training_info.add().initialization.initializer.add(),
    "deep": deep,
}


def external(tensor):
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="elsewhere")


def said_to_be_external(tensor):
    tensor.data_location = tensor.EXTERNAL


def with_a_place(tensor):
    tensor.external_data.add(key="location", value="elsewhere")


def inside(tensor):
    tensor.data_location = tensor.DEFAULT
    tensor.raw_data = b"\x6a" * 4 * 64  # which would be a field, were it looked into


@pytest.mark.parametrize("say", [external, said_to_be_external, with_a_place, inside])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_weights_elsewhere_are_found_in_every_place(tmp_path, place, say):
    onnx = pytest.importorskip("onnx")
    model, path = onnx.ModelProto(ir_version=8, producer_name="j" * 300), tmp_path / "m.onnx"
    inside(model.graph.initializer.add(name="first"))
    tensor = place(model)
    tensor.data_type = onnx.TensorProto.FLOAT
    tensor.dims.append(64)
    say(tensor)
    path.write_bytes(model.SerializeToString())
    if say is inside:
        read_onnx_file(path)
    else:
        with pytest.raises(WeightsError, match="m.onnx: found weights that lie in another file, expected all of them"):
            read_onnx_file(path)


def test_every_place_is_known():
    """By the definition of the format that comes with onnx."""
    onnx = pytest.importorskip("onnx")
    messages, waiting = {}, [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in messages:
            messages[message.name] = {f.number: f.message_type.name for f in message.fields if f.message_type}
            waiting += [field.message_type for field in message.fields if field.message_type]
    holding = {"TensorProto"}
    for _ in messages:
        holding |= {name for name, fields in messages.items() if holding & set(fields.values())}
    short = {
        "ModelProto": "model", "TrainingInfoProto": "training", "FunctionProto": "function", "GraphProto": "graph",
        "NodeProto": "node", "AttributeProto": "attribute", "SparseTensorProto": "sparse", "TensorProto": "tensor",
    }  # fmt: skip
    expected = {
        short[name]: {number: short[to] for number, to in messages[name].items() if to in holding} for name in holding
    }
    assert expected == onnx_check._INSIDE


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(None, "No such file", id="no-file"),
        pytest.param(b"\x3b\x2a\x00\x3c", "a field of kind 3", id="group"),
        pytest.param(b"\x3a\x05\x00", "it is cut off", id="cut-off"),
        pytest.param(b"\x39\x05\x00", "it is cut off", id="cut-off-in-a-fixed-one"),
        pytest.param(b"\x3a", "a number without an end", id="no-length"),
        pytest.param(b"\xff" * 11 + b"\x00", "a number without an end", id="long-number"),
        pytest.param(b"\x80\x80\x80\x80\x10\x00", "found a field that no message has", id="long-tag"),
        pytest.param(b"\x02\x00", "found a field that no message has", id="field-0"),
        pytest.param(b"<?xml version='1.0'?>", "a field of kind 4", id="xml"),
    ],
)
def test_what_is_no_onnx_file_is_told(tmp_path, data, expected):
    if data is not None:
        (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match=f"m.onnx: cannot be read as an ONNX model .*{expected}"):
        read_onnx_file(tmp_path / "m.onnx")


def test_a_number_may_be_longer_than_it_needs_to_be(tmp_path):
    """As readers take it: graph, its initializer, whose field 14 is 1, with tags of more bytes than needed."""
    tensor = b"\xf0\x80\x00\x81\x00"
    graph = b"\xaa\x00" + bytes([len(tensor)]) + tensor
    (tmp_path / "m.onnx").write_bytes(b"\xba\x80\x00" + bytes([len(graph)]) + graph)
    with pytest.raises(WeightsError, match="found weights that lie in another file"):
        read_onnx_file(tmp_path / "m.onnx")
