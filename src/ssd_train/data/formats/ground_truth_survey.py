"""First pass over a Ground Truth manifest: its label attributes and classes.

A manifest is read twice, because one line is not enough: the newest job of the file determines the label attribute, and
the class-map of a line has only the classes of its own image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from ssd_train.data.formats.fields import shown, whole_number
from ssd_train.data.formats.jsonl import PathLike, numbered_lines, parse_object
from ssd_train.errors import ConfigError, DataError

BOX_TYPE = "groundtruth/object-detection"
VIDEO_TYPE = "groundtruth/video-object-detection"
TRACKING_TYPE = "groundtruth/video-object-tracking"
VERIFICATION_TYPE = "groundtruth/label-verification"
METADATA = "-metadata"
UNTYPED = "no type"


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
        raise DataError(f"found {shown(class_map)}, expected an object")
    ids: Dict[str, int] = {}
    for key, name in class_map.items():
        class_id = whole_number(key, "class id")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"class {class_id}: found {shown(name)}, expected a name that is not blank")
        if ids.setdefault(name, class_id) != class_id:
            raise DataError(f"found {name!r} under the ids {ids[name]} and {class_id}, expected one id in one line")
    return ids


@dataclass
class Survey:
    """Result of the first pass.

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


def survey(path: PathLike) -> Survey:
    """Read all lines of a manifest once.

    Raises:
        DataError: the file is unreadable, is empty, or contains no JSON object.
    """
    found = Survey()
    for line_number, raw in numbered_lines(path):
        try:
            line = parse_object(raw)
        except DataError as error:
            found.faults[line_number] = error
            continue
        if not found.first_line:
            found.first_line, found.first_keys = line_number, tuple(line)
        for key, metadata in line.items():
            if key.endswith(METADATA) and isinstance(metadata, dict):
                found.attributes.setdefault(key[: -len(METADATA)], Attribute()).add(line_number, metadata)
    if not found.first_line and not found.faults:
        raise DataError(f"{path}: is empty, expected one labelled image on each line")
    if not found.first_line:
        line_number, fault = next(iter(found.faults.items()))
        raise DataError(f"{path}:{line_number}: {fault}; no line is a JSON object", fault.code)
    return found


def choose_attribute(found: Survey, wanted: Optional[str], path: PathLike) -> str:
    """Return `wanted`, or else the bounding-box attribute with the newest date.

    Raises:
        DataError: the file has no boxes, or several attributes have the newest creation-date.
        ConfigError: the attribute `wanted` has no boxes in the file.
    """
    boxes = {name: attribute for name, attribute in found.attributes.items() if BOX_TYPE in attribute.kinds}
    if not boxes:
        raise _no_boxes(found, path)
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


def _no_boxes(found: Survey, path: PathLike) -> DataError:
    kinds = {
        kind: (line, name) for name, attribute in found.attributes.items() for kind, line in attribute.kinds.items()
    }
    if not kinds:
        keys = ", ".join(found.first_keys[:5]) or "no keys"
        return DataError(
            f"{path}:{found.first_line}: found {keys}, expected a label attribute and its metadata of type {BOX_TYPE}"
        )
    line = min(line for line, _ in kinds.values())
    listed = ", ".join(f"{kind} ({name})" for kind, (_, name) in sorted(kinds.items()))
    hint = "; prepare convert makes boxes of video frames" if {VIDEO_TYPE, TRACKING_TYPE} & set(kinds) else ""
    return DataError(f"{path}:{line}: found labels of type {listed}, expected {BOX_TYPE}{hint}", "wrong-job-type")
