"""Build the preprocessing and postprocessing of a detector as ONNX nodes.

Postprocessing has the same steps as in model/graphs.py: decode boxes, keep the best `nms_topk` candidates of an image,
apply non-maximum suppression (NMS) per class, keep the best `post_nms` boxes.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import numpy as np

from ssd_train.deploy.onnx_graph import GraphBuilder
from ssd_train.model.pixels import PIXEL_MEAN, PIXEL_STD

NORMALISED = "normalised_pixels"


class Suppression(NamedTuple):
    """Parameters of NMS.

    Attributes:
        threshold: IoU above which the lower-scored of two boxes of a class is dropped.
        topk: number of candidates of an image, over all classes, that NMS considers.
        post_nms: maximum number of boxes of an image after NMS.
        score_floor: candidates at or below this score are dropped.
    """

    threshold: float
    topk: int
    post_nms: int
    score_floor: float


def add_normalisation(graph: GraphBuilder, pixels: str) -> str:
    """Normalize pixels, uint8 (N, S, S, 3), to float32 (N, 3, S, S).

    Mean and standard deviation are ImageNet's.
    """
    channels_first = graph.add("Cast", graph.add("Transpose", pixels, perm=[0, 3, 1, 2]), to=1)
    mean, std = (np.array(values, np.float64).reshape(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    scaled = graph.add("Mul", channels_first, graph.constant(1 / (255 * std)))
    return graph.add("Add", scaled, graph.constant(-mean / std), name=NORMALISED)


def add_decoding(graph: GraphBuilder, offsets: str, anchors: np.ndarray, variances: Tuple[float, float]) -> str:
    """Decode box offsets (N, A, 4) to boxes (N, A, 4), xyxy in input pixels.

    `anchors` are (A, 4), cxcywh in input pixels; `variances` those of the center and of the size.
    """
    center, size = anchors[None, :, :2], anchors[None, :, 2:]  # (1, A, 2)
    center_offset, size_offset = (slice_axis(graph, offsets, start, start + 2, axis=2) for start in (0, 2))
    shift = graph.add("Mul", center_offset, graph.constant(size * variances[0]))
    box_center = graph.add("Add", shift, graph.constant(center))
    factor = graph.add("Exp", graph.add("Mul", size_offset, graph.constant(variances[1])))
    half = graph.add("Mul", factor, graph.constant(size / 2))
    return graph.add("Concat", graph.add("Sub", box_center, half), graph.add("Add", box_center, half), axis=2)


def add_detection(
    graph: GraphBuilder, class_scores: str, boxes: str, counts: Tuple[int, int], rules: Suppression, name: str
) -> str:
    """Add softmax and NMS.

    Args:
        graph: receives the nodes.
        class_scores: name of the scores (N, A, C + 1) before softmax, background first.
        boxes: name of the boxes (N, A, 4).
        counts: A and C.
        rules: NMS parameters.
        name: of the output.

    Returns:
        The name of the rows (N, post_nms, 6): class id, score, x1, y1, x2, y2, best first; -1: unused.
    """
    anchors, classes = counts
    probabilities = graph.add("Transpose", graph.add("Softmax", class_scores, axis=2), perm=[0, 2, 1])
    scores = slice_axis(graph, probabilities, 1, classes + 1, axis=1)  # (N, C, A)
    if rules.topk < anchors * classes:
        scores = keep_top_k(graph, scores, rules.topk)
    kept = suppress(graph, scores, boxes, rules)  # (N, C, A), -1 where dropped
    flat = graph.add("Reshape", kept, graph.constant([0, anchors * classes], dtype=np.int64))
    count = graph.constant([min(rules.post_nms, anchors * classes)], dtype=np.int64)
    best, index = top_k(graph, flat, count)  # (N, P)
    return poisoned(graph, _rows(graph, best, index, boxes, anchors), class_scores, name)


def poisoned(graph: GraphBuilder, rows: str, class_scores: str, name: str) -> str:
    """Set the rows (N, P, 6) of images with NaN scores to NaN.

    NMS would drop NaN scores silently.
    """
    zeros = graph.add("Mul", class_scores, graph.constant(0))
    zero_or_nan = graph.add("ReduceSum", zeros, graph.constant([1, 2], dtype=np.int64), keepdims=1)  # (N, 1, 1)
    return graph.add("Add", rows, zero_or_nan, name=name)


def keep_top_k(graph: GraphBuilder, scores: str, topk: int) -> str:
    """Keep the best `topk` of each image's scores (N, C, A), set others to 0."""
    flat = graph.add("Reshape", scores, graph.constant([0, -1], dtype=np.int64))
    best, _ = top_k(graph, flat, graph.constant([topk], dtype=np.int64))  # (N, topk)
    last = unsqueeze(graph, slice_axis(graph, best, topk - 1, topk, axis=1), 2)  # (N, 1, 1)
    return graph.add("Where", graph.add("Less", scores, last), graph.constant(0), scores)


def suppress(graph: GraphBuilder, scores: str, boxes: str, rules: Suppression) -> str:
    """Set the scores (N, C, A) of suppressed boxes to -1."""
    kept = graph.add(  # (K, 3) of image, class, anchor
        "NonMaxSuppression",
        boxes,
        scores,
        graph.constant([rules.post_nms], dtype=np.int64),
        graph.constant([rules.threshold]),
        graph.constant([rules.score_floor]),
    )
    suppressed = graph.add("Expand", graph.constant(-1), graph.add("Shape", scores))
    return graph.add("ScatterND", suppressed, kept, graph.add("GatherND", scores, kept))


def _rows(graph: GraphBuilder, best: str, index: str, boxes: str, anchors: int) -> str:
    """Build rows (N, P, 6) from scores and their indices in classes x anchors."""
    count = graph.constant(anchors, dtype=np.int64)
    class_ids = graph.add("Cast", graph.add("Div", index, count), to=1)
    corners = graph.add("GatherND", boxes, unsqueeze(graph, graph.add("Mod", index, count), 2), batch_dims=1)
    columns = [unsqueeze(graph, column, 2) for column in (class_ids, best)]
    rows = graph.add("Concat", *columns, corners, axis=2)
    unused = graph.add("Less", columns[1], graph.constant(0))
    return graph.add("Where", unused, graph.constant(-1), rows)


def top_k(graph: GraphBuilder, values: str, count: str) -> Tuple[str, str]:
    """Return the highest `count` of values (N, M) and their indices, highest first."""
    highest = graph.add("TopK", values, count, axis=1)
    graph.nodes[-1].output.append(f"{highest}_index")
    return highest, f"{highest}_index"


def slice_axis(graph: GraphBuilder, tensor: str, start: int, stop: int, axis: int) -> str:
    """Slice `tensor` from `start` to `stop` (exclusive) along `axis`."""
    return graph.add("Slice", tensor, *(graph.constant([value], dtype=np.int64) for value in (start, stop, axis)))


def unsqueeze(graph: GraphBuilder, tensor: str, axis: int) -> str:
    """Insert an axis of length 1."""
    return graph.add("Unsqueeze", tensor, graph.constant([axis], dtype=np.int64))
