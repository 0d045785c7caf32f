"""External data in ONNX files is found in every message that can hold a tensor."""

from __future__ import annotations

import pytest

from ssd_train.deploy import onnx_backends
from ssd_train.deploy.onnx_backends import read_onnx_file
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
    tensor.raw_data = b"\x6a" * 4 * 64  # would be a field if it were parsed as a message


@pytest.mark.parametrize("say", [external, said_to_be_external, with_a_place, inside])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_read_onnx_file_external_data_in_each_message_raises(tmp_path, place, say):
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
        with pytest.raises(WeightsError, match=f"^{path}: .*external data"):
            read_onnx_file(path)


def test_submessages_equal_the_definitions_of_onnx():
    """Derive the table from the definitions in the onnx package."""
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
    assert expected == onnx_backends._SUBMESSAGES


@pytest.mark.parametrize(
    "data, value",
    [
        pytest.param(None, "No such file", id="no-file"),
        pytest.param(b"\x3b\x2a\x00\x3c", "wire type 3", id="group"),
        pytest.param(b"\x3a\x05\x00", "cut off", id="cut-off"),
        pytest.param(b"\x3a", "varint", id="no-length"),
        pytest.param(b"\xff" * 11 + b"\x00", "varint", id="long-number"),
        pytest.param(b"\x80\x80\x80\x80\x10\x00", "field number 536870912", id="long-tag"),
        pytest.param(b"\x02\x00", "field number 0", id="field-0"),
    ],
)
def test_read_onnx_file_malformed_raises_with_the_reason(tmp_path, data, value):
    if data is not None:
        (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(WeightsError, match=f"^{tmp_path / 'm.onnx'}: .*{value}"):
        read_onnx_file(tmp_path / "m.onnx")


def test_read_onnx_file_overlong_varints_are_decoded(tmp_path):
    """Parsers accept tags of more bytes than needed: here graph, initializer, and data_location 1."""
    tensor = b"\xf0\x80\x00\x81\x00"
    graph = b"\xaa\x00" + bytes([len(tensor)]) + tensor
    (tmp_path / "m.onnx").write_bytes(b"\xba\x80\x00" + bytes([len(graph)]) + graph)
    with pytest.raises(WeightsError, match="external data"):
        read_onnx_file(tmp_path / "m.onnx")
