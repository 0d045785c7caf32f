"""Filter the lines of a manifest, and its boxes by confidence."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ssd_train.data.formats.builder import short_repr
from ssd_train.data.formats.ground_truth import VERIFICATION_TYPE, scan, verdict_of
from ssd_train.data.split import compile_regex
from ssd_train.errors import ConfigError, DataError
from ssd_train.prepare.manifest import (
    ManifestLine,
    annotations_of,
    is_labelled,
    keep_boxes,
    local_path,
    objects_of,
    read_classes,
    read_lines,
    write_lines,
)

EMPTY_IMAGE_ACTIONS = ("drop", "background")
Condition = Callable[[ManifestLine], bool]


@dataclass(frozen=True)
class LineFilter:
    """Conditions that a line must meet, all that are set.

    Attributes:
        ids: source-refs, file names, or file names without suffix, each of one image.
        source_regex: regular expression to find in the source-ref.
        where: (key, value) pairs of the line, values as text: ("object", "box"). Dots address nested objects:
            "bb-metadata.type".
        verified: class-name that a verification job gave the line's labels.
        verification: attribute of that job, needed if the manifest has several.
    """

    ids: Sequence[str] = ()
    source_regex: str = ""
    where: Sequence[Tuple[str, str]] = ()
    verified: str = ""
    verification: str = ""


@dataclass(frozen=True)
class ConfidenceFilter:
    """Filter of boxes by confidence.

    Attributes:
        min_confidence: lowest confidence of a box in its job's metadata, 0 to 1.
        when_empty: "drop" removes the line of an image that loses its last box, because the image is no background;
            "background" keeps it. Images without boxes are always kept.
        label_attribute: labels to filter; None: those of the newest job.
    """

    min_confidence: float
    when_empty: str = "drop"
    label_attribute: Optional[str] = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence: found {self.min_confidence}, expected a number from 0 to 1")


@dataclass
class FilterResult:
    """Counts: lines read, lines written, boxes dropped."""

    lines_in: int = 0
    lines_out: int = 0
    boxes_dropped: int = 0


def keep(
    path: "str | Path",
    output: "str | Path",
    conditions: LineFilter,
    sureness: Optional[ConfidenceFilter] = None,
    invert: bool = False,
) -> FilterResult:
    """Write the lines of a manifest that meet `conditions`.

    Args:
        path: the manifest.
        output: the new manifest.
        conditions: which lines to keep.
        sureness: which boxes of these lines to keep; None: all.
        invert: keep the lines that do not meet `conditions` instead.

    Raises:
        ConfigError: there is no condition, a regular expression is invalid, or an id fits no image or several.
        DataError: a line is unusable, or no line would be left.
    """
    tests = _tests(path, conditions)
    if not tests and (sureness is None or invert):
        raise ConfigError("found no condition, expected at least one of --ids, --source_regex, --where, --verified")
    attribute = read_classes(path, sureness.label_attribute).attribute if sureness else ""
    report = FilterResult()

    def lines() -> Iterator[bytes]:
        for line in read_lines(path):
            report.lines_in += 1
            if all(test(line) for test in tests) != invert:
                yield from [line.raw] if sureness is None else _sure(line, attribute, sureness, report)

    report.lines_out = write_lines(output, lines())
    return report


def _sure(line: ManifestLine, attribute: str, sureness: ConfidenceFilter, report: FilterResult) -> List[bytes]:
    """Return the line with the boxes to keep; empty if the line is dropped."""
    confidences = _confidences(line, attribute) if is_labelled(line, attribute) else []
    sure = [confidence >= sureness.min_confidence for confidence in confidences]
    report.boxes_dropped += len(sure) - sum(sure)
    if all(sure):
        return [line.raw]
    if not any(sure) and sureness.when_empty == "drop":
        return []
    return [line.edited(lambda copy: keep_boxes(line, copy, attribute, sure))]


def _confidences(line: ManifestLine, attribute: str) -> List[float]:
    boxes, objects = annotations_of(line, attribute), objects_of(line, attribute)
    confidences = []
    for index, item in enumerate(objects or [None] * len(boxes)):
        value = item.get("confidence") if isinstance(item, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise DataError(
                f"{line.where}: box {index}: found confidence {short_repr(value)}, expected a number in 0..1"
            )
        confidences.append(value)
    return confidences


def _tests(path: "str | Path", conditions: LineFilter) -> List[Condition]:
    tests: List[Condition] = [_by_key(key, value) for key, value in conditions.where]
    if conditions.ids:
        tests.append(_by_ids(path, conditions.ids))
    if conditions.source_regex:
        pattern = compile_regex(conditions.source_regex, "source_regex")
        tests.append(lambda line: pattern.search(line.source) is not None)
    if conditions.verified:
        tests.append(_by_verification(path, conditions))
    return tests


def _by_ids(path: "str | Path", ids: Sequence[str]) -> Condition:
    wanted: Dict[str, Set[str]] = {name: set() for name in ids}
    for line in read_lines(path):
        for name in names_of(line.source) & wanted.keys():
            wanted[name].add(line.source)
    for name, sources in wanted.items():
        if len(sources) != 1:
            listed = ", ".join(sorted(sources)[:3]) or "none"
            raise ConfigError(f"ids: {name!r} stands for {len(sources)} images of {path} ({listed}), expected one")
    chosen = {source for sources in wanted.values() for source in sources}
    return lambda line: line.source in chosen


def read_ids(text: str) -> Tuple[str, ...]:
    """Return the ids in the file `text`, one per line.

    If there is no such file, `text` is itself a comma-separated list of ids.

    Raises:
        ConfigError: the file cannot be read, or there is no id in a `text` that is not empty.
    """
    parts = text.split(",")
    if os.path.isfile(text):  # False, not an error, for a list too long to be a path
        try:
            parts = Path(text).read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"ids: {text} cannot be read ({error}), expected a name on each line") from None
    ids = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if text and not ids:
        raise ConfigError(f"ids: found none in {text!r}, expected names by commas or a file with a name on each line")
    return ids


def names_of(source: str) -> FrozenSet[str]:
    """Return an image's source-ref, file name, and file name without suffix."""
    name = source.rsplit("/", 1)[-1]
    return frozenset((source, name, name.rpartition(".")[0] or name))


def _by_key(key: str, expected: str) -> Condition:
    def fulfilled(line: ManifestLine) -> bool:
        value = value_at(line.value, key)
        return value is not None and (value if isinstance(value, str) else short_repr(value)) == expected

    return fulfilled


def value_at(value: Mapping[str, Any], key: str) -> Any:
    """Return the value of `key`, or of the path that its dots separate; None if none.

    A key that contains dots itself takes precedence.
    """
    if key in value:
        return value[key]
    for dot in (position for position, letter in enumerate(key) if letter == "."):
        inner = value.get(key[:dot])
        if isinstance(inner, dict):
            return value_at(inner, key[dot + 1 :])
    return None


def _by_verification(path: "str | Path", conditions: LineFilter) -> Condition:
    attributes = scan(local_path(path)).attributes
    jobs = sorted(name for name, attribute in attributes.items() if VERIFICATION_TYPE in attribute.kinds)
    wanted = conditions.verification or (jobs[0] if len(jobs) == 1 else "")
    if wanted not in jobs:
        raise ConfigError(
            f"verified: found {wanted or f'{len(jobs)} verification jobs'} in {path}, expected --verification with one "
            f"of: {', '.join(jobs) or 'none (no line was verified)'}"
        )

    return lambda line: verdict_of(line.value, wanted) == conditions.verified
