"""The network as hybridized graphs, one each for training, evaluation and detection.

When GluonCV's SSD is traced, autograd's mode decides what it returns, and a hybridized network keeps the form in which
it was first called. So each purpose has its own block, which shares the network's layers, and the network itself is
never called. Inputs are uint8 pixels (B, S, S, 3) as the loaders make them; the graphs normalize them on the device.
"""

from __future__ import annotations

from typing import Any

from ssd_train import mxnet_compat
from ssd_train.model.fused import FusedPredictor
from ssd_train.model.loss import DetectionLoss
from ssd_train.model.normalization import PIXEL_MEAN, PIXEL_STD
from ssd_train.model.targets import STDS

mx: Any = mxnet_compat.mxnet()

SCORE_THRESHOLD = 0.01  # candidates with a lower score are dropped, as in GluonCV
VOTING_IOU = 0.5  # IoU with a kept box from which candidates count in box voting, as in the paper


class _Normalize(mx.gluon.HybridBlock):
    """Converts uint8 RGB (B, S, S, 3) to float32 (B, 3, S, S) with ImageNet mean 0 and standard deviation 1."""

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        return F.image.normalize(F.image.to_tensor(pixels), mean=PIXEL_MEAN, std=PIXEL_STD)


class _Heads(mx.gluon.HybridBlock):
    """Computes class scores, box offsets and feature maps of an SSD."""

    def __init__(self, net: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = net.num_classes
        self.normalize = _Normalize()
        self.features = net.features
        self.class_predictors = net.class_predictors
        self.box_predictors = net.box_predictors

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Return class scores (B, A, classes + 1), box offsets (B, A, 4) and feature maps, each (B, C, H, W)."""
        maps = self.features(self.normalize(pixels))
        class_preds = [predict(m) for m, predict in zip(maps, self.class_predictors)]
        box_preds = [predict(m) for m, predict in zip(maps, self.box_predictors)]
        return _flatten_predictions(F, class_preds, self.num_classes + 1), _flatten_predictions(F, box_preds, 4), maps


class _FusedHeads(mx.gluon.HybridBlock):
    """Computes the outputs of _Heads faster in training: both predictors of a map run as one convolution.

    Args:
        net: the network.
        features: its layers, possibly fused (`fused_features`).
    """

    def __init__(self, net: Any, features: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = net.num_classes
        self.normalize = _Normalize()
        self.features = features
        self.predictors = mx.gluon.nn.HybridSequential()
        for classes, boxes in zip(net.class_predictors, net.box_predictors):
            self.predictors.add(FusedPredictor(classes.predictor, boxes.predictor))

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Return class scores (B, A, classes + 1) and box offsets (B, A, 4) for pixels (B, S, S, 3)."""
        maps = self.features(self.normalize(pixels))
        class_preds, box_preds = zip(*(predict(m) for m, predict in zip(maps, self.predictors)))
        return _flatten_predictions(F, class_preds, self.num_classes + 1), _flatten_predictions(F, box_preds, 4)


def _flatten_predictions(F: Any, predictions: Any, width: int) -> Any:
    """Flatten and concatenate the predictions (B, k * width, H, W) of all maps to (B, A, width)."""
    flat = [F.flatten(F.transpose(prediction, (0, 2, 3, 1))) for prediction in predictions]
    return F.reshape(F.concat(*flat, dim=1), shape=(0, -1, width))


def _anchors(F: Any, maps: Any, generators: Any) -> Any:
    """Return the anchors (1, A, 4) of all maps, cxcywh."""
    return F.concat(*[F.reshape(make(m), shape=(1, -1, 4)) for m, make in zip(maps, generators)], dim=1)


def _decode(F: Any, offsets: Any, anchors: Any) -> Any:
    """Return the boxes (B, A, 4), xyxy in input pixels, of offsets (B, A, 4) from anchors (1, A, 4), cxcywh."""
    shift = F.slice_axis(offsets, axis=-1, begin=0, end=2) * float(STDS[0])
    stretch = F.slice_axis(offsets, axis=-1, begin=2, end=4) * float(STDS[2])
    centre = F.slice_axis(anchors, axis=-1, begin=0, end=2)
    size = F.slice_axis(anchors, axis=-1, begin=2, end=4)
    middle = F.broadcast_add(F.broadcast_mul(shift, size), centre)
    half = F.broadcast_mul(F.exp(stretch), size) * 0.5
    return F.concat(middle - half, middle + half, dim=2)


def vote(F: Any, rows: Any, candidates: Any) -> Any:
    """Replace each kept box by the score-weighted mean of its class's candidates with IoU >= VOTING_IOU with it.

    Gidaris & Komodakis, "Object detection via a multi-region and semantic segmentation-aware CNN model", ICCV 2015,
    section 4. deploy/export/onnx.py converts this function, too, so its operators are those of `_OPERATORS` there.

    Args:
        F: mx.nd or mx.sym.
        rows: kept (B, P, 6): class id, score, x1, y1, x2, y2; unused rows have class id and score -1.
        candidates: (B, K, 6), likewise, with the kept rows among them.

    Returns:
        `rows` with the mean boxes; class ids and scores are unchanged, and so are unused rows.
    """
    kept = [F.slice_axis(rows, axis=2, begin=i, end=i + 1) for i in range(6)]  # (B, P, 1)
    columns = F.transpose(candidates, axes=(0, 2, 1))
    others = [F.slice_axis(columns, axis=1, begin=i, end=i + 1) for i in range(6)]  # (B, 1, K)
    shared = [
        F.relu(
            F.broadcast_sub(F.broadcast_minimum(kept[high], others[high]), F.broadcast_maximum(kept[low], others[low]))
        )
        for low, high in ((2, 4), (3, 5))
    ]
    intersections = F.broadcast_mul(*shared)  # (B, P, K)
    kept_areas, areas = (
        F.broadcast_mul(F.broadcast_sub(box[4], box[2]), F.broadcast_sub(box[5], box[3])) for box in (kept, others)
    )
    # the IoU is at least t if the intersection is at least t / (1 + t) of the sum of both areas
    near = F.broadcast_greater_equal(
        intersections * ((1 + VOTING_IOU) / VOTING_IOU), F.broadcast_add(kept_areas, areas)
    )
    votes = F.broadcast_mul(F.broadcast_equal(kept[0], others[0]), F.relu(others[1]))
    weights = F.broadcast_mul(near, votes)  # not elemwise_mul, which quantization would convert
    total = F.sum(weights, axis=2, keepdims=True)  # (B, P, 1); 0 in unused rows
    boxes, other_boxes = (F.slice_axis(table, axis=2, begin=2, end=6) for table in (rows, candidates))
    moves = F.broadcast_sub(F.batch_dot(weights, other_boxes), F.broadcast_mul(boxes, total))
    moved = F.broadcast_add(boxes, F.broadcast_div(moves, F.maximum(total, 1e-12)))
    return F.concat(F.slice_axis(rows, axis=2, begin=0, end=2), moved, dim=2)


class _Suppress(mx.gluon.HybridBlock):
    """Selects the best boxes of each class by non-maximum suppression, and box voting if `box_voting`."""

    def __init__(
        self,
        num_classes: int,
        nms_threshold: float,
        nms_topk: int,
        post_nms: int,
        box_voting: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._num_classes = num_classes
        self._threshold, self._topk, self._post_nms, self._box_voting = nms_threshold, nms_topk, post_nms, box_voting

    def hybrid_forward(self, F: Any, class_preds: Any, boxes: Any) -> Any:
        """Return rows (B, post_nms, 6): class id, score, x1, y1, x2, y2; unused rows have class id -1.

        Args:
            F: mx.nd or mx.sym.
            class_preds: (B, A, classes + 1).
            boxes: (B, A, 4), xyxy.
        """
        scores = F.softmax(class_preds, axis=-1)
        rows = []
        for class_id in range(self._num_classes):
            score = F.slice_axis(scores, axis=-1, begin=class_id + 1, end=class_id + 2)  # (B, A, 1)
            rows.append(F.concat(F.ones_like(score) * class_id, score, boxes, dim=2))  # (B, A, 6)
        candidates = F.concat(*rows, dim=1)
        if self._box_voting:  # no IoU is above 1, so that this only sorts; `slice` allows for fewer rows
            end = (None, max(self._topk, self._post_nms))
            candidates = F.slice(self._nms(F, candidates, 1), begin=(None, 0), end=end)
        kept = F.slice_axis(self._nms(F, candidates, self._threshold), axis=1, begin=0, end=self._post_nms)
        return vote(F, kept, candidates) if self._box_voting else kept

    def _nms(self, F: Any, rows: Any, threshold: float) -> Any:
        return F.contrib.box_nms(
            rows,
            overlap_thresh=threshold,
            valid_thresh=SCORE_THRESHOLD,
            topk=self._topk,
            coord_start=2,
            score_index=1,
            id_index=0,
            force_suppress=False,
        )


class TrainGraph(mx.gluon.HybridBlock):
    """Computes the training loss of one device.

    Args:
        net: the network.
        loss: the loss.
        features: the network's layers in fused form (`fused_features`); None: as they are.
    """

    INPUTS = {"pixels": "uint8", "class_targets": "float32", "box_targets": "float32", "scale": "float32"}

    def __init__(self, net: Any, loss: DetectionLoss, features: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = _FusedHeads(net, features or net.features)
        self.loss = loss

    def hybrid_forward(self, F: Any, pixels: Any, class_targets: Any, box_targets: Any, scale: Any) -> Any:
        """Return (loss, CrossEntropy, SmoothL1), each (1,).

        Args:
            F: mx.nd or mx.sym.
            pixels: uint8 (B, S, S, 3).
            class_targets: (B, A).
            box_targets: (B, A, 4).
            scale: (1,), one over the number of positive anchors of all devices and hosts, times the loss scale. Only
                `loss` is multiplied by it, so that the gradients of devices simply add up.
        """
        class_preds, box_preds = self.heads(pixels)
        cross_entropy, smooth_l1 = self.loss(class_preds, box_preds, class_targets, box_targets)
        return (cross_entropy + smooth_l1) * scale, cross_entropy, smooth_l1


class DetectGraph(mx.gluon.HybridBlock):
    """Detects objects in images."""

    def __init__(
        self, net: Any, nms_threshold: float, nms_topk: int, post_nms: int, box_voting: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads = _Heads(net)
        self.anchor_generators = net.anchor_generators
        self.suppress = _Suppress(net.num_classes, nms_threshold, nms_topk, post_nms, box_voting)

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Return rows (B, post_nms, 6), best first, for pixels uint8 (B, S, S, 3).

        A row is class id, score, x1, y1, x2, y2 in input pixels; unused rows have class id -1.
        """
        class_preds, box_preds, maps = self.heads(pixels)
        return self._rows(F, class_preds, box_preds, maps)

    def _rows(self, F: Any, class_preds: Any, box_preds: Any, maps: Any) -> Any:
        anchors = _anchors(F, maps, self.anchor_generators)
        rows = self.suppress(class_preds, _decode(F, box_preds, anchors))  # (B, post_nms, 6)
        # suppression silently drops scores of NaN; instead, all rows of such an image become NaN
        return F.broadcast_add(rows, F.sum(class_preds * 0, axis=(1, 2), keepdims=True))


class CandidateGraph(mx.gluon.HybridBlock):
    """Computes the input of non-maximum suppression."""

    def __init__(self, net: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = _Heads(net)
        self.anchor_generators = net.anchor_generators

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Compute the candidates of pixels uint8 (B, S, S, 3).

        Returns:
            Class probabilities (B, A, classes), without background, and boxes (B, A, 4), xyxy in input pixels.
        """
        class_preds, box_preds, maps = self.heads(pixels)
        anchors = _anchors(F, maps, self.anchor_generators)
        scores = F.slice_axis(F.softmax(class_preds, axis=-1), axis=-1, begin=1, end=None)
        return scores, _decode(F, box_preds, anchors)


class EvalGraph(DetectGraph):
    """Detects objects, and computes the loss in the same pass."""

    def __init__(self, net: Any, loss: DetectionLoss, *suppression: Any) -> None:
        super().__init__(net, *suppression)
        self.loss = loss

    def hybrid_forward(  # type: ignore[override]  # Gluon passes each graph its own inputs
        self, F: Any, pixels: Any, class_targets: Any, box_targets: Any
    ) -> Any:
        """Return rows (B, post_nms, 6) as DetectGraph does, CrossEntropy (1,) and SmoothL1 (1,).

        Args:
            F: mx.nd or mx.sym.
            pixels: uint8 (B, S, S, 3).
            class_targets: (B, A).
            box_targets: (B, A, 4).
        """
        class_preds, box_preds, maps = self.heads(pixels)
        rows = self._rows(F, class_preds, box_preds, maps)
        cross_entropy, smooth_l1 = self.loss(class_preds, box_preds, class_targets, box_targets)
        return rows, cross_entropy, smooth_l1


def hybridize_static(graph: Any) -> Any:
    """Hybridize `graph` with static memory and return it."""
    graph.hybridize(static_alloc=True, static_shape=True)
    return graph


def with_mixed_precision(graph: TrainGraph, dtype: str) -> Any:
    """Return `graph` with the casts of mixed precision to `dtype`; it shares the parameters, which stay float32."""
    inputs = [mx.sym.var(name, dtype=kind) for name, kind in graph.INPUTS.items()]
    float32 = [name for name, kind in graph.INPUTS.items() if kind == "float32"]
    symbol = mxnet_compat.add_casts(mx.sym.Group([*graph(*inputs)]), float32, dtype)
    return mx.gluon.SymbolBlock(symbol, inputs, params=graph.collect_params())
