"""SageMaker Ground Truth bounding-box manifests (augmented manifests), read and written.

One JSON object a line: ``source-ref`` (the image), a label attribute (``annotations`` with left, top, width, height in
pixels and a ``class_id``, and ``image_size``), and ``<attribute>-metadata`` (``type``, ``class-map``, and others).
The schema: AWS developer guide, "Output data" and "Augmented manifest".

The rules, where real files leave a choice:

- A line may hold the labels of several jobs. The attribute of type groundtruth/object-detection with the newest
  creation-date in the file is read, unless one is named; `LabelSet.details` tells which, and which others there were.
- Class names are the union of all class-maps, kept letter for letter; the ids stay. One that no class-map names, as
  nobody labelled an object of it, is called class_N. One id with two names, and two names that differ only in blanks
  around them, are errors.
- A line whose image was not labelled (by this kind of job, or at all) is skipped. A line that is malformed is an error,
  or skipped with ``on_bad="skip"``. An empty list of annotations is a background image.
- Boxes outside the image, repeated images and malformed lines are treated as by every format: see `gather.Gather`.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

from ssd_train.data.file_names import is_hidden
from ssd_train.data.formats.box_label import box_label, read_box_label
from ssd_train.data.formats.fields import image_name, shown
from ssd_train.data.formats.gather import Gather, class_table
from ssd_train.data.formats.ground_truth_survey import BOX_TYPE, METADATA, Survey, choose_attribute, survey
from ssd_train.data.formats.jsonl import PathLike, dump_json, numbered_lines, parse_object
from ssd_train.data.records import ClassNames, LabelSet, Record
from ssd_train.errors import ConfigError, DataError
from ssd_train.storage import open_atomic

NO_SOURCE = "no source-ref"
NO_LABEL = "label attribute missing"
NOT_AN_OBJECT = "label is not an object"
FAILED = "labelling failed"
OTHER_TYPE = "label of another job type"
NOT_VERIFIED = "not verified as asked"

_SUFFIXES = (".manifest", ".jsonl")


def read_ground_truth(
    path: PathLike, label_attribute: Optional[str] = None, on_bad: str = "error", verified: str = ""
) -> LabelSet:
    """Read a manifest, or the one manifest of a folder.

    Boxes are clipped to `image_size`, and left out when under 1 px wide or high or less than a tenth inside; each is in
    `LabelSet.mended`. Malformed lines are one DataError that names the first few, or with `on_bad` "skip" are listed
    with the other lines left out in `LabelSet.skipped`. With `verified` only lines stay to which the verification job
    gave that class-name.

    Raises:
        DataError: the file cannot be used, or (`on_bad` "error") some of its lines; begins with the file and line.
        ConfigError: `label_attribute` has no boxes in the file, or `on_bad` is something else.
    """
    manifest = find_manifest(path)
    found = survey(manifest)
    attribute = choose_attribute(found, label_attribute, manifest)
    places = {key: f"{manifest}:{line}" for key, line in found.attributes[attribute].names.items()}
    names, table = class_table(places)
    job = verification_job(found, verified, manifest) if verified else ""
    faults = {**found.faults, **found.attributes[attribute].faults}
    gather = Gather(str(manifest), on_bad)
    for line_number, line in numbered_lines(manifest):
        where = f"{manifest}:{line_number}"
        try:
            if line_number in faults:
                raise faults[line_number]
            value = parse_object(line)
            if job and verdict_of(value, job) != verified:
                gather.skip(where, NOT_VERIFIED, f"{job!r}: {shown(verdict_of(value, job))}")
            else:
                _add(gather, where, value, attribute, table)
        except DataError as fault:
            gather.fault(where, fault)
    return gather.label_set(names, _details(found, attribute))


def verification_job(found: Survey, verdict: str, manifest: Path) -> str:
    """The label attribute of the only verification job; a ConfigError when there is none, several, or it never gave
    this verdict."""
    jobs = {name: attribute.verdicts for name, attribute in found.attributes.items() if attribute.verdicts}
    if len(jobs) != 1:
        listed = ", ".join(sorted(jobs)) or "none"
        raise ConfigError(
            f"verified: found {len(jobs)} verification jobs in {manifest} ({listed}), expected one (prepare keep)"
        )
    ((job, verdicts),) = jobs.items()
    if verdict not in verdicts:
        raise ConfigError(f"verified: found {verdict!r}, expected one of {job}: {', '.join(sorted(verdicts))}")
    return job


def verdict_of(line: Mapping[str, Any], job: str) -> Any:
    """What a verification job called the labels of a line; None where it did not see it."""
    metadata = line.get(job + METADATA)
    return metadata.get("class-name") if isinstance(metadata, dict) else None


def write_ground_truth(
    path: PathLike,
    records: Iterable[Record],
    class_names: ClassNames,
    label_attribute: str = "bounding-box",
    creation_date: Optional[datetime] = None,
) -> None:
    """Write `records` one by one as a manifest that `read_ground_truth` reads back the same; whole or not at all.

    Every line has the class-map of all named classes, so that one without boxes is not lost, and of those without a
    name that the line has (`prepare join` would take class_N for a name). `creation_date` is now, in UTC, unless given.
    A record without `size_wh` gets no image_size.
    """
    _check_attribute(label_attribute)
    moment = (creation_date or datetime.now(timezone.utc)).replace(tzinfo=None)
    unnamed = set(class_names.unnamed)
    metadata = {
        "human-annotated": "yes",
        "creation-date": moment.isoformat(timespec="microseconds"),
        "type": BOX_TYPE,
        "job-name": f"labeling-job/{label_attribute}",
    }
    with open_atomic(Path(path)) as file:
        for record in records:
            # the confidence of a label that somebody gave, not measured
            objects = [{"confidence": 1.0}] * len(record.boxes)
            mapped = [i for i in range(len(class_names)) if i not in unnamed or i in record.class_ids]
            class_map = {str(class_id): class_names[class_id] for class_id in mapped}
            line = {
                "source-ref": record.name,
                label_attribute: box_label(record),
                label_attribute + METADATA: {"class-map": class_map, **metadata, "objects": objects},
            }
            file.write(dump_json(line) + b"\n")


def find_manifest(path: PathLike) -> Path:
    """`path` itself if it is a file; of a folder its output.manifest, else its only .manifest or .jsonl file."""
    place = Path(path)
    if not place.is_dir():
        return place
    files = sorted(child.name for child in place.iterdir() if child.is_file() and not is_hidden(child.name))
    manifests = [name for name in files if name.lower().endswith(_SUFFIXES)]
    for candidate in ("output.manifest", "manifests/output/output.manifest"):  # the second: a job's output folder
        if (place / candidate).is_file():
            return place / candidate
    if len(manifests) == 1:
        return place / manifests[0]
    listed = ", ".join((manifests or files)[:5]) or "nothing"
    raise DataError(f"{path}: found {listed}, expected output.manifest or exactly one file *.manifest or *.jsonl")


def _add(gather: Gather, where: str, line: Dict[str, Any], attribute: str, table: Mapping[int, int]) -> None:
    reason = _reason_to_skip(line, attribute)
    if reason:
        gather.skip(where, *reason)
    else:
        name = image_name(line["source-ref"], "source-ref")
        gather.add(where, name, read_box_label(line[attribute], table))


def _reason_to_skip(line: Dict[str, Any], attribute: str) -> Optional[Tuple[str, str]]:
    source = line.get("source-ref")
    if not isinstance(source, str):
        return NO_SOURCE, f"found {', '.join(map(repr, sorted(line)[:5]))}"
    metadata = line.get(attribute + METADATA)
    if not isinstance(metadata, dict):
        metadata = {}
    if "failure-reason" in metadata:
        return FAILED, repr(metadata["failure-reason"])[:200]
    if attribute not in line:
        return NO_LABEL, f"{source!r} has no {attribute!r}"
    if metadata.get("type") != BOX_TYPE:
        return OTHER_TYPE, f"found {shown(metadata.get('type'))}"
    if not isinstance(line[attribute], dict):
        return NOT_AN_OBJECT, f"found {shown(line[attribute])}"
    return None


def _check_attribute(name: str) -> None:
    if not name or name.endswith((METADATA, "-ref")) or name in ("source", "source-ref"):
        raise ConfigError(f"label_attribute: found {name!r}, expected a name that does not end in -metadata or -ref")


def _details(found: Survey, attribute: str) -> Dict[str, str]:
    others = [
        f"{name} ({', '.join(sorted(other.kinds))})"
        for name, other in sorted(found.attributes.items())
        if name != attribute
    ]
    return {
        "label_attribute": attribute,
        "other_attributes": ", ".join(others),
        "newest_label": found.attributes[attribute].newest,
        "verification": "; ".join(
            f"verification {name!r}: {', '.join(f'{count} {v}' for v, count in Counter(other.verdicts).most_common())}"
            for name, other in sorted(found.attributes.items())
            if other.verdicts
        ),
    }
