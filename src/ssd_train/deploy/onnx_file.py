"""A trained model written as an ONNX file: pixels in, rows of boxes out, class names and preprocessing in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssd_train import framework, storage
from ssd_train.deploy.description import Description
from ssd_train.deploy.onnx_graph import IR_VERSION, OPSET, GraphBuilder, convert_symbol, onnx_module
from ssd_train.deploy.onnx_head import Suppression, add_decoding, add_detection, add_normalisation
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.graphs import SCORE_FLOOR, DetectGraph
from ssd_train.model.targets import STDS
from ssd_train.training.saved_model import SavedModel

mx = framework.mxnet()

OUTPUT = "detections"
# of the symbol, what comes before the first layer: `add_normalisation` has done it
BEFORE_LAYERS = ("data", "_image_to_tensor", "_image_normalize")


def write_onnx(model: SavedModel, path: Path, input: str = "pixels") -> Description:
    """Write `model` to the file `path`; `input` is "pixels" or "normalised" (see description.INPUTS).

    Raises:
        DependencyError: the onnx package is missing.
    """
    config = model.config
    description = Description.of(config, model.class_names, model.sha256, "onnx", input)
    graph = GraphBuilder()
    normalised = add_normalisation(graph, input) if input == "pixels" else input
    class_scores, offsets = _add_heads(graph, model, normalised)
    anchors = make_anchors(anchor_layout(config.base_network, config.image_shape))
    boxes = add_decoding(graph, offsets, anchors, (float(STDS[0]), float(STDS[2])))
    rules = Suppression(config.nms_threshold, config.nms_topk, model.post_nms, SCORE_FLOOR)
    add_detection(graph, class_scores, boxes, (len(anchors), len(model.class_names)), rules, OUTPUT)
    rows = min(model.post_nms, len(anchors) * len(model.class_names))
    save_onnx(_assembled(graph, description, rows), path, description)
    return description


def save_onnx(document: Any, path: Path, description: Description) -> None:
    """Write an ONNX model with `description` as its metadata, after onnx's own check of it."""
    onnx = onnx_module()
    del document.metadata_props[:]
    onnx.helper.set_model_props(document, description.to_texts())
    onnx.checker.check_model(document)
    storage.write_bytes_atomic(path, document.SerializeToString())


def _add_heads(graph: GraphBuilder, model: SavedModel, normalised: str) -> "tuple[str, str]":
    """The names of class scores (N, A, C + 1) and box offsets (N, A, 4)."""
    net = model.build()
    heads = DetectGraph(net, 0.5, 1, 1).heads
    class_scores, offsets, _ = heads(mx.sym.var("data"))
    symbol = mx.sym.Group([class_scores, offsets])
    arrays = {name: parameter.data().asnumpy() for name, parameter in heads.collect_params().items()}
    outputs = convert_symbol(graph, symbol.tojson(), arrays, dict.fromkeys(BEFORE_LAYERS, normalised))
    return outputs[0], outputs[1]


def _assembled(graph: GraphBuilder, description: Description, rows: int) -> Any:
    onnx, side = onnx_module(), description.side
    shape = ["N", side, side, 3] if description.input == "pixels" else ["N", 3, side, side]
    element = onnx.TensorProto.UINT8 if description.input == "pixels" else onnx.TensorProto.FLOAT
    document = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "ssd_train",
            [onnx.helper.make_tensor_value_info(description.input, element, shape)],
            [onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["N", rows, 6])],
            [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        producer_name="ssd_train",
        producer_version=description.package,
    )
    document.ir_version = IR_VERSION
    return document
