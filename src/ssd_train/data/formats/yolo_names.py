"""Class names of a YOLO data set: `names` of data.yaml, or the lines of classes.txt, obj.names or any *.names.

Of YAML only what such files hold is read: ``names: [a, b]``, ``names: {0: a, 1: b}``, and both as a block of lines.
Whatever else stands there is refused rather than guessed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, Optional

from ssd_train.data.formats.fields import shown
from ssd_train.data.formats.jsonl import read_bytes
from ssd_train.data.records import ClassNames
from ssd_train.errors import DataError

_YAML = ("data.yaml", "dataset.yaml", "data.yml")
_YAML_ENDINGS = (".yaml", ".yml")
_PLAIN = ("classes.txt", "obj.names", "_darknet.labels")
_KEY = re.compile(r"names\s*:\s*(.*)")
_ITEM = re.compile(r"\s*(?:-|(\d{1,6})\s*:)\s+(\S.*)")
_PAIR = re.compile(r"(\d{1,6})\s*:\s*(.*)")
# a quoted text, in which '' is a quote, or a bare one
_SCALAR = r"""\s*('(?:[^']|'')*'|"[^"\\]*"|[^\[\]{},'"#&*!|>%@`:\s-][^\[\]{},#:]*?)\s*"""
_IN_FLOW = re.compile(_SCALAR + r"(?=[,\]}])")
_ON_LINE = re.compile(_SCALAR + r"(?:\s#.*)?")


def read_yolo_names(folder: Path) -> Optional[ClassNames]:
    """The class names of the data set in `folder`, or None where no file tells them.

    Raises:
        DataError: a file tells them in a way that is not understood; begins with the file.
    """
    candidates = [folder / name for name in (*_YAML, *_PLAIN)]
    candidates += [*sorted(folder.glob("*.names")), folder / "labels" / "classes.txt"]
    candidates += [folder.parent / name for name in _YAML]  # `folder` may be one split of the set
    for path in candidates:
        if path.is_file():
            try:
                text = _decode(read_bytes(path))
                return ClassNames(tuple(_from_yaml(text) if path.suffix in _YAML_ENDINGS else _from_lines(text)))
            except DataError as fault:
                raise fault.at(path) from None
    return None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"found byte 0x{data[error.start]:02x}, which is not UTF-8, expected UTF-8") from None


def _from_lines(text: str) -> List[str]:
    """One name on each line, the first for id 0; a blank line between would shift the ids."""
    return [line.strip() for line in text.rstrip().split("\n")]


def _from_yaml(text: str) -> List[str]:
    lines = text.replace("\r", "").split("\n")
    for index, line in enumerate(lines):
        match = _KEY.fullmatch(line)
        if match:
            inside = match.group(1).strip()
            return _from_block(lines[index + 1 :]) if not inside or inside.startswith("#") else _from_flow(inside)
    raise DataError("found no entry names, expected names: [a, b]")


def _from_block(lines: List[str]) -> List[str]:
    names: Dict[int, str] = {}
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _ITEM.fullmatch(line)
        if not match:
            break  # the next entry; of names itself, lines that are not understood leave none or a gap
        class_id = len(names) if match.group(1) is None else int(match.group(1))
        scalar = _ON_LINE.fullmatch(match.group(2))
        if not scalar:
            raise DataError(f"names: found {shown(match.group(2))}, expected a plain or quoted name")
        names[class_id] = _unquoted(scalar.group(1))
    return _in_order(names)


def _from_flow(text: str) -> List[str]:
    """``[a, 'b']`` or ``{0: a, 1: 'b'}`` on one line, a comment after it allowed."""
    kind, closing = text[0], {"[": "]", "{": "}"}.get(text[0], "")
    names: Dict[int, str] = {}
    rest = text[1:].lstrip()
    while closing and rest and not rest.startswith(closing):
        pair = _PAIR.match(rest) if kind == "{" else None
        match = _IN_FLOW.match(pair.group(2) if pair else rest)
        if not match or (kind == "{" and not pair):
            break
        names[int(pair.group(1)) if pair else len(names)] = _unquoted(match.group(1))
        rest = (pair.group(2) if pair else rest)[match.end() :].lstrip()
        if not rest.startswith((",", closing)):
            break
        rest = rest[1:].lstrip() if rest.startswith(",") else rest
    if not closing or not rest.startswith(closing):
        raise DataError(
            f"names: found {shown(text)}, expected [a, b] or {{0: a, 1: b}} on one line, or a block of lines"
        )
    return _in_order(names)


def _unquoted(text: str) -> str:
    if text[:1] == "'":
        return text[1:-1].replace("''", "'")
    return text[1:-1] if text[:1] == '"' else text


def _in_order(names: Dict[int, str]) -> List[str]:
    if not names or sorted(names) != list(range(len(names))):
        raise DataError(f"names: found ids {sorted(names)[:20]}, expected 0, 1, ... without a gap")
    return [names[class_id] for class_id in range(len(names))]
