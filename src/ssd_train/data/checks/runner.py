"""Check a dataset for faults before training, and compute its statistics.

Every image is read and decoded once, with all CPUs. `quick_check` is the part that runs before training: it opens every
image and decodes none. codes.py and docs/check-codes.md list the codes.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import takewhile
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ssd_train.data.checks.codes import CODES, ERROR, SEVERITIES, Finding
from ssd_train.data.checks.images import (
    ImageReport,
    files_without_label,
    inspect,
    near_duplicates,
    quick_inspect,
    same_bytes,
)
from ssd_train.data.checks.labels import (
    advised_settings,
    anchor_grids,
    check_boxes,
    check_classes,
    check_counts,
    check_lines,
    recommend_image_shape,
    scaled_boxes,
    skipped_findings,
    statistics,
)
from ssd_train.data.file_names import folded
from ssd_train.data.formats.builder import NoUsableLine
from ssd_train.data.formats.json_lines import bad_lines_error
from ssd_train.data.image_sources import FolderImages, key_parts
from ssd_train.data.structures import ImageSource, LabeledImage, Labels
from ssd_train.environment import read_seconds
from ssd_train.errors import DataError
from ssd_train.parallel import map_files, ordered_map
from ssd_train.progress import Progress
from ssd_train.resources import available_cpus

JSON_VERSION = 1
Look = Callable[[LabeledImage, ImageSource], ImageReport]


@dataclass(frozen=True)
class Split:
    """The training or validation split; without `images` only its labels are checked."""

    name: str
    labels: Labels
    images: Optional[ImageSource] = None


@dataclass(frozen=True)
class CheckResult:
    """Findings of a check, most severe first, and statistics.

    Attributes:
        findings: The findings.
        statistics: Statistics by name of the split, and under "image_shape" and "label_width".
    """

    findings: Tuple[Finding, ...]
    statistics: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        order = {code: rank for rank, code in enumerate(CODES)}
        key = lambda finding: (SEVERITIES.index(finding.severity), order[finding.code])  # noqa: E731
        object.__setattr__(self, "findings", tuple(sorted(self.findings, key=key)))

    @property
    def counts(self) -> Dict[str, int]:
        """Number of findings of each code, most severe first."""
        return dict(Counter(finding.code for finding in self.findings))

    def number(self, severity: str) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> Dict[str, Any]:
        """Return the document that `check --json` writes; see docs/check-codes.md."""
        return {
            "version": JSON_VERSION,
            "errors": self.number("error"),
            "warnings": self.number("warning"),
            "notes": self.number("note"),
            "counts": self.counts,
            "findings": [
                {"code": f.code, "severity": f.severity, "where": f.where, "image": f.name, "detail": f.detail}
                for f in self.findings
            ],
            "statistics": self.statistics,
        }


def check_data(
    splits: Sequence[Split],
    image_shape: int,
    anchors: Mapping[int, np.ndarray],
    progress: Optional[Progress] = None,
    fine_anchors: Mapping[int, np.ndarray] = MappingProxyType({}),
) -> CheckResult:
    """Check a training split and, if given, a validation split.

    Args:
        splits: The training split and, optionally, the validation split; their labels are read with ``on_bad="skip"``.
        image_shape: Input side of the network in pixels.
        anchors: Input side -> (A, 4) centre x, centre y, width, height in input pixels: for `image_shape`, against
            which boxes are checked, and for other sides that may be recommended.
        progress: Progress display.
        fine_anchors: As `anchors`, with a map of stride 8, which may be advised; empty: it may not.
    """
    grids, fine = ({side: anchor_grids(a) for side, a in layouts.items()} for layouts in (anchors, fine_anchors))
    seen = [_look(split, inspect, progress or Progress()) for split in splits]
    findings: List[Finding] = []
    figures: Dict[str, Any] = {}
    for split, looks in zip(splits, seen):
        sizes = [look.size_wh for look in looks]
        boxes = scaled_boxes(split.labels, sizes)
        findings += check_lines(split.labels) + [finding for look in looks for finding in look.findings]
        findings += check_boxes(split.labels, boxes, image_shape, grids[image_shape])
        findings += check_counts(split.labels) if split is splits[0] else check_classes(splits[0].labels, split.labels)
        figures[split.name] = statistics(split.labels, boxes, sizes)
        if split is splits[0]:
            figures["image_shape"] = recommend_image_shape(boxes, grids)
            figures["advised"] = advised_settings(boxes, fine, figures["image_shape"]["recommended"])
    # training and validation share one label_width
    figures["label_width"] = max(figures[split.name]["label_width"] for split in splits)
    findings += _check_copies(splits, seen) + check_namesakes(splits) + _check_folders(splits)
    return CheckResult(tuple(findings), figures)


def unreadable_labels_result(fault: DataError) -> CheckResult:
    """Return the result for labels that cannot be read or have no usable line.

    If no line is usable, each line has a finding, too.
    """
    where, _, detail = str(fault).partition(": ")
    lines = [skipped_findings(line) for line in fault.skipped] if isinstance(fault, NoUsableLine) else []
    return CheckResult((Finding(fault.code or "labels-unusable", where, detail), *lines))


def quick_check(labels: Labels, images: ImageSource, progress: Optional[Progress] = None) -> List[Finding]:
    """Check images without decoding them.

    Finds images that are missing, truncated, of a wrong format or size, too large, or that have an EXIF orientation.
    Reads only the head and tail of each file in a folder, unless they do not suffice.

    Args:
        labels: The labels.
        images: The images.
        progress: Progress display.
    """
    glances = functools.partial(map_files, seconds=read_seconds())
    seen = _look(Split("images", labels, images), quick_inspect, progress or Progress(), glances)
    return [finding for look in seen for finding in look.findings]


def check_leakage(train: Split, validation: Split) -> List[Finding]:
    """Find images that both splits read from the same path.

    `check_data` also finds copies by their content.
    """
    trained = dict(_by_path(train))
    return [
        _copy("same-image-in-train-and-validation", record, trained[path])
        for path, record in _by_path(validation)
        if path in trained
    ]


def check_namesakes(splits: Sequence[Split]) -> List[Finding]:
    """Find images that are missing, and in whose place the search by file name found one that other labels name."""
    named: Dict[str, List[LabeledImage]] = {}
    for split in splits:
        if isinstance(split.images, FolderImages):
            for path, record in _by_path(split):
                named.setdefault(path, []).append(record)
    findings = []
    for path, records in named.items():
        if len({record.name for record in records}) > 1:
            shared = [_shared_parts(key_parts(record), path) for record in records]
            owner = records[shared.index(max(shared))]
            detail = f"found only {path}, the image of {owner.location}, expected one of its own"
            findings += [
                Finding("missing-image", record.location, detail, record.name)
                for record, count in zip(records, shared)
                if count < max(shared)
            ]
    return findings


def _shared_parts(parts: Sequence[str], path: str) -> int:
    """Return how many of the last parts of a name and a path are the same."""
    pairs = zip(reversed(parts), reversed(path.split(os.sep)))
    return len(list(takewhile(lambda pair: folded(pair[0]) == folded(pair[1]), pairs)))


def raise_on_errors(findings: Sequence[Finding], advice: str = "") -> None:
    """Raise an error, with `advice` at its end, if any finding is an error.

    Raises:
        DataError: Counts the errors and lists the first few.
    """
    errors = [(f.where, f"{f.detail} ({f.code})") for f in findings if f.severity == ERROR]
    if errors:
        raise DataError(f"{bad_lines_error(errors, 'errors in the data')}{advice}")


def drop_errors(labels: Labels, findings: Sequence[Finding]) -> Labels:
    """Return the labels without the images that have an error.

    Raises:
        DataError: No image is left.
    """
    bad = {(f.where, f.name) for f in findings if f.severity == ERROR}
    keep = [(record.location, record.name) not in bad for record in labels.records]
    if not any(keep):
        raise_on_errors(findings)
    return replace(labels.subset(keep), skipped=labels.skipped, repaired=labels.repaired)


def _look(
    split: Split,
    look: Look,
    progress: Progress,
    each: Callable[..., Iterator[ImageReport]] = ordered_map,
) -> List[ImageReport]:
    records, images = split.labels.records, split.images
    if images is None:
        return [ImageReport((), record.size_wh) for record in records]
    results = each(lambda record: look(record, images), records, available_cpus())
    return list(progress.track(results, len(records), f"checking {split.name}"))


def _by_path(split: Split) -> Iterator[Tuple[str, LabeledImage]]:
    """Yield (path, record) of each image.

    Missing images are left out: the check of the images reports them.
    """
    for record in split.labels.records:
        try:
            yield (split.images.locate(record) if split.images else record.name), record
        except DataError:
            continue


def _check_copies(splits: Sequence[Split], seen: Sequence[Sequence[ImageReport]]) -> List[Finding]:
    """Find images that occur more than once, within a split or across splits."""
    records = [record for split in splits for record in split.labels.records]
    numbers = np.concatenate([np.full(len(looks), number) for number, looks in enumerate(seen)])
    looks = [look for reports in seen for look in reports]
    findings: List[Finding] = []
    trained: Dict[bytes, LabeledImage] = {}
    for number in range(len(splits)):
        mine = [look.digest if n == number else b"" for look, n in zip(looks, numbers)]
        findings += [_copy("duplicate-picture", records[b], records[a]) for a, b in same_bytes(mine)]
    for look, record, number in zip(looks, records, numbers):
        if number == 0 and look.digest:
            trained.setdefault(look.digest, record)
        elif look.digest in trained:
            findings.append(_copy("same-image-in-train-and-validation", record, trained[look.digest]))
    return findings + _check_alike(records, looks, numbers)


def _check_alike(records: Sequence[LabeledImage], looks: Sequence[ImageReport], split_of: np.ndarray) -> List[Finding]:
    usable = [index for index, look in enumerate(looks) if look.thumbnail is not None]
    if not usable:
        return []
    thumbnails = np.stack([look.thumbnail for look in looks if look.thumbnail is not None])
    findings = []
    for a, b in near_duplicates(thumbnails, split_of[usable]):
        a, b = usable[a], usable[b]
        code = "near-duplicate-picture" if split_of[a] == split_of[b] else "near-duplicate-in-validation"
        if looks[a].digest != looks[b].digest:
            findings.append(_copy(code, records[b], records[a]))
    return findings


def _copy(code: str, record: LabeledImage, other: LabeledImage) -> Finding:
    same = np.array_equal(record.boxes, other.boxes) and np.array_equal(record.class_ids, other.class_ids)
    # class ids of different splits may mean different classes, so only copies within a split are compared
    boxes = ", with other boxes" if code == "duplicate-picture" and not same else ""
    like = "looks like" if code.startswith("near") else "is"
    detail = f"{record.basename!r} {like} {other.basename!r} of {other.location}{boxes}"
    return Finding(code, record.location, detail, record.name)


def _check_folders(splits: Sequence[Split]) -> List[Finding]:
    """Find images without a label; a folder that both splits use is searched once."""
    findings: List[Finding] = []
    records = [record for split in splits for record in (*split.labels.records, *split.labels.others)]
    for root in sorted({split.images.root for split in splits if isinstance(split.images, FolderImages)}):
        findings += files_without_label(FolderImages(root), records)
    return findings
