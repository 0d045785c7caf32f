"""DetectionLoss: cross entropy over positives and hard negatives, SmoothL1 over positives, each as a sum.

SSD, section 2.2, equations 1 to 3, on GluonCV's scale: what divides both sums is the number of positive anchors of the
whole batch, which the caller knows from the targets before the network runs, so no device waits for another.
"""

from __future__ import annotations

from typing import Any

from ssd_train import framework

mx = framework.mxnet()


class DetectionLoss(mx.gluon.HybridBlock):
    """Sums of the loss parts over a batch.

    negative_mining_ratio   hard negatives per positive anchor of an image
    min_hard_negatives      hard negatives of an image at least, so that an image without objects teaches too
    """

    def __init__(self, negative_mining_ratio: float = 3.0, min_hard_negatives: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ratio = negative_mining_ratio
        self._least = min_hard_negatives

    def hybrid_forward(self, F: Any, class_preds: Any, box_preds: Any, class_targets: Any, box_targets: Any) -> Any:
        """CrossEntropy (1,) and SmoothL1 (1,) summed over the batch, from class scores (B, A, classes + 1) and box
        offsets (B, A, 4) predicted and wanted; class targets (B, A) hold 0 for background."""
        positive = class_targets > 0  # (B, A)
        log_probability = F.log_softmax(class_preds, axis=-1)  # (B, A, classes + 1)
        cross_entropy = -F.pick(log_probability, class_targets, axis=-1)  # (B, A)
        # rank among the negatives by loss, the hardest first; positives, all 0, come last
        rank = F.argsort(F.argsort(cross_entropy * (positive - 1), axis=1), axis=1)  # (B, A)
        wanted = F.maximum(F.sum(positive, axis=1, keepdims=True) * self._ratio, self._least)  # (B, 1)
        counted = F.broadcast_lesser(rank, wanted) + positive > 0  # (B, A)
        class_loss = F.where(counted, cross_entropy, F.zeros_like(cross_entropy))
        box_loss = F.smooth_l1(box_preds - box_targets, scalar=1.0)  # (B, A, 4)
        box_loss = F.broadcast_mul(box_loss, F.expand_dims(positive, axis=-1))
        return F.sum(class_loss), F.sum(box_loss)
