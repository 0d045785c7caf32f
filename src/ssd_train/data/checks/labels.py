"""Check labels alone: skipped and repaired lines, and hard boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import numpy as np

from ssd_train.boxes import SizeWH
from ssd_train.config import TrainConfig
from ssd_train.data.checks.anchors import AnchorGrid, best_iou
from ssd_train.data.checks.codes import Finding
from ssd_train.data.formats.builder import BAD_LINE, DUPLICATE, NO_BOX_LEFT
from ssd_train.data.formats.ground_truth import FAILED, OTHER_TYPE
from ssd_train.data.formats.image_json import OTHER_IDS
from ssd_train.data.formats.validators import CLIPPED
from ssd_train.data.formats.voc import OTHER_NAME
from ssd_train.data.labels import align_classes
from ssd_train.data.split import unseen_classes
from ssd_train.data.structures import LabelIssue, Labels
from ssd_train.errors import DataError

FEW = 10  # boxes of a class
TINY = 8.0  # input pixels; half a cell of the first feature map
NO_ANCHOR = 0.2  # IoU of nested boxes of which one has five times the area of the other
LABEL_HEADER, LABEL_OBJECT = 2, 5  # the built-in algorithm's label has 2 numbers, and 5 more per object
_DEFAULTS = TrainConfig()

_SKIPPED = {
    DUPLICATE: "duplicate-line",
    NO_BOX_LEFT: "image-dropped",
    FAILED: "failed-line",
    OTHER_TYPE: "other-job-line",
}

_CODE_OF_REPAIR = {CLIPPED: "box-clipped", OTHER_IDS: "categories-ignored", OTHER_NAME: "filename-differs"}


@dataclass(frozen=True)
class Scaled:
    """Boxes of a `Labels` whose image sizes are known, in one array.

    Attributes:
        boxes: Float32 (N, 4) xyxy as fractions of the image, 0..1.
        records: Int64 (N,), index of each box's record.
        class_ids: Int64 (N,).
        sizes_wh: Float32 (N, 2), (width, height) of each box's image in pixels.
    """

    boxes: np.ndarray
    records: np.ndarray
    class_ids: np.ndarray
    sizes_wh: np.ndarray


def scaled_boxes(labels: Labels, sizes: Sequence[Optional[SizeWH]]) -> Scaled:
    """Collect the boxes of `labels` as fractions of their images.

    Args:
        labels: The labels.
        sizes: (width, height) of each record's image, or None if unknown; such records are left out.
    """
    known = [index for index, record in enumerate(labels.records) if len(record.boxes) and sizes[index]]
    counts = np.array([len(labels.records[index].boxes) for index in known], np.int64)
    if not known:
        return Scaled(np.zeros((0, 4), np.float32), counts, counts, np.zeros((0, 2), np.float32))
    sizes_wh = np.repeat(np.array([sizes[index] for index in known], np.float32), counts, axis=0)
    boxes = np.concatenate([labels.records[index].boxes for index in known])
    return Scaled(
        boxes / np.tile(sizes_wh, 2),
        np.repeat(np.array(known, np.int64), counts),
        np.concatenate([labels.records[index].class_ids for index in known]),
        sizes_wh,
    )


def check_lines(labels: Labels) -> List[Finding]:
    """Report lines that were skipped or repaired when the labels were read.

    The labels must have been read with ``on_bad="skip"`` for the list to be complete.
    """
    return [skipped_findings(line) for line in labels.skipped] + [_of_repair(line) for line in labels.repaired]


def check_boxes(labels: Labels, boxes: Scaled, image_shape: int, anchors: Sequence[AnchorGrid]) -> List[Finding]:
    """Report boxes that are too small, or that no anchor matches.

    There is one finding per image and kind, and no box counts for both kinds.

    Args:
        labels: The labels.
        boxes: Boxes of `labels`.
        image_shape: Input side of the network in pixels.
        anchors: Anchors for this side.
    """
    pixels = boxes.boxes * image_shape
    short = np.minimum(pixels[:, 2] - pixels[:, 0], pixels[:, 3] - pixels[:, 1])
    iou = best_iou(pixels, anchors)
    tiny, lonely = short < TINY, (short >= TINY) & (iou < NO_ANCHOR)
    return [
        *_of_boxes("box-tiny", labels, boxes, tiny, short, f"px at {image_shape}, expected at least {TINY:g} px"),
        *_of_boxes("box-without-anchor", labels, boxes, lonely, iou, f"IoU, expected at least {NO_ANCHOR:g}"),
    ]


def check_counts(labels: Labels) -> List[Finding]:
    """Report images with many boxes, and classes with few boxes or none."""
    most = max((len(record.boxes) for record in labels.records), default=0)
    findings = [
        Finding("crowded", record.location, f"found {len(record.boxes)} boxes", record.name)
        for record in labels.records
        if len(record.boxes) > _DEFAULTS.post_nms
    ]
    if label_width(most) > _DEFAULTS.label_width:
        findings.append(Finding("label-width", labels.source, f"found {most} boxes, which need {label_width(most)}"))
    unused = labels.unused_ids()
    for class_id in unused:
        detail = f"found no name and no box of class id {class_id} ({labels.class_names[class_id]})"
        findings.append(Finding("unused-class-id", labels.source, detail))
    for class_id, (name, count) in enumerate(zip(labels.class_names, labels.boxes_per_class())):
        if count < FEW and class_id not in unused:
            findings.append(Finding("few-examples", labels.source, f"found {count} boxes of class {name!r}"))
    return findings


def check_classes(training: Labels, validation: Labels) -> List[Finding]:
    """Report classes with boxes in one split only, and unknown validation classes."""
    try:
        validation = align_classes(validation, training.class_names)
    except DataError as fault:
        return [Finding("unknown-class", validation.source, str(fault).partition(": ")[2])]
    return [
        *(
            Finding("class-only-in-validation", validation.source, f"found class {name!r} in no training image")
            for name in unseen_classes(training, validation)
        ),
        *(
            Finding("class-only-in-training", training.source, f"found class {name!r} in no validation image")
            for name in unseen_classes(validation, training)
        ),
    ]


def label_width(boxes: int) -> int:
    """Return the built-in algorithm's label_width for images of at most `boxes` boxes."""
    return LABEL_HEADER + LABEL_OBJECT * boxes


def skipped_findings(line: LabelIssue) -> Finding:
    """Return the finding for a skipped line."""
    if line.reason == BAD_LINE:
        return Finding(line.code or "bad-line", line.where, line.detail)
    return Finding(_SKIPPED.get(line.reason, "unlabelled-line"), line.where, f"{line.reason}: {line.detail}")


def _of_repair(line: LabelIssue) -> Finding:
    """Return the finding for a box or line that was changed or left out."""
    code = _CODE_OF_REPAIR.get(line.reason, "box-dropped")
    return Finding(code, line.where, line.detail if line.reason in _CODE_OF_REPAIR else f"{line.reason}: {line.detail}")


def _of_boxes(
    code: str, labels: Labels, boxes: Scaled, bad: np.ndarray, values: np.ndarray, unit: str
) -> List[Finding]:
    """Return one finding per image with bad boxes: their number and worst value.

    Args:
        code: Code of the findings.
        labels: The labels.
        boxes: Boxes of `labels`.
        bad: Bool (N,), the boxes to report.
        values: (N,), smaller is worse.
        unit: Text after the value.
    """
    worst: Dict[int, float] = {}
    counts: Dict[int, int] = {}
    for index, value in zip(boxes.records[bad].tolist(), values[bad].tolist()):
        worst[index] = min(value, worst.get(index, value))
        counts[index] = counts.get(index, 0) + 1
    findings = []
    for index, count in counts.items():
        record = labels.records[index]
        detail = f"found {count} of {len(record.boxes)} boxes, the worst with {worst[index]:.2f} {unit}"
        findings.append(Finding(code, record.location, detail, record.name))
    return findings
