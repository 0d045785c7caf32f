"""Find likely label errors by comparing labels with the detections of a model that has not seen them.

The kinds follow ObjectLab (Tkachenko et al., 2023, arXiv 2309.00832: overlooked, swapped and badly located boxes), and
add labels without an object, boxes that are labelled twice, and labels that belong to another image. In contrast to it,
a score is the product of probabilities: that the model is right, and that no other box explains the detection.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from ssd_train.data.structures import ClassNames, Detections, LabeledImage
from ssd_train.evaluation.matching import (
    GroupedBoxes,
    ImageBoxes,
    IouPairs,
    iou_pairs,
    joined,
    match_coco,
    paired_coverage,
)

KINDS = ("missing", "spurious", "wrong_class", "location", "duplicate", "swapped_images")

MIN_SCORE = 0.05  # of errors; and of detections, of which weaker ones say nothing
MIN_IOU = 0.1  # boxes that overlap less are unrelated
SAME_IOU = 0.5  # boxes that overlap more show one object
LOOSE_IOU = 0.3  # a label that overlaps its object's detection less is at another place
NEIGHBOURS = 25  # labels of the next larger and smaller boxes, which tell how well such objects are detected
MAX_SWAPPED = 300  # images whose labels are compared with each other: the time grows with the square

Images = Sequence[Tuple[LabeledImage, Detections]]


class LabelError(NamedTuple):
    """A likely label error.

    Attributes:
        kind: one of KINDS.
        score: in 0..1, the higher the more likely.
        reason: explanation for people.
        image: index of the image.
        label: index of the labelled box in its image; None if there is none.
        detection: index of the detection in its image; None if there is none.
        other: index of the other image of swapped_images, and of the other label of duplicate; None for other kinds.
    """

    kind: str
    score: float
    reason: str
    image: int
    label: "int | None" = None
    detection: "int | None" = None
    other: "int | None" = None


def find_label_errors(images: Images, class_names: ClassNames) -> List[LabelError]:
    """Return the likely label errors, the most likely first.

    Args:
        images: labels and detections of each image, boxes in the same pixels. The model must not have been trained on
            these labels.
        class_names: names of the class ids of both.
    """
    if not images:
        return []
    comparison = _Comparison(images, class_names)
    swapped = comparison.swapped_images()
    belongs = np.ones(len(images))  # probability that the labels are those of the image
    for error in swapped:
        belongs[error.image] = min(belongs[error.image], 1 - error.score)
    errors = [
        error._replace(score=error.score * belongs[error.image])
        for error in (
            *comparison.missing(),
            *comparison.spurious(),
            *comparison.wrong_class(),
            *comparison.location(),
            *comparison.duplicate(),
        )
    ]
    likely = [error._replace(score=float(error.score)) for error in (*swapped, *errors) if error.score >= MIN_SCORE]
    return sorted(likely, key=lambda error: (-error.score, error.image, KINDS.index(error.kind)))


class _Comparison:
    """Labels and detections of all images, and their pairs that overlap."""

    def __init__(self, images: Images, class_names: ClassNames) -> None:
        self.images, self.names = images, class_names
        self.labels, self.label_index = _numbered([(r.boxes, r.class_ids, np.ones(len(r.boxes))) for r, _ in images])
        detections, index = _numbered([(d.boxes, d.class_ids, d.scores) for _, d in images])
        order = np.argsort(-detections.scores, kind="stable")
        order = order[detections.scores[order] >= MIN_SCORE]
        self.detections, self.detection_index = detections.take(order), index[order]
        self.pairs = iou_pairs(_by_image(self.detections), _by_image(self.labels), MIN_IOU)
        self.same = self.detections.class_ids[self.pairs.detection] == self.labels.class_ids[self.pairs.truth]
        self.score = self.detections.scores[self.pairs.detection].astype(np.float64)
        # of each label, the pairs with its strongest detection nearby: it is this object, even if the label is shifted
        self.mutual = self._mutual()
        near = self.mutual & (self.pairs.iou >= LOOSE_IOU)
        self.shifted = near & (self.score >= self._best_of_labels(self.score * near)[self.pairs.truth])
        # of an object of any class at each label; the root, because a weak detection tells more than none
        self.support = self._best_of_labels(np.sqrt(self.score) * _ramp(self.pairs.iou, 0.2, SAME_IOU))
        # of an object of the label's class
        self.own_support = self._best_of_labels(self.score * self.same * _ramp(self.pairs.iou, 0.3, SAME_IOU))

    def _best_of_labels(self, values: np.ndarray) -> np.ndarray:
        best = np.zeros(len(self.labels.boxes))
        np.maximum.at(best, self.pairs.truth, values)
        return best

    def _best_of_detections(self, values: np.ndarray, pairs: IouPairs) -> np.ndarray:
        best = np.zeros(len(self.detections.boxes))
        np.maximum.at(best, pairs.detection, values)
        return best

    def missing(self) -> Iterator[LabelError]:
        """Yield detections that no label explains."""
        explained = np.where(self.shifted, 1, _ramp(self.pairs.iou, MIN_IOU, SAME_IOU))
        explained = self._best_of_detections(explained, self.pairs)
        explained = np.maximum(explained, self._ignored())
        scores = self.detections.scores * (1 - explained)
        candidates = np.flatnonzero(scores >= MIN_SCORE)
        boxes = self.detections.take(candidates)
        twice = iou_pairs(_by_image(boxes), _by_image(boxes), SAME_IOU)
        repeated = np.unique(twice.detection[twice.truth < twice.detection])  # of one object, the best is enough
        for index in np.delete(candidates, repeated):
            name = self._class_of(self.detections, index)
            reason = f"{name} detected ({self.detections.scores[index]:.2f}) where nothing is labelled"
            yield self._of_detection("missing", scores[index], reason, index)

    def _ignored(self) -> np.ndarray:
        """Return which detections lie in an ignored region, as 0 or 1 (M,)."""
        regions = joined([(r.ignored.boxes, r.ignored.class_ids, np.ones(len(r.ignored))) for r, _ in self.images])
        pairs = iou_pairs(_by_image(self.detections), _by_image(regions), SAME_IOU, paired_coverage)
        return self._best_of_detections(np.ones(len(pairs.iou)), pairs)

    def spurious(self) -> Iterator[LabelError]:
        """Yield labels where nothing is detected, although such objects are."""
        scores = (_local_mean(self.support, self.labels) - self.support) * (1 - self.location_scores())
        for index in np.flatnonzero(scores >= MIN_SCORE):
            name = self._class_of(self.labels, index)
            reason = f"nothing detected at this {name}, while others of its size are"
            yield self._of_label("spurious", scores[index], reason, index)

    def wrong_class(self) -> Iterator[LabelError]:
        """Yield labels whose object is detected as one of another class."""
        fits = self.same & (self.pairs.iou >= SAME_IOU)
        elsewhere = self._best_of_detections(self.pairs.iou * fits, self.pairs)  # a label of the detected class
        strength = self.score * ~self.same * _ramp(self.pairs.iou, 0.3, SAME_IOU)
        strength = strength * (elsewhere[self.pairs.detection] < self.pairs.iou)
        best = self._best_of_labels(strength)
        scores = np.sqrt(best) * (1 - np.sqrt(self.own_support))  # the roots as for `support`
        for pair in self._best_pairs(strength, best):
            index, detection = self.pairs.truth[pair], self.pairs.detection[pair]
            other = self._class_of(self.detections, detection)
            reason = f"{self._class_of(self.labels, index)} detected as {other} ({self.score[pair]:.2f})"
            yield self._of_label("wrong_class", scores[index], reason, index, detection)

    def _mutual(self) -> np.ndarray:
        """Return which pairs are of one class, and of a label that overlaps the detection most."""
        nearest = self._best_of_detections(self.pairs.iou, self.pairs)
        return self.same & (self.pairs.iou >= nearest[self.pairs.detection])

    def location_scores(self) -> np.ndarray:
        """Return the score of each label's location error (N,)."""
        return self._best_of_labels(self._misplaced())

    def _misplaced(self) -> np.ndarray:
        """Return for each pair how likely the detection is the label's object, in another box."""
        usual = self._usual_iou()
        fit = _ramp(self.pairs.iou, LOOSE_IOU, usual[self.labels.class_ids[self.pairs.truth]])
        confirmed = self._best_of_labels(self.score * self.same * fit)
        return self.score * self.mutual * (1 - fit) * (1 - confirmed[self.pairs.truth])

    def location(self) -> Iterator[LabelError]:
        """Yield labels whose object is detected in a box that fits better elsewhere."""
        strength = self._misplaced()
        best = self._best_of_labels(strength)
        for pair in self._best_pairs(strength, best):
            index, detection = self.pairs.truth[pair], self.pairs.detection[pair]
            reason = (
                f"{self._class_of(self.labels, index)} detected ({self.score[pair]:.2f}) in another box: "
                f"IoU {self.pairs.iou[pair]:.2f}"
            )
            yield self._of_label("location", best[index], reason, index, detection)

    def _usual_iou(self) -> np.ndarray:
        """Return the median IoU of each class's labels with their best detection, at least SAME_IOU."""
        best = self._best_of_labels(self.pairs.iou * self.same * (self.score >= 0.3))
        medians = []
        for class_id in range(len(self.names)):
            of_class = best[(self.labels.class_ids == class_id) & (best >= SAME_IOU)]
            medians.append(np.median(of_class) if len(of_class) else 1.0)
        return np.array(medians)

    def duplicate(self) -> Iterator[LabelError]:
        """Yield labels that cover the box of another label."""
        pairs = iou_pairs(_by_image(self.labels), _by_image(self.labels), SAME_IOU)
        pairs = pairs.take(pairs.truth < pairs.detection)
        same = self.labels.class_ids[pairs.truth] == self.labels.class_ids[pairs.detection]
        # objects of two classes may share a box, two of one class hardly
        scores = np.where(same, _ramp(pairs.iou, SAME_IOU, 0.8), _ramp(pairs.iou, 0.8, 1.0))
        for a, b, iou, score in zip(pairs.truth, pairs.detection, pairs.iou, scores):
            kept, extra = (a, b) if self.own_support[a] >= self.own_support[b] else (b, a)
            names = self._class_of(self.labels, extra), self._class_of(self.labels, kept)
            reason = f"{names[0]} labelled in the box of another label, {names[1]}: IoU {iou:.2f}"
            yield self._of_label("duplicate", score, reason, extra)._replace(other=int(self.label_index[kept]))

    def swapped_images(self) -> List[LabelError]:
        """Return images in which another image's labels are detected, and not their own."""
        strong = self.detections.take(self.detections.scores >= 0.3)
        labels, detections = _of_each(self.labels, len(self.images)), _of_each(strong, len(self.images))
        own = np.array([_agreement(d, la) for d, la in zip(detections, labels)])
        both = np.array([len(d.boxes) > 0 and len(la.boxes) > 0 for d, la in zip(detections, labels)])
        suspects = np.flatnonzero(both & (own < 0.3))
        suspects = suspects[np.argsort(own[suspects], kind="stable")][:MAX_SWAPPED]
        errors = []
        for image in suspects:
            fits = [0 if other == image else _agreement(detections[image], labels[other]) for other in suspects]
            other = suspects[int(np.argmax(fits))]
            score = max(fits) * (1 - own[image]) * (1 - own[other])
            name = self.images[other][0].basename
            errors.append(
                LabelError(
                    "swapped_images",
                    float(score),
                    f"the objects detected are those labelled in {name}",
                    int(image),
                    other=int(other),
                )
            )
        return errors

    def _best_pairs(self, strength: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Return the strongest pair of each label that has one."""
        winners = np.flatnonzero((strength > 0) & (strength == best[self.pairs.truth]))
        _, first = np.unique(self.pairs.truth[winners], return_index=True)
        return winners[first]

    def _class_of(self, boxes: ImageBoxes, index: int) -> str:
        return self.names[int(boxes.class_ids[index])]

    def _of_label(self, kind: str, score: float, reason: str, index: int, detection: int = -1) -> LabelError:
        seen = None if detection < 0 else int(self.detection_index[detection])
        image, label = int(self.labels.images[index]), int(self.label_index[index])
        return LabelError(kind, score, reason, image, label, seen)

    def _of_detection(self, kind: str, score: float, reason: str, index: int) -> LabelError:
        image = int(self.detections.images[index])
        return LabelError(kind, score, reason, image, detection=int(self.detection_index[index]))


def _numbered(columns: Sequence[Tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Tuple[ImageBoxes, np.ndarray]:
    """Join the boxes of all images; return them and the index of each in its image."""
    return joined(columns), np.concatenate([np.arange(len(boxes)) for boxes, _, _ in columns])


def _by_image(boxes: ImageBoxes) -> GroupedBoxes:
    return GroupedBoxes(boxes.boxes, boxes.images)


def _of_each(boxes: ImageBoxes, count: int) -> List[ImageBoxes]:
    order = np.argsort(boxes.images, kind="stable")
    limits = np.searchsorted(boxes.images[order], np.arange(1, count))
    return [boxes.take(part) for part in np.split(order, limits)]


def _ramp(values: np.ndarray, low: "float | np.ndarray", high: "float | np.ndarray") -> np.ndarray:
    """Return 0 up to `low`, 1 from `high`, and rising values between."""
    return np.clip((values - low) / (high - low), 0, 1)


def _local_mean(values: np.ndarray, labels: ImageBoxes) -> np.ndarray:
    """Return the mean of `values` over labels of the same class and a similar size (N,)."""
    sides = np.maximum(labels.boxes[:, 2:] - labels.boxes[:, :2], 1)
    means = np.zeros(len(values))
    for class_id in np.unique(labels.class_ids):
        members = np.flatnonzero(labels.class_ids == class_id)
        members = members[np.argsort(np.prod(sides[members], axis=1), kind="stable")]
        sums = np.concatenate([[0.0], np.cumsum(values[members])])
        position = np.arange(len(members))
        low, high = np.maximum(position - NEIGHBOURS, 0), np.minimum(position + NEIGHBOURS + 1, len(members))
        means[members] = (sums[high] - sums[low]) / (high - low)
    return means


def _agreement(detections: ImageBoxes, labels: ImageBoxes) -> float:
    """Return the sum of the IoU of matched boxes of one class, as a fraction of the larger number of boxes."""
    if not len(detections.boxes) or not len(labels.boxes):
        return 0.0
    (matches,) = match_coco(
        iou_pairs(
            GroupedBoxes(detections.boxes, detections.class_ids), GroupedBoxes(labels.boxes, labels.class_ids), SAME_IOU
        ),
        [SAME_IOU],
    )
    return float(matches.iou.sum() / max(len(detections.boxes), len(labels.boxes)))
