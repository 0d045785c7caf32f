"""Read and write SageMaker Ground Truth bounding-box manifests.

The files are augmented manifests. Each line is a JSON object: ``source-ref`` (the image), a label attribute
(``annotations`` with left, top, width, height in pixels and a ``class_id``, and ``image_size``), and
``<attribute>-metadata`` (``type``, ``class-map`` and others). The schema is in the AWS developer guide, "Output data"
and "Augmented manifest".

Rules for cases that the schema leaves open:

- A line may hold labels of several jobs. Unless an attribute is named, the one of type groundtruth/object-detection
  with the newest creation-date in the file is read. `Labels.details` names it and the others.
- The class names are the union of all class-maps of the attribute, unchanged, with the same ids. An id that no
  class-map names, because no image shows an object of it, is named class_N. An id with two names is an error, and so
  are two names that differ only in surrounding blanks.
- A line without ``source-ref``, or without a label of this kind of job, is skipped. A malformed line is an error, or
  skipped with ``on_bad="skip"``. An empty list of annotations is a background image.
- For boxes outside the image and repeated images see `builder.LabelsBuilder`.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from ssd_train.boxes import SizeWH
from ssd_train.data.file_names import is_hidden
from ssd_train.data.formats.builder import (
    BoxLabel,
    LabelsBuilder,
    box_corners,
    class_number,
    class_table,
    image_name,
    image_size,
    number,
    short_repr,
    shortest,
    whole_number,
)
from ssd_train.data.formats.json_lines import PathLike, dump_json, numbered_lines, parse_object
from ssd_train.data.structures import ClassNames, LabeledImage, Labels
from ssd_train.errors import ConfigError, DataError, locate_errors
from ssd_train.storage.atomic import open_atomic, write_bytes_atomic

BOX_TYPE = "groundtruth/object-detection"
VIDEO_TYPE = "groundtruth/video-object-detection"
TRACKING_TYPE = "groundtruth/video-object-tracking"
VERIFICATION_TYPE = "groundtruth/label-verification"
METADATA = "-metadata"
UNTYPED = "no type"
_BOX_METADATA = {"type": BOX_TYPE}  # one object for all lines of boxes


@dataclass
class Attribute:
    """Metadata of one label attribute, collected from all lines.

    Attributes:
        kinds: Job type -> number of the first line of that type.
        newest: Latest creation-date of the bounding-box lines, "" if no line has one.
        names: (class id, name) in the class-maps of the bounding-box lines -> number of the first line with it.
        faults: Number of a line -> the error in its class-map.
        verdicts: Class-name given by a verification job -> number of lines.
    """

    kinds: Dict[str, int] = field(default_factory=dict)
    newest: str = ""
    names: Dict[Tuple[int, str], int] = field(default_factory=dict)
    faults: Dict[int, DataError] = field(default_factory=dict)
    verdicts: Dict[str, int] = field(default_factory=dict)
    # the last valid class-map
    _last_map: Dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def add(self, line_number: int, metadata: Dict[str, Any]) -> None:
        """Add the metadata of one line."""
        kind = metadata.get("type")
        kind = kind if isinstance(kind, str) else UNTYPED
        self.kinds.setdefault(kind, line_number)
        if kind == VERIFICATION_TYPE:
            verdict = str(metadata.get("class-name"))
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        if kind != BOX_TYPE:
            return
        date = metadata.get("creation-date")
        if isinstance(date, str) and date > self.newest:
            self.newest = date
        try:
            self._add_names(line_number, metadata.get("class-map", {}))
        except DataError as error:
            self.faults[line_number] = DataError(f"class-map: {error}", "bad-class-map")

    def _add_names(self, line_number: int, class_map: Any) -> None:
        if class_map == self._last_map:  # nearly every line repeats it
            return
        for name, class_id in read_class_map(class_map).items():
            self.names.setdefault((class_id, name), line_number)
        self._last_map = class_map


def read_class_map(class_map: Any) -> Dict[str, int]:
    """Return name -> class id of the class-map of one line.

    Raises:
        DataError: it is not an object of ids and names, or a name has two ids; the message names no line.
    """
    if not isinstance(class_map, dict):
        raise DataError(f"found {short_repr(class_map)}, expected an object")
    ids: Dict[str, int] = {}
    for key, name in class_map.items():
        class_id = whole_number(key, "class id")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"class {class_id}: found {short_repr(name)}, expected a name that is not blank")
        if ids.setdefault(name, class_id) != class_id:
            raise DataError(f"found {name!r} under the ids {ids[name]} and {class_id}, expected one id in one line")
    return ids


@dataclass
class ManifestScan:
    """Label attributes and errors of all lines of a manifest.

    Attributes:
        attributes: The label attributes by name.
        faults: Number of a line that is not a JSON object -> the error.
        first_line: Number of the first line that is a JSON object, 0 if there is none.
        first_keys: Keys of that line.
    """

    attributes: Dict[str, Attribute] = field(default_factory=dict)
    faults: Dict[int, DataError] = field(default_factory=dict)
    first_line: int = 0
    first_keys: Tuple[str, ...] = ()

    def read(self, path: PathLike) -> Iterator[Tuple[int, Dict[str, Any]]]:
        """Yield number and object of each line of a manifest; {} for a line that is not a JSON object.

        Raises:
            DataError: the file is unreadable, is empty, or contains no JSON object.
        """
        for line_number, raw in numbered_lines(path):
            try:
                line = parse_object(raw)
            except DataError as error:
                self.faults[line_number] = error
                yield line_number, {}
                continue
            if not self.first_line:
                self.first_line, self.first_keys = line_number, tuple(line)
            for key, metadata in line.items():
                if key.endswith(METADATA) and isinstance(metadata, dict):
                    self.attributes.setdefault(key[: -len(METADATA)], Attribute()).add(line_number, metadata)
            yield line_number, line
        if not self.first_line and not self.faults:
            raise DataError(f"{path}: is empty, expected one labelled image on each line")
        if not self.first_line:
            line_number, fault = next(iter(self.faults.items()))
            raise DataError(f"{path}:{line_number}: {fault}; no line is a JSON object", fault.code)


def scan(path: PathLike) -> ManifestScan:
    """Return the label attributes of a manifest; raises a DataError as `ManifestScan.read`."""
    manifest = ManifestScan()
    deque(manifest.read(path), maxlen=0)
    return manifest


def choose_attribute(manifest: ManifestScan, wanted: Optional[str], path: PathLike) -> str:
    """Return `wanted`, or else the bounding-box attribute with the newest date.

    Raises:
        DataError: the file has no boxes, or several attributes have the newest creation-date.
        ConfigError: the attribute `wanted` has no boxes in the file.
    """
    boxes = {name: attribute for name, attribute in manifest.attributes.items() if BOX_TYPE in attribute.kinds}
    if not boxes:
        raise _no_boxes(manifest, path)
    if wanted is not None:
        if wanted not in boxes:
            raise ConfigError(
                f"label_attribute: found {wanted!r}, expected one with boxes in {path}: {', '.join(sorted(boxes))}"
            )
        return wanted
    newest = max(attribute.newest for attribute in boxes.values())
    candidates = sorted(name for name, attribute in boxes.items() if attribute.newest == newest)
    if len(candidates) > 1:
        raise DataError(
            f"{path}: found boxes of {len(candidates)} jobs with the same creation-date ({', '.join(candidates)}), "
            "expected --label_attribute to say which",
            "ambiguous-label-attribute",
        )
    return candidates[0]


def _no_boxes(manifest: ManifestScan, path: PathLike) -> DataError:
    kinds = {
        kind: (line, name) for name, attribute in manifest.attributes.items() for kind, line in attribute.kinds.items()
    }
    if not kinds:
        keys = ", ".join(manifest.first_keys[:5]) or "no keys"
        return DataError(
            f"{path}:{manifest.first_line}: found {keys}, "
            f"expected a label attribute and its metadata of type {BOX_TYPE}"
        )
    line = min(line for line, _ in kinds.values())
    listed = ", ".join(f"{kind} ({name})" for kind, (_, name) in sorted(kinds.items()))
    hint = "; prepare convert makes boxes of video frames" if {VIDEO_TYPE, TRACKING_TYPE} & set(kinds) else ""
    return DataError(f"{path}:{line}: found labels of type {listed}, expected {BOX_TYPE}{hint}", "wrong-job-type")


def box_label(record: LabeledImage) -> Dict[str, Any]:
    """Return the label object of a record: annotations and, if known, image_size.

    Class ids are those of the record. Ignored regions are not written.
    """
    annotations = []
    for (x1, y1, x2, y2), class_id in zip(record.boxes.tolist(), record.class_ids.tolist()):
        box = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        annotations.append({"class_id": class_id, **{key: shortest(value) for key, value in box.items()}})
    label: Dict[str, Any] = {"annotations": annotations}
    if record.size_wh is not None:
        label["image_size"] = [{"width": record.size_wh[0], "height": record.size_wh[1], "depth": 3}]
    return label


def read_box_label(label: Dict[str, Any], id_field: str = "class_id") -> BoxLabel:
    """Parse a label object; class ids are those of the file.

    Args:
        label: The JSON object.
        id_field: Key of the class id in a box.

    Raises:
        DataError: the label is malformed; the message names the box and the field, but not the file.
    """
    annotations = label.get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"annotations: found {short_repr(annotations)}, expected a list")
    read = BoxLabel([], [], _size(label))
    for index, annotation in enumerate(annotations):
        with locate_errors(f"box {index}"):
            if not isinstance(annotation, dict):
                raise DataError(f"found {short_repr(annotation)}, expected an object")
            read.class_ids.append(class_number(annotation.get(id_field), id_field))
            left, top, width, height = (number(annotation.get(key), key) for key in ("left", "top", "width", "height"))
            read.boxes.append(box_corners(left, top, width, height))
    return read


def _size(label: Dict[str, Any]) -> Optional[SizeWH]:
    sizes = label.get("image_size")
    if sizes is None:
        return None
    if not isinstance(sizes, list) or len(sizes) != 1:
        raise DataError(f"image_size: found {short_repr(sizes)}, expected a list of one object", "bad-image-size")
    return image_size(sizes[0], "image_size")


NO_SOURCE = "no source-ref"
NO_LABEL = "label attribute missing"
NOT_AN_OBJECT = "label is not an object"
FAILED = "labelling failed"
OTHER_TYPE = "label of another job type"
NOT_VERIFIED = "not verified as asked"

MANIFEST_SUFFIXES = (".manifest", ".jsonl")


def read_ground_truth(
    path: PathLike, label_attribute: Optional[str] = None, on_bad: str = "error", verified: str = ""
) -> Labels:
    """Read a manifest, or the one manifest of a folder.

    Boxes are clipped to `image_size`, and dropped if less than 1 px wide or high or less than a tenth is inside; each
    such box is listed in `Labels.repaired`. Skipped lines are listed in `Labels.skipped`.

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
    manifest, scanned = find_manifest(path), ManifestScan()
    # each line is parsed once; what is kept of it is small, and freed as the records are made
    lines = deque((number, _reduced(line)) for number, line in scanned.read(manifest))
    attribute = choose_attribute(scanned, label_attribute, manifest)
    origins = {key: f"{manifest}:{line}" for key, line in scanned.attributes[attribute].names.items()}
    names, table = class_table(origins)
    job = verification_job(scanned, verified, manifest) if verified else ""
    faults = {**scanned.faults, **scanned.attributes[attribute].faults}
    builder = LabelsBuilder(str(manifest), on_bad)
    while lines:
        line_number, line = lines.popleft()
        where = f"{manifest}:{line_number}"
        with builder.collect_errors(where):
            if line_number in faults:
                raise faults[line_number]
            if job and verdict_of(line, job) != verified:
                builder.skip(where, NOT_VERIFIED, f"{job!r}: {short_repr(verdict_of(line, job))}")
            else:
                _add(builder, where, line, attribute, table)
    return builder.build(names, _details(scanned, attribute))


def _reduced(line: Dict[str, Any]) -> Dict[str, Any]:
    """Return the part of a line that is read: labels of boxes as BoxLabel or DataError, and little of the metadata."""
    reduced = {key: value for key, value in line.items() if not key.endswith(METADATA)}
    for key, metadata in line.items():
        name = key[: -len(METADATA)]
        if not key.endswith(METADATA) or not isinstance(metadata, dict):
            continue
        kept = {name: metadata[name] for name in ("type", "class-name", "failure-reason") if name in metadata}
        reduced[key] = _BOX_METADATA if kept == _BOX_METADATA else kept
        if kept.get("type") == BOX_TYPE and isinstance(line.get(name), dict):
            try:
                reduced[name] = read_box_label(line[name])
            except DataError as fault:
                reduced[name] = fault
    return reduced


def verification_job(scanned: ManifestScan, verdict: str, manifest: Path) -> str:
    """Return the label attribute of the only verification job in a manifest.

    Raises:
        ConfigError: there is no such job or more than one, or it never gave the result `verdict`.
    """
    jobs = {name: attribute.verdicts for name, attribute in scanned.attributes.items() if attribute.verdicts}
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
    records: Iterable[LabeledImage],
    class_names: ClassNames,
    label_attribute: str = "bounding-box",
    creation_date: Optional[datetime] = None,
    confidences: Optional[Iterable[Sequence[float]]] = None,
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
        confidences: Of boxes that a model found, for each record the score of each box; None for people's labels.

    Raises:
        ConfigError: `label_attribute` is not a valid name.
    """
    check_attribute(label_attribute)
    moment = (creation_date or datetime.now(timezone.utc)).replace(tzinfo=None)
    unnamed = set(class_names.unnamed)
    metadata = {
        "human-annotated": "yes" if confidences is None else "no",
        "creation-date": moment.isoformat(timespec="microseconds"),
        "type": BOX_TYPE,
        "job-name": f"labeling-job/{label_attribute}",
    }
    with open_atomic(Path(path)) as file:
        for record, scores in zip(records, itertools.repeat(None) if confidences is None else confidences):
            # people's labels have no measured confidence
            objects = [{"confidence": score} for score in ([1.0] * len(record.boxes) if scores is None else scores)]
            mapped = [i for i in range(len(class_names)) if i not in unnamed or i in record.class_ids]
            class_map = {str(class_id): class_names[class_id] for class_id in mapped}
            line = {
                "source-ref": record.name,
                label_attribute: box_label(record),
                label_attribute + METADATA: {"class-map": class_map, **metadata, "objects": objects},
            }
            file.write(dump_json(line) + b"\n")


def write_label_categories(path: PathLike, class_names: ClassNames) -> None:
    """Write a label category configuration file of a labelling job, atomically."""
    labels = [{"label": name} for name in class_names]
    write_bytes_atomic(Path(path), dump_json({"document-version": "2018-11-28", "labels": labels}) + b"\n")


def find_manifest(path: PathLike) -> Path:
    """Return `path` unless it is a folder; return the manifest of a folder.

    That is output.manifest, manifests/output/output.manifest, or the only file with the extension .manifest or .jsonl.

    Raises:
        DataError: the folder contains no manifest, or several.
    """
    source = Path(path)
    manifests = manifests_in(source) if source.is_dir() else [source]
    if len(manifests) == 1:
        return manifests[0]
    names = sorted(file.name for file in manifests or source.iterdir() if file.is_file() and not is_hidden(file.name))
    listed = ", ".join(names[:5]) or "nothing"
    raise DataError(f"{path}: found {listed}, expected output.manifest or exactly one file *.manifest or *.jsonl")


def manifests_in(folder: Path) -> List[Path]:
    """Return a labelling job's output manifest, else all manifests in the folder, without those in subfolders."""
    for name in ("output.manifest", "manifests/output/output.manifest"):  # the second is for a job's output folder
        if (folder / name).is_file():
            return [folder / name]
    files = (file for file in folder.iterdir() if file.suffix.lower() in MANIFEST_SUFFIXES)
    return sorted(file for file in files if file.is_file() and not is_hidden(file.name))


def _add(builder: LabelsBuilder, where: str, line: Dict[str, Any], attribute: str, table: Mapping[int, int]) -> None:
    reason = _reason_to_skip(line, attribute)
    if reason:
        builder.skip(where, *reason)
    else:
        name, label = image_name(line["source-ref"], "source-ref"), line[attribute]
        if isinstance(label, DataError):
            raise label
        builder.add(where, name, label.map_ids(table))


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
        return OTHER_TYPE, f"found {short_repr(metadata.get('type'))}"
    if not isinstance(line[attribute], (BoxLabel, DataError)):
        return NOT_AN_OBJECT, f"found {short_repr(line[attribute])}"
    return None


def check_attribute(name: str) -> None:
    """Raise a ConfigError for a reserved name of a label attribute."""
    if not name or name.endswith((METADATA, "-ref")) or name in ("source", "source-ref"):
        raise ConfigError(f"label_attribute: found {name!r}, expected a name that does not end in -metadata or -ref")


def _details(manifest: ManifestScan, attribute: str) -> Dict[str, str]:
    others = [
        f"{name} ({', '.join(sorted(other.kinds))})"
        for name, other in sorted(manifest.attributes.items())
        if name != attribute
    ]
    return {
        "label_attribute": attribute,
        "other_attributes": ", ".join(others),
        "newest_label": manifest.attributes[attribute].newest,
        "verification": "; ".join(
            f"verification {name!r}: {', '.join(f'{count} {v}' for v, count in Counter(other.verdicts).most_common())}"
            for name, other in sorted(manifest.attributes.items())
            if other.verdicts
        ),
    }
