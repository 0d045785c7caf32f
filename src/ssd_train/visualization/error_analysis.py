"""Match detections to labels and draw both on a validation image, whole or cropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ssd_train.boxes import SizeWH, clip_boxes, iou_matrix
from ssd_train.data.structures import ClassNames, Detections
from ssd_train.evaluation.matching import GroupedBoxes, match_image
from ssd_train.visualization import draw
from ssd_train.visualization.report_data import Sample

IOU_THRESHOLD = 0.5
# more names and scores would hide the image
_MAX_LABELS = 14
# smallest crop as a fraction of the longer side: it shows where in the image the crop lies
_MIN_CROP = 0.25
# small images and crops are enlarged at most by this factor, so that lines and text are small next to the objects
_MAX_ENLARGEMENT = 4.0

Crop = Tuple[int, int, int, int]


# before the name of a false positive
FALSE_MARK = "× "


@dataclass(frozen=True)
class MatchResult:
    """Matches of detections and labelled boxes of one image.

    Attributes:
        detections: the M detections of at least the score threshold.
        true_boxes: labelled boxes, float32 (N, 4) xyxy in the detections' pixels.
        detected: for each labelled box whether a detection matches it, bool (N,).
        correct: for each detection whether it matches a labelled box or is ignored by the scores, bool (M,).
    """

    detections: Detections
    true_boxes: np.ndarray
    detected: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class Focus:
    """The subject of an image: indexes of labelled boxes and of detections."""

    labels: Sequence[int] = ()
    detections: Sequence[int] = ()

    def boxes(self, matching: MatchResult) -> np.ndarray:
        """Return the boxes (N, 4) in the detections' pixels."""
        own = matching.true_boxes[list(self.labels)], matching.detections.boxes[list(self.detections)]
        return np.concatenate(own)


def match(sample: Sample, threshold: float) -> MatchResult:
    """Match detections of at least `threshold` to the labels of their class, as for COCO's mAP@0.5."""
    detections, labels = sample.detections.above(threshold), sample.truth
    true_boxes = draw.scaled(labels.boxes, labels.size_wh, detections.size_wh)
    regions = labels.ignored
    matches, ignored = match_image(
        GroupedBoxes(detections.boxes, detections.class_ids),
        GroupedBoxes(true_boxes, labels.class_ids),
        GroupedBoxes(draw.scaled(regions.boxes, labels.size_wh, detections.size_wh), regions.class_ids),
        regions.crowds,
        IOU_THRESHOLD,
    )
    detected, correct = np.zeros(len(true_boxes), bool), np.zeros(len(detections), bool)
    detected[matches.truth] = correct[matches.detection] = correct[ignored] = True
    return MatchResult(detections, true_boxes, detected, correct)


def draw_scene(
    sample: Sample,
    matching: MatchResult,
    class_names: ClassNames,
    max_wh: SizeWH,
    focus: Optional[Focus] = None,
) -> np.ndarray:
    """Return the image with hits (solid), false positives (dotted) and labels (dashed, missed objects with names).

    At most twice as many detections as labels are drawn, see `drawn_detections`.

    Args:
        sample: image, labels and detections.
        matching: the result of `match`.
        class_names: names by class id.
        max_wh: maximum (width, height) of the result in pixels.
        focus: boxes to mark and to crop to, with a margin; None for the whole image.
    """
    image, detections = sample.load_image(), matching.detections
    size_wh, crop = draw.size_of(image), (0, 0, *draw.size_of(image))
    if focus is not None:
        crop = crop_around(draw.scaled(focus.boxes(matching), detections.size_wh, size_wh), size_wh)
    canvas = draw.fit_within(image[crop[1] : crop[3], crop[0] : crop[2]], max_wh, _MAX_ENLARGEMENT)
    view = CropView(crop, draw.size_of(canvas))
    marked_labels, marked_detections = (focus.labels, focus.detections) if focus else ((), ())

    boxes, labels = view.transform(draw.scaled(matching.true_boxes, detections.size_wh, size_wh))
    ids, detected = sample.truth.class_ids[labels], matching.detected[labels]
    names = ["" if is_detected else draw.class_label(class_names, int(c)) for c, is_detected in zip(ids, detected)]
    white, marked = [draw.WHITE] * len(names), np.isin(labels, marked_labels)
    truth = draw.BoxLabels(boxes, _limit_labels(names), white, draw.TRUTH_STYLE, marked)

    boxes, visible = view.transform(draw.scaled(detections.boxes, detections.size_wh, size_wh))
    drawn = np.isin(visible, drawn_detections(matching, visible, len(labels), marked_detections))
    layers = []
    for style, mark, chosen in (
        (draw.DETECTION_STYLE, "", drawn & matching.correct[visible]),
        (draw.FALSE_STYLE, FALSE_MARK, drawn & ~matching.correct[visible]),
    ):
        ids, scores = detections.class_ids[visible[chosen]], detections.scores[visible[chosen]]
        texts = [f"{mark}{draw.class_label(class_names, int(c))} {score:.2f}" for c, score in zip(ids, scores)]
        colours, marked = [draw.class_colour(int(c)) for c in ids], np.isin(visible[chosen], marked_detections)
        layers.append(draw.BoxLabels(boxes[chosen], _limit_labels(texts), colours, style, marked))
    return draw.draw_marks(canvas, *layers, truth)


def drawn_detections(matching: MatchResult, visible: np.ndarray, labels: int, marked: Sequence[int] = ()) -> np.ndarray:
    """Return the detections to draw: those marked, the hits, then the best false positives.

    There are at most twice as many as labels, so that an image of a weak model stays readable; two without labels.

    Args:
        matching: the result of `match`.
        visible: sorted indexes of the detections in view, which are by falling score.
        labels: number of labels in view.
        marked: indexes of detections that are always drawn.
    """
    order = np.lexsort((visible, ~matching.correct[visible], ~np.isin(visible, marked)))
    return visible[order[: max(2 * max(labels, 1), len(marked))]]


def crop_around(boxes: np.ndarray, size_wh: SizeWH, margin: float = 0.6) -> Crop:
    """Return the crop (x1, y1, x2, y2) around all `boxes` (N, 4), with `margin` of their extent on each side."""
    limit = np.array(size_wh, dtype=np.float64)
    low, high = boxes[:, :2].min(axis=0).astype(np.float64), boxes[:, 2:].max(axis=0).astype(np.float64)
    half = (high - low) * (0.5 + margin)
    # square if the image is large enough: a narrow crop shows too little
    half = np.minimum(np.maximum(half.max(), _MIN_CROP * limit.max() / 2), limit / 2)
    centre = np.clip((low + high) / 2, half, limit - half)
    (x1, y1), (x2, y2) = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    return max(int(x1), 0), max(int(y1), 0), min(int(x2), size_wh[0]), min(int(y2), size_wh[1])


def _limit_labels(labels: Sequence[str]) -> List[str]:
    """Return the labels, or empty ones if there are more than _MAX_LABELS."""
    return list(labels) if sum(map(bool, labels)) <= _MAX_LABELS else [""] * len(labels)


@dataclass(frozen=True)
class CropView:
    """A crop of an image, resized to `size_wh`."""

    crop: Crop
    size_wh: SizeWH

    def transform(self, boxes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return the boxes that overlap the crop, clipped and in its pixels (K, 4), and their indices (K,)."""
        x1, y1, x2, y2 = self.crop
        inside = clip_boxes(boxes - np.array([x1, y1, x1, y1], dtype=np.float32), (x2 - x1, y2 - y1))
        visible = np.flatnonzero((inside[:, 0] < inside[:, 2]) & (inside[:, 1] < inside[:, 3]))
        return draw.scaled(inside[visible], (x2 - x1, y2 - y1), self.size_wh), visible


# boxes of a lower IoU are unrelated
_MIN_IOU = 0.1
_CROP_WH = (480, 480)


@dataclass(frozen=True)
class ErrorCase:
    """A mistake: the image's name, the crop around the mistake, RGB uint8 (H, W, 3), and the likely reason."""

    name: str
    image: np.ndarray
    caption: str


def worst_cases(
    samples: Sequence[Sample], class_names: ClassNames, threshold: float, limit: int
) -> Tuple[List[ErrorCase], List[ErrorCase]]:
    """Return images by falling number of missed objects, and by falling score of their best false positive.

    Of each kind there are at most `limit`, ties in the order of `samples`; no other images are read.
    """
    pairs = [(sample, match(sample, threshold)) for sample in samples]
    misses = sorted((p for p in pairs if not p[1].detected.all()), key=lambda p: -int((~p[1].detected).sum()))
    false = sorted((p for p in pairs if not p[1].correct.all()), key=lambda p: -_top_false_positive(p[1])[1])
    return (
        [_miss(sample, matching, class_names) for sample, matching in misses[:limit]],
        [_false_positive(sample, matching, class_names) for sample, matching in false[:limit]],
    )


def _miss(sample: Sample, matching: MatchResult, class_names: ClassNames) -> ErrorCase:
    missed = np.flatnonzero(~matching.detected)
    reasons = [_reason_missed(sample, matching, int(index), class_names) for index in missed]
    # with several objects, details such as scores would prevent equal reasons from being counted together
    counts = Counter(reason + detail * (len(missed) == 1) for reason, detail in reasons)
    summary = ", ".join(reason if count == 1 else f"{count} x {reason}" for reason, count in counts.most_common(3))
    caption = f"{len(missed)} of {len(matching.detected)} missed: {summary}{', …' if len(counts) > 3 else ''}"
    image = draw_scene(sample, matching, class_names, _CROP_WH, Focus(labels=missed.tolist()))
    return ErrorCase(sample.name, image, caption)


def _reason_missed(sample: Sample, matching: MatchResult, index: int, class_names: ClassNames) -> Tuple[str, str]:
    """Return why labelled box `index` has no match, judged by detections of any score, and a detail or ""."""
    class_id, detections = int(sample.truth.class_ids[index]), sample.detections
    name = _name(class_names, class_id)
    # (M,)
    ious = iou_matrix(matching.true_boxes[index : index + 1], detections.boxes)[0]
    same_class = np.where(detections.class_ids == class_id, ious, 0)
    if same_class.max(initial=0) >= IOU_THRESHOLD:
        # detections are sorted by falling score, so those above the threshold come first
        first = int((same_class >= IOU_THRESHOLD).argmax())
        if first < len(matching.detections):
            return f"{name} shares a box with another", ""
        return f"{name} scored too low", f" ({detections.scores[first]:.2f})"
    if ious.max(initial=0) >= IOU_THRESHOLD:
        detected = int(detections.class_ids[int((ious >= IOU_THRESHOLD).argmax())])
        return f"{name} detected as {_name(class_names, detected)}", ""
    if same_class.max(initial=0) >= _MIN_IOU:
        return f"{name} box too far off", ""
    return f"{name} not detected", ""


def _top_false_positive(matching: MatchResult) -> Tuple[int, float]:
    """Return index and score of the incorrect detection with the highest score."""
    index = int(np.argmin(matching.correct))  # sorted by falling score
    return index, float(matching.detections.scores[index])


def _false_positive(sample: Sample, matching: MatchResult, class_names: ClassNames) -> ErrorCase:
    index, score = _top_false_positive(matching)
    class_id = int(matching.detections.class_ids[index])
    reason = _reason_false(sample, matching, index, class_names)
    image = draw_scene(sample, matching, class_names, _CROP_WH, Focus(detections=[index]))
    return ErrorCase(sample.name, image, f"{_name(class_names, class_id)} {score:.2f}: {reason}")


def _reason_false(sample: Sample, matching: MatchResult, index: int, class_names: ClassNames) -> str:
    """Return why detection `index` matches no labelled box."""
    ious = iou_matrix(matching.detections.boxes[index : index + 1], matching.true_boxes)[0]
    if ious.max(initial=0) < _MIN_IOU:
        return "no label here"
    nearest = int(ious.argmax())
    name, iou = _name(class_names, int(sample.truth.class_ids[nearest])), ious[nearest]
    if iou < IOU_THRESHOLD:
        return f"IoU with {name} is only {iou:.2f}"
    if sample.truth.class_ids[nearest] != matching.detections.class_ids[index]:
        return f"labelled {name}"
    return "second box on one object"


def _name(class_names: ClassNames, class_id: int) -> str:
    return class_names[class_id] if 0 <= class_id < len(class_names) else f"#{class_id}"
