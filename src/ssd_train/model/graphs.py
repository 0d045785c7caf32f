"""The network as hybridized graphs: one to train, one to evaluate, one to detect.

GluonCV's SSD decides by autograd's mode, while it is traced, what it returns, so a hybridized net keeps whichever form
it was first called in. Here each purpose has a block of its own that shares the net's layers, and the net itself is
never called. Pixels come in as the loaders make them, uint8 (B, S, S, 3), and are normalised on the device.
"""

from __future__ import annotations

from typing import Any

from ssd_train import framework
from ssd_train.model.fused import JoinedPredictors
from ssd_train.model.loss import DetectionLoss
from ssd_train.model.pixels import PIXEL_MEAN, PIXEL_STD
from ssd_train.model.targets import STDS

mx = framework.mxnet()

SCORE_FLOOR = 0.01  # candidates below it are not kept: GluonCV's threshold


class _Normalize(mx.gluon.HybridBlock):
    """uint8 RGB (B, S, S, 3) -> float32 (B, 3, S, S), ImageNet mean 0 and deviation 1."""

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """uint8 (B, S, S, 3) -> float32 (B, 3, S, S)."""
        return F.image.normalize(F.image.to_tensor(pixels), mean=PIXEL_MEAN, std=PIXEL_STD)


class _Heads(mx.gluon.HybridBlock):
    """Pixels -> class scores (B, A, classes + 1), box offsets (B, A, 4) and the feature maps of an SSD."""

    def __init__(self, net: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = net.num_classes
        self.normalize = _Normalize()
        self.features = net.features
        self.class_predictors = net.class_predictors
        self.box_predictors = net.box_predictors

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Pixels (B, S, S, 3) -> (B, A, classes + 1), (B, A, 4), and the maps, each (B, C, H, W)."""
        maps = self.features(self.normalize(pixels))
        class_preds = [predict(m) for m, predict in zip(maps, self.class_predictors)]
        box_preds = [predict(m) for m, predict in zip(maps, self.box_predictors)]
        return _gather(F, class_preds, self.num_classes + 1), _gather(F, box_preds, 4), maps


class _LearningHeads(mx.gluon.HybridBlock):
    """Pixels -> class scores and box offsets as of _Heads, in the way that is the fastest to learn: `features` are the
    net's layers or another form of them (fused_features), and both predictors of a map are one convolution."""

    def __init__(self, net: Any, features: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = net.num_classes
        self.normalize = _Normalize()
        self.features = features
        self.predictors = mx.gluon.nn.HybridSequential()
        for classes, boxes in zip(net.class_predictors, net.box_predictors):
            self.predictors.add(JoinedPredictors(classes.predictor, boxes.predictor))

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Pixels (B, S, S, 3) -> (B, A, classes + 1), (B, A, 4)."""
        maps = self.features(self.normalize(pixels))
        class_preds, box_preds = zip(*(predict(m) for m, predict in zip(maps, self.predictors)))
        return _gather(F, class_preds, self.num_classes + 1), _gather(F, box_preds, 4)


def _gather(F: Any, predictions: Any, width: int) -> Any:
    """Each map's prediction (B, k * width, H, W) -> all of them (B, A, width)."""
    flat = [F.flatten(F.transpose(prediction, (0, 2, 3, 1))) for prediction in predictions]
    return F.reshape(F.concat(*flat, dim=1), shape=(0, -1, width))


def _anchors(F: Any, maps: Any, generators: Any) -> Any:
    """The anchors (1, A, 4) of all maps, cxcywh."""
    return F.concat(*[F.reshape(make(m), shape=(1, -1, 4)) for m, make in zip(maps, generators)], dim=1)


def _decode(F: Any, offsets: Any, anchors: Any) -> Any:
    """Box offsets (B, A, 4) at anchors (1, A, 4) cxcywh -> boxes (B, A, 4) xyxy, input pixels."""
    shift = F.slice_axis(offsets, axis=-1, begin=0, end=2) * float(STDS[0])
    stretch = F.slice_axis(offsets, axis=-1, begin=2, end=4) * float(STDS[2])
    centre = F.slice_axis(anchors, axis=-1, begin=0, end=2)
    size = F.slice_axis(anchors, axis=-1, begin=2, end=4)
    middle = F.broadcast_add(F.broadcast_mul(shift, size), centre)
    half = F.broadcast_mul(F.exp(stretch), size) * 0.5
    return F.concat(middle - half, middle + half, dim=2)


class _Suppress(mx.gluon.HybridBlock):
    """Class scores and boxes -> the best boxes of each class, overlapping ones dropped."""

    def __init__(self, num_classes: int, nms_threshold: float, nms_topk: int, post_nms: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._num_classes = num_classes
        self._nms = {"overlap_thresh": nms_threshold, "topk": nms_topk, "valid_thresh": SCORE_FLOOR}
        self._post_nms = post_nms

    def hybrid_forward(self, F: Any, class_preds: Any, boxes: Any) -> Any:
        """(B, A, classes + 1), (B, A, 4) -> (B, post_nms, 6) of class id, score, x1, y1, x2, y2; id -1 where none."""
        scores = F.softmax(class_preds, axis=-1)
        rows = []
        for class_id in range(self._num_classes):
            score = F.slice_axis(scores, axis=-1, begin=class_id + 1, end=class_id + 2)  # (B, A, 1)
            rows.append(F.concat(F.ones_like(score) * class_id, score, boxes, dim=2))  # (B, A, 6)
        kept = F.contrib.box_nms(
            F.concat(*rows, dim=1), id_index=0, score_index=1, coord_start=2, force_suppress=False, **self._nms
        )
        return F.slice_axis(kept, axis=1, begin=0, end=self._post_nms)


class TrainGraph(mx.gluon.HybridBlock):
    """One training forward: (pixels, class targets, box targets, scale) -> (loss, CrossEntropy, SmoothL1), each (1,).

    `scale` (1,) is one over the number of positive anchors of the whole batch, on all devices and hosts; only `loss` is
    multiplied by it, and gradients of devices then simply add up. `features` are the net's own layers in another form
    (fused_features).
    """

    def __init__(self, net: Any, loss: DetectionLoss, features: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = _LearningHeads(net, features or net.features)
        self.loss = loss

    def hybrid_forward(self, F: Any, pixels: Any, class_targets: Any, box_targets: Any, scale: Any) -> Any:
        """(B, S, S, 3), (B, A), (B, A, 4), (1,) -> the loss and its two parts, each (1,)."""
        class_preds, box_preds = self.heads(pixels)
        cross_entropy, smooth_l1 = self.loss(class_preds, box_preds, class_targets, box_targets)
        return (cross_entropy + smooth_l1) * scale, cross_entropy, smooth_l1


class DetectGraph(mx.gluon.HybridBlock):
    """Pixels uint8 (B, S, S, 3) -> rows (B, post_nms, 6): class id, score, x1, y1, x2, y2 in input pixels, best
    first."""

    INPUTS = {"pixels": "uint8"}

    def __init__(self, net: Any, nms_threshold: float, nms_topk: int, post_nms: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = _Heads(net)
        self.anchor_generators = net.anchor_generators
        self.suppress = _Suppress(net.num_classes, nms_threshold, nms_topk, post_nms)

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Pixels (B, S, S, 3) -> rows (B, post_nms, 6)."""
        class_preds, box_preds, maps = self.heads(pixels)
        return self._rows(F, class_preds, box_preds, maps)

    def _rows(self, F: Any, class_preds: Any, box_preds: Any, maps: Any) -> Any:
        anchors = _anchors(F, maps, self.anchor_generators)
        rows = self.suppress(class_preds, _decode(F, box_preds, anchors))  # (B, post_nms, 6)
        # suppression drops a score of NaN as if nothing had been found; so all rows of such an image become NaN
        return F.broadcast_add(rows, F.sum(class_preds * 0, axis=(1, 2), keepdims=True))


class CandidateGraph(mx.gluon.HybridBlock):
    """Pixels uint8 (B, S, S, 3) -> what enters suppression: class probabilities (B, A, classes), without background,
    and boxes (B, A, 4) xyxy in input pixels."""

    INPUTS = DetectGraph.INPUTS

    def __init__(self, net: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = _Heads(net)
        self.anchor_generators = net.anchor_generators

    def hybrid_forward(self, F: Any, pixels: Any) -> Any:
        """Pixels (B, S, S, 3) -> (B, A, classes), (B, A, 4)."""
        class_preds, box_preds, maps = self.heads(pixels)
        anchors = _anchors(F, maps, self.anchor_generators)
        scores = F.slice_axis(F.softmax(class_preds, axis=-1), axis=-1, begin=1, end=None)
        return scores, _decode(F, box_preds, anchors)


class EvalGraph(DetectGraph):
    """As DetectGraph, and beside the rows the loss parts (1,) on the given targets."""

    INPUTS = {"pixels": "uint8", "class_targets": "float32", "box_targets": "float32"}

    def __init__(self, net: Any, loss: DetectionLoss, nms_threshold: float, nms_topk: int, post_nms: int) -> None:
        super().__init__(net, nms_threshold, nms_topk, post_nms)
        self.loss = loss

    def hybrid_forward(self, F: Any, pixels: Any, class_targets: Any, box_targets: Any) -> Any:
        """(B, S, S, 3), (B, A), (B, A, 4) -> rows (B, post_nms, 6), CrossEntropy (1,), SmoothL1 (1,)."""
        class_preds, box_preds, maps = self.heads(pixels)
        rows = self._rows(F, class_preds, box_preds, maps)
        cross_entropy, smooth_l1 = self.loss(class_preds, box_preds, class_targets, box_targets)
        return rows, cross_entropy, smooth_l1


def compile_graph(graph: Any) -> Any:
    """Hybridize `graph` with static memory; its own trace, whatever mode the caller is in."""
    graph.hybridize(static_alloc=True, static_shape=True)
    return graph


def compile_answers(graph: "DetectGraph | CandidateGraph") -> Any:
    """Compile `graph`, which answers, without the casts of mixed precision: what is scored is then what the files of
    the model compute, which have none.

    MXNet puts the casts into every graph that is traced after AMP has been switched on in a process; writing a symbol
    drops them.
    """
    inputs = [mx.sym.var(name, dtype=dtype) for name, dtype in graph.INPUTS.items()]
    text = mx.sym.Group([*_as_list(graph(*inputs))]).tojson(remove_amp_cast=True)
    return compile_graph(mx.gluon.SymbolBlock(mx.sym.load_json(text), inputs, params=graph.collect_params()))


def _as_list(outputs: Any) -> Any:
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]
