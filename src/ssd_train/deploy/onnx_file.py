"""Write a trained model as an ONNX file with metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Optional, Tuple

from ssd_train import framework, storage
from ssd_train.deploy.description import Description
from ssd_train.deploy.onnx_graph import FLOAT, UINT8, GraphBuilder, Value, convert_symbol, onnx_module
from ssd_train.deploy.onnx_head import Suppression, add_decoding, add_detection, add_normalisation
from ssd_train.model.anchors import anchor_layout, make_anchors
from ssd_train.model.graphs import SCORE_FLOOR, DetectGraph
from ssd_train.model.targets import STDS
from ssd_train.training.saved_model import SavedModel

mx = framework.mxnet()

OUTPUT = "detections"
# nodes of the symbol before the first layer: `add_normalisation` replaces them
_PREPROCESSING = ("data", "_image_to_tensor", "_image_normalize")

Change = Callable[[Any], Any]


def write_onnx(
    model: SavedModel, path: Path, input: str = "pixels", kind: str = "onnx", change: Optional[Change] = None
) -> None:
    """Write `model` to the file `path`.

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
    anchors = make_anchors(anchor_layout(config.base_network, config.image_shape, config.anchor_shares))
    description = Description.of(config, model.class_names, model.sha256, kind, input)
    graph = GraphBuilder()
    class_scores, offsets = _add_layers(graph, model, input)
    entry = input_value(description)
    if change is not None:
        heads = [Value(name, FLOAT, ["N", len(anchors), None]) for name in (class_scores, offsets)]
        graph.load(change(graph.to_model(entry, heads)))
    boxes = add_decoding(graph, offsets, anchors, (float(STDS[0]), float(STDS[2])))
    rules = Suppression(config.nms_threshold, config.candidates, model.post_nms, SCORE_FLOOR)
    add_detection(graph, class_scores, boxes, (len(anchors), class_count), rules, OUTPUT)
    rows = min(model.post_nms, len(anchors) * class_count)
    save_model(graph.to_model(entry, [Value(OUTPUT, FLOAT, ["N", rows, 6])]), path, description)


def save_model(model: Any, path: Path, description: Description) -> None:
    """Write an ONNX model to `path` atomically, with `description` as its metadata."""
    onnx = onnx_module()
    model.producer_name, model.producer_version = "ssd_train", description.package
    onnx.helper.set_model_props(model, description.to_texts())
    onnx.checker.check_model(model)
    storage.write_bytes_atomic(path, model.SerializeToString())


def input_value(description: Description) -> Value:
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
    text = mx.sym.Group([class_scores, offsets]).tojson(remove_amp_cast=True)
    outputs = convert_symbol(graph, text, arrays, dict.fromkeys(_PREPROCESSING, normalised))
    return outputs[0], outputs[1]
