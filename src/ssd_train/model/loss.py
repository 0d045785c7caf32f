"""SSD's training loss (section 2.2, equations 1 to 3), or the focal loss, as sums over a batch.

The caller divides both sums by the number of positive anchors of the whole batch, as GluonCV does. It knows that number
from the targets before the network runs, so no device waits for another.
"""

from __future__ import annotations

from typing import Any, Sequence

from ssd_train import mxnet_compat

mx: Any = mxnet_compat.mxnet()

GAMMA, ALPHA = 2.0, 0.25  # RetinaNet (Lin et al. 2017, section 5.1)


class DetectionLoss(mx.gluon.HybridBlock):
    """Class loss and box loss, summed over a batch.

    Args:
        negative_mining_ratio: hard negatives per positive anchor of an image.
        min_hard_negatives: minimum number of hard negatives of an image, so that images without objects contribute.
        focal: use the focal loss of all anchors instead of cross entropy of positives and hard negatives.
        label_smoothing: probability spread evenly over all classes and background (Szegedy et al., "Rethinking the
            Inception Architecture", 2016, section 7).
        class_weights: factor of the class loss of each class's positive anchors (classes,); empty: 1.
    """

    def __init__(
        self,
        negative_mining_ratio: float = 3.0,
        min_hard_negatives: int = 0,
        focal: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._ratio = negative_mining_ratio
        self._min_negatives = min_hard_negatives
        self._focal = focal
        self._smoothing = label_smoothing
        if class_weights:
            self.class_weights = self.params.get_constant("class_weights", [1.0, *class_weights])  # background first

    def hybrid_forward(
        self, F: Any, class_preds: Any, box_preds: Any, class_targets: Any, box_targets: Any, class_weights: Any = None
    ) -> Any:
        """Return CrossEntropy (1,) and SmoothL1 (1,), summed over the batch.

        Args:
            F: mx.nd or mx.sym.
            class_preds: class scores (B, A, classes + 1).
            box_preds: box offsets (B, A, 4).
            class_targets: (B, A), 0 for background, -1 for ignored anchors, else class id + 1.
            box_targets: box offsets (B, A, 4).
            class_weights: (classes + 1,), the block's own constant; None: 1.
        """
        positive, counted = class_targets > 0, class_targets >= 0  # (B, A)
        log_probability = F.log_softmax(class_preds, axis=-1)  # (B, A, classes + 1)
        cross_entropy = -F.pick(log_probability, class_targets, axis=-1) * counted  # (B, A)
        class_loss = cross_entropy
        if self._smoothing:
            class_loss = (1 - self._smoothing) * cross_entropy - self._smoothing * F.mean(log_probability, axis=-1)
        weights = self._focal_weights if self._focal else self._hard_negative_mask
        class_loss = class_loss * weights(F, cross_entropy, positive) * counted
        if class_weights is not None:
            class_loss = class_loss * F.take(class_weights, class_targets)
        box_loss = F.smooth_l1(box_preds - box_targets, scalar=1.0)  # (B, A, 4)
        box_loss = F.broadcast_mul(box_loss, F.expand_dims(positive, axis=-1))
        return F.sum(class_loss), F.sum(box_loss)

    def _hard_negative_mask(self, F: Any, cross_entropy: Any, positive: Any) -> Any:
        """Return 1 for positives and for the hardest negatives of each image, else 0: (B, A)."""
        # rank by loss, the hardest negative first; positives and ignored anchors, all 0, come last
        rank = F.argsort(F.argsort(cross_entropy * (positive - 1), axis=1), axis=1)  # (B, A)
        wanted = F.maximum(F.sum(positive, axis=1, keepdims=True) * self._ratio, self._min_negatives)  # (B, 1)
        return F.broadcast_lesser(rank, wanted) + positive > 0

    def _focal_weights(self, F: Any, cross_entropy: Any, positive: Any) -> Any:
        """Return alpha_t * (1 - p_t) ** gamma of each anchor (B, A); p_t from softmax (RetinaNet, equation 5)."""
        p_t = F.exp(-cross_entropy)
        alpha_t = positive * (2 * ALPHA - 1) + (1 - ALPHA)
        return alpha_t * (1 - p_t) ** GAMMA
