"""Which format labels have: told by looking at their file or folder, never by guessing from a name alone.

A file is told by its ending where that is sure (.rec, .manifest, .jsonl), else by its first bytes; a folder by the
files in it and below it, of which a few of each kind are opened.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional

from ssd_train.data.formats.framing import MAGIC
from ssd_train.data.formats.jsonl import PathLike
from ssd_train.errors import DataError

# what is looked for, in the words of a message
EXPECTED = {
    "ground_truth": "a Ground Truth manifest (*.manifest, *.jsonl, output.manifest)",
    "recordio": "a detection .rec",
    "coco": "a COCO .json",
    "image_json": "a folder with one .json for each image",
    "voc": "a folder of VOC .xml",
    "yolo": "a folder of YOLO .txt",
}

_MANIFEST_ENDINGS = (".manifest", ".jsonl")
_OUTPUT_MANIFESTS = ("output.manifest", os.path.join("manifests", "output", "output.manifest"))
_HEAD = 1 << 16  # bytes that are looked at
_OPENED = 20  # files of a kind in a folder that are looked at
_COCO_KEYS = ("images", "annotations", "categories", "info", "licenses", "type")
_FIRST_KEY = re.compile(rb'[\s\xef\xbb\xbf]*\{\s*"([^"\\]*)"\s*:')
_YOLO_LINE = re.compile(rb"\s*\d+(\s+[-+]?\d*\.?\d+(e[-+]?\d+)?){4}\s*(\r?\n|$)", re.IGNORECASE)


class FoundLabels(NamedTuple):
    """Labels found: their format, a key of EXPECTED, and the file or folder that its reader takes."""

    format: str
    place: Path


def find_labels(path: PathLike, wanted: str = "") -> FoundLabels:
    """The labels in the file or folder `path`; with `wanted`, a key of EXPECTED, only those of that format count.

    Raises:
        DataError: there are none, or it cannot be told which are meant; says what was looked for and what was found.
    """
    place = Path(path)
    if place.is_dir():
        return _choose(place, _in_folder(place), wanted)
    if not place.exists():
        raise DataError(f"{path}: not found, expected labels: {_expected(wanted)}")
    if wanted:
        return FoundLabels(wanted, place)
    found = _of_file(place)
    if not found:
        raise DataError(f"{path}: found {_shown_head(place)}, expected {_expected()}; --labels_format says which it is")
    return FoundLabels(found, place)


def _choose(folder: Path, candidates: Dict[str, List[Path]], wanted: str) -> FoundLabels:
    found = {name: places for name, places in candidates.items() if places and wanted in ("", name)}
    if not found:
        raise DataError(f"{folder}: found {_contents(folder)}, expected labels: {_expected(wanted)}")
    listed = [str(place.relative_to(folder)) for places in found.values() for place in places[:2] if place != folder]
    if len(found) > 1:
        raise DataError(
            f"{folder}: found labels of the formats {', '.join(sorted(found))} ({', '.join(listed)}), expected one "
            "format: name the file or folder, or give --labels_format"
        )
    ((name, places),) = found.items()
    if len(places) > 1:
        raise DataError(
            f"{folder}: found {len(places)} times {EXPECTED[name]} ({', '.join(listed)}), expected one: name it"
        )
    return FoundLabels(name, places[0])


def _in_folder(folder: Path) -> Dict[str, List[Path]]:
    """Format -> the places its reader could take; a folder stands for the formats with a file for each image."""
    files = _files_by_ending(folder)
    jsons: Dict[Optional[str], List[Path]] = {}
    for file in files.get(".json", [])[:_OPENED]:
        jsons.setdefault(_of_json(_head(file)), []).append(file)

    def any_is(ending: str, test: Callable[[bytes], bool]) -> List[Path]:
        """The folder, if one of its first files of that `ending` passes `test`."""
        return [folder] if any(test(_head(file)) for file in files.get(ending, [])[:_OPENED]) else []

    return {
        "ground_truth": _manifests(folder, files) or jsons.get("ground_truth", []),
        "recordio": files.get(".rec", []),
        "coco": jsons.get("coco", []),
        "image_json": [folder] if "image_json" in jsons else [],
        "voc": any_is(".xml", lambda head: b"<annotation" in head),
        "yolo": any_is(".txt", lambda head: bool(_YOLO_LINE.match(head))),
    }


def _manifests(folder: Path, files: Dict[str, List[Path]]) -> List[Path]:
    """The manifest of a labelling job's output folder, else all that stand in the folder itself."""
    for name in _OUTPUT_MANIFESTS:
        if (folder / name).is_file():
            return [folder / name]
    return [file for ending in _MANIFEST_ENDINGS for file in files.get(ending, []) if file.parent == folder]


def _of_file(file: Path) -> str:
    ending, head = file.suffix.lower(), _head(file)
    if ending == ".rec" or head.startswith(MAGIC):
        return "recordio"
    if ending in _MANIFEST_ENDINGS:
        return "ground_truth"
    found = _of_json(head)
    return found if found in ("coco", "ground_truth") else ""


def _of_json(head: bytes) -> Optional[str]:
    """Which labels a JSON text that begins with `head` holds."""
    first = _FIRST_KEY.match(head)
    if not first:
        return None
    if b'"source-ref"' in head:
        return "ground_truth"
    if b'"file"' in head and b'"annotations"' in head:
        return "image_json"
    return "coco" if first.group(1).decode("utf-8", "replace") in _COCO_KEYS else None


def _files_by_ending(folder: Path) -> Dict[str, List[Path]]:
    found: Dict[str, List[Path]] = {}
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            found.setdefault(os.path.splitext(name)[1].lower(), []).append(Path(root, name))
    return found


def _head(file: Path) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read(_HEAD)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}), expected a readable file") from None


def _shown_head(file: Path) -> str:
    head = _head(file)
    return f"bytes beginning {head[:32]!r}" if head else "an empty file"


def _contents(folder: Path) -> str:
    """What a folder holds, for a message: the number of files by ending."""
    counts = Counter({ending: len(files) for ending, files in _files_by_ending(folder).items()})
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in counts.most_common(6)) or "no file"


def _expected(wanted: str = "") -> str:
    names: Iterable[str] = [wanted] if wanted else EXPECTED
    return ", or ".join(EXPECTED[name] for name in names)
