"""DetectionLoss: how wrong class scores and boxes are, each as a sum.

SSD, section 2.2, equations 1 to 3, on GluonCV's scale: what divides both sums is the number of positive anchors of the
whole batch, which the caller knows from the targets before the network runs, so no device waits for another.
"""

from __future__ import annotations

from typing import Any

from ssd_train import framework

mx = framework.mxnet()


FOCUS, POSITIVE_WEIGHT = 2.0, 0.25  # gamma and alpha of RetinaNet (Lin et al. 2017, section 5.1)


class DetectionLoss(mx.gluon.HybridBlock):
    """Sums of the loss parts over a batch.

    negative_mining_ratio   hard negatives per positive anchor of an image
    min_hard_negatives      hard negatives of an image at least, so that an image without objects teaches too
    focal                   the focal loss of all anchors in place of cross entropy of positives and hard negatives
    label_smoothing         share of the wanted probability that is spread over all classes and background evenly
                            (Szegedy et al., "Rethinking the Inception Architecture", 2016, section 7)
    """

    def __init__(
        self,
        negative_mining_ratio: float = 3.0,
        min_hard_negatives: int = 0,
        focal: bool = False,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._ratio = negative_mining_ratio
        self._least = min_hard_negatives
        self._focal = focal
        self._smoothing = label_smoothing

    def hybrid_forward(self, F: Any, class_preds: Any, box_preds: Any, class_targets: Any, box_targets: Any) -> Any:
        """CrossEntropy (1,) and SmoothL1 (1,) summed over the batch, from class scores (B, A, classes + 1) and box
        offsets (B, A, 4) predicted and wanted; class targets (B, A) hold 0 for background, -1 where ignored."""
        positive, counted = class_targets > 0, class_targets >= 0  # (B, A)
        log_probability = F.log_softmax(class_preds, axis=-1)  # (B, A, classes + 1)
        cross_entropy = -F.pick(log_probability, class_targets, axis=-1) * counted  # (B, A)
        class_loss = cross_entropy
        if self._smoothing:
            class_loss = (1 - self._smoothing) * cross_entropy - self._smoothing * F.mean(log_probability, axis=-1)
        weights = self._focal_weights if self._focal else self._mined
        class_loss = class_loss * weights(F, cross_entropy, positive) * counted
        box_loss = F.smooth_l1(box_preds - box_targets, scalar=1.0)  # (B, A, 4)
        box_loss = F.broadcast_mul(box_loss, F.expand_dims(positive, axis=-1))
        return F.sum(class_loss), F.sum(box_loss)

    def _mined(self, F: Any, cross_entropy: Any, positive: Any) -> Any:
        """1 at positives and at the hardest negatives of each image, else 0: (B, A)."""
        # rank among the negatives by loss, the hardest first; positives and what is ignored, all 0, come last
        rank = F.argsort(F.argsort(cross_entropy * (positive - 1), axis=1), axis=1)  # (B, A)
        wanted = F.maximum(F.sum(positive, axis=1, keepdims=True) * self._ratio, self._least)  # (B, 1)
        return F.broadcast_lesser(rank, wanted) + positive > 0

    def _focal_weights(self, F: Any, cross_entropy: Any, positive: Any) -> Any:
        """What each anchor's loss is multiplied by (B, A): little where the class is already told well (RetinaNet,
        equation 5, of the softmax's probability)."""
        doubt = 1 - F.exp(-cross_entropy)
        balance = positive * (2 * POSITIVE_WEIGHT - 1) + (1 - POSITIVE_WEIGHT)
        return balance * doubt**FOCUS
