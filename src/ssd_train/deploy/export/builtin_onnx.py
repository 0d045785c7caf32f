"""Write a converted model of the built-in algorithm as an ONNX file.

MultiBoxDetection is written as ONNX operators.

Unlike our own detector it keeps only the best class of each prior, and clips boxes before NMS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np

from ssd_train import mxnet_compat
from ssd_train.artifacts.metadata import RAW_KIND, ExportMetadata, as_input
from ssd_train.artifacts.symbol_format import INPUT
from ssd_train.boxes import xyxy_to_cxcywh
from ssd_train.deploy.builtin import DETECTION, SCORE_FLOOR, VARIANCES, NmsRules, heads
from ssd_train.deploy.export.onnx import (
    FLOAT,
    OUTPUT,
    Change,
    GraphBuilder,
    Suppression,
    Value,
    add_decoding,
    add_raw_outputs,
    convert_symbol,
    input_value,
    keep_top_k,
    propagate_nan,
    save_model,
    slice_axis,
    suppress,
    top_k,
    unsqueeze,
)
from ssd_train.deploy.parity import Candidates
from ssd_train.deploy.symbol import SymbolParts
from ssd_train.model.targets import decode

mx = mxnet_compat.mxnet()


def write_builtin_onnx(
    parts: SymbolParts, description: ExportMetadata, path: Path, change: Optional[Change] = None
) -> None:
    """Write a converted detector to the file `path`; of kind RAW_KIND it ends before NMS, see onnx.write_onnx.

    Args:
        parts: its symbol, weights and auxiliary states.
        description: of the file: input "pixels" or "data", coordinates "pixels".
        path: the file.
        change: transforms the layers, see onnx.write_onnx.
    """
    symbol, weights, states = parts
    class_scores, offsets, priors = heads(symbol)
    anchors = _anchors(priors, description.side)
    graph = GraphBuilder()
    data = _add_input(graph, description.input)
    arrays = {name: array.asnumpy() for name, array in {**weights, **states}.items()}
    text = mx.sym.Group([class_scores, offsets]).tojson()
    scores, flat = convert_symbol(graph, text, arrays, {INPUT: data})
    deltas = graph.add("Reshape", flat, graph.constant([0, -1, 4], dtype=np.int64))  # (N, A, 4)
    outputs = [Value(scores, FLOAT, ["N", None, len(anchors)]), Value(deltas, FLOAT, ["N", len(anchors), 4])]
    if change is not None:
        graph.load(change(graph.to_model(input_value(description), outputs)))
    boxes = add_decoding(graph, deltas, anchors, (VARIANCES[0], VARIANCES[2]))
    boxes = graph.add("Clip", boxes, graph.constant(0), graph.constant(description.side))
    if description.kind == RAW_KIND:
        rows_first = graph.add("Transpose", scores, perm=[0, 2, 1])  # (N, A, C + 1)
        outputs = add_raw_outputs(graph, rows_first, boxes, len(anchors), len(description.class_names))
        save_model(graph.to_model(input_value(description), outputs), path, description)
        return
    rules = nms_rules_of(symbol)
    rows = _add_detection(graph, scores, boxes, (len(anchors), len(description.class_names)), rules)
    output = Value(rows, FLOAT, ["N", min(rules.topk, len(anchors)), 6])
    save_model(graph.to_model(input_value(description), [output]), path, description)


def nms_rules_of(symbol: Any) -> NmsRules:
    """Return the NMS parameters of a symbol written by `convert`."""
    attributes = symbol.attr_dict()[DETECTION]
    return NmsRules(
        float(attributes["nms_threshold"]), int(attributes["nms_topk"]), attributes["force_suppress"] in ("False", "0")
    )


def candidates(parts: SymbolParts, images: np.ndarray) -> List[Candidates]:
    """Return the candidates before NMS of images, uint8 (B, S, S, 3), as MXNet computes them."""
    symbol, weights, states = parts
    class_scores, offsets, priors = heads(symbol)
    outputs = mx.sym.Group([mx.sym.SoftmaxActivation(class_scores, mode="channel"), offsets, priors])
    arguments = {**weights, INPUT: mx.nd.array(as_input(images, INPUT))}
    executor = outputs.bind(mx.cpu(), arguments, grad_req="null", aux_states=states)
    probabilities, flat, corners = (array.asnumpy() for array in executor.forward(is_train=False))
    anchors, side, rules = xyxy_to_cxcywh(corners[0]), images.shape[1], nms_rules_of(symbol)
    return [
        Candidates(scores[1:].T, decode(deltas, anchors).clip(0, 1) * side, rules.threshold, rules.topk)
        for scores, deltas in zip(probabilities, flat.reshape(len(images), -1, 4))
    ]


def _anchors(priors: Any, side: int) -> np.ndarray:
    """Return the priors (A, 4), cxcywh in input pixels.

    They depend only on the sizes of the feature maps, so the weights are arbitrary.
    """
    shapes, _, states = priors.infer_shape(**{INPUT: (1, 3, side, side)})
    arguments = {name: mx.nd.zeros(shape) for name, shape in zip(priors.list_arguments(), shapes)}
    auxiliary = {name: mx.nd.ones(shape) for name, shape in zip(priors.list_auxiliary_states(), states)}
    corners = priors.bind(mx.cpu(), arguments, aux_states=auxiliary, grad_req="null").forward()[0].asnumpy()[0]
    low, high = corners[:, :2].astype(np.float64), corners[:, 2:].astype(np.float64)
    return np.concatenate([(low + high) / 2, high - low], axis=1) * side


def _add_input(graph: GraphBuilder, input: str) -> str:
    """Convert the graph's input to float32 (N, 3, S, S), RGB, 0..255."""
    if input == INPUT:
        return INPUT
    return graph.add("Cast", graph.add("Transpose", input, perm=[0, 3, 1, 2]), to=FLOAT)


def _add_detection(
    graph: GraphBuilder, class_scores: str, boxes: str, counts: "Tuple[int, int]", rules: NmsRules
) -> str:
    """Add softmax and NMS.

    Args:
        graph: receives the nodes.
        class_scores: name of the scores (N, C + 1, A) before softmax, background first.
        boxes: name of the boxes (N, A, 4).
        counts: A and C.
        rules: NMS parameters.

    Returns:
        The name of the rows (N, min(topk, A), 6): class id, score, x1, y1, x2, y2, best first; -1: unused.
    """
    anchors, classes = counts
    count = min(rules.topk, anchors)
    probabilities = slice_axis(graph, graph.add("Softmax", class_scores, axis=1), 1, classes + 1, axis=1)  # (N, C, A)
    best = graph.add("ReduceMax", probabilities, axes=[1], keepdims=1)  # (N, 1, A)
    scores = best
    if rules.per_class:
        scores = graph.add("Where", graph.add("Equal", probabilities, best), probabilities, graph.constant(0))
    if rules.topk < anchors:
        scores, _, _ = keep_top_k(graph, scores, rules.topk)
    kept = suppress(graph, scores, boxes, Suppression(rules.threshold, rules.topk, count, SCORE_FLOOR))
    kept_scores = graph.add("ReduceMax", kept, axes=[1], keepdims=0)  # (N, A): no prior has two classes
    highest, index = top_k(graph, kept_scores, graph.constant([count], dtype=np.int64))  # (N, P)
    class_ids = graph.add("Cast", graph.add("ArgMax", probabilities, axis=1, keepdims=0), to=FLOAT)  # (N, A)
    table = graph.add("Concat", unsqueeze(graph, class_ids, 2), boxes, axis=2)  # (N, A, 5)
    chosen = graph.add("GatherND", table, unsqueeze(graph, index, 2), batch_dims=1)  # (N, P, 5)
    score = unsqueeze(graph, highest, 2)
    columns = [slice_axis(graph, chosen, 0, 1, axis=2), score, slice_axis(graph, chosen, 1, 5, axis=2)]
    rows = graph.add("Concat", *columns, axis=2)
    rows = graph.add("Where", graph.add("Less", score, graph.constant(0)), graph.constant(-1), rows)
    return propagate_nan(graph, rows, class_scores, OUTPUT)
