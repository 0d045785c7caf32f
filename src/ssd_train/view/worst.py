"""The worst mistakes of a model: missed objects and false positives, as crops with the likely reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import iou_matrix
from ssd_train.data.records import ClassNames
from ssd_train.view.report_data import Sample
from ssd_train.view.scenes import IOU_THRESHOLD, Matching, draw_scene, match

# boxes of a lower IoU are unrelated
_MIN_IOU = 0.1
_CROP_WH = (360, 360)


@dataclass(frozen=True)
class Case:
    """A mistake: the image's name, the crop around the mistake, RGB uint8 (H, W, 3), and the likely reason."""

    name: str
    image: np.ndarray
    caption: str


@dataclass(frozen=True)
class WorstCases:
    """Images by falling number of missed objects, and by falling score of their best false positive."""

    misses: Tuple[Case, ...]
    false_positives: Tuple[Case, ...]


def worst_cases(samples: Sequence[Sample], class_names: ClassNames, threshold: float, limit: int) -> WorstCases:
    """Return the `limit` worst images of each kind, ties in the order of `samples`; no other images are read."""
    pairs = [(sample, match(sample, threshold)) for sample in samples]
    misses = sorted((p for p in pairs if not p[1].found.all()), key=lambda p: -int((~p[1].found).sum()))
    false = sorted((p for p in pairs if not p[1].correct.all()), key=lambda p: -_top_false_positive(p[1])[1])
    return WorstCases(
        tuple(_miss(sample, matching, class_names) for sample, matching in misses[:limit]),
        tuple(_false_positive(sample, matching, class_names) for sample, matching in false[:limit]),
    )


def _miss(sample: Sample, matching: Matching, class_names: ClassNames) -> Case:
    missed = np.flatnonzero(~matching.found)
    reasons = [_reason_missed(sample, matching, int(index), class_names) for index in missed]
    # with several objects, details such as scores would prevent equal reasons from being counted together
    counts = Counter(reason + detail * (len(missed) == 1) for reason, detail in reasons)
    summary = ", ".join(reason if count == 1 else f"{count} x {reason}" for reason, count in counts.most_common(3))
    caption = f"{len(missed)} of {len(matching.found)} missed: {summary}{', …' if len(counts) > 3 else ''}"
    image = draw_scene(sample, matching, class_names, _CROP_WH, matching.true_boxes[missed])
    return Case(sample.name, image, caption)


def _reason_missed(sample: Sample, matching: Matching, index: int, class_names: ClassNames) -> Tuple[str, str]:
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


def _top_false_positive(matching: Matching) -> Tuple[int, float]:
    """Return index and score of the incorrect detection with the highest score."""
    index = int(np.argmin(matching.correct))  # sorted by falling score
    return index, float(matching.detections.scores[index])


def _false_positive(sample: Sample, matching: Matching, class_names: ClassNames) -> Case:
    index, score = _top_false_positive(matching)
    box, class_id = matching.detections.boxes[index], int(matching.detections.class_ids[index])
    reason = _reason_false(sample, matching, index, class_names)
    image = draw_scene(sample, matching, class_names, _CROP_WH, box[None])
    return Case(sample.name, image, f"{_name(class_names, class_id)} {score:.2f}: {reason}")


def _reason_false(sample: Sample, matching: Matching, index: int, class_names: ClassNames) -> str:
    """Return why detection `index` matches no labelled box."""
    ious = iou_matrix(matching.detections.boxes[index : index + 1], matching.true_boxes)[0]
    if ious.max(initial=0) < _MIN_IOU:
        return "no object here"
    nearest = int(ious.argmax())
    name, iou = _name(class_names, int(sample.truth.class_ids[nearest])), ious[nearest]
    if iou < IOU_THRESHOLD:
        return f"IoU with {name} is only {iou:.2f}"
    if sample.truth.class_ids[nearest] != matching.detections.class_ids[index]:
        return f"labelled {name}"
    return "second box on one object"


def _name(class_names: ClassNames, class_id: int) -> str:
    return class_names[class_id] if 0 <= class_id < len(class_names) else f"#{class_id}"
