"""The ends of a detector as ONNX: pixels to the network's input, and its heads to boxes.

The same steps as model/graphs.py takes: decode, the best `nms_topk` candidates of an image, non-maximum suppression
within each class, the best `post_nms` boxes.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import numpy as np

from ssd_train.deploy.onnx_graph import GraphBuilder
from ssd_train.model.pixels import PIXEL_MEAN, PIXEL_STD

NORMALISED = "normalised_pixels"


class Suppression(NamedTuple):
    """How candidates become boxes.

    threshold       IoU above which the lower of two boxes of a class is dropped
    topk            candidates of an image, over all classes, that enter
    post_nms        boxes of an image that leave
    score_floor     candidates at or below it do not enter
    """

    threshold: float
    topk: int
    post_nms: int
    score_floor: float


def add_normalisation(graph: GraphBuilder, pixels: str) -> str:
    """uint8 (N, S, S, 3) -> float32 (N, 3, S, S), ImageNet mean 0 and deviation 1."""
    channels_first = graph.add("Cast", graph.add("Transpose", pixels, perm=[0, 3, 1, 2]), to=1)
    mean, std = (np.array(values, np.float64).reshape(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    scaled = graph.add("Mul", channels_first, graph.constant(1 / (255 * std)))
    return graph.add("Add", scaled, graph.constant(-mean / std), name=NORMALISED)


def add_decoding(graph: GraphBuilder, offsets: str, anchors: np.ndarray, variances: Tuple[float, float]) -> str:
    """Box offsets (N, A, 4) at `anchors` (A, 4) cxcywh -> boxes (N, A, 4) xyxy, input pixels."""
    centre, size = anchors[None, :, :2], anchors[None, :, 2:]  # (1, A, 2)
    shift, stretch = (slice_axis(graph, offsets, start, start + 2, axis=2) for start in (0, 2))
    moved = graph.add("Mul", shift, graph.constant(size * variances[0]))
    middle = graph.add("Add", moved, graph.constant(centre))
    growth = graph.add("Exp", graph.add("Mul", stretch, graph.constant(variances[1])))
    half = graph.add("Mul", growth, graph.constant(size / 2))
    return graph.add("Concat", graph.add("Sub", middle, half), graph.add("Add", middle, half), axis=2)


def add_detection(
    graph: GraphBuilder, class_scores: str, boxes: str, counts: Tuple[int, int], rules: Suppression, name: str
) -> str:
    """Class scores (N, A, C + 1) before softmax, background first, and boxes (N, A, 4) -> rows (N, post_nms, 6) of
    class id, score, x1, y1, x2, y2, best first, -1 where none; `counts` are A and C."""
    anchors, classes = counts
    shares = graph.add("Transpose", graph.add("Softmax", class_scores, axis=2), perm=[0, 2, 1])
    scores = slice_axis(graph, shares, 1, classes + 1, axis=1)  # (N, C, A)
    if rules.topk < anchors * classes:
        scores = best_of_all_classes(graph, scores, rules.topk)
    kept = suppress(graph, scores, boxes, rules)  # (N, C, A), -1 where dropped
    flat = graph.add("Reshape", kept, graph.constant([0, anchors * classes], dtype=np.int64))
    count = graph.constant([min(rules.post_nms, anchors * classes)], dtype=np.int64)
    best, index = top(graph, flat, count)  # (N, P)
    return poisoned(graph, _rows(graph, best, index, boxes, anchors), class_scores, name)


def poisoned(graph: GraphBuilder, rows: str, class_scores: str, name: str) -> str:
    """Rows (N, P, 6); those of an image whose scores are NaN become NaN. Suppression drops such scores as if nothing
    had been found."""
    nothing = graph.add("Mul", class_scores, graph.constant(0))
    poison = graph.add("ReduceSum", nothing, graph.constant([1, 2], dtype=np.int64), keepdims=1)  # (N, 1, 1)
    return graph.add("Add", rows, poison, name=name)


def best_of_all_classes(graph: GraphBuilder, scores: str, topk: int) -> str:
    """Scores (N, C, A), 0 for all but the best `topk` of each image."""
    flat = graph.add("Reshape", scores, graph.constant([0, -1], dtype=np.int64))
    best, _ = top(graph, flat, graph.constant([topk], dtype=np.int64))  # (N, topk)
    last = unsqueeze(graph, slice_axis(graph, best, topk - 1, topk, axis=1), 2)  # (N, 1, 1)
    return graph.add("Where", graph.add("Less", scores, last), graph.constant(0), scores)


def suppress(graph: GraphBuilder, scores: str, boxes: str, rules: Suppression) -> str:
    """Scores (N, C, A), -1 where a box of (N, A, 4) overlaps a better one of its class."""
    chosen = graph.add(  # (K, 3) of image, class, anchor
        "NonMaxSuppression",
        boxes,
        scores,
        graph.constant([rules.post_nms], dtype=np.int64),
        graph.constant([rules.threshold]),
        graph.constant([rules.score_floor]),
    )
    nothing = graph.add("Expand", graph.constant(-1), graph.add("Shape", scores))
    return graph.add("ScatterND", nothing, chosen, graph.add("GatherND", scores, chosen))


def _rows(graph: GraphBuilder, best: str, index: str, boxes: str, anchors: int) -> str:
    """Rows (N, P, 6) of the scores `best` (N, P) at `index` (N, P) among classes x anchors."""
    count = graph.constant(anchors, dtype=np.int64)
    class_ids = graph.add("Cast", graph.add("Div", index, count), to=1)
    corners = graph.add("GatherND", boxes, unsqueeze(graph, graph.add("Mod", index, count), 2), batch_dims=1)
    columns = [unsqueeze(graph, column, 2) for column in (class_ids, best)]
    row = graph.add("Concat", *columns, corners, axis=2)
    unused = graph.add("Less", columns[1], graph.constant(0))
    return graph.add("Where", unused, graph.constant(-1), row)


def top(graph: GraphBuilder, values: str, count: str) -> Tuple[str, str]:
    """The highest `count` of values (N, M) and their places, highest first."""
    highest = graph.add("TopK", values, count, axis=1)
    graph.nodes[-1].output.append(f"{highest}_index")
    return highest, f"{highest}_index"


def slice_axis(graph: GraphBuilder, tensor: str, start: int, stop: int, axis: int) -> str:
    """`tensor` from `start` to before `stop` along `axis`."""
    return graph.add("Slice", tensor, *(graph.constant([value], dtype=np.int64) for value in (start, stop, axis)))


def unsqueeze(graph: GraphBuilder, tensor: str, axis: int) -> str:
    """`tensor` with another axis of length 1."""
    return graph.add("Unsqueeze", tensor, graph.constant([axis], dtype=np.int64))
