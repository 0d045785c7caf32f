"""Where the model is most wrong: objects it missed and false alarms, each cut out, with the likely reason in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from ssd_train.data.boxes import iou_matrix
from ssd_train.data.records import ClassNames
from ssd_train.view.report_data import Sample
from ssd_train.view.scenes import OVERLAP, Matching, draw_scene, match

# below this overlap two boxes have nothing to do with each other
_NEAR = 0.1
_CROP_WH = (360, 360)


@dataclass(frozen=True)
class Case:
    """A mistake to look at: the drawn crop around it, RGB uint8, and what went wrong in words."""

    name: str
    image: np.ndarray
    caption: str


@dataclass(frozen=True)
class WorstCases:
    """`misses`: pictures with the most missed objects first; `false_alarms`: the surest first, one a picture."""

    misses: Tuple[Case, ...]
    false_alarms: Tuple[Case, ...]


def worst_cases(samples: Sequence[Sample], class_names: ClassNames, threshold: float, limit: int) -> WorstCases:
    """The `limit` worst pictures of each kind, equals in the order of `samples`; only those returned are read."""
    pairs = [(sample, match(sample, threshold)) for sample in samples]
    missing = sorted((p for p in pairs if not p[1].found.all()), key=lambda p: -int((~p[1].found).sum()))
    alarms = sorted((p for p in pairs if not p[1].correct.all()), key=lambda p: -_surest_alarm(p[1])[1])
    return WorstCases(
        tuple(_miss(sample, matching, class_names) for sample, matching in missing[:limit]),
        tuple(_false_alarm(sample, matching, class_names) for sample, matching in alarms[:limit]),
    )


def _miss(sample: Sample, matching: Matching, class_names: ClassNames) -> Case:
    missed = np.flatnonzero(~matching.found)
    whys = [_why_missed(sample, matching, int(index), class_names) for index in missed]
    # scores of single objects would keep equal reasons from being counted together
    reasons = Counter(reason + detail * (len(missed) == 1) for reason, detail in whys)
    told = ", ".join(reason if count == 1 else f"{count} x {reason}" for reason, count in reasons.most_common(3))
    caption = f"{len(missed)} of {len(matching.found)} missed: {told}{', …' if len(reasons) > 3 else ''}"
    image = draw_scene(sample, matching, class_names, _CROP_WH, matching.true_boxes[missed])
    return Case(sample.name, image, caption)


def _why_missed(sample: Sample, matching: Matching, index: int, class_names: ClassNames) -> Tuple[str, str]:
    """Why no detection above the threshold took true box `index`, and a detail, by what was said there at any score."""
    class_id, said = int(sample.truth.class_ids[index]), sample.detections
    name = _name(class_names, class_id)
    # (M,)
    overlaps = iou_matrix(matching.true_boxes[index : index + 1], said.boxes)[0]
    same = np.where(said.class_ids == class_id, overlaps, 0)
    if same.max(initial=0) >= OVERLAP:
        # the first is the surest; those above the threshold come first of all
        first = int((same >= OVERLAP).argmax())
        if first < len(matching.detections):
            return f"{name} shares a box with another", ""
        return f"{name} scored too low", f" ({said.scores[first]:.2f})"
    if overlaps.max(initial=0) >= OVERLAP:
        return f"{name} seen as {_name(class_names, int(said.class_ids[int((overlaps >= OVERLAP).argmax())]))}", ""
    if same.max(initial=0) >= _NEAR:
        return f"{name} box too far off", ""
    return f"{name} not seen", ""


def _surest_alarm(matching: Matching) -> Tuple[int, float]:
    """Index and score of the first detection that is wrong; detections stand in falling order of score."""
    index = int(np.argmin(matching.correct))
    return index, float(matching.detections.scores[index])


def _false_alarm(sample: Sample, matching: Matching, class_names: ClassNames) -> Case:
    index, score = _surest_alarm(matching)
    box, class_id = matching.detections.boxes[index], int(matching.detections.class_ids[index])
    reason = _why_false(sample, matching, index, class_names)
    image = draw_scene(sample, matching, class_names, _CROP_WH, box[None])
    return Case(sample.name, image, f"{_name(class_names, class_id)} {score:.2f}: {reason}")


def _why_false(sample: Sample, matching: Matching, index: int, class_names: ClassNames) -> str:
    """What is truly at the place of a wrong detection."""
    overlaps = iou_matrix(matching.detections.boxes[index : index + 1], matching.true_boxes)[0]
    if overlaps.max(initial=0) < _NEAR:
        return "nothing is there"
    nearest = int(overlaps.argmax())
    name, overlap = _name(class_names, int(sample.truth.class_ids[nearest])), overlaps[nearest]
    if overlap < OVERLAP:
        return f"overlaps {name} by only {overlap:.2f}"
    if sample.truth.class_ids[nearest] != matching.detections.class_ids[index]:
        return f"is truly {name}"
    return "second box on one object"


def _name(class_names: ClassNames, class_id: int) -> str:
    return class_names[class_id] if 0 <= class_id < len(class_names) else f"#{class_id}"
