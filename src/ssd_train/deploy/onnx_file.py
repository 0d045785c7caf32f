"""A trained model written as an ONNX file: pixels in, rows of boxes out, class names and preprocessing in its
metadata."""

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
# of the symbol, what comes before the first layer: `add_normalisation` has done it
BEFORE_LAYERS = ("data", "_image_to_tensor", "_image_normalize")


Change = Callable[[Any], Any]


def write_onnx(
    model: SavedModel, path: Path, input: str = "pixels", kind: str = "onnx", change: Optional[Change] = None
) -> None:
    """Write `model` to the file `path`.

    input       "pixels" or "normalised" (see description.INPUTS)
    kind        what the file says that it is
    change      what is done to the layers, an ONNX model from the input to class scores and box offsets, before
                decoding and suppression are added

    Raises:
        DependencyError: the onnx package is missing.
    """
    config, class_count = model.config, len(model.class_names)
    anchors = make_anchors(anchor_layout(config.base_network, config.image_shape, config.anchor_shares))
    description = Description.of(config, model.class_names, model.sha256, kind, input)
    graph = GraphBuilder()
    class_scores, offsets = _add_layers(graph, model, input)
    ends = input_value(description), [Value(name, FLOAT, ["N", len(anchors), None]) for name in (class_scores, offsets)]
    if change is not None:
        graph.take(change(graph.document(*ends)))
    boxes = add_decoding(graph, offsets, anchors, (float(STDS[0]), float(STDS[2])))
    rules = Suppression(config.nms_threshold, config.candidates, model.post_nms, SCORE_FLOOR)
    add_detection(graph, class_scores, boxes, (len(anchors), class_count), rules, OUTPUT)
    rows = min(model.post_nms, len(anchors) * class_count)
    save_document(graph.document(ends[0], [Value(OUTPUT, FLOAT, ["N", rows, 6])]), path, description)


def save_document(document: Any, path: Path, description: Description) -> None:
    """Write `document` to `path`, whole or not at all, with the description as its metadata."""
    onnx = onnx_module()
    document.producer_name, document.producer_version = "ssd_train", description.package
    onnx.helper.set_model_props(document, description.to_texts())
    onnx.checker.check_model(document)
    storage.write_bytes_atomic(path, document.SerializeToString())


def input_value(description: Description) -> Value:
    """The graph's input, for any number of pictures."""
    side = description.side
    if description.input == "pixels":
        return Value("pixels", UINT8, ["N", side, side, 3])
    return Value(description.input, FLOAT, ["N", 3, side, side])


def _add_layers(graph: GraphBuilder, model: SavedModel, input: str) -> "Tuple[str, str]":
    """The names of class scores (N, A, C + 1) and box offsets (N, A, 4)."""
    heads = DetectGraph(model.build(), 0.5, 1, 1).heads  # of which suppression is no part
    class_scores, offsets, _ = heads(mx.sym.var("data"))
    arrays = {name: parameter.data().asnumpy() for name, parameter in heads.collect_params().items()}
    normalised = add_normalisation(graph, input) if input == "pixels" else input
    given = dict.fromkeys(BEFORE_LAYERS, normalised)
    outputs = convert_symbol(graph, mx.sym.Group([class_scores, offsets]).tojson(remove_amp_cast=True), arrays, given)
    return outputs[0], outputs[1]
