"""Lines of a manifest, as the preparation steps see them: what a step does not change is written as it was read.

A line that a step leaves alone keeps its bytes. Of a line that it changes, everything else keeps its order and its
numbers keep their text (1.50 stays 1.50): attributes that this package knows nothing about belong to somebody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from ssd_train.data.formats.fields import image_name, shown
from ssd_train.data.formats.ground_truth_survey import BOX_TYPE, METADATA
from ssd_train.data.formats.jsonl import numbered_lines, parse_object
from ssd_train.errors import ConfigError, DataError
from ssd_train.storage import open_atomic

SOURCE = "source-ref"
_WORDS = {None: "null", True: "true", False: "false"}
Edit = Callable[[Dict[str, Any]], None]


class Number(float):
    """A JSON number with a fraction or an exponent that remembers its text."""

    text: str

    def __new__(cls, text: str) -> "Number":
        number = super().__new__(cls, text)
        number.text = text
        return number


@dataclass(frozen=True)
class ManifestLine:
    """One line: ``file:line``, its bytes without the line feed, and the object it holds. Never changed in place."""

    where: str
    raw: bytes
    value: Dict[str, Any]

    @property
    def source(self) -> str:
        """The line's image; a DataError when it names none."""
        try:
            return image_name(self.value.get(SOURCE), SOURCE)
        except DataError as error:
            raise error.at(self.where) from None

    def edited(self, edit: Edit) -> bytes:
        """The line after `edit` has changed a copy of its object in place."""
        copy = json.loads(self.raw.decode("utf-8"), parse_float=Number)
        edit(copy)
        try:
            return dump_exact(copy)
        except RecursionError:
            raise DataError(f"{self.where}: found JSON nested too deep to be labels, expected a few levels") from None


def local_path(place: "str | Path") -> Path:
    """`place` as a path; a ConfigError for an address that is none. Every path of a preparation step passes here."""
    scheme, separator, _ = str(place).partition("://")
    if separator and scheme.isalnum():
        raise ConfigError(f"{place}: is on {scheme}://, expected a local file or folder (copy it first)")
    return Path(place)


def read_lines(path: "str | Path") -> Iterator[ManifestLine]:
    """Yield the lines that are not blank; the first that is no JSON object is a DataError."""
    for number, raw in numbered_lines(local_path(path)):
        where = f"{path}:{number}"
        try:
            yield ManifestLine(where, raw, parse_object(raw))
        except DataError as error:
            raise error.at(where) from None


def write_lines(path: "str | Path", lines: Iterable[bytes]) -> int:
    """Write a manifest, whole or not at all, and return the number of its lines; a DataError if there would be none.

    `path` may be the manifest that is being read.
    """
    count = 0
    with open_atomic(local_path(path)) as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
        if not count:
            raise DataError(f"{path}: no line would be left, expected at least one; nothing was written")
    return count


def dump_exact(value: Any) -> bytes:
    """JSON in UTF-8 without spaces; a `Number` in its own text, a lone surrogate as the escape it came as."""
    try:
        return _text(value, encode_basestring).encode("utf-8")
    except UnicodeEncodeError:
        return _text(value, encode_basestring_ascii).encode("ascii")


def _text(value: Any, quoted: Callable[[str], str]) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(key)}:{_text(item, quoted)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item, quoted) for item in value) + "]"
    if isinstance(value, Number):
        return value.text
    return _WORDS[value] if value is None or isinstance(value, bool) else repr(value)  # an int or a finite float


def is_labelled(line: ManifestLine, attribute: str) -> bool:
    """Whether the line's image was labelled with boxes under `attribute`."""
    metadata = line.value.get(attribute + METADATA)
    if not isinstance(metadata, dict) or metadata.get("type") != BOX_TYPE or "failure-reason" in metadata:
        return False
    return isinstance(line.value.get(attribute), dict)


def annotations_of(line: ManifestLine, attribute: str) -> List[Dict[str, Any]]:
    """The boxes of a labelled line as they stand there; a DataError when they are no list of objects."""
    found = line.value[attribute].get("annotations")
    if not isinstance(found, list) or not all(isinstance(box, dict) for box in found):
        raise DataError(f"{line.where}: annotations: found {shown(found)}, expected a list of objects")
    return found


def objects_of(line: ManifestLine, attribute: str) -> Optional[List[Any]]:
    """What the metadata tells of each box (its confidence), or None; a DataError unless there is one for each box."""
    objects = line.value[attribute + METADATA].get("objects")
    boxes = annotations_of(line, attribute)
    if objects is not None and (not isinstance(objects, list) or len(objects) != len(boxes)):
        found = f"{len(objects)} objects" if isinstance(objects, list) else shown(objects)
        raise DataError(f"{line.where}: {attribute}{METADATA}: found {found} for {len(boxes)} boxes, expected as many")
    return objects


def keep_boxes(line: ManifestLine, copy: Dict[str, Any], attribute: str, keep: Sequence[bool]) -> None:
    """Leave in `copy`, the object of `line`, only the boxes for which `keep` is true, and what is told of them."""
    if all(keep):
        return
    lists = [(copy[attribute], "annotations")]
    if objects_of(line, attribute) is not None:
        lists.append((copy[attribute + METADATA], "objects"))
    for owner, key in lists:
        owner[key] = [item for item, wanted in zip(owner[key], keep) if wanted]
