"""Read and write SageMaker Ground Truth bounding-box manifests.

The files are augmented manifests. Each line is a JSON object: ``source-ref`` (the image), a label attribute
(``annotations`` with left, top, width, height in pixels and a ``class_id``, and ``image_size``), and
``<attribute>-metadata`` (``type``, ``class-map`` and others). The schema is in the AWS developer guide, "Output data"
and "Augmented manifest".

Rules for cases that the schema leaves open:

- A line may hold labels of several jobs. Unless an attribute is named, the one of type groundtruth/object-detection
  with the newest creation-date in the file is read. `LabelSet.details` names it and the others.
- The class names are the union of all class-maps of the attribute, unchanged, with the same ids. An id that no
  class-map names, because no image shows an object of it, is named class_N. An id with two names is an error, and so
  are two names that differ only in surrounding blanks.
- A line without ``source-ref``, or without a label of this kind of job, is skipped. A malformed line is an error, or
  skipped with ``on_bad="skip"``. An empty list of annotations is a background image.
- For boxes outside the image and repeated images see `gather.Gather`.
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

    Boxes are clipped to `image_size`, and dropped if less than 1 px wide or high or less than a tenth is inside; each
    such box is listed in `LabelSet.mended`. Skipped lines are listed in `LabelSet.skipped`.

    Args:
        path: A manifest, or a folder as for `find_manifest`.
        label_attribute: The label attribute to read; None selects that of the newest job.
        on_bad: "error" raises one DataError for all malformed lines, "skip" skips them.
        verified: Read only lines to which the verification job gave this class-name; "" reads all.

    Raises:
        DataError: the file is unusable, or `on_bad` is "error" and some lines are malformed; the message names file and
            line.
        ConfigError: `label_attribute` has no boxes in the file, there is not exactly one verification job with the
            result `verified`, or `on_bad` is invalid.
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
    """Return the label attribute of the only verification job in a manifest.

    Raises:
        ConfigError: there is no such job or more than one, or it never gave the result `verdict`.
    """
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
    """Return the class-name that a verification job gave a line, or None."""
    metadata = line.get(job + METADATA)
    return metadata.get("class-name") if isinstance(metadata, dict) else None


def write_ground_truth(
    path: PathLike,
    records: Iterable[Record],
    class_names: ClassNames,
    label_attribute: str = "bounding-box",
    creation_date: Optional[datetime] = None,
) -> None:
    """Write records as a manifest, atomically; `read_ground_truth` reads it.

    The class-map of each line has all named classes, so that a class without boxes is not lost, and those unnamed
    classes (class_N) of which the line has a box: `prepare join` would take class_N for a name. The `image_size` of a
    record without `size_wh` is omitted. Ignored regions are not written.

    Args:
        path: The file to write.
        records: Records with boxes in pixels; read one at a time.
        class_names: Names of the class ids of the records.
        label_attribute: Name of the label attribute.
        creation_date: Written without time zone; None is the current time in UTC.

    Raises:
        ConfigError: `label_attribute` is not a valid name.
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
            # labels have no measured confidence
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
    """Return `path` unless it is a folder; return the manifest of a folder.

    That is output.manifest, manifests/output/output.manifest, or the only file with the extension .manifest or .jsonl.

    Raises:
        DataError: the folder contains no manifest, or several.
    """
    place = Path(path)
    if not place.is_dir():
        return place
    files = sorted(child.name for child in place.iterdir() if child.is_file() and not is_hidden(child.name))
    manifests = [name for name in files if name.lower().endswith(_SUFFIXES)]
    for candidate in ("output.manifest", "manifests/output/output.manifest"):  # the second is for a job's output folder
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
