"""A converted model of the built-in algorithm as an ONNX file: what MultiBoxDetection does, in ONNX's operators.

Unlike ours it takes one class for each prior, the best one, and clips boxes before it compares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np

from ssd_train import framework
from ssd_train.deploy.builtin_network import DETECTION, SCORE_FLOOR, VARIANCES, Rules, heads
from ssd_train.deploy.description import Description
from ssd_train.deploy.exported import INPUT
from ssd_train.deploy.onnx_file import OUTPUT, Change, input_value, save_document
from ssd_train.deploy.onnx_graph import FLOAT, GraphBuilder, Value, convert_symbol
from ssd_train.deploy.onnx_head import (
    Suppression,
    add_decoding,
    best_of_all_classes,
    poisoned,
    slice_axis,
    suppress,
    top,
    unsqueeze,
)
from ssd_train.deploy.symbol_file import Arrays

mx = framework.mxnet()


def write_builtin_onnx(
    parts: "Tuple[Any, Arrays, Arrays]", description: Description, path: Path, change: Optional[Change] = None
) -> None:
    """Write a detector made by `convert`, its symbol, weights and states, to the file `path`.

    description     of the file: input "pixels" or "data", coordinates "pixels"
    change          what is done to the layers, see onnx_file.write_onnx
    """
    symbol, weights, states = parts
    class_scores, offsets, priors = heads(symbol)
    anchors = _anchors(priors, description.side)
    graph = GraphBuilder()
    data = _as_data(graph, description.input)
    arrays = {name: array.asnumpy() for name, array in {**weights, **states}.items()}
    text = mx.sym.Group([class_scores, offsets]).tojson()
    scores, flat = convert_symbol(graph, text, arrays, {INPUT: data})
    moves = graph.add("Reshape", flat, graph.constant([0, -1, 4], dtype=np.int64))  # (N, A, 4)
    ends = [Value(scores, FLOAT, ["N", None, len(anchors)]), Value(moves, FLOAT, ["N", len(anchors), 4])]
    if change is not None:
        graph.take(change(graph.document(input_value(description), ends)))
    boxes = add_decoding(graph, moves, anchors, (VARIANCES[0], VARIANCES[2]))
    boxes = graph.add("Clip", boxes, graph.constant(0), graph.constant(description.side))
    rules = rules_of(symbol)
    rows = _add_detection(graph, scores, boxes, (len(anchors), len(description.class_names)), rules)
    output = Value(rows, FLOAT, ["N", min(rules.topk, len(anchors)), 6])
    save_document(graph.document(input_value(description), [output]), path, description)


def rules_of(symbol: Any) -> Rules:
    """How a symbol made by `convert` suppresses."""
    attributes = symbol.attr_dict()[DETECTION]
    return Rules(
        float(attributes["nms_threshold"]), int(attributes["nms_topk"]), attributes["force_suppress"] in ("False", "0")
    )


def _anchors(priors: Any, side: int) -> np.ndarray:
    """Priors (A, 4) as cxcywh in pixels of the input; they depend on the size of the feature maps alone, so weights are
    left as they come."""
    shapes, _, states = priors.infer_shape(**{INPUT: (1, 3, side, side)})
    arguments = {name: mx.nd.zeros(shape) for name, shape in zip(priors.list_arguments(), shapes)}
    held = {name: mx.nd.ones(shape) for name, shape in zip(priors.list_auxiliary_states(), states)}
    corners = priors.bind(mx.cpu(), arguments, aux_states=held, grad_req="null").forward()[0].asnumpy()[0]
    low, high = corners[:, :2].astype(np.float64), corners[:, 2:].astype(np.float64)
    return np.concatenate([(low + high) / 2, high - low], axis=1) * side


def _as_data(graph: GraphBuilder, input: str) -> str:
    """The graph's input as float32 (N, 3, S, S), RGB, 0..255."""
    if input == INPUT:
        return INPUT
    return graph.add("Cast", graph.add("Transpose", input, perm=[0, 3, 1, 2]), to=FLOAT)


def _add_detection(graph: GraphBuilder, class_scores: str, boxes: str, counts: "Tuple[int, int]", rules: Rules) -> str:
    """Class scores (N, C + 1, A) before softmax, background first, and boxes (N, A, 4) -> rows (N, min(topk, A), 6) of
    class id, score, x1, y1, x2, y2, best first, -1 where none; `counts` are A and C."""
    anchors, classes = counts
    count = min(rules.topk, anchors)
    shares = slice_axis(graph, graph.add("Softmax", class_scores, axis=1), 1, classes + 1, axis=1)  # (N, C, A)
    best = graph.add("ReduceMax", shares, axes=[1], keepdims=1)  # (N, 1, A)
    scores = best
    if rules.per_class:
        scores = graph.add("Where", graph.add("Equal", shares, best), shares, graph.constant(0))
    if rules.topk < anchors:
        scores = best_of_all_classes(graph, scores, rules.topk)
    kept = suppress(graph, scores, boxes, Suppression(rules.threshold, rules.topk, count, SCORE_FLOOR))
    alive = graph.add("ReduceMax", kept, axes=[1], keepdims=0)  # (N, A): no prior has two classes
    highest, index = top(graph, alive, graph.constant([count], dtype=np.int64))  # (N, P)
    classes_of = graph.add("Cast", graph.add("ArgMax", shares, axis=1, keepdims=0), to=FLOAT)  # (N, A)
    table = graph.add("Concat", unsqueeze(graph, classes_of, 2), boxes, axis=2)  # (N, A, 5)
    chosen = graph.add("GatherND", table, unsqueeze(graph, index, 2), batch_dims=1)  # (N, P, 5)
    score = unsqueeze(graph, highest, 2)
    columns = [slice_axis(graph, chosen, 0, 1, axis=2), score, slice_axis(graph, chosen, 1, 5, axis=2)]
    row = graph.add("Concat", *columns, axis=2)
    used = graph.add("Where", graph.add("Less", score, graph.constant(0)), graph.constant(-1), row)
    return poisoned(graph, used, class_scores, OUTPUT)
