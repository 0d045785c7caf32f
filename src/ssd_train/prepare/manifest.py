"""Read, edit and write the lines of a manifest.

A line that a step does not change keeps its bytes. In a changed line everything else keeps its order, and numbers keep
their text (1.50 stays 1.50), because other programs may depend on attributes that this package does not know.
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
    """JSON number with a fraction or an exponent that keeps its text."""

    text: str

    def __new__(cls, text: str) -> "Number":
        number = super().__new__(cls, text)
        number.text = text
        return number


@dataclass(frozen=True)
class ManifestLine:
    """Line of a manifest; never changed in place.

    Attributes:
        where: ``file:line``.
        raw: the bytes without the line feed.
        value: the parsed JSON object.
    """

    where: str
    raw: bytes
    value: Dict[str, Any]

    @property
    def source(self) -> str:
        """Return the name of the line's image.

        Raises:
            DataError: there is no usable name; begins with file:line.
        """
        try:
            return image_name(self.value.get(SOURCE), SOURCE)
        except DataError as error:
            raise error.at(self.where) from None

    def edited(self, edit: Edit) -> bytes:
        """Return the bytes of the line after `edit` has changed a copy of its object.

        Raises:
            DataError: the JSON is nested too deeply.
        """
        copy = json.loads(self.raw.decode("utf-8"), parse_float=Number)
        edit(copy)
        try:
            return dump_exact(copy)
        except RecursionError:
            raise DataError(f"{self.where}: found JSON nested too deep to be labels, expected a few levels") from None


def local_path(place: "str | Path") -> Path:
    """Return `place` as a local path; every path of a preparation step passes here.

    Raises:
        ConfigError: it is a URL.
    """
    scheme, separator, _ = str(place).partition("://")
    if separator and scheme.isalnum():
        raise ConfigError(f"{place}: is on {scheme}://, expected a local file or folder (copy it first)")
    return Path(place)


def read_lines(path: "str | Path") -> Iterator[ManifestLine]:
    """Yield the lines that are not blank.

    Raises:
        DataError: a line is no JSON object; begins with file:line.
    """
    for number, raw in numbered_lines(local_path(path)):
        where = f"{path}:{number}"
        try:
            yield ManifestLine(where, raw, parse_object(raw))
        except DataError as error:
            raise error.at(where) from None


def write_lines(path: "str | Path", lines: Iterable[bytes]) -> int:
    """Write a manifest atomically; `path` may be the manifest that is being read.

    Returns:
        The number of lines.

    Raises:
        DataError: there are no lines.
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
    """Return compact JSON in UTF-8; each `Number` has its original text.

    With lone surrogates the JSON is ASCII, because UTF-8 cannot hold them.
    """
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
    """Return whether the line has usable box labels under `attribute`."""
    metadata = line.value.get(attribute + METADATA)
    if not isinstance(metadata, dict) or metadata.get("type") != BOX_TYPE or "failure-reason" in metadata:
        return False
    return isinstance(line.value.get(attribute), dict)


def annotations_of(line: ManifestLine, attribute: str) -> List[Dict[str, Any]]:
    """Return the boxes of a labelled line.

    Raises:
        DataError: they are no list of objects.
    """
    found = line.value[attribute].get("annotations")
    if not isinstance(found, list) or not all(isinstance(box, dict) for box in found):
        raise DataError(f"{line.where}: annotations: found {shown(found)}, expected a list of objects")
    return found


def objects_of(line: ManifestLine, attribute: str) -> Optional[List[Any]]:
    """Return the metadata of each box, such as its confidence; None if there is none.

    Raises:
        DataError: it is no list with one entry per box.
    """
    objects = line.value[attribute + METADATA].get("objects")
    boxes = annotations_of(line, attribute)
    if objects is not None and (not isinstance(objects, list) or len(objects) != len(boxes)):
        found = f"{len(objects)} objects" if isinstance(objects, list) else shown(objects)
        raise DataError(f"{line.where}: {attribute}{METADATA}: found {found} for {len(boxes)} boxes, expected as many")
    return objects


def keep_boxes(line: ManifestLine, copy: Dict[str, Any], attribute: str, keep: Sequence[bool]) -> None:
    """Remove from `copy`, the object of `line`, the boxes with a false `keep`."""
    if all(keep):
        return
    lists = [(copy[attribute], "annotations")]
    if objects_of(line, attribute) is not None:
        lists.append((copy[attribute + METADATA], "objects"))
    for owner, key in lists:
        owner[key] = [item for item, wanted in zip(owner[key], keep) if wanted]
